"""An LSTM in a time loop as a program, forward and back; its plain twins are the cells of the networks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

from torch import Tensor

from .linear import Product
from .machines import Machine
from .operations import (
    Instruction,
    Program,
    Ring,
    add,
    copy,
    lstm,
    lstm_back,
    modulate,
    modulate_back,
    normalise_back,
    sum_squares,
)


class Cell(ABC):
    """An LSTM over the steps of a loop; the subclasses say what sets its gates. Weights W_h, W, b.

    Attributes:
        h: two hidden states, (2, hidden, rows); who wants those of all steps copies them out.
        before: h_{t-1} at step t.
        after: h_t at step t.

    Args:
        machine: runs the loop.
        start: the state before the first step, (rows, hidden).
        c: the cell states, (time + 1, hidden, rows), with the one before the first step filled in.
        v: what the gates read beside h, (time, rows, in).
        weights: W_h (4 hidden, hidden), W (4 hidden, in), b (4 hidden,).
        backwards: whether the loop runs from the last step to the first, each state lying before the one it comes from.
    """

    centred = False
    """Whether W_h is to have features of mean 0."""

    def __init__(
        self,
        machine: Machine,
        start: Tensor,
        c: Tensor,
        v: Tensor,
        weights: Sequence[Tensor],
        backwards: bool = False,
    ) -> None:
        self.num_steps, self.rows, in_dim = v.shape
        hidden_weight, weight, bias = weights
        self.width, hidden_dim = hidden_weight.shape
        self.h, self.c = machine.room(2, hidden_dim, self.rows), Ring(c)
        self.h.tensor[self.num_steps % 2 if backwards else 0].copy_(start.t())
        late, early = (0, 1) if backwards else (1, 0)
        self.before, self.after = self.h.later(early), self.h.later(late)
        self.c_before, self.c_after = self.c.later(early), self.c.later(late)
        self.v = machine.room(self.num_steps, in_dim, self.rows)
        self.v.tensor.copy_(v.transpose(1, 2))
        self.hidden = Product(machine, hidden_weight, centred=self.centred)
        self.inputs = Product(machine, weight, bias)
        self.products = self.hidden, self.inputs
        self.gates = machine.room(self.num_steps, self.width, self.rows)
        self.tanh_c = machine.room(self.num_steps, hidden_dim, self.rows)

    @abstractmethod
    def open(self, modulation: Ring | None) -> Program:
        """The gates before their nonlinearities, but for what v sets of them, which is there already."""

    @abstractmethod
    def close(self, modulation: Ring | None, out: Ring | None, h_gradient: Ring) -> Program:
        """From the gates' gradient, in the slots of ``inputs``, to those of what set them; arguments as for back."""

    @abstractmethod
    def start_back(self) -> None:
        """Before the first step back."""

    def forward(self, modulation: Ring | None) -> Program:
        """h_t and c_t."""
        states = self.c_after, self.after, self.tanh_c, self.gates, self.c_before
        return [*self.inputs.forward(self.gates, self.v), *self.open(modulation), Instruction(lstm, states)]

    def back(
        self,
        h_gradient: Ring,
        c_gradient: Ring,
        carried: Program,
        modulation: Ring | None,
        out: Ring | None,
        into: Ring | None,
    ) -> Program:
        """One step back.

        Args:
            h_gradient: gradient of h_t; becomes that of h_{t-1}.
            c_gradient: gradient of c_t; becomes that of c_{t-1}.
            carried: sets h_gradient to what reaches h_{t-1} from outside the loop, and adds likewise to c_gradient.
            modulation: what the forward step was given.
            out: where the modulation's gradient goes; None where there is no modulation.
            into: where the gradient of v_t goes, (in, rows); None where it is not wanted.
        """
        given = c_gradient, self.inputs.slots, h_gradient, self.gates, self.c_before, self.tanh_c
        into_v = [] if into is None else self.inputs.back(into)
        return [Instruction(lstm_back, given), *carried, *into_v, *self.close(modulation, out, h_gradient)]

    def gradients(self) -> tuple[Tensor, ...]:
        """The gradients of the weights, after the last step back."""
        return *self.hidden.gradients(), *self.inputs.gradients()


class NormedCell(Cell):
    """gates = W v_t + b + (1 + gain) * norm(W_h h_{t-1}) + shift, norm: mean 0 and variance 1 over a column.

    See :class:`zf_pyro.networks.ConditionalLayerNormCell`. The norm's mean is taken from W_h once.
    """

    centred = True

    def __init__(self, machine: Machine, start: Tensor, c: Tensor, v: Tensor, weights: Sequence[Tensor]) -> None:
        super().__init__(machine, start, c, v, weights)
        self.normed = machine.room(self.num_steps, self.width, self.rows)
        self.inverse_deviation = machine.room(self.num_steps, 1, self.rows)
        self.parts = machine.room(1, machine.blocks, self.rows)

    def open(self, modulation: Ring | None) -> Program:
        gain, shift = self._halves(modulation)
        return [
            *self.hidden.forward(self.normed, self.before),
            Instruction(sum_squares, (self.parts, self.normed)),
            Instruction(modulate, (self.gates, self.normed, self.inverse_deviation, self.parts, gain, shift)),
        ]

    def start_back(self) -> None:
        for part in self.products:
            part.start_back(self.num_steps, self.rows)

    def close(self, modulation: Ring | None, out: Ring | None, h_gradient: Ring) -> Program:
        gain, _ = self._halves(modulation)
        into_gain, into_shift = self._halves(out)
        given = self.parts, self.inputs.slots, self.normed, gain
        return [
            Instruction(copy, (into_shift, self.inputs.slots)),
            Instruction(modulate_back, (into_gain, *given)),
            Instruction(normalise_back, (self.hidden.slots, *given, self.inverse_deviation)),
            *self.hidden.add_back(h_gradient),
        ]

    def _halves(self, modulation: Ring | None) -> tuple[Ring, Ring]:
        both = cast(Ring, modulation)
        return both.part(0, self.width), both.part(self.width, 2 * self.width)


class PlainCell(Cell):
    """gates = W_h h_{t-1} + W v_t + b [+ modulation]: :class:`zf_pyro.networks.ConcatenateCell`, or a plain LSTM."""

    def open(self, modulation: Ring | None) -> Program:
        added = [] if modulation is None else [Instruction(add, (self.gates, modulation))]
        return [*self.hidden.add(self.gates, self.before), *added]

    def start_back(self) -> None:
        self.inputs.start_back(self.num_steps, self.rows)
        self.hidden.start_back(self.num_steps, self.rows, self.inputs.slots)

    def close(self, modulation: Ring | None, out: Ring | None, h_gradient: Ring) -> Program:
        handed = [] if out is None else [Instruction(copy, (out, self.inputs.slots))]
        return [*handed, *self.hidden.add_back(h_gradient)]
