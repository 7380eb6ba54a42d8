"""What runs the programs of time loops: PyTorch an operation at a time, or compiled code a whole loop at a time.

:func:`machine_for` chooses. The compiled machine is for CPUs, in float32 and float64; it is there if a C compiler was
when the package was installed. Both run the same programs (see ``operations.py``): each is the other's twin.
"""

import itertools
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from .buffers import Tape
from .operations import (
    Instruction,
    Program,
    Ring,
    add,
    add_outer,
    add_product,
    add_sum,
    copy,
    log_density,
    modulate,
    modulate_back,
    normalise_back,
    pack,
    product,
    single,
    sum_squares,
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
Fold = Callable[[int, int], None]
"""Adds up what the steps of a fold have noted: of the lowest step, and of how many there are."""


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

    blocks = 1
    """Sums over all features of a value are formed by so many blocks of them."""

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
    def folding(
        self, total: Tensor, bias: Tensor | None, gradients: Ring, x: Ring, num_steps: int
    ) -> tuple[Program, Fold]:
        """What adds up gradient x^T, over as many steps at a time as the gradients' ring has entries, or the rest.

        The program is to be run at the end of every step, while its gradient and its x are near.

        Args:
            total: the sum so far, (out, in), which is added to.
            bias: the sum of the gradients over columns so far, (out,), which is added to; None if it is not wanted.
            gradients: (steps of a fold, out, rows).
            x: (ring, in, rows), an entry for each of the steps.
            num_steps: all steps.
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

    def folding(
        self, total: Tensor, bias: Tensor | None, gradients: Ring, x: Ring, num_steps: int
    ) -> tuple[Program, Fold]:
        def fold(first: int, steps: int) -> None:
            given = gradients.steps(first, steps)
            if bias is not None:
                bias.add_(given.sum((0, 2)))
            add_outer(total, given.transpose(0, 1), x.steps(first, steps).transpose(0, 1))

        return [], fold


class CompiledMachine(Machine):
    """The extension module ``_compiled``: whole loops in C, on as many threads as PyTorch uses.

    It multiplies weights, laid out for it once a loop, by a few columns, for which general libraries reach two thirds
    of a processor's speed, and leaves nothing but a barrier between two operations.

    Args:
        tape: where the buffers of the loop come from.
        level: which of its sets of vector instructions to use; the largest that the processor has if None.
    """

    blocks = 16  # for as many threads, and the same digits from any number of them

    def __init__(self, tape: Tape, level: int | None = None) -> None:
        super().__init__(tape)
        self.level = len(_compiled.PANELS) - 1 if level is None else level

    def weight(self, matrix: Tensor) -> Ring:
        panel = _compiled.PANELS[self.level]
        packed = single(self.tape.room(-(-len(matrix) // panel), matrix.shape[1] * panel))
        self.prepare([Instruction(pack, (packed, single(matrix)))])(0, 1, 1)
        return packed

    def prepare(self, program: Program) -> Run:
        code = b"".join(_encoded(instruction, self.tape.block.dtype) for instruction in program)
        work = sum(map(_multiplications, program))
        threads = max(1, min(torch.get_num_threads(), work // WORTH_A_THREAD))
        wide = self.tape.block.dtype == torch.float64

        def run(first: int, steps: int, by: int) -> None:
            if program:  # which keeps what the code points to alive
                _compiled.run(code, first, steps, by, wide, threads, self.level)

        return run

    def folding(
        self, total: Tensor, bias: Tensor | None, gradients: Ring, x: Ring, num_steps: int
    ) -> tuple[Program, Fold]:
        (size, _, rows), seen, program = gradients.tensor.shape, x.steps(0, num_steps), []
        if bias is not None:
            program.append(Instruction(add_sum, (single(bias.unsqueeze(1)), gradients)))
        if not seen.transpose(1, 2).is_contiguous():
            seen = self.tape.room(size, rows, seen.shape[1]).transpose(1, 2)
            program.append(Instruction(copy, (Ring(seen), x)))
        runs = {}
        for steps in {size, num_steps % size} - {0}:
            # An entry for each fold, by whose number they are run; one of fewer steps comes after all others.
            windows = (value.unfold(0, steps, size).transpose(2, 3) for value in (gradients.tensor, seen))
            runs[steps] = self.prepare([Instruction(add_outer, (single(total), *map(Ring, windows)))])

        def fold(first: int, steps: int) -> None:
            runs[steps](first // size, 1, 1)

        return program, fold


_OPERANDS = 6
_ANY_STRIDES = (copy, add, pack, add_outer)
"""Operations for which the rows of a value need not lie next to one another."""


def _multiplications(instruction: Instruction) -> int:
    """How long an operation of one step takes, in multiplications of products."""
    numbers = instruction.operands[0].tensor[0].numel()
    if instruction.operation in (product, add_product):
        return numbers * instruction.operands[2].tensor.shape[1]
    if instruction.operation is add_outer:
        return numbers * instruction.operands[1].tensor[0, 0].numel()
    return numbers * FOR_A_NUMBER


def _encoded(instruction: Instruction, dtype: torch.dtype) -> bytes:
    """An ``Instruction`` of compiled/machine.c."""
    operation, operands, number = instruction
    _, features, rows = operands[0].tensor.shape
    inner = steps = 0
    if operation in (product, add_product):
        inner = operands[2].tensor.shape[1]
    elif operation in (pack, log_density, sum_squares, modulate_back, normalise_back):
        inner = operands[1].tensor.shape[1]
    elif operation is modulate:
        inner = operands[3].tensor.shape[1]
    elif operation is add_sum:
        inner = operands[1].tensor.shape[2]
    elif operation is add_outer:
        _, _, steps, inner = operands[1].tensor.shape
    numbers = []
    for tensor, offset in operands:
        step, feature, *part, row = tensor.stride()
        if tensor.dtype != dtype:
            raise TypeError(f"operands of {operation.__name__} must be {dtype} as the tape, got {tensor.dtype}")
        if operation not in _ANY_STRIDES and row != 1 and tensor.shape[-1] > 1:
            raise ValueError(
                f"the rows of {operation.__name__} must lie next to one another, got strides {tensor.stride()}"
            )
        numbers += [tensor.data_ptr(), len(tensor), offset, step, feature, row, *(part or [0])]
    numbers += itertools.repeat(0, 7 * (_OPERANDS - len(operands)))
    code = _compiled.OPERATIONS.index(operation.__name__)
    return struct.pack(f"5qd{7 * _OPERANDS}q", code, features, rows, inner, steps, number or 0.0, *numbers)
