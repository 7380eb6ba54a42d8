"""Kernels: one for each launch of a step, or one for a whole loop.

Both run the same phases. A kernel's blocks of features x rows are independent of one another within a launch.
"""

from collections.abc import Sequence
from textwrap import indent
from typing import NamedTuple

import torch

from ..operations import Ring
from .formulas import FUNCTIONS
from .phases import Launch
from .source import PhaseText

HEAD = """import triton
import triton.language as tl
"""
WAIT = """
@triton.jit
def wait(arrived, programs):
    # Once all threads of this program have stored, it arrives; it goes on once all programs have arrived as often.
    # `arrived` only grows, by the same number for each program: it needs no reset between the runs of a kernel.
    tl.debug_barrier()
    before = tl.atomic_add(arrived, 1, sem="release", scope="gpu")
    all_arrived = (before // programs + 1) * programs
    while tl.atomic_add(arrived, 0, sem="acquire", scope="gpu") < all_arrived:
        pass
    tl.debug_barrier()
"""
"""A barrier of all programs, which must run at the same time."""


class Kernel(NamedTuple):
    """A kernel's text and its arguments."""

    text: str
    rings: tuple[Ring, ...]
    """The rings whose addresses, lengths, offsets and strides are arguments."""
    blocks: int
    """Blocks of features of the largest launch. Each runs once for each block of rows."""
    block_rows: int
    """Rows of a block."""


def launch_kernel(launch: Launch, rows: int, dtype: torch.dtype, precision: str) -> Kernel:
    """Write the kernel of one launch of step t, in which each program has one block.

    Args:
        launch: its phases.
        rows: sequences times particles.
        dtype: float32 or float64.
        precision: Triton's ``input_precision`` of products, ``"ieee"`` or ``"tf32"``.
    """
    text = PhaseText(rows, dtype, precision)
    blocks = _phases(text, launch)
    lines = [f"    width = tl.cdiv(rows, {text.block_rows})", *_place("tl.program_id(0)", text), *text.lines]
    return _kernel(text, FUNCTIONS, "step", ["t", "rows"], lines, blocks)


def loop_kernel(launches: Sequence[Launch], rows: int, dtype: torch.dtype, precision: str) -> Kernel:
    """Write the kernel of a whole loop over steps: its programs share each launch's blocks, and then wait for all.

    It takes the first step, the number of steps, the direction, and a counter (1,) of int64 that starts at zero. Other
    arguments are those of :func:`launch_kernel`.
    """
    text, most = PhaseText(rows, dtype, precision), 0
    lines = [f"    width = tl.cdiv(rows, {text.block_rows})", "    programs = tl.num_programs(0)"]
    lines += ["    for step in range(steps):", "        t = first + step * by"]
    for launch in launches:
        before = len(text.lines)
        blocks = _phases(text, launch)
        most = max(most, blocks)
        body = [*_place("place", text), *text.lines[before:]]
        lines += [
            f"        for place in range(tl.program_id(0), {blocks} * width, programs):",
            *(indent(line, " " * 8) for line in body),
            "        wait(arrived, programs)",
        ]
    return _kernel(text, FUNCTIONS + WAIT, "loop", ["first", "steps", "by", "rows", "arrived"], lines, most)


def _phases(text: PhaseText, launch: Launch) -> int:
    """Append the phases of a launch; returns their blocks of features."""
    blocks = 0
    for phase in launch:
        blocks = text.phase(phase, blocks)
    return blocks


def _place(number: str, text: PhaseText) -> list[str]:
    """The block of features and the rows that have a number."""
    return [
        f"    block = {number} // width",
        f"    row = ({number} % width) * {text.block_rows} + tl.arange(0, {text.block_rows})[None, :]",
    ]


def _kernel(text: PhaseText, functions: str, name: str, given: list[str], lines: list[str], blocks: int) -> Kernel:
    """A kernel of this name, whose first arguments are ``given``. Few are compiled: numbers of steps are not fixed."""
    rings = range(len(text.rings))
    names = ", ".join([*given, *(f"{letter}{k}" for k in rings for letter in "pnosfr")])
    varying = [argument for argument in given if argument != "arrived"]
    varying += [f"{letter}{k}" for k in rings for letter in "no"]
    head = [*(HEAD + functions).splitlines(), ""]
    head += [f"@triton.jit(do_not_specialize={varying})", f"def {name}({names}):"]
    return Kernel("\n".join([*head, *lines]) + "\n", tuple(text.rings.values()), blocks, text.block_rows)
