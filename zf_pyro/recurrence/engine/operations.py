"""Operations of the time loops, and the containers of a program: :class:`Ring` and :class:`Instruction`.

A program is the list of instructions of one time step, written before the loop runs. A machine (``machines.py``) runs
it for many steps. The functions here define each operation in PyTorch; ``c/`` has the same operations in C.

Layout: a value of one step is column-major, (features, rows). Rows are the sequences times particles that run side by
side. On CPUs the product W X with few columns is up to twice as fast as the row-major X W^T. The four gates of an LSTM
are then contiguous blocks.

Outputs come first among the arguments. An output overlaps another argument only if both are the same tensor.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_clamp_back = torch.ops.aten.hardtanh_backward.grad_input
_leaky_back = torch.ops.aten.leaky_relu_backward.grad_input
_sigmoid_back = torch.ops.aten.sigmoid_backward.grad_input
_tanh_back = torch.ops.aten.tanh_backward.grad_input
EPSILON = 1e-5
"""Added to a variance before its root: the default of PyTorch's layer norm."""


class Ring(NamedTuple):
    """A ring buffer for a value of every step: that of step t is ``tensor[(t + offset) % len(tensor)]``."""

    tensor: Tensor
    """(ring, features, rows). As many entries as steps if the backward pass reads them all, one if only the current
    step does, or a number in between."""
    offset: int = 0
    """Steps ahead. With offset 1, step t reads or writes the entry that step t + 1 sees with offset 0."""

    def part(self, start: int, stop: int) -> "Ring":
        """Features ``start`` to ``stop - 1``."""
        return Ring(self.tensor[:, start:stop], self.offset)

    def later(self, steps: int) -> "Ring":
        """The same buffer, read so many steps ahead."""
        return Ring(self.tensor, self.offset + steps)

    def steps(self, first: int, steps: int) -> Tensor:
        """The values of consecutive steps, (steps, features, rows); they must not wrap around the ring."""
        start = (first + self.offset) % len(self.tensor)
        return self.tensor[start : start + steps]


def single(value: Tensor) -> Ring:
    """A ring with one entry, ``value`` (features, rows), that every step shares."""
    return Ring(value.unsqueeze(0))


class Instruction(NamedTuple):
    """One operation of a step."""

    operation: Callable[..., None]
    """A function of this module, which takes tensors (features, rows)."""
    operands: tuple[Ring, ...]
    """Its tensor arguments."""
    number: float | None = None
    """Its last argument if that is a float."""


Instructions = list[Instruction]
"""A program: the instructions of one step, in order."""


def pack(out: Tensor, matrix: Tensor) -> None:
    """Pack ``matrix`` (out_dim, in_dim) into panels of a few of its rows; out (panels, in_dim * rows of a panel).

    A panel stores its columns one after the other, so that a product reads it as one stream. Zeros fill the last panel.
    """
    rows = out.shape[1] // matrix.shape[1]
    padded = F.pad(matrix, (0, 0, 0, rows * len(out) - len(matrix)))
    out.copy_(padded.unflatten(0, (len(out), rows)).transpose(1, 2).flatten(1))


