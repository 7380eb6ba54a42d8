"""Machines, which run the programs of time loops.

- :class:`PlainMachine` runs one PyTorch operation at a time, on any device.
- :class:`CompiledMachine` runs a whole loop in one call of C code, on CPUs in float32 and float64. It exists if there
  was a C compiler when the package was installed.

Both run the same programs (``operations.py``) and are tested against each other. ``fastest.py`` chooses.
Values are (features, rows), where rows are sequences times particles.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from .buffers import Tape
from .encoding import INSTRUCTION, encode
from .operations import (
    Instruction,
    Instructions,
    Ring,
    add_outer,
    add_sum,
    copy,
    pack,
    single,
)
from .shapes import check_shapes

try:
    from . import _compiled
except ImportError:  # no C compiler when the package was installed
    _compiled = None  # type: ignore[assignment]

DTYPES = (torch.float32, torch.float64)
"""Types of elements that the C code has."""
LINE = 16
"""Elements of float32 in a cache line of 64 bytes."""
WORTH_A_THREAD = 100_000
"""Multiply-adds per step and thread below which another thread costs more at the barriers than it saves. A core does
them in 2.4 microseconds (docs/speed.md: 170 GFLOP/s on two cores)."""
PER_CALL = 10**9
"""Multiply-adds of one call of C code, which Ctrl-C waits for: 0.03 s at the speed above, a tenth of it on a busy or an
old processor. A call itself costs some ten microseconds."""
RunProgram = Callable[[int, int, int], None]
"""Runs a program. Arguments: the first step, the number of steps, and the direction, 1 or -1."""
Fold = Callable[[int, int], None]
"""Adds the gradients in the slots to the weight gradient. Arguments: the lowest step, the number of steps."""


class Machine(ABC):
    """Runs programs.

    Args:
        tape: memory for the loop's buffers.
    """

    blocks = 1
    """Blocks of features whose sums are formed separately where an operation sums over all features."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape

    def room(self, *shape: int) -> Ring:
        """Return an uninitialised buffer (ring, features, rows)."""
        return Ring(self.tape.room(*shape))

    @abstractmethod
    def weight(self, matrix: Tensor) -> Ring:
        """Copy ``matrix`` (out, in) into the layout that products of this machine read."""

    @abstractmethod
    def prepare(self, program: Instructions) -> RunProgram:
        """Translate a program into a function that runs it."""

    @abstractmethod
    def folding(
        self, total: Tensor, bias: Tensor | None, gradients: Ring, x: Ring, num_steps: int
    ) -> tuple[Instructions, Fold]:
        """Prepare the sum over steps of gradient x^T, the gradient of a weight.

        It is summed in folds: one large product for the latest steps is faster than a small one per step, which would
        read and write the whole sum every time. A fold takes as many steps as the gradients' ring has entries (slots),
        and the last fold in time the rest.

        Args:
            total: the weight gradient to add to, (out, in).
            bias: the bias gradient to add to, (out,); None if there is no bias.
            gradients: the slots, (steps of a fold, out, rows).
            x: the inputs of all steps, (ring, in, rows).
            num_steps: all steps.

        Returns:
            A program to run at the end of every step, while its gradient and x are in cache, and the fold.
        """


