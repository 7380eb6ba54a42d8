"""One step of each network in a time loop, forward and back, on whole buffers and without autograd.

Layout: columns are sequences, (features, rows) a step and (time, features, rows) a loop. A product of a weight with a
few columns, W X, runs up to twice as fast as the row-major X W^T on CPUs, and the gates of an LSTM are then contiguous
blocks. On the way back a weight's gradient is not added up step by step: (input, output gradient) are noted, and
folded into one product over many steps. Nothing of the size of a weight is touched in a loop.

The plain twins of these steps are the modules of :mod:`zf_pyro.networks` under ordinary autograd.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .arena import Tape

COLUMNS_PER_PRODUCT = 1024
"""Columns noted before they are folded into a weight gradient: enough for full speed, few enough to stay in cache."""

aten = torch.ops.aten


class Product:
    """y = W x + b over the steps of a loop, and its way back.

    Args:
        weight: W, (out, in).
        bias: b, (out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = None if bias is None else bias.unsqueeze(1)

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """W x + b for x (in, rows), into ``out`` (out, rows)."""
        if self.bias is None:
            return torch.mm(self.weight, x, out=out)
        return torch.addmm(self.bias, self.weight, x, out=out)

    def start_back(self, num_steps: int, rows: int) -> None:
        """Before the first step back."""
        self.transposed = self.weight.t().contiguous()
        self.rows = rows
        columns = rows * max(1, min(num_steps, COLUMNS_PER_PRODUCT // rows))
        self.inputs = self.weight.new_empty(self.weight.shape[1], columns)
        self.gradients = self.weight.new_empty(self.weight.shape[0], columns)
        self.noted = 0
        self.weight_gradient = torch.zeros_like(self.weight)
        self.bias_gradient = self.weight.new_zeros(self.weight.shape[0])

    def slot(self) -> Tensor:
        """Where the output's gradient of this step is to be written, before :meth:`note`; (out, rows)."""
        return self.gradients[:, self.noted : self.noted + self.rows]

    def note(self, x: Tensor) -> None:
        """Note this step's input (in, rows)."""
        self.inputs[:, self.noted : self.noted + self.rows] = x
        self.noted += self.rows
        if self.noted == self.inputs.shape[1]:
            self.fold()

    def fold(self) -> None:
        """Fold what was noted into the gradients."""
        if self.noted:
            gradients = self.gradients[:, : self.noted]
            self.weight_gradient.addmm_(gradients, self.inputs[:, : self.noted].t())
            if self.bias is not None:
                self.bias_gradient += gradients.sum(1)
            self.noted = 0

    def gradient(self) -> Tensor:
        """The weight's gradient, after the last step back; (out, in)."""
        self.fold()
        return self.weight_gradient


class Bounded:
    """clip(W_2 phi(W_1 x + rest) + b_2) over the steps of a loop: :class:`zf_pyro.networks.MLP`, then a clamp.

    Args:
        first: W_1, (hidden, in).
        second: W_2, (out, hidden).
        bias: b_2, (out,).
        limit: bound of the clamp.
        tape: where its buffers come from.
        out: where its outputs go, (time, out, rows).
    """

    def __init__(self, first: Tensor, second: Tensor, bias: Tensor, limit: float, tape: Tape, out: Tensor) -> None:
        self.first, self.second = Product(first), Product(second, bias)
        self.limit = limit
        self.hidden = tape.room(out.shape[0], first.shape[0], out.shape[2])
        self.out = out

    def forward(self, t: int, x: Tensor, rest: Tensor) -> Tensor:
        """The output of step t for x (in, rows) and rest (hidden, rows or 1)."""
        hidden = torch.addmm(rest, self.first.weight, x, out=self.hidden[t])
        F.leaky_relu(hidden, 1.0 / 3.0, inplace=True).clamp_(-3.0, 3.0)
        return self.second.forward(hidden, self.out[t]).clamp_(-self.limit, self.limit)

    def start_back(self) -> None:
        """Before the first step back."""
        num_steps, _, rows = self.out.shape
        self.first.start_back(num_steps, rows)
        self.second.start_back(num_steps, rows)

    def back(self, t: int, x: Tensor, gradient: Tensor, into: Tensor) -> Tensor:
        """From the output's gradient to that of x, which is added to ``into``, and that of rest, which is returned.

        What is returned is overwritten by a later step.
        """
        hidden = self.hidden[t]
        bounded = self.second.slot()
        aten.hardtanh_backward.grad_input(gradient, self.out[t], -self.limit, self.limit, grad_input=bounded)
        inner = aten.hardtanh_backward(torch.mm(self.second.transposed, bounded), hidden, -3.0, 3.0)
        self.second.note(hidden)
        rest_gradient = self.first.slot()
        aten.leaky_relu_backward.grad_input(inner, hidden, 1.0 / 3.0, True, grad_input=rest_gradient)
        into.addmm_(self.first.transposed, rest_gradient)
        self.first.note(x)
        return rest_gradient


class Modulation(Protocol):
    """How z_t enters the cell."""

    def forward(self, t: int, z: Tensor) -> Tensor: ...
    def start_back(self) -> None: ...
    def back(self, t: int, z: Tensor, gradient: Tensor, into: Tensor) -> None: ...
    def gradients(self) -> tuple[Tensor, ...]: ...


class BoundedModulation:
    """Gain and shift, clip(MLP(z_t), -3, 3), for :class:`NormedCell`; weights W_1, b_1, W_2, b_2."""

    def __init__(self, weights: Sequence[Tensor], tape: Tape, num_steps: int, rows: int) -> None:
        first, rest, second, bias = weights
        self.rest = rest.unsqueeze(1)
        self.network = Bounded(first, second, bias, 3.0, tape, tape.room(num_steps, second.shape[0], rows))
        self.rest_gradient = torch.zeros_like(rest)

    def forward(self, t: int, z: Tensor) -> Tensor:
        return self.network.forward(t, z, self.rest)

    def start_back(self) -> None:
        self.network.start_back()
        self.rest_gradient = torch.zeros_like(self.rest_gradient)

    def back(self, t: int, z: Tensor, gradient: Tensor, into: Tensor) -> None:
        self.rest_gradient += self.network.back(t, z, gradient, into).sum(1)

    def gradients(self) -> tuple[Tensor, ...]:
        first, second = self.network.first, self.network.second
        return first.gradient(), self.rest_gradient, second.gradient(), second.bias_gradient


class LinearModulation:
    """W z_t + b, added to the gates of :class:`PlainCell`; weights W, b."""

    def __init__(self, weights: Sequence[Tensor], num_steps: int, rows: int) -> None:
        self.product = Product(*weights)
        self.num_steps = num_steps
        self.out = weights[0].new_empty(weights[0].shape[0], rows)

    def forward(self, t: int, z: Tensor) -> Tensor:
        return self.product.forward(z, self.out)

    def start_back(self) -> None:
        self.product.start_back(self.num_steps, self.out.shape[1])

    def back(self, t: int, z: Tensor, gradient: Tensor, into: Tensor) -> None:
        self.product.slot().copy_(gradient)
        self.product.note(z)
        into.addmm_(self.product.transposed, gradient)

    def gradients(self) -> tuple[Tensor, ...]:
        return self.product.gradient(), self.product.bias_gradient


class Cell:
    """An LSTM over the steps of a loop; the subclasses say what z_t does to the gates.

    Args:
        weight: W_h, (4 hidden, hidden).
        h: h_0..h_T, (time + 1, hidden, rows), with h_0 filled in.
        c: c_0..c_T, likewise.
        tape: where its buffers come from.
    """

    modulation_blocks: int
    """Size of the modulation in multiples of 4 hidden."""

    def __init__(self, weight: Tensor, h: Tensor, c: Tensor, tape: Tape) -> None:
        num_steps, hidden, rows = h.shape[0] - 1, h.shape[1], h.shape[2]
        self.product = Product(weight)
        self.h, self.c = h, c
        self.width = 4 * hidden
        self.gates = tape.room(num_steps, self.width, rows)
        self.tanh_c = tape.room(num_steps, hidden, rows)
        self.linear = h.new_empty(self.width, rows)

    def modulated(self, t: int, inputs: Tensor, modulation: Tensor) -> Tensor:
        """The gates before their nonlinearities, from W_h h_{t-1} in ``linear``; into ``gates[t]``."""
        raise NotImplementedError

    def unmodulated(self, t: int, modulation: Tensor, gradient: Tensor, out: Tensor, linear: Tensor) -> None:
        """From the gradient of those gates to that of W_h h_{t-1}, into ``linear``, and of the modulation, into ``out``."""
        raise NotImplementedError

    def forward(self, t: int, inputs: Tensor, modulation: Tensor) -> None:
        """h_t and c_t (indices t + 1 from 0) from ``inputs`` (4 hidden, rows) and ``modulation``."""
        self.product.forward(self.h[t], self.linear)
        gates = self.modulated(t, inputs, modulation)
        switches, candidate = gates.split([3 * self.width // 4, self.width // 4])
        i, f, o = switches.sigmoid_().chunk(3)
        candidate.tanh_()
        cell = torch.mul(f, self.c[t], out=self.c[t + 1]).addcmul_(i, candidate)
        torch.mul(o, torch.tanh(cell, out=self.tanh_c[t]), out=self.h[t + 1])

    def start_back(self) -> None:
        """Before the first step back."""
        self.product.start_back(self.gates.shape[0], self.gates.shape[2])

    def back(
        self,
        t: int,
        h_gradient: Tensor,
        c_gradient: Tensor,
        modulation: Tensor,
        out: Tensor,
        into: Tensor,
        h_before: Tensor,
    ) -> None:
        """One step back.

        Args:
            t: the step.
            h_gradient: gradient of h_t.
            c_gradient: gradient of c_t from the steps after; becomes that of c_{t-1}.
            modulation: what the forward step was given.
            out: where the modulation's gradient goes.
            into: where the gradient of the gates' inputs goes, (4 hidden, rows).
            h_before: gradient of h_{t-1}, which this step's share is added to.
        """
        gates, tanh_c = self.gates[t], self.tanh_c[t]
        i, f, o, candidate = gates.chunk(4)
        into_i, into_f, into_o, into_candidate = into.chunk(4)
        torch.mul(h_gradient, tanh_c, out=into_o)
        c_gradient += aten.tanh_backward(h_gradient * o, tanh_c)
        torch.mul(c_gradient, candidate, out=into_i)
        torch.mul(c_gradient, self.c[t], out=into_f)
        torch.mul(c_gradient, i, out=into_candidate)
        c_gradient *= f
        switches = 3 * self.width // 4
        aten.sigmoid_backward.grad_input(into[:switches], gates[:switches], grad_input=into[:switches])
        aten.tanh_backward.grad_input(into_candidate, candidate, grad_input=into_candidate)
        linear = self.product.slot()
        self.unmodulated(t, modulation, into, out, linear)
        h_before.addmm_(self.product.transposed, linear)
        self.product.note(self.h[t])


class NormedCell(Cell):
    """gates = inputs + (1 + gain) * norm(W_h h_{t-1}) + shift: :class:`zf_pyro.networks.ConditionalLayerNormCell`."""

    modulation_blocks = 2

    def __init__(self, weight: Tensor, h: Tensor, c: Tensor, tape: Tape) -> None:
        super().__init__(weight, h, c, tape)
        self.normed = tape.room(*self.gates.shape)
        self.inverse_deviation = h.new_empty(self.gates.shape[0], h.shape[2])

    def modulated(self, t: int, inputs: Tensor, modulation: Tensor) -> Tensor:
        normed = torch.sub(self.linear, self.linear.mean(0), out=self.normed[t])
        variance = torch.linalg.vecdot(normed, normed, dim=0).div_(self.width)
        normed *= torch.rsqrt(variance.add_(1e-5), out=self.inverse_deviation[t])
        gain, shift = modulation.chunk(2)
        return torch.addcmul(inputs, normed, gain, out=self.gates[t]).add_(normed).add_(shift)

    def unmodulated(self, t: int, modulation: Tensor, gradient: Tensor, out: Tensor, linear: Tensor) -> None:
        normed = self.normed[t]
        gain = modulation[: self.width]
        torch.mul(gradient, normed, out=out[: self.width])
        out[self.width :] = gradient
        inner = torch.addcmul(gradient, gradient, gain, out=linear)
        along = torch.linalg.vecdot(inner, normed, dim=0).div_(self.width)
        inner -= inner.mean(0)
        inner.addcmul_(normed, along, value=-1.0).mul_(self.inverse_deviation[t])


class PlainCell(Cell):
    """gates = inputs + modulation + W_h h_{t-1}: :class:`zf_pyro.networks.ConcatenateCell`."""

    modulation_blocks = 1

    def modulated(self, t: int, inputs: Tensor, modulation: Tensor) -> Tensor:
        return torch.add(inputs, modulation, out=self.gates[t]).add_(self.linear)

    def unmodulated(self, t: int, modulation: Tensor, gradient: Tensor, out: Tensor, linear: Tensor) -> None:
        out.copy_(gradient)
        linear.copy_(gradient)
