"""A matrix product in a time loop, whose weight gradient is formed once a loop instead of once a step."""

from typing import cast

from torch import Tensor

from .arena import Tape

COLUMNS_PER_PRODUCT = 2048
"""Columns noted before they are folded into a weight gradient: enough for full speed, few enough to bound memory."""


class Product:
    """y = W x over the steps of a loop, and its way back.

    Args:
        weight: W, (out, in).
        bias: b, (out,), or None; x then ends in a row of ones.
        tape: where its buffers come from.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, tape: Tape) -> None:
        self.in_dim = weight.shape[1]
        self.tape = tape
        self.weight = weight
        if bias is not None:
            # Rows of a whole number of cache lines: a product is a third slower on rows of 513.
            room = tape.room(weight.shape[0], self.in_dim + 16)
            self.weight = room[:, : self.in_dim + 1]
            self.weight[:, : self.in_dim], self.weight[:, self.in_dim] = weight, bias
        self.slots: list[tuple[Tensor, Tensor]] = []

    def start_back(self, num_steps: int, rows: int) -> None:
        """Before the first step back, of the first pass or a later one."""
        if not self.slots:
            steps = max(1, min(num_steps, COLUMNS_PER_PRODUCT // rows))
            out_dim, in_dim = self.weight.shape
            self.transposed = self.tape.room(self.in_dim, out_dim).copy_(self.weight[:, : self.in_dim].t())
            self.inputs = self.tape.room(in_dim, steps * rows)
            self.gradients = self.tape.room(out_dim, steps * rows)
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
        self.total = gradients @ inputs if self.total is None else self.total.addmm_(gradients, inputs)
        self.noted = 0

    def gradient(self) -> tuple[Tensor, ...]:
        """The gradients of the weight (out, in) and, if there is one, the bias (out,), after the last step back."""
        if self.noted or self.total is None:
            self._fold()
        total = cast(Tensor, self.total)
        weight = total[:, : self.in_dim]
        return (weight,) if total.shape[1] == self.in_dim else (weight, total[:, self.in_dim])