def product(out: Tensor, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> None:
    """out = W x + b; out (out_dim, rows), weight (out_dim, in_dim), x (in_dim, rows), bias (out_dim, 1)."""
    if bias is None:
        torch.mm(weight, x, out=out)
    else:
        torch.addmm(bias, weight, x, out=out)


def add_product(out: Tensor, weight: Tensor, x: Tensor) -> None:
    """out += W x; shapes as for :func:`product`: (out_dim, rows), (out_dim, in_dim), (in_dim, rows)."""
    out.addmm_(weight, x)


def add_outer(out: Tensor, gradients: Tensor, x: Tensor) -> None:
    """out += sum over steps of gradient x^T, (out_dim, in_dim).

    The gradients are (out_dim, steps, rows), x is (in_dim, steps, rows).
    """
    out.addmm_(gradients.flatten(1), x.flatten(1).t())


def copy(out: Tensor, x: Tensor) -> None:
    """out = x; both (features, rows)."""
    out.copy_(x)


def add(out: Tensor, x: Tensor) -> None:
    """out += x; both (features, rows)."""
    out.add_(x)


def add_sum(out: Tensor, x: Tensor) -> None:
    """out += sum of x over its rows; out (features, 1), x (features, rows)."""
    out.add_(x.sum(1, keepdim=True))


def fill(out: Tensor, number: float) -> None:
    """out = number; out (features, rows)."""
    out.fill_(number)


def scale(out: Tensor, mask: Tensor) -> None:
    """out *= mask; out (features, rows), mask (1, rows)."""
    out.mul_(mask)


def activate(out: Tensor) -> None:
    """out = phi(out), (features, rows), where phi is :func:`zf_pyro.networks.clipped_leaky_relu`.

    That is a leaky ReLU with slope 1/3, clipped to [-3, 3].
    """
    F.leaky_relu(out, 1.0 / 3.0, inplace=True).clamp_(-3.0, 3.0)


def activate_back(out: Tensor, gradient: Tensor, y: Tensor) -> None:
    """Gradient of x from the gradient of y = phi(x); all (features, rows)."""
    _clamp_back(gradient, y, -3.0, 3.0, grad_input=out)
    _leaky_back(out, y, 1.0 / 3.0, True, grad_input=out)


def clamp(out: Tensor, limit: float) -> None:
    """out = min(max(out, -limit), limit); out (features, rows)."""
    out.clamp_(-limit, limit)


def clamp_back(out: Tensor, gradient: Tensor, y: Tensor, limit: float) -> None:
    """Gradient of x from the gradient of y = clamp(x); all (features, rows)."""
    _clamp_back(gradient, y, -limit, limit, grad_input=out)


def draw(z: Tensor, loc: Tensor, log_variance: Tensor, noise: Tensor) -> None:
    """z = loc + exp(log_variance / 2) * noise; all (latent, rows)."""
    torch.addcmul(loc, (0.5 * log_variance).exp_(), noise, out=z)


def draw_back(into_loc: Tensor, into_log_variance: Tensor, gradient: Tensor, z: Tensor, loc: Tensor) -> None:
    """Add the contribution of z's gradient to the gradients of loc and log_variance; all (latent, rows)."""
    into_loc.add_(gradient)
    # dz / dlog_variance = scale * noise / 2 = (z - loc) / 2
    into_log_variance.addcmul_(gradient, z - loc, value=0.5)


def sum_squares(parts: Tensor, x: Tensor) -> None:
    """parts = sums of x^2 over blocks of features, as equal as possible; parts (blocks, rows), x (features, rows)."""
    _sums(parts, x, x)


def _sums(parts: Tensor, x: Tensor, y: Tensor) -> None:
    blocks = (value.tensor_split(len(parts)) for value in (x, y))
    for part, *values in zip(parts, *blocks, strict=True):
        torch.linalg.vecdot(*values, dim=0, out=part)


def _mean(parts: Tensor, count: int) -> Tensor:
    return (parts[0] if len(parts) == 1 else parts.sum(0)) / count


def log_density(out: Tensor, loc: Tensor, log_variance: Tensor, x: Tensor) -> None:
    """log N(x; tanh(loc), exp(log_variance)) in nats, summed over features; out (1, rows), others (features, rows)."""
    away = x - loc.tanh()
    terms = torch.addcmul(log_variance + math.log(2.0 * math.pi), away * away, (-log_variance).exp())
    torch.sum(terms, 0, keepdim=True, out=out).mul_(-0.5)


def log_density_back(
    into_loc: Tensor, into_log_variance: Tensor, gradient: Tensor, loc: Tensor, log_variance: Tensor, x: Tensor
) -> None:
    """Gradients of loc and log_variance from that of the log-density; gradient (1, rows), others (features, rows)."""
    mean = loc.tanh()
    away = x - mean
    slope = away * (-log_variance).exp()
    torch.mul(gradient * slope, 1.0 - mean * mean, out=into_loc)
    torch.mul(gradient * 0.5, away * slope - 1.0, out=into_log_variance)


def modulate(
    gates: Tensor, normed: Tensor, inverse_deviation: Tensor, parts: Tensor, gain: Tensor, shift: Tensor
) -> None:
    """normed /= its standard deviation over features, then gates += (1 + gain) * normed + shift.

    ``normed`` must have mean 0 over features, and ``parts`` (blocks, rows) the sums of its squares.
    ``inverse_deviation`` (1, rows) is written too. The others are (features, rows).
    """
    torch.rsqrt(_mean(parts, len(normed)).add_(EPSILON), out=inverse_deviation[0])
    normed.mul_(inverse_deviation)
    gates.addcmul_(normed, gain).add_(normed).add_(shift)


def modulate_back(into_gain: Tensor, parts: Tensor, gradient: Tensor, normed: Tensor, gain: Tensor) -> None:
    """Gradient of gain from ``gradient``, that of the gates, which is also that of shift; all (features, rows).

    Also sets ``parts`` (blocks, rows) for :func:`normalise_back`: sums over blocks of features of normed times its
    gradient, (1 + gain) * gradient.
    """
    torch.mul(gradient, normed, out=into_gain)
    _sums(parts, into_gain, 1.0 + gain)


def normalise_back(
    out: Tensor, parts: Tensor, gradient: Tensor, normed: Tensor, gain: Tensor, inverse_deviation: Tensor
) -> None:
    """Gradient of x, where normed = x / deviation(x), from ``gradient``, that of the gates; all (features, rows).

    ``parts`` (blocks, rows) are from :func:`modulate_back`, ``inverse_deviation`` (1, rows) from :func:`modulate`.
    """
    # A layer norm would also subtract the mean over features. Here that is part of the centred W_h (see Product).
    torch.addcmul(gradient, gradient, gain, out=out)
    out.addcmul_(normed, _mean(parts, len(normed)), value=-1.0).mul_(inverse_deviation)


def lstm(cell: Tensor, hidden: Tensor, tanh_cell: Tensor, gates: Tensor, before: Tensor) -> None:
    """c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g) and h_t = sigmoid(o) tanh(c_t).

    Gates (4 hidden, rows) are i, f, o, g, one block after the other. Their values after the nonlinearities replace
    them. ``before`` is c_{t-1}; it and the outputs are (hidden, rows).
    """
    features = len(cell)
    i, f, o = gates[: 3 * features].sigmoid_().chunk(3)
    candidate = gates[3 * features :].tanh_()
    torch.mul(f, before, out=cell).addcmul_(i, candidate)
    torch.mul(o, torch.tanh(cell, out=tanh_cell), out=hidden)


def lstm_back(
    into_cell: Tensor, into_gates: Tensor, into_hidden: Tensor, gates: Tensor, before: Tensor, tanh_cell: Tensor
) -> None:
    """Gradient of the gate pre-activations; ``into_cell``, the gradient of c_t, becomes that of c_{t-1}.

    Gates and their gradient are (4 hidden, rows), the others (hidden, rows). ``into_hidden`` is the gradient of h_t.
    """
    i, f, o, candidate = gates.chunk(4)
    into_i, into_f, into_o, into_candidate = into_gates.chunk(4)
    torch.mul(into_hidden, tanh_cell, out=into_o)
    through = torch.mul(into_hidden, o)
    into_cell.add_(_tanh_back(through, tanh_cell, grad_input=through))
    torch.mul(into_cell, candidate, out=into_i)
    torch.mul(into_cell, before, out=into_f)
    torch.mul(into_cell, i, out=into_candidate)
    into_cell.mul_(f)  # last: the gates above need the gradient of c_t
    switches = 3 * len(into_cell)
    _sigmoid_back(into_gates[:switches], gates[:switches], grad_input=into_gates[:switches])
    _tanh_back(into_candidate, candidate, grad_input=into_candidate)
