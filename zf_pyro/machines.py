"""What runs the programs of time loops: PyTorch an operation at a time, or compiled code a whole loop at a time.

:func:`machine_for` chooses. The compiled machine is for CPUs, in float32 and float64; it is there if a C compiler was
when the package was installed. Both run the same programs (:mod:`zf_pyro.instructions`): each is the other's twin.
"""

import itertools
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from .arena import Tape
from .instructions import (
    Instruction,
    Program,
    Ring,
    add,
    add_product,
    add_sum,
    copy,
    log_density,
    pack,
    product,
    single,
)

try:
    from . import _compiled
except ImportError:  # no C compiler when the package was installed
    _compiled = None  # type: ignore[assignment]

LINE = 16
"""Numbers in a cache line."""
FOR_A_NUMBER = 16
"""Multiplications in the time that another operation takes for a number."""
WORTH_A_THREAD = 100_000
"""Multiplications of a step, for each thread, below which another thread costs more than it takes over."""
Run = Callable[[int, int, int], None]
"""Runs a program: of the first step, the number of steps, and 1 or -1 for where the next one lies."""


def compiles(numbers: Tensor) -> bool:
    """Whether there is a compiled machine for such numbers."""
    return _compiled is not None and numbers.device.type == "cpu" and numbers.dtype in (torch.float32, torch.float64)


def machine_for(tape: Tape) -> "Machine":
    """The fastest machine for the numbers of a tape."""
    return CompiledMachine(tape) if compiles(tape.block) else PlainMachine(tape)


class Machine(ABC):
    """Runs programs.

    Args:
        tape: where the buffers of the loop come from.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape

    def room(self, *shape: int) -> Ring:
        """A new buffer (ring, features, rows), not filled in."""
        return Ring(self.tape.room(*shape))

    @abstractmethod
    def weight(self, matrix: Tensor) -> Ring:
        """A copy of ``matrix`` (out, in) as products of this machine's programs take it."""

    @abstractmethod
    def prepare(self, program: Program) -> Run:
        """Make a program ready to be run."""

    @abstractmethod
    def fold(
        self, total: Tensor | None, bias: Tensor | None, gradients: Ring, x: Ring, first: int, steps: int
    ) -> Tensor:
        """Add up gradient x^T over steps that lie one after the other in both rings; (out, in).

        Args:
            total: the sum so far, which is added to and returned; None for zero.
            bias: the sum of the gradients over columns so far, (out,), which is added to; None if it is not wanted.
            gradients: (ring, out, rows).
            x: (ring, in, rows).
            first: the lowest step.
            steps: how many.
        """


