"""Choice of the machine that runs a loop: never one that is slower than PyTorch.

Where the C loops were measured against PyTorch (docs/speed.md) a rule decides, so that equal runs give equal bits.
Elsewhere both machines run a few steps once, for each class of sizes, and the faster one serves from then on.
"""

import logging
import os
import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor

from . import machines
from .buffers import Arena, Tape
from .fused.fused_machine import FusedMachine, installed, runs_on
from .fused.persistent_machine import PersistentMachine
from .machines import CompiledMachine, Machine, PlainMachine
from .operations import Instruction, lstm, product, single

log = logging.getLogger(__name__)
SETTING = "ZF_PYRO_MACHINE"
"""Environment variable that fixes the machine: ``c`` or ``pytorch``, which also turns measurements off; or ``fused`` or
``persistent``, which say nothing of CPUs."""
FUSED: dict[str, type[FusedMachine]] = {"fused": FusedMachine, "persistent": PersistentMachine}
"""Machines of Triton's kernels: a few for each step, or one for each loop."""
WIDEST, MOST_ROWS = 1024, 256
"""Sizes above these count as these in a measurement, which then takes some 30 ms. Below, it takes a few."""
NARROW = 1024
"""Widest layer for which C is chosen for a single row. A product of one row takes C 0.8 to 1.0 times as long as PyTorch
at 512, 1.05 to 1.2 times at 1024, which other operations of a loop make up for, and 1.4 times at 2048 (docs/speed.md).
"""
ROUNDS = 5
"""Times that each machine is measured, in turn. The medians are compared."""
STEPS = 2_000_000
"""Multiply-adds of a measured run, at least: some tens of microseconds."""


class Choice(NamedTuple):
    """A machine for loops on a CPU, and the reason for it."""

    compiled: bool
    """Whether it is the machine in C."""
    reason: str
    advice: str | None = None
    """What the user can do about a slow machine; None if it is the fast one."""


class StepSeconds(NamedTuple):
    """Seconds of one step of an LSTM on both machines."""

    c: float
    pytorch: float


_measured: dict[tuple[torch.dtype, int, int, int], StepSeconds] = {}
_advised: set[str] = set()


def measurements() -> dict[tuple[torch.dtype, int, int, int], StepSeconds]:
    """Return all measurements so far, by dtype, width, rows and threads."""
    return dict(_measured)


def choose(dtype: torch.dtype, width: int, rows: int) -> Choice:
    """Choose a machine for a loop on a CPU.

    Args:
        dtype: of its elements.
        width: features of its largest layer.
        rows: sequences times particles.

    Raises:
        ValueError: the environment variable has another value than ``c``, ``pytorch``, ``fused`` and ``persistent``.
        RuntimeError: it asks for the C loops, which were not built.
    """
    known = by_rule(dtype, width, rows)
    if known is not None:
        return known
    found = _measure(dtype, width, rows)
    reason = f"measured: a step takes {found.c * 1e6:.0f} us in C and {found.pytorch * 1e6:.0f} us in PyTorch"
    if found.c <= found.pytorch:
        return Choice(True, reason)
    return Choice(False, reason, None if machines._compiled.THREADED else "Build the C loops with OpenMP, for threads.")


