"""The machine that runs a program in a few Triton kernels for each step."""

import functools
import hashlib
import importlib.util
import linecache
import os
from typing import Any

import torch

from ..machines import DTYPES, PlainMachine, RunProgram
from ..operations import Instructions
from ..shapes import check_shapes
from .formulas import FORMULAS, PRODUCTS
from .phases import launches
from .source import kernel

INTERPRETER = "TRITON_INTERPRET"
"""Environment variable by which Triton interprets kernels, on any device. It is read when Triton is imported."""
MOST_ELEMENTS = 2**31
"""Elements of an entry up to which kernels count in 32 bits."""


def installed() -> bool:
    """Tell whether Triton is installed; it comes with PyTorch for CUDA."""
    return importlib.util.find_spec("triton") is not None


def runs_on(device: torch.device) -> bool:
    """Tell whether kernels run on a device: CUDA, or any if Triton interprets them."""
    return device.type == "cuda" or os.environ.get(INTERPRETER, "") == "1"


def fusible(program: Instructions) -> bool:
    """Tell whether a program can be fused: its operations, types and sizes have kernels."""
    if len({instruction.operands[0].tensor.shape[2] for instruction in program}) != 1:  # rows, or no instructions
        return False
    for operation, operands, _ in program:
        if operation not in FORMULAS and operation not in PRODUCTS:
            return False
        for tensor, offset in operands:
            extent = sum(
                (size - 1) * abs(stride) for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True)
            )
            if tensor.dtype not in DTYPES or tensor.dtype != operands[0].tensor.dtype or extent >= MOST_ELEMENTS:
                return False
            if offset < 0 or 0 in tensor.shape:
                return False
    return True


class FusedMachine(PlainMachine):
    """Runs a step in a few kernels, which Triton compiles, on CUDA devices; see :mod:`.phases`.

    Kernels are compiled when they first run, before a CUDA graph is captured. They wait for nothing and allocate
    nothing. A program that is not :func:`fusible` runs as on :class:`PlainMachine`.
    """

    blocks = 64  # a sum over features has a place for each block of a kernel

    def prepare(self, program: Instructions) -> RunProgram:
        if not fusible(program):
            return super().prepare(program)
        for instruction in program:
            check_shapes(instruction, [tuple(ring.tensor.shape) for ring in instruction.operands], 1)
        first = program[0].operands[0].tensor
        rows, precision = first.shape[2], "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
        calls = []
        for launch in launches(program):
            found = kernel(launch, rows, first.dtype, precision)
            arguments = [
                value for tensor, offset in found.rings for value in (tensor, len(tensor), offset, *tensor.stride())
            ]
            grid = (found.blocks * -(-rows // found.block_rows),)
            calls.append((_compiled(found.text)[grid], arguments))

        def run(first_step: int, steps: int, by: int) -> None:
            with torch.cuda.device_of(first):
                for t in range(first_step, first_step + steps * by, by):
                    for call, arguments in calls:
                        call(t, rows, *arguments, enable_fp_fusion=True)

        return run


@functools.cache
def _compiled(text: str) -> Any:
    """The kernel of a text, which Triton compiles when it is first called."""
    name = f"<fused step {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # Triton reads its source
    names: dict[str, Any] = {"__name__": f"{__name__}.steps"}
    exec(compile(text, name, "exec"), names)
    return names["step"]