class PlainMachine(Machine):
    """PyTorch, one operation after the other, on any device."""

    def weight(self, matrix: Tensor) -> Ring:
        """Rows lie an odd number of cache lines apart.

        A product reads several rows at once. Rows a power of two apart fall on the same few places of the cache and
        push each other out: on CPUs that takes a third to a half of a product's speed, and parts of a line take a
        little more.
        """
        rows, width = matrix.shape
        lines = -(-width // LINE)
        return single(self.tape.room(rows, (lines + 1 - lines % 2) * LINE)[:, :width].copy_(matrix))

    def prepare(self, program: Program) -> Run:
        lines = []
        for operation, operands, number in program:
            values = [(ring.tensor.unbind(0), ring.offset) for ring in operands]
            lines.append((operation, values, () if number is None else (number,)))

        def run(first: int, steps: int, by: int) -> None:
            for t in range(first, first + steps * by, by):
                for operation, values, numbers in lines:
                    operation(*[value[(t + offset) % len(value)] for value, offset in values], *numbers)

        return run

    def fold(
        self, total: Tensor | None, bias: Tensor | None, gradients: Ring, x: Ring, first: int, steps: int
    ) -> Tensor:
        if bias is not None:
            bias += gradients.steps(first, steps).sum((0, 2))
        wide = gradients.steps(first, steps).transpose(0, 1).flatten(1)
        tall = x.steps(first, steps).transpose(1, 2).flatten(0, 1)
        return wide @ tall if total is None else total.addmm_(wide, tall)


class CompiledMachine(Machine):
    """The extension module ``zf_pyro._compiled``: whole loops in C, on as many threads as PyTorch uses.

    It multiplies weights, laid out for it once a loop, by a few columns, for which general libraries reach two thirds
    of a processor's speed, and leaves nothing but a barrier between two operations.

    Args:
        tape: where the buffers of the loop come from.
        level: which of its sets of vector instructions to use; the largest that the processor has if None.
    """

    def __init__(self, tape: Tape, level: int | None = None) -> None:
        super().__init__(tape)
        self.level = _compiled.LEVELS - 1 if level is None else level
        self._spare = tape.block[:0]

    def weight(self, matrix: Tensor) -> Ring:
        packed = single(self.tape.room(_panels(len(matrix)), matrix.shape[1] * _compiled.PANEL))
        self.prepare([Instruction(pack, (packed, single(matrix)))])(0, 1, 1)
        return packed

    def prepare(self, program: Program) -> Run:
        code = b"".join(map(_encoded, program))
        work = sum(map(_multiplications, program))
        threads = max(1, min(torch.get_num_threads(), work // WORTH_A_THREAD))
        wide = program[0].operands[0].tensor.dtype == torch.float64

        def run(first: int, steps: int, by: int) -> None:
            if program:  # which keeps what the code points to alive
                _compiled.run(code, first, steps, by, wide, threads, self.level)

        return run

    def fold(
        self, total: Tensor | None, bias: Tensor | None, gradients: Ring, x: Ring, first: int, steps: int
    ) -> Tensor:
        (_, out_dim, rows), in_dim = gradients.tensor.shape, x.tensor.shape[1]
        columns, panels = steps * rows, _panels(out_dim)
        sizes = panels * columns * _compiled.PANEL, columns * in_dim
        if len(self._spare) < sum(sizes):
            self._spare = self.tape.room(sum(sizes))
        wide, tall = self._spare[: sum(sizes)].split(sizes)
        gather = [
            Instruction(pack, (Ring(wide.view(panels, steps, -1).transpose(0, 1)), gradients.later(first))),
        ]
        if bias is not None:
            gather.append(Instruction(add_sum, (single(bias.unsqueeze(1)), gradients.later(first))))
        turned = x.steps(first, steps).transpose(1, 2)
        if turned.is_contiguous():
            tall = turned
        else:
            gather.append(Instruction(copy, (Ring(tall.view(turned.shape).transpose(1, 2)), x.later(first))))
        operation = product if total is None else add_product
        if total is None:
            total = wide.new_empty(out_dim, in_dim)
        together = single(total), single(wide.view(panels, -1)), single(tall.reshape(columns, in_dim))
        self.prepare(gather)(0, steps, 1)
        self.prepare([Instruction(operation, together)])(0, 1, 1)
        return total


def _panels(rows: int) -> int:
    return -(-rows // _compiled.PANEL)


_OPERANDS = 6
_ANY_STRIDES = (copy, add, pack)
"""Operations for which the rows of a value need not lie next to one another."""


def _multiplications(instruction: Instruction) -> int:
    """How long an operation of one step takes, in multiplications of products."""
    numbers = instruction.operands[0].tensor[0].numel()
    if instruction.operation in (product, add_product):
        return numbers * instruction.operands[2].tensor.shape[1]
    return numbers * FOR_A_NUMBER


def _encoded(instruction: Instruction) -> bytes:
    """An ``Instruction`` of compiled/machine.c."""
    operation, operands, number = instruction
    _, features, rows = operands[0].tensor.shape
    inner = 0
    if operation in (product, add_product):
        inner = operands[2].tensor.shape[1]
    elif operation in (pack, log_density):
        inner = operands[1].tensor.shape[1]
    elif operation is add_sum:
        inner = operands[1].tensor.shape[2]
    numbers = []
    for tensor, offset in operands:
        step, feature, row = tensor.stride()
        if operation not in _ANY_STRIDES and row != 1 and tensor.shape[2] > 1:
            raise ValueError(
                f"the rows of {operation.__name__} must lie next to one another, got strides {tensor.stride()}"
            )
        numbers += [tensor.data_ptr(), len(tensor), offset, step, feature, row]
    numbers += itertools.repeat(0, 6 * (_OPERANDS - len(operands)))
    code = _compiled.OPERATIONS.index(operation.__name__)
    return struct.pack(f"4qd{6 * _OPERANDS}q", code, features, rows, inner, number or 0.0, *numbers)
