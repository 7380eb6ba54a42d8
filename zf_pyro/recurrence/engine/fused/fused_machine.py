"""The machine that runs a program in a few Triton kernels for each step."""

import functools
import hashlib
import importlib.util
import linecache
import os
from collections.abc import Iterable
from typing import Any

import torch

from ..machines import PlainMachine, RunProgram
from ..operations import Instructions
from .plans import plan

INTERPRETER = "TRITON_INTERPRET"
"""Environment variable by which Triton interprets kernels, on any device. It is read when Triton is imported."""


def installed() -> bool:
    """Tell whether Triton is installed; it comes with PyTorch for CUDA."""
    return importlib.util.find_spec("triton") is not None


def runs_on(device: torch.device) -> bool:
    """Tell whether kernels run on a device: CUDA, or any if Triton interprets them."""
    return device.type == "cuda" or os.environ.get(INTERPRETER, "") == "1"


def precision() -> str:
    """Return Triton's precision of products in float32, ``"tf32"`` or ``"ieee"``: that of PyTorch's on CUDA."""
    settings = torch.backends.cuda.matmul
    found = getattr(
        settings, "fp32_precision", None
    )  # since PyTorch 2.9, which refuses the older one where both differ
    rounded = settings.allow_tf32 if found is None else found == "tf32"
    return "tf32" if rounded else "ieee"


class FusedMachine(PlainMachine):
    """Runs a step in a few kernels, which Triton compiles, on CUDA devices; see :mod:`.phases`.

    Kernels are compiled when they first run, before a CUDA graph is captured. They wait for nothing and allocate
    nothing. Products in float32 have PyTorch's precision on CUDA. A program that is not :func:`~.plans.fusible` runs as
    on :class:`PlainMachine`.
    """

    blocks = 64  # a sum over features has a place for each block of a kernel

    def prepare(self, program: Instructions) -> RunProgram:
        planned = plan(program, precision())
        if planned is None:
            return super().prepare(program)
        first = program[0].operands[0].tensor
        rows, calls = first.shape[2], []
        for (text, _, blocks, block_rows), places in planned:
            calls.append((compiled(text, "step")[(blocks * -(-rows // block_rows),)], arguments_of(program, places)))

        def run(first_step: int, steps: int, by: int) -> None:
            with torch.cuda.device_of(first):
                for t in range(first_step, first_step + steps * by, by):
                    for call, arguments in calls:
                        call(t, rows, *arguments, enable_fp_fusion=True)

        return run


def arguments_of(program: Instructions, places: Iterable[tuple[int, int]]) -> list[Any]:
    """Return a kernel's arguments for its rings, which are operands of the program by instruction and operand."""
    rings = [program[i].operands[k] for i, k in places]
    return [value for ring, offset in rings for value in (ring, len(ring), offset, *ring.stride())]


@functools.cache
def compiled(text: str, function: str) -> Any:
    """Return the kernel of a text, a function of this name, which Triton compiles when it is first called."""
    name = f"<fused {function} {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # Triton reads its source
    names: dict[str, Any] = {"__name__": f"{__name__}.kernels"}
    exec(compile(text, name, "exec"), names)
    return names[function]
