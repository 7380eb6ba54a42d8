"""The configuration of the time loops: which machine runs them on this computer, and why."""

from typing import Any, Literal

import torch

from .engine import machines
from .engine.fastest import SETTING, by_rule, fuses, measurements, multiplies_in_bfloat16, setting


def show_config(mode: Literal["stdout", "dict"] = "stdout") -> dict[str, Any] | None:
    """Print which machine runs the time loops in float32 and float64, and why.

    Fields:

    - ``machine`` on CPUs: ``"c"`` or ``"pytorch"``; ``"measured"`` if the faster one for the sizes of a loop is found
      when the first such loop runs;
    - ``reason``, and ``advice`` for a faster one (None if there is none);
    - ``compiler``, ``instructions`` (the widest vectors of this processor) and ``openmp`` of the C loops; None if they
      were not built, or from older sources;
    - ``products`` of C loops in float32: ``"bfloat16"`` if ``torch.set_float32_matmul_precision("medium")`` allows it
      and the processor has them, else ``"float32"``;
    - ``threads`` of a loop, at most;
    - ``measured``: one dictionary for each class of sizes: dtype, width, rows, threads, and the seconds of a step in C
      and in PyTorch;
    - ``gpu``: the machine on CUDA devices, ``"pytorch"``, ``"fused"`` or ``"persistent"``, and ``gpu_reason``; a loop
      with an operation that the latter two do not know runs in PyTorch;
    - ``torch``: the version of PyTorch.

    On other devices and in other precisions loops run in PyTorch.

    Args:
        mode: ``"stdout"`` to print the fields, ``"dict"`` to return them.

    Raises:
        ValueError: another mode, or another value of the environment variable ``ZF_PYRO_MACHINE`` than c, pytorch,
            fused or persistent.
        RuntimeError: the variable asks for a machine that is not there.
    """
    if mode not in ("stdout", "dict"):
        raise ValueError(f'mode must be "stdout" or "dict", got {mode!r}')
    fields = _fields()
    if mode == "dict":
        return fields
    for name, value in fields.items():
        for line in value if isinstance(value, list) else [value]:
            print(f"{name + ':':13} {line}")
    return None


def _fields() -> dict[str, Any]:
    compiled, choice, threads = machines._compiled, by_rule(torch.float32), torch.get_num_threads()
    names = ("dtype", "width", "rows", "threads", "c", "pytorch")
    machine, advice = "measured", None
    reason = f"no rule for this processor and this build of the C loops; {SETTING}=c or pytorch turns measurements off"
    fused = fuses(torch.device("cuda"))
    unmeasured = f"fused kernels were not measured on a GPU yet; {SETTING}=fused or persistent chooses them"
    if choice is not None:
        machine, reason, advice = "c" if choice.compiled else "pytorch", choice.reason, choice.advice
    return {
        "machine": machine,
        "reason": reason,
        "advice": advice,
        "compiler": getattr(compiled, "COMPILER", None),
        "instructions": getattr(compiled, "LEVELS", [None])[-1],
        "openmp": bool(compiled.THREADED) if hasattr(compiled, "THREADED") else None,
        "products": "bfloat16" if multiplies_in_bfloat16() else "float32",
        "threads": threads if machine == "pytorch" or compiled.THREADED else 1,
        "measured": [dict(zip(names, (*key, *value), strict=True)) for key, value in measurements().items()],
        "gpu": setting() if fused else "pytorch",
        "gpu_reason": f"{SETTING} is {setting()}" if fused else unmeasured,
        "torch": torch.__version__,
    }
