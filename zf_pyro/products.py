"""A matrix product in a time loop, whose weight gradient is formed once a loop instead of once a step."""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from .arena import Tape

LEAST_COLUMNS = 128
"""Columns noted before they are folded into a weight gradient, at the least: enough for speed."""
LINE = 16
"""Numbers in a cache line."""


def _padded(make: Callable[[int, int], Tensor], rows: int, width: int) -> Tensor:
    """A matrix whose rows lie an odd number of cache lines apart.

    A product reads several rows at once. Rows a power of two apart fall on the same few places of the cache and push
    each other out: on CPUs that takes a third to a half of a product's speed, and parts of a line take a little more.
    """
    lines = -(-width // LINE)
    return make(rows, (lines + 1 - lines % 2) * LINE)[:, :width]


def _columns_per_fold(total: int) -> int:
    """How many of ``total`` columns to fold into a weight gradient at once.

    Numbers are added up one after the other, both within a fold and from fold to fold, and rounding grows with the root
    of how many there are: it is least where both are alike. Four times as many in a fold cost little of that, and make
    fewer passes over the weight.
    """
    return max(LEAST_COLUMNS, 4 * math.isqrt(total))


class Product:
    """y = W x over the steps of a loop, and its way back.

    Args:
        weights: W, (out, in), as blocks of columns.
        bias: b, (out,), or None; x then ends in a row of ones.
        tape: where its buffers come from.
        centred: subtract from W the mean of its rows, so that the features of y have mean 0 whatever x is.
    """

    def __init__(self, weights: Sequence[Tensor], bias: Tensor | None, tape: Tape, centred: bool = False) -> None:
        self.blocks = [weight.shape[1] for weight in weights]
        self.in_dim = sum(self.blocks)
        self.tape = tape
        columns = [*weights, *([] if bias is None else [bias.unsqueeze(1)])]
        widths = [column.shape[1] for column in columns]
        self.weight = _padded(tape.room, len(columns[0]), sum(widths))
        for part, column in zip(self.weight.split(widths, 1), columns, strict=True):
            part.copy_(column)
        self.centred = centred
        if centred:
            self.weight -= self.weight.mean(0)
        self.slots: list[tuple[Tensor, Tensor]] = []

    def start_back(self, num_steps: int, rows: int) -> None:
        """Before the first step back, of the first pass or a later one."""
        if not self.slots:
            steps = max(1, min(num_steps, _columns_per_fold(num_steps * rows) // rows))
            out_dim, in_dim = self.weight.shape
            self.transposed = _padded(self.tape.room, self.in_dim, out_dim).copy_(self.weight[:, : self.in_dim].t())
            self.inputs = _padded(self.tape.room, in_dim, steps * rows)
            self.gradients = _padded(self.tape.room, out_dim, steps * rows)
            self.slots = list(zip(self.inputs.split(rows, 1), self.gradients.split(rows, 1), strict=True))
        self.noted = 0
        self.total: Tensor | None = None

    def slot(self) -> Tensor:
        """Where the output's gradient of this step is to be written, before :meth:`note`; (out, rows)."""
        return self.slots[self.noted][1]

    def note(self, x: Tensor) -> None:
        """Note this step's input, (in, rows)."""
        self.slots[self.noted][0].copy_(x)
        self.noted += 1
        if self.noted == len(self.slots):
            self._fold()

    def _fold(self) -> None:
        columns = self.noted * self.slots[0][0].shape[1]
        gradients, inputs = self.gradients[:, :columns], self.inputs[:, :columns].t()
        if self.total is None:
            self.total = _padded(self.weight.new_empty, *self.weight.shape)
            torch.mm(gradients, inputs, out=self.total)
        else:
            self.total.addmm_(gradients, inputs)
        self.noted = 0

    def gradient(self) -> tuple[Tensor, ...]:
        """The gradients of the blocks of W and, if there is one, of b, after the last step back."""
        if self.noted or self.total is None:
            self._fold()
        total = cast(Tensor, self.total)
        if self.centred:
            total -= total.mean(0)
        weights = total[:, : self.in_dim].split(self.blocks, 1)
        return weights if total.shape[1] == self.in_dim else (*weights, total[:, self.in_dim])
