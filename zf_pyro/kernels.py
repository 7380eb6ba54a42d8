"""One step of each network in a time loop, forward and back, on whole buffers and without autograd.

Layout: columns are sequences, (features, rows) a step and (time, features, rows) a loop. A product of a weight with a
few columns, W X, runs up to twice as fast as the row-major X W^T on CPUs, and the gates of an LSTM are then contiguous
blocks. On the way back a weight's gradient is not added up step by step: (input, output gradient) are noted, and
folded into one product over many steps. Nothing of the size of a weight is touched in a loop. Biases are a last column
of the weight, against a last row of ones.

The plain twins of these steps are the modules of :mod:`zf_pyro.networks` under ordinary autograd.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .arena import Tape
from .products import Product

_clamp_back = torch.ops.aten.hardtanh_backward.grad_input
_leaky_back = torch.ops.aten.leaky_relu_backward.grad_input


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
        self.first, self.second = first, Product([second], bias, tape)
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
        self.network = Bounded(Product([first], first_bias, tape), second, second_bias, 3.0, tape, num_steps, rows)
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
        self.product = Product([weights[0]], None, tape)
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