def compiles(numbers: Tensor) -> bool:
    """Tell whether loops over ``numbers`` (time, ..., features) run in C."""
    if numbers.device.type != "cpu" or numbers.dtype not in machines.DTYPES:
        return False
    width = numbers.shape[-1] if numbers.dim() else 1
    return choose(numbers.dtype, width, numbers[0].numel() // max(1, width) if len(numbers) else 1).compiled


def machine_for(tape: Tape, width: int, rows: int) -> Machine:
    """Return the fastest machine for the dtype and device of a tape; ``width`` and ``rows`` as for :func:`choose`."""
    block = tape.block
    if fuses(block.device) and block.dtype in machines.DTYPES:
        return FUSED[setting()](tape)
    if block.device.type != "cpu" or block.dtype not in machines.DTYPES:
        return PlainMachine(tape)
    choice = choose(block.dtype, width, rows)
    if choice.advice is not None:
        advise(choice)
    return CompiledMachine(tape, bfloat16=multiplies_in_bfloat16()) if choice.compiled else PlainMachine(tape)


def multiplies_in_bfloat16() -> bool:
    """Tell whether C loops in float32 multiply in bfloat16: where the user allows it, and the processor can.

    The user's switch is PyTorch's: ``torch.set_float32_matmul_precision("medium")``, or "bf16" of oneDNN's products
    alone. PyTorch's own products in float32 may not follow it on the same processor.
    """
    if not getattr(machines._compiled, "BFLOAT16", 0):
        return False
    products = getattr(torch.backends.mkldnn, "matmul", None)  # since PyTorch 2.9
    allowed = torch.get_float32_matmul_precision() if products is None else products.fp32_precision
    return allowed in ("medium", "bf16")


def fuses(device: torch.device) -> bool:
    """Tell whether loops on a device run in Triton's kernels: on CUDA, where the environment variable asks for them.

    Raises:
        RuntimeError: they would, but Triton is not installed.
    """
    if setting() not in FUSED or not runs_on(device):
        return False
    if not installed():
        raise RuntimeError(
            f"{SETTING}={setting()} needs Triton, which is not installed: pip install triton, or unset {SETTING}"
        )
    return True


def setting() -> str:
    """Return the environment variable in lower case, empty if unset.

    Raises:
        ValueError: another value than ``c``, ``pytorch``, ``fused`` and ``persistent``.
    """
    found = os.environ.get(SETTING, "").lower()
    if found not in ("", "c", "pytorch", *FUSED):
        raise ValueError(f"{SETTING} must be c, pytorch, {', '.join(FUSED)} or unset, got {found!r}")
    return found


def advise(choice: Choice) -> None:
    """Log a choice's advice, each kind once in a process."""
    if choice.advice is not None and choice.advice not in _advised:
        _advised.add(choice.advice)
        log.warning("time loops run in PyTorch, which is slow: %s. %s", choice.reason, choice.advice)


def by_rule(dtype: torch.dtype, width: int = 128, rows: int = 32) -> Choice | None:
    """Choose as :func:`choose`, but without a measurement; None if that takes one."""
    wanted, compiled = setting(), machines._compiled
    if wanted == "c" and compiled is None:
        raise RuntimeError(f"{SETTING}=c, but the C loops were not built: install a C compiler and zf_pyro again")
    if wanted in ("c", "pytorch"):
        return Choice(wanted == "c", f"{SETTING} is {wanted}")
    if dtype not in machines.DTYPES:
        return Choice(False, "C loops are for float32 and float64")
    if compiled is None:
        return Choice(False, "the C loops were not built", "Install GCC or Clang, then zf_pyro again from its sources.")
    if not hasattr(compiled, "OPTIMISED"):
        return Choice(False, "the C loops were built from older sources", "Install zf_pyro again from its sources.")
    if not compiled.OPTIMISED:
        return Choice(False, "the C loops were compiled without optimisation", "Build them with -O2 or -O3.")
    level = compiled.LEVELS[-1]
    if level not in ("AVX2", "AVX-512") or not (compiled.THREADED or torch.get_num_threads() == 1):
        return None
    if rows == 1 and width > NARROW:
        return Choice(False, "one row of a wide layer is faster in PyTorch: a vector of C holds several rows")
    return Choice(True, f"with {level}, C was faster than PyTorch on as many threads at the sizes measured")


def _measure(dtype: torch.dtype, width: int, rows: int) -> StepSeconds:
    """Measure both machines at the next larger powers of two, once for each."""
    width, rows = (1 << max(0, min(size, most) - 1).bit_length() for size, most in ((width, WIDEST), (rows, MOST_ROWS)))
    key = dtype, width, rows, torch.get_num_threads()
    if key not in _measured:
        steps = -(-STEPS // (4 * width * width * rows))
        runs = [_steps(kind, dtype, width, rows) for kind in (CompiledMachine, PlainMachine)]
        seconds = [[_seconds(run, steps) for run in runs] for _ in range(1 + ROUNDS)][1:]  # the first one warms up
        c, pytorch = (statistics.median(column) for column in zip(*seconds, strict=True))
        _measured[key] = StepSeconds(c, pytorch)
    return _measured[key]


def _steps(kind: type[Machine], dtype: torch.dtype, width: int, rows: int) -> machines.RunProgram:
    """An LSTM's step: its recurrent product and its gates. It draws no random numbers."""
    machine = kind(Tape(Arena(), torch.empty(0, dtype=dtype)))
    h, c, gates = (single(torch.full((size * width, rows), 0.1, dtype=dtype)) for size in (1, 1, 4))
    tangent, after = (single(torch.zeros_like(c.tensor[0])) for _ in range(2))
    weight = machine.weight(torch.full((4 * width, width), 0.01, dtype=dtype))
    return machine.prepare([Instruction(product, (gates, weight, h)), Instruction(lstm, (after, h, tangent, gates, c))])


def _seconds(run: machines.RunProgram, steps: int) -> float:
    start = time.perf_counter()
    run(0, steps, 1)
    return (time.perf_counter() - start) / steps
