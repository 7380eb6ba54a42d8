"""A matrix product in a time loop, whose weight gradient is formed once a loop instead of once a step."""

import math
from typing import cast

from torch import Tensor

from .machines import Machine
from .operations import Instruction, Program, Ring, add_product, product, single

LEAST_COLUMNS = 128
"""Columns noted before they are folded into a weight gradient, at the least: enough for speed."""


def steps_per_fold(num_steps: int, rows: int) -> int:
    """How many steps to fold into a weight gradient at once.

    Numbers are added up one after the other, both within a fold and from fold to fold, and rounding grows with the root
    of how many there are: it is least where both are alike. Four times as many in a fold cost little of that, and make
    fewer passes over the weight.
    """
    columns = max(LEAST_COLUMNS, 4 * math.isqrt(num_steps * rows))
    return max(1, min(num_steps, columns // rows))


class Product:
    """y = W x + b over the steps of a loop, and its way back.

    On the way back the gradient of y is written to ``slots`` at every step; every few steps ``fold`` adds what has
    been noted to the gradient of W as one product.

    Args:
        machine: runs the loop.
        weight: W, (out, in).
        bias: b, (out,), or None.
        centred: subtract from W the mean of its rows, so that the features of y have mean 0 whatever x is.
    """

    slots: Ring
    """Gradients of y; (steps of a fold, out, rows)."""

    def __init__(self, machine: Machine, weight: Tensor, bias: Tensor | None = None, centred: bool = False) -> None:
        self.machine, self.centred = machine, centred
        self.matrix = weight - weight.mean(0) if centred else weight
        self.weight = machine.weight(self.matrix)
        self.bias = None if bias is None else single(bias.contiguous().unsqueeze(1))
        self.transposed: Ring | None = None

    def forward(self, out: Ring, x: Ring) -> Program:
        """out = W x + b."""
        self.x = x
        return [Instruction(product, (out, self.weight, x, *([] if self.bias is None else [self.bias])))]

    def add(self, out: Ring, x: Ring) -> Program:
        """out = out + W x."""
        self.x = x
        return [Instruction(add_product, (out, self.weight, x))]

    def start_back(self, num_steps: int, rows: int, slots: Ring | None = None) -> None:
        """Before the first step back, of the first pass or a later one; ``slots`` to use another product's."""
        out_dim = len(self.matrix)
        if self.transposed is None:
            self.transposed = self.machine.weight(self.matrix.t())
            self.slots = slots or self.machine.room(steps_per_fold(num_steps, rows), out_dim, rows)
        self.total = self.matrix.new_zeros(self.matrix.shape)
        self.bias_total = None if self.bias is None else self.matrix.new_zeros(out_dim)
        # What a step back does last, and what is called with the lowest step and how many, to add up the gradient of W.
        self.noting, self.fold = self.machine.folding(self.total, self.bias_total, self.slots, self.x, num_steps)

    def back(self, into: Ring) -> Program:
        """into = W^T gradient."""
        return [Instruction(product, (into, cast(Ring, self.transposed), self.slots))]

    def add_back(self, into: Ring) -> Program:
        """into = into + W^T gradient."""
        return [Instruction(add_product, (into, cast(Ring, self.transposed), self.slots))]

    def gradients(self) -> tuple[Tensor, ...]:
        """The gradients of W and, if there is one, of b, after the last fold."""
        if self.centred:
            self.total -= self.total.mean(0)
        return (self.total,) if self.bias_total is None else (self.total, self.bias_total)
