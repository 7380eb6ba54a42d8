"""One step of an LSTM in a time loop, forward and back, on whole buffers and without autograd.

Layout and bookkeeping are those of :mod:`zf_pyro.kernels`: columns are sequences, weight gradients are formed once a
loop. The plain twins are the cells of :mod:`zf_pyro.networks` under ordinary autograd.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from .arena import Tape
from .kernels import with_ones
from .products import Product

_sigmoid_back = torch.ops.aten.sigmoid_backward.grad_input
_tanh_back = torch.ops.aten.tanh_backward.grad_input


class Cell(ABC):
    """An LSTM over the steps of a loop; the subclasses say what sets its gates.

    Attributes:
        h: h_0..h_T, each (hidden, rows).
        c: c_0..c_T, each (hidden, rows).

    Args:
        h: h_0..h_T, (time + 1, hidden, rows), with h_0 filled in.
        c: c_0..c_T, likewise.
        tape: where its buffers come from.
    """

    modulation_blocks: int
    """Size of the modulation in multiples of 4 hidden."""

    def __init__(self, h: Tensor, c: Tensor, tape: Tape) -> None:
        self.num_steps, hidden, self.rows = h.shape[0] - 1, h.shape[1], h.shape[2]
        self.h, self.c = h.unbind(0), c.unbind(0)
        self.width = 4 * hidden
        gates = tape.room(self.num_steps, self.width, self.rows)
        self.gates = gates.unbind(0)
        self.switches = gates[:, : 3 * hidden].unbind(0)
        self.blocks = list(zip(*(block.unbind(0) for block in gates.chunk(4, dim=1)), strict=True))
        self.tanh_c = tape.room(self.num_steps, hidden, self.rows).unbind(0)
        self.scratch = h.new_empty(hidden, self.rows)

    @abstractmethod
    def open(self, t: int, modulation: Tensor | None) -> None:
        """The gates of step t before their nonlinearities, into ``gates[t]``."""

    @abstractmethod
    def room(self, out: Tensor | None) -> Tensor:
        """Where the gradient of those gates goes, (4 hidden, rows); ``out`` as for :meth:`back`."""

    @abstractmethod
    def close(
        self, t: int, modulation: Tensor | None, out: Tensor | None, h_before: Tensor, into: Tensor | None
    ) -> None:
        """From the gradient in :meth:`room` to those of what set the gates; arguments as for :meth:`back`."""

    @abstractmethod
    def start_back(self) -> None:
        """Before the first step back."""

    @abstractmethod
    def gradients(self) -> tuple[Tensor, ...]:
        """The gradients of the weights, after the last step back."""

    def forward(self, t: int, modulation: Tensor | None) -> None:
        """h_t and c_t (indices t + 1 from 0)."""
        self.open(t, modulation)
        self.switches[t].sigmoid_()
        i, f, o, candidate = self.blocks[t]
        candidate.tanh_()
        cell = torch.mul(f, self.c[t], out=self.c[t + 1]).addcmul_(i, candidate)
        torch.mul(o, torch.tanh(cell, out=self.tanh_c[t]), out=self.h[t + 1])

    def back(
        self,
        t: int,
        h_gradient: Tensor,
        c_gradient: Tensor,
        modulation: Tensor | None,
        out: Tensor | None,
        h_before: Tensor,
        into: Tensor | None,
    ) -> None:
        """One step back.

        Args:
            t: the step.
            h_gradient: gradient of h_t.
            c_gradient: gradient of c_t from the steps after; becomes that of c_{t-1}.
            modulation: what the forward step was given.
            out: where the modulation's gradient goes; None where there is no modulation.
            h_before: gradient of h_{t-1}, which this step's share is added to.
            into: where the gradient of v_t goes, (in, rows); None where it is not wanted.
        """
        tanh_c = self.tanh_c[t]
        i, f, o, candidate = self.blocks[t]
        gradient = self.room(out)
        into_i, into_f, into_o, into_candidate = gradient.chunk(4)
        torch.mul(h_gradient, tanh_c, out=into_o)
        c_gradient += _tanh_back(torch.mul(h_gradient, o, out=self.scratch), tanh_c, grad_input=self.scratch)
        torch.mul(c_gradient, candidate, out=into_i)
        torch.mul(c_gradient, self.c[t], out=into_f)
        torch.mul(c_gradient, i, out=into_candidate)
        c_gradient *= f
        into_switches = gradient[: 3 * self.width // 4]
        _sigmoid_back(into_switches, self.switches[t], grad_input=into_switches)
        _tanh_back(into_candidate, candidate, grad_input=into_candidate)
        self.close(t, modulation, out, h_before, into)


class NormedCell(Cell):
    """gates = W v_t + b + (1 + gain) * norm(W_h h_{t-1}) + shift, norm: mean 0 and variance 1 over a column.

    See :class:`zf_pyro.networks.ConditionalLayerNormCell`. Weights W_h, W, b. The norm's mean is taken from W_h once.
    """

    modulation_blocks = 2

    def __init__(self, start: Tensor, c: Tensor, v: Tensor, weights: Sequence[Tensor], tape: Tape) -> None:
        hidden_weight, weight, bias = weights
        num_steps, rows, in_dim = v.shape
        h = tape.room(num_steps + 1, start.shape[1], rows)
        h[0] = start.t()
        super().__init__(h, c, tape)
        buffer = with_ones(tape, num_steps, in_dim, rows)
        buffer[:, :in_dim] = v.transpose(1, 2)
        self.v = buffer.unbind(0)
        self.hidden, self.inputs = Product([hidden_weight], None, tape, centred=True), Product([weight], bias, tape)
        self.normed = tape.room(num_steps, self.width, rows).unbind(0)
        self.inverse_deviation = v.new_empty(num_steps, rows).unbind(0)
        self.gradient = v.new_empty(self.width, rows)

    def open(self, t: int, modulation: Tensor | None) -> None:
        gain, shift = cast(Tensor, modulation).chunk(2)
        normed = torch.mm(self.hidden.weight, self.h[t], out=self.normed[t])
        variance = torch.linalg.vecdot(normed, normed, dim=0).div_(self.width)
        normed *= torch.rsqrt(variance.add_(1e-5), out=self.inverse_deviation[t])
        gates = torch.mm(self.inputs.weight, self.v[t], out=self.gates[t])
        gates.addcmul_(normed, gain).add_(normed).add_(shift)

    def start_back(self) -> None:
        self.hidden.start_back(self.num_steps, self.rows)
        self.inputs.start_back(self.num_steps, self.rows)

    def room(self, out: Tensor | None) -> Tensor:
        return cast(Tensor, out)[self.width :]  # the shift's gradient is that of the gates

    def close(
        self, t: int, modulation: Tensor | None, out: Tensor | None, h_before: Tensor, into: Tensor | None
    ) -> None:
        into_gain, gradient = cast(Tensor, out).chunk(2)
        normed = self.normed[t]
        torch.mul(gradient, normed, out=into_gain)
        self.inputs.slot().copy_(gradient)
        if into is not None:
            torch.mm(self.inputs.transposed, gradient, out=into)
        self.inputs.note(self.v[t])
        hidden = torch.addcmul(gradient, gradient, cast(Tensor, modulation)[: self.width], out=self.gradient)
        along = torch.linalg.vecdot(hidden, normed, dim=0).div_(self.width)
        hidden.addcmul_(normed, along, value=-1.0)
        h_before.addmm_(self.hidden.transposed, torch.mul(hidden, self.inverse_deviation[t], out=self.hidden.slot()))
        self.hidden.note(self.h[t])

    def gradients(self) -> tuple[Tensor, ...]:
        return *self.hidden.gradient(), *self.inputs.gradient()


class PlainCell(Cell):
    """gates = W_h h_{t-1} + W v_t + b [+ modulation]: :class:`zf_pyro.networks.ConcatenateCell`, or a plain LSTM.

    Weights W_h, W, b; they are applied as one, to columns of h_{t-1}, v_t and 1.
    """

    modulation_blocks = 1

    def __init__(self, start: Tensor, c: Tensor, v: Tensor, weights: Sequence[Tensor], tape: Tape) -> None:
        hidden_weight, weight, bias = weights
        num_steps, rows, in_dim = v.shape
        self.hidden_dim = start.shape[1]
        buffer = with_ones(tape, num_steps + 1, self.hidden_dim + in_dim, rows)
        buffer[:-1, self.hidden_dim : -1] = v.transpose(1, 2)
        buffer[0, : self.hidden_dim] = start.t()
        self.x = buffer.unbind(0)
        super().__init__(buffer[:, : self.hidden_dim], c, tape)
        self.product = Product([hidden_weight, weight], bias, tape)

    def open(self, t: int, modulation: Tensor | None) -> None:
        torch.mm(self.product.weight, self.x[t], out=self.gates[t])
        if modulation is not None:
            self.gates[t].add_(modulation)

    def start_back(self) -> None:
        self.product.start_back(self.num_steps, self.rows)

    def room(self, out: Tensor | None) -> Tensor:
        return self.product.slot()

    def close(
        self, t: int, modulation: Tensor | None, out: Tensor | None, h_before: Tensor, into: Tensor | None
    ) -> None:
        gradient = self.product.slot()
        if out is not None:
            out.copy_(gradient)
        h_before.addmm_(self.product.transposed[: self.hidden_dim], gradient)
        if into is not None:
            torch.mm(self.product.transposed[self.hidden_dim :], gradient, out=into)
        self.product.note(self.x[t])

    def gradients(self) -> tuple[Tensor, ...]:
        return self.product.gradient()
