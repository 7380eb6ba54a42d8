"""LSTM cells in a time loop as programs, forward and backward; :mod:`zf_pyro.networks` has their PyTorch forms.

Values are (features, rows), where rows are sequences times particles. The step of a program that leads from h_{t-1} to
h_t finds both in rings: the state before at the step's own entry, the state after one entry later. If the loop runs
backwards, it is the other way round.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

from torch import Tensor

from .linear import Product
from .machines import Machine
from .operations import (
    Instruction,
    Instructions,
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
    """An LSTM over the steps of a loop. Subclasses define its gates.

    Attributes:
        h: the latest two hidden states, (2, hidden, rows). Loops copy out those of all steps.
        before: h_{t-1} at step t.
        after: h_t at step t.

    Args:
        machine: runs the loop.
        start: the state before the first step, (rows, hidden).
        c: the cell states, (time + 1, hidden, rows); the one before the first step is filled in.
        v: the inputs of the gates beside h, (time, rows, in).
        weights: W_h (4 hidden, hidden), W (4 hidden, in), b (4 hidden,).
        backwards: run from the last step to the first. Each state is then stored before the one that it comes from.
    """

    centred = False
    """Subtract the mean of W_h's rows, so that W_h h has mean 0 over its features."""

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
        # State k of 0..T is in entry k % 2 of h. The initial one is state 0, or state T if the loop runs backwards.
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
    def open(self, modulation: Ring | None) -> Instructions:
        """Instructions that add the recurrent part to the gate pre-activations.

        The input part, W v + b, is already in ``gates``.
        """

    @abstractmethod
    def close(self, modulation: Ring | None, out: Ring | None, h_gradient: Ring) -> Instructions:
        """Instructions from the gates' gradient, in the slots of ``inputs``, to those of h_{t-1} and the modulation.

        Arguments as for :meth:`back`.
        """

    @abstractmethod
    def start_back(self) -> None:
        """Prepare a backward pass."""

    def forward(self, modulation: Ring | None) -> Instructions:
        """Instructions of one step, to h_t and c_t."""
        states = self.c_after, self.after, self.tanh_c, self.gates, self.c_before
        return [*self.inputs.forward(self.gates, self.v), *self.open(modulation), Instruction(lstm, states)]

    def back(
        self,
        h_gradient: Ring,
        c_gradient: Ring,
        carried: Instructions,
        modulation: Ring | None,
        out: Ring | None,
        into: Ring | None,
    ) -> Instructions:
        """Instructions of one backward step.

        One buffer serves the gradients of h_t and h_{t-1}, another those of c_t and c_{t-1}. Hence the order: first
        ``lstm_back`` reads h_gradient, then ``carried`` overwrites it, then W_h^T times the gates' gradient is added.

        Args:
            h_gradient: gradient of h_t; becomes that of h_{t-1}.
            c_gradient: gradient of c_t; becomes that of c_{t-1}.
            carried: sets h_gradient to the gradient that reaches h_{t-1} from outside the loop, and adds that of
                c_{t-1} to c_gradient.
            modulation: the argument of the forward step.
            out: output for the modulation's gradient; None if there is no modulation.
            into: output for the gradient of v_t, (in, rows); None if it is not requested.
        """
        given = c_gradient, self.inputs.slots, h_gradient, self.gates, self.c_before, self.tanh_c
        into_v = [] if into is None else self.inputs.back(into)
        return [Instruction(lstm_back, given), *carried, *into_v, *self.close(modulation, out, h_gradient)]

    def gradients(self) -> tuple[Tensor, ...]:
        """Return the gradients of W_h, W and b, after the last backward step."""
        return *self.hidden.gradients(), *self.inputs.gradients()


class NormedCell(Cell):
    """LSTM with gates W v_t + b + (1 + gain) * norm(W_h h_{t-1}) + shift, as ``ConditionalLayerNormCell``.

    The norm makes mean 0 and variance 1 over features. W_h is centred once per loop, so that no step forms the mean.
    Arguments are those of :class:`Cell`: start (rows, hidden), c (time + 1, hidden, rows), v (time, rows, in).
    """

    centred = True

    def __init__(self, machine: Machine, start: Tensor, c: Tensor, v: Tensor, weights: Sequence[Tensor]) -> None:
        super().__init__(machine, start, c, v, weights)
        self.normed = machine.room(self.num_steps, self.width, self.rows)
        self.inverse_deviation = machine.room(self.num_steps, 1, self.rows)
        self.parts = machine.room(1, machine.blocks, self.rows)

    def open(self, modulation: Ring | None) -> Instructions:
        gain, shift = self._halves(modulation)
        return [
            *self.hidden.forward(self.normed, self.before),
            Instruction(sum_squares, (self.parts, self.normed)),
            Instruction(modulate, (self.gates, self.normed, self.inverse_deviation, self.parts, gain, shift)),
        ]

    def start_back(self) -> None:
        for part in self.products:
            part.start_back(self.num_steps, self.rows)

    def close(self, modulation: Ring | None, out: Ring | None, h_gradient: Ring) -> Instructions:
        gain, _ = self._halves(modulation)
        into_gain, into_shift = self._halves(out)
        given = self.parts, self.inputs.slots, self.normed, gain
        # modulate_back comes before normalise_back, which reads the sums that it leaves in `parts`.
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
    """LSTM with gates W_h h_{t-1} + W v_t + b [+ modulation], as ``ConcatenateCell`` or a standard LSTM."""

    def open(self, modulation: Ring | None) -> Instructions:
        added = [] if modulation is None else [Instruction(add, (self.gates, modulation))]
        return [*self.hidden.add(self.gates, self.before), *added]

    def start_back(self) -> None:
        self.inputs.start_back(self.num_steps, self.rows)
        # W_h h and W v are summed, so that both have the gradient of the gates and share its slots.
        self.hidden.start_back(self.num_steps, self.rows, self.inputs.slots)

    def close(self, modulation: Ring | None, out: Ring | None, h_gradient: Ring) -> Instructions:
        handed = [] if out is None else [Instruction(copy, (out, self.inputs.slots))]
        return [*handed, *self.hidden.add_back(h_gradient)]
