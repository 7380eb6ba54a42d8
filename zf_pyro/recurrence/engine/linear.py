"""A linear layer in a time loop, whose weight gradient is summed over many steps at a time.

Values are (features, rows), where rows are sequences times particles. Slots are a ring with the output gradients of
the latest steps. A fold adds the product of the slots and the inputs of their steps to the weight gradient.
"""

import math
from typing import cast

from torch import Tensor

from .machines import Machine
from .operations import Instruction, Instructions, Ring, add_product, product, single

LEAST_COLUMNS = 128
"""Least columns (steps x rows) of a fold, if the loop has as many: smaller products are slow."""


def steps_per_fold(num_steps: int, rows: int) -> int:
    """Number of steps that are folded into a weight gradient at once.

    Elements are added one after the other, both within a fold and from fold to fold. The rounding error of each sum
    grows with the root of its length, and the total is least if both have the same length: the root of all columns.
    Folds four times as long add little error, and pass over the weight gradient less often.
    """
    columns = max(LEAST_COLUMNS, 4 * math.isqrt(num_steps * rows))
    return max(1, min(num_steps, columns // rows))


class Product:
    """A linear layer y = W x + b over the steps of a loop, and its backward pass.

    Each step of the backward pass writes the gradient of y to ``slots``. When these are full, ``fold`` adds them to the
    gradient of W as one product.

    Args:
        machine: runs the loop.
        weight: W, (out, in).
        bias: b, (out,), or None.
        centred: subtract the mean of W's rows from W, so that y has mean 0 over its features for every x.
    """

    slots: Ring
    """Gradients of y; (steps of a fold, out, rows)."""

    def __init__(self, machine: Machine, weight: Tensor, bias: Tensor | None = None, centred: bool = False) -> None:
        self.machine, self.centred = machine, centred
        self.matrix = weight - weight.mean(0) if centred else weight
        self.weight = machine.weight(self.matrix)
        self.bias = None if bias is None else single(bias.contiguous().unsqueeze(1))
        self.transposed: Ring | None = None

    def forward(self, out: Ring, x: Ring) -> Instructions:
        """Instructions for out = W x + b."""
        self.x = x
        return [Instruction(product, (out, self.weight, x, *([] if self.bias is None else [self.bias])))]

    def add(self, out: Ring, x: Ring) -> Instructions:
        """Instructions for out += W x."""
        self.x = x
        return [Instruction(add_product, (out, self.weight, x))]

    def start_back(self, num_steps: int, rows: int, slots: Ring | None = None) -> None:
        """Prepare a backward pass. With ``slots``, share those of another layer whose output has the same gradient."""
        out_dim = len(self.matrix)
        if self.transposed is None:  # else the graph was retained, and this is a later pass
            self.transposed = self.machine.weight(self.matrix.t())
            self.slots = slots or self.machine.room(steps_per_fold(num_steps, rows), out_dim, rows)
        self.total = self.matrix.new_zeros(self.matrix.shape)
        self.bias_total = None if self.bias is None else self.matrix.new_zeros(out_dim)
        # `noting` ends every step of the backward pass; `fold` is called when the slots are full.
        self.noting, self.fold = self.machine.folding(self.total, self.bias_total, self.slots, self.x, num_steps)

    def back(self, into: Ring) -> Instructions:
        """Instructions for into = W^T gradient."""
        return [Instruction(product, (into, cast(Ring, self.transposed), self.slots))]

    def add_back(self, into: Ring) -> Instructions:
        """Instructions for into += W^T gradient."""
        return [Instruction(add_product, (into, cast(Ring, self.transposed), self.slots))]

    def gradients(self) -> tuple[Tensor, ...]:
        """Return the gradients of W and, if there is one, of b, after the last fold."""
        if self.centred:  # the gradient of the subtraction
            self.total -= self.total.mean(0)
        return (self.total,) if self.bias_total is None else (self.total, self.bias_total)
