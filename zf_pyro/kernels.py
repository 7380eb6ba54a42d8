"""One step of each network in a time loop, forward and back, on whole buffers and without autograd.

Layout: columns are sequences, (features, rows) a step and (time, features, rows) a loop. A product of a weight with a
few columns, W X, runs up to twice as fast as the row-major X W^T on CPUs, and the gates of an LSTM are then contiguous
blocks. On the way back a weight's gradient is not added up step by step: (input, output gradient) are noted, and
folded into one product over many steps. Nothing of the size of a weight is touched in a loop. Biases are a last column
of the weight, against a last row of ones.

The plain twins of these steps are the modules of :mod:`zf_pyro.networks` under ordinary autograd.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .arena import Tape
from .products import Product

_clamp_back = torch.ops.aten.hardtanh_backward.grad_input
_leaky_back = torch.ops.aten.leaky_relu_backward.grad_input
_sigmoid_back = torch.ops.aten.sigmoid_backward.grad_input
_tanh_back = torch.ops.aten.tanh_backward.grad_input


def with_ones(tape: Tape, num_steps: int, features: int, rows: int) -> Tensor:
    """A buffer (time, features + 1, rows) whose last feature is 1."""
    buffer = tape.room(num_steps, features + 1, rows)
    buffer[:, features] = 1.0
    return buffer


class Bounded:
    """clip(W_2 phi(W_1 x + rest) + b_2) over the steps of a loop: :class:`zf_pyro.networks.MLP`, then a clamp.

    Args:
        first: W_1 x, or W_1 x + b_1.
        second: W_2, (out, hidden).
        bias: b_2, (out,).
        limit: bound of the clamp.
        tape: where its buffers come from.
        num_steps: T.
        rows: columns of a step.
    """

    def __init__(
        self, first: Product, second: Tensor, bias: Tensor, limit: float, tape: Tape, num_steps: int, rows: int
    ) -> None:
        self.first, self.second = first, Product(second, bias, tape)
        self.limit = limit
        mlp_dim = second.shape[1]
        self.buffer = tape.room(num_steps, second.shape[0], rows)
        self.out = self.buffer.unbind(0)
        hidden = with_ones(tape, num_steps, mlp_dim, rows)
        self.hidden, self.inner = hidden.unbind(0), hidden[:, :mlp_dim].unbind(0)
        self.scratch = second.new_empty(mlp_dim, rows)

    def forward(self, t: int, x: Tensor, rest: Tensor | None) -> Tensor:
        """The output of step t for x (in, rows) and rest (hidden, rows), zero if None."""
        inner = self.inner[t]
        if rest is None:
            torch.mm(self.first.weight, x, out=inner)
        else:
            torch.addmm(rest, self.first.weight, x, out=inner)
        F.leaky_relu(inner, 1.0 / 3.0, inplace=True).clamp_(-3.0, 3.0)
        return torch.mm(self.second.weight, self.hidden[t], out=self.out[t]).clamp_(-self.limit, self.limit)

    def start_back(self) -> None:
        """Before the first step back."""
        num_steps, _, rows = self.buffer.shape
        self.first.start_back(num_steps, rows)
        self.second.start_back(num_steps, rows)

    def back(self, t: int, x: Tensor, gradient: Tensor, into: Tensor) -> Tensor:
        """From the output's gradient to that of x, which is added to ``into``, and that of rest, which is returned.

        What is returned is overwritten by a later step.
        """
        inner = self.inner[t]
        bounded = _clamp_back(gradient, self.out[t], -self.limit, self.limit, grad_input=self.second.slot())
        scratch = torch.mm(self.second.transposed, bounded, out=self.scratch)
        self.second.note(self.hidden[t])
        _clamp_back(scratch, inner, -3.0, 3.0, grad_input=scratch)
        rest_gradient = _leaky_back(scratch, inner, 1.0 / 3.0, True, grad_input=self.first.slot())
        into.addmm_(self.first.transposed, rest_gradient)
        self.first.note(x)
        return rest_gradient


class BoundedModulation:
    """Gain and shift, clip(MLP(z_t), -3, 3), for :class:`NormedCell`; weights W_1, b_1, W_2, b_2. z ends in ones."""

    def __init__(self, weights: Sequence[Tensor], tape: Tape, num_steps: int, rows: int) -> None:
        first, first_bias, second, second_bias = weights
        self.network = Bounded(Product(first, first_bias, tape), second, second_bias, 3.0, tape, num_steps, rows)
        self.out = self.network.out

    def forward(self, t: int, z: Tensor) -> Tensor:
        return self.network.forward(t, z, None)

    def start_back(self) -> None:
        self.network.start_back()

    def back(self, t: int, z: Tensor, gradient: Tensor, into: Tensor) -> None:
        self.network.back(t, z, gradient, into)

    def gradients(self) -> tuple[Tensor, ...]:
        return *self.network.first.gradient(), *self.network.second.gradient()


class LinearModulation:
    """W z_t, added to the gates of :class:`PlainCell`; weight W. z ends in ones, which it does not read."""

    def __init__(self, weights: Sequence[Tensor], tape: Tape, num_steps: int, rows: int) -> None:
        self.product = Product(weights[0], None, tape)
        self.latent_dim = self.product.in_dim
        self.num_steps, self.rows = num_steps, rows
        # The cell does not need the modulation on its way back, so that one buffer serves every step.
        self.out = [weights[0].new_empty(weights[0].shape[0], rows)] * num_steps

    def forward(self, t: int, z: Tensor) -> Tensor:
        return torch.mm(self.product.weight, z[: self.latent_dim], out=self.out[t])

    def start_back(self) -> None:
        self.product.start_back(self.num_steps, self.rows)

    def back(self, t: int, z: Tensor, gradient: Tensor, into: Tensor) -> None:
        self.product.slot().copy_(gradient)
        self.product.note(z[: self.latent_dim])
        into.addmm_(self.product.transposed, gradient)

    def gradients(self) -> tuple[Tensor, ...]:
        return self.product.gradient()


class Cell(ABC):
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
        self.num_steps, hidden, self.rows = h.shape[0] - 1, h.shape[1], h.shape[2]
        self.product = Product(weight, None, tape)
        self.h, self.c = h.unbind(0), c.unbind(0)
        self.width = 4 * hidden
        gates = tape.room(self.num_steps, self.width, self.rows)
        self.gates = gates.unbind(0)
        self.switches = gates[:, : 3 * hidden].unbind(0)
        self.blocks = list(zip(*(block.unbind(0) for block in gates.chunk(4, dim=1)), strict=True))
        self.tanh_c = tape.room(self.num_steps, hidden, self.rows).unbind(0)
        self.linear = h.new_empty(self.width, self.rows)
        self.scratch = h.new_empty(hidden, self.rows)

    @abstractmethod
    def modulated(self, t: int, inputs: Tensor, modulation: Tensor) -> None:
        """The gates before their nonlinearities, from W_h h_{t-1} in ``linear``; into ``gates[t]``."""

    @abstractmethod
    def unmodulated(self, t: int, modulation: Tensor, gradient: Tensor, out: Tensor, linear: Tensor) -> None:
        """From the gradient of those gates to those of the modulation, in ``out``, and W_h h_{t-1}, in ``linear``."""

    def forward(self, t: int, inputs: Tensor, modulation: Tensor) -> None:
        """h_t and c_t (indices t + 1 from 0) from ``inputs`` (4 hidden, rows) and ``modulation``."""
        torch.mm(self.product.weight, self.h[t], out=self.linear)
        self.modulated(t, inputs, modulation)
        self.switches[t].sigmoid_()
        i, f, o, candidate = self.blocks[t]
        candidate.tanh_()
        cell = torch.mul(f, self.c[t], out=self.c[t + 1]).addcmul_(i, candidate)
        torch.mul(o, torch.tanh(cell, out=self.tanh_c[t]), out=self.h[t + 1])

    def start_back(self) -> None:
        """Before the first step back."""
        self.product.start_back(self.num_steps, self.rows)

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
        tanh_c = self.tanh_c[t]
        i, f, o, candidate = self.blocks[t]
        into_i, into_f, into_o, into_candidate = into.chunk(4)
        torch.mul(h_gradient, tanh_c, out=into_o)
        c_gradient += _tanh_back(torch.mul(h_gradient, o, out=self.scratch), tanh_c, grad_input=self.scratch)
        torch.mul(c_gradient, candidate, out=into_i)
        torch.mul(c_gradient, self.c[t], out=into_f)
        torch.mul(c_gradient, i, out=into_candidate)
        c_gradient *= f
        into_switches = into[: 3 * self.width // 4]
        _sigmoid_back(into_switches, self.switches[t], grad_input=into_switches)
        _tanh_back(into_candidate, candidate, grad_input=into_candidate)
        linear = self.product.slot()
        self.unmodulated(t, modulation, into, out, linear)
        h_before.addmm_(self.product.transposed, linear)
        self.product.note(self.h[t])


class NormedCell(Cell):
    """gates = inputs + (1 + gain) * norm(W_h h_{t-1}) + shift: :class:`zf_pyro.networks.ConditionalLayerNormCell`."""

    modulation_blocks = 2

    def __init__(self, weight: Tensor, h: Tensor, c: Tensor, tape: Tape) -> None:
        super().__init__(weight, h, c, tape)
        self.normed = tape.room(self.num_steps, self.width, self.rows).unbind(0)
        self.inverse_deviation = h.new_empty(self.num_steps, self.rows).unbind(0)

    def modulated(self, t: int, inputs: Tensor, modulation: Tensor) -> None:
        normed = torch.sub(self.linear, self.linear.mean(0), out=self.normed[t])
        variance = torch.linalg.vecdot(normed, normed, dim=0).div_(self.width)
        normed *= torch.rsqrt(variance.add_(1e-5), out=self.inverse_deviation[t])
        gain, shift = modulation.chunk(2)
        torch.addcmul(inputs, normed, gain, out=self.gates[t]).add_(normed).add_(shift)

    def unmodulated(self, t: int, modulation: Tensor, gradient: Tensor, out: Tensor, linear: Tensor) -> None:
        normed = self.normed[t]
        into_gain, into_shift = out.chunk(2)
        torch.mul(gradient, normed, out=into_gain)
        into_shift.copy_(gradient)
        inner = torch.addcmul(gradient, gradient, modulation[: self.width], out=linear)
        along = torch.linalg.vecdot(inner, normed, dim=0).div_(self.width)
        inner -= inner.mean(0)
        inner.addcmul_(normed, along, value=-1.0).mul_(self.inverse_deviation[t])


class PlainCell(Cell):
    """gates = inputs + modulation + W_h h_{t-1}: :class:`zf_pyro.networks.ConcatenateCell`."""

    modulation_blocks = 1

    def modulated(self, t: int, inputs: Tensor, modulation: Tensor) -> None:
        torch.add(inputs, modulation, out=self.gates[t]).add_(self.linear)

    def unmodulated(self, t: int, modulation: Tensor, gradient: Tensor, out: Tensor, linear: Tensor) -> None:
        out.copy_(gradient)
        linear.copy_(gradient)
