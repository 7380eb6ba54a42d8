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
    def room(self) -> Tensor:
        """Where the gradient of those gates goes; (4 hidden, rows)."""

    @abstractmethod
    def close(
        self, t: int, modulation: Tensor | None, out: Tensor | None, h_before: Tensor, into: Tensor | None
    ) -> None:
        """From the gradient in :meth:`room` to those of what set the gates; arguments as for :meth:`back`."""

    @abstractmethod
    def start_back(self) -> None:
        """Before the first step back."""

    @abstractmethod
    def gradients(self) -> tuple[Tensor | None, ...]:
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
        gradient = self.room()
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


class _Norm:
    """norm(W x) over the steps of a loop: mean 0 and variance 1 over the features of each column."""

    def __init__(self, product: Product, num_steps: int, rows: int) -> None:
        self.product, self.num_steps, self.rows = product, num_steps, rows
        self.width = product.weight.shape[0]
        self.normed = product.tape.room(num_steps, self.width, rows).unbind(0)
        self.inverse_deviation = product.weight.new_empty(num_steps, rows).unbind(0)
        self.linear = product.weight.new_empty(self.width, rows)

    def forward(self, t: int, x: Tensor) -> Tensor:
        """(width, rows), kept for the way back."""
        linear = torch.mm(self.product.weight, x, out=self.linear)
        normed = torch.sub(linear, linear.mean(0), out=self.normed[t])
        variance = torch.linalg.vecdot(normed, normed, dim=0).div_(self.width)
        normed *= torch.rsqrt(variance.add_(1e-5), out=self.inverse_deviation[t])
        return normed

    def start_back(self) -> None:
        self.product.start_back(self.num_steps, self.rows)

    def back(self, t: int, x: Tensor) -> Tensor:
        """From the gradient of the output, in the product's slot, to that of W x, which it becomes. Notes x."""
        gradient, normed = self.product.slot(), self.normed[t]
        along = torch.linalg.vecdot(gradient, normed, dim=0).div_(self.width)
        gradient -= gradient.mean(0)
        gradient.addcmul_(normed, along, value=-1.0).mul_(self.inverse_deviation[t])
        self.product.note(x)
        return gradient


class NormedCell(Cell):
    """gates = norm(W v_t + b) * scale + offset + (1 + gain) * norm(W_h h_{t-1}) + shift.

    See :class:`zf_pyro.networks.ConditionalLayerNormCell`. Weights W_h, W, b (or None), scale, offset.
    """

    modulation_blocks = 2

    def __init__(self, start: Tensor, c: Tensor, v: Tensor, weights: Sequence[Tensor | None], tape: Tape) -> None:
        hidden_weight, weight, bias, scale, offset = weights
        num_steps, rows, in_dim = v.shape
        h = tape.room(num_steps + 1, start.shape[1], rows)
        h[0] = start.t()
        super().__init__(h, c, tape)
        buffer = with_ones(tape, num_steps, in_dim, rows)[:, : in_dim + (bias is not None)]
        buffer[:, :in_dim] = v.transpose(1, 2)
        self.v = buffer.unbind(0)
        hidden, inputs = Product([cast(Tensor, hidden_weight)], None, tape), Product([cast(Tensor, weight)], bias, tape)
        self.hidden, self.inputs = _Norm(hidden, num_steps, rows), _Norm(inputs, num_steps, rows)
        self.scale, self.offset = (
            cast(Tensor, vector).unsqueeze(1).expand(-1, rows).contiguous() for vector in (scale, offset)
        )
        self.gradient = torch.empty_like(self.scale)

    def open(self, t: int, modulation: Tensor | None) -> None:
        gain, shift = cast(Tensor, modulation).chunk(2)
        normed = self.hidden.forward(t, self.h[t])
        gates = torch.addcmul(self.offset, self.inputs.forward(t, self.v[t]), self.scale, out=self.gates[t])
        gates.addcmul_(normed, gain).add_(normed).add_(shift)

    def start_back(self) -> None:
        self.hidden.start_back()
        self.inputs.start_back()
        self.scale_total, self.offset_total = torch.zeros_like(self.scale), torch.zeros_like(self.offset)

    def room(self) -> Tensor:
        return self.gradient

    def close(
        self, t: int, modulation: Tensor | None, out: Tensor | None, h_before: Tensor, into: Tensor | None
    ) -> None:
        gradient = self.gradient
        into_gain, into_shift = cast(Tensor, out).chunk(2)
        torch.mul(gradient, self.hidden.normed[t], out=into_gain)
        into_shift.copy_(gradient)
        torch.addcmul(gradient, gradient, cast(Tensor, modulation)[: self.width], out=self.hidden.product.slot())
        h_before.addmm_(self.hidden.product.transposed, self.hidden.back(t, self.h[t]))
        self.scale_total.addcmul_(gradient, self.inputs.normed[t])
        self.offset_total += gradient
        torch.mul(gradient, self.scale, out=self.inputs.product.slot())
        linear = self.inputs.back(t, self.v[t])
        if into is not None:
            torch.mm(self.inputs.product.transposed, linear, out=into)

    def gradients(self) -> tuple[Tensor | None, ...]:
        weight, *bias = self.inputs.product.gradient()
        (hidden_weight,) = self.hidden.product.gradient()
        totals = self.scale_total.sum(1), self.offset_total.sum(1)
        return hidden_weight, weight, bias[0] if bias else None, *totals


class PlainCell(Cell):
    """gates = W_h h_{t-1} + W v_t + b [+ modulation]: :class:`zf_pyro.networks.ConcatenateCell`, or a plain LSTM.

    Weights W_h, W, b; they are applied as one, to columns of h_{t-1}, v_t and 1.
    """

    modulation_blocks = 1

    def __init__(self, start: Tensor, c: Tensor, v: Tensor, weights: Sequence[Tensor | None], tape: Tape) -> None:
        hidden_weight, weight, bias = (cast(Tensor, w) for w in weights)
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

    def room(self) -> Tensor:
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

    def gradients(self) -> tuple[Tensor | None, ...]:
        return self.product.gradient()