class PlainMachine(Machine):
    """Runs one PyTorch operation after the other, on any device."""

    def weight(self, matrix: Tensor) -> Ring:
        """Copy ``matrix`` (out, in) with its rows an odd number of cache lines apart.

        A product reads several rows at once. Rows a power of two apart share few sets of the cache and evict each
        other, which costs a third to a half of a product's speed on CPUs. Rows of partial lines cost a little more.
        """
        rows, width = matrix.shape
        lines = -(-width // LINE)
        return single(self.tape.room(rows, (lines + 1 - lines % 2) * LINE)[:, :width].copy_(matrix))

    def prepare(self, program: Instructions) -> RunProgram:
        lines = []
        for instruction in program:
            operation, operands, number = instruction
            check_shapes(operation, [tuple(ring.tensor.shape) for ring in operands], 1)
            values = [(ring.tensor.unbind(0), ring.offset) for ring in operands]
            lines.append((operation, values, () if number is None else (number,)))

        def run(first: int, steps: int, by: int) -> None:
            for t in range(first, first + steps * by, by):
                for operation, values, numbers in lines:
                    operation(*[value[(t + offset) % len(value)] for value, offset in values], *numbers)

        return run

    def folding(
        self, total: Tensor, bias: Tensor | None, gradients: Ring, x: Ring, num_steps: int
    ) -> tuple[Instructions, Fold]:
        """Fold by one product of views; total (out, in), bias (out,), others as for :meth:`Machine.folding`."""

        def fold(first: int, steps: int) -> None:
            given = gradients.steps(first, steps)
            if bias is not None:
                bias.add_(given.sum((0, 2)))
            add_outer(total, given.transpose(0, 1), x.steps(first, steps).transpose(0, 1))

        return [], fold


class CompiledMachine(Machine):
    """Runs whole loops in C (``_compiled``), on at most as many threads as PyTorch uses.

    General libraries reach two thirds of a processor's speed for a weight times a few columns. Here weights are packed
    once per loop, and only a barrier stands between two operations.

    Args:
        tape: memory for the loop's buffers.
        level: index of the set of vector instructions; None for the widest of the processor.
        bfloat16: multiply float32 in bfloat16, and add in float32. Only some processors do, at their widest level.
    """

    blocks = 16  # up to 16 threads share a sum; its digits do not depend on their number

    def __init__(self, tape: Tape, level: int | None = None, bfloat16: bool = False) -> None:
        super().__init__(tape)
        self.level = len(_compiled.PANELS) - 1 if level is None else level
        self.kind = 1 if tape.block.dtype == torch.float64 else 2 * bfloat16

    def weight(self, matrix: Tensor) -> Ring:
        """Pack ``matrix`` (out, in) into panels, (panels, in * rows of a panel); see :func:`operations.pack`.

        A product keeps the sums of one panel in registers and reads the panel once, as one stream.
        """
        panel = _compiled.PANELS[self.level]
        packed = single(self.tape.room(-(-len(matrix) // panel), matrix.shape[1] * panel))
        self.prepare([Instruction(pack, (packed, single(matrix)))])(0, 1, 1)
        return packed

    def prepare(self, program: Instructions) -> RunProgram:
        panel = _compiled.PANELS[self.level]
        dtype = self.tape.block.dtype
        encoded = [encode(line, _CODES[line.operation.__name__], dtype, panel) for line in program]
        code, work = b"".join([line for line, _ in encoded]), sum([cost for _, cost in encoded])
        threads = max(1, min(torch.get_num_threads(), work // WORTH_A_THREAD))
        size, one = max(1, PER_CALL // max(1, work)), INSTRUCTION.size
        # A single step of many rows is cut into its instructions.
        parts = [code] if work <= PER_CALL else [code[k : k + one] for k in range(0, len(code), one)]

        def run(first: int, steps: int, by: int) -> None:
            if steps > 0 and min(first, first + (steps - 1) * by) < 0:
                raise ValueError(f"steps count from 0, got first step {first}, {steps} steps in direction {by}")
            # Python answers to signals between calls. By naming `program`, this function keeps alive the tensors that
            # the code points into.
            for done in range(0, steps if program else 0, size):
                for part in parts:
                    _compiled.run(part, first + done * by, min(size, steps - done), by, self.kind, threads, self.level)

        return run

    def folding(
        self, total: Tensor, bias: Tensor | None, gradients: Ring, x: Ring, num_steps: int
    ) -> tuple[Instructions, Fold]:
        """Fold by ``add_outer``; total (out, in), bias (out,), others as for :meth:`Machine.folding`.

        It reads x in place if the features of each row are contiguous. Any other x is copied so, step by step.
        """
        (size, _, rows), seen, program = gradients.tensor.shape, x.steps(0, num_steps), []
        if bias is not None:
            program.append(Instruction(add_sum, (single(bias.unsqueeze(1)), gradients)))
        if not seen.transpose(1, 2).is_contiguous():
            seen = self.tape.room(size, rows, seen.shape[1]).transpose(1, 2)
            program.append(Instruction(copy, (Ring(seen), x)))
        runs = {}
        for steps in {size, num_steps % size} - {0}:
            # A ring (folds, features, steps, rows): step k of this program is fold k. Only the last in time is shorter.
            windows = (value.unfold(0, steps, size).transpose(2, 3) for value in (gradients.tensor, seen))
            runs[steps] = self.prepare([Instruction(add_outer, (single(total), *map(Ring, windows)))])

        def fold(first: int, steps: int) -> None:
            runs[steps](first // size, 1, 1)

        return program, fold


_CODES = {} if _compiled is None else {name: code for code, name in enumerate(_compiled.OPERATIONS)}
