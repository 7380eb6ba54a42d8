"""What a step of a time loop is made of: operations on the values of one step, written down before the loop runs.

A program is a list of instructions for one step; a machine (``machines.py``) runs it for many. The operations
here are the plain ones, in PyTorch, and say what each is; ``compiled/`` has the same in C.

Layout: columns are sequences, (features, rows) a step. A product of a weight with a few columns, W X, runs up to twice
as fast as the row-major X W^T on CPUs, and the gates of an LSTM are then contiguous blocks. What comes first among
the arguments is written to; it must not overlap the others unless it is the same tensor.
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
"""What is added to a variance, as in PyTorch's layer norm."""


class Ring(NamedTuple):
    """A value of every step: that of step t is ``tensor[(t + offset) % len(tensor)]``."""

    tensor: Tensor
    """(ring, features, rows): an entry a step, a single one where no later step needs it, or a number in between."""
    offset: int = 0

    def part(self, start: int, stop: int) -> "Ring":
        """Features from ``start`` to before ``stop``."""
        return Ring(self.tensor[:, start:stop], self.offset)

    def later(self, steps: int) -> "Ring":
        """At each step, the value of so many steps later."""
        return Ring(self.tensor, self.offset + steps)

    def steps(self, first: int, steps: int) -> Tensor:
        """The values of some steps that lie one after the other; (steps, features, rows)."""
        start = (first + self.offset) % len(self.tensor)
        return self.tensor[start : start + steps]


def single(value: Tensor) -> Ring:
    """One (features, rows) for all steps."""
    return Ring(value.unsqueeze(0))


class Instruction(NamedTuple):
    """One operation of a step."""

    operation: Callable[..., None]
    """A function of this module, of tensors (features, rows)."""
    operands: tuple[Ring, ...]
    """Its arguments."""
    number: float | None = None
    """Its last argument, where that is a number."""


Program = list[Instruction]
"""The instructions of one step, in order."""


def pack(out: Tensor, matrix: Tensor) -> None:
    """A matrix (features, columns) by panels of rows, out (panels, columns * rows of a panel).

    Within a panel one column follows the other, as a loop over columns reads them; what the last one lacks is zero.
    """
    rows = out.shape[1] // matrix.shape[1]
    padded = F.pad(matrix, (0, 0, 0, rows * len(out) - len(matrix)))
    out.copy_(padded.unflatten(0, (len(out), rows)).transpose(1, 2).flatten(1))


def product(out: Tensor, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> None:
    """out = W x + b; b (out, 1)."""
    if bias is None:
        torch.mm(weight, x, out=out)
    else:
        torch.addmm(bias, weight, x, out=out)


def add_product(out: Tensor, weight: Tensor, x: Tensor) -> None:
    """out = out + W x."""
    out.addmm_(weight, x)


def add_outer(out: Tensor, gradients: Tensor, x: Tensor) -> None:
    """out = out + the sum over steps of gradient x^T; gradients (out, steps, rows) and x (in, steps, rows)."""
    out.addmm_(gradients.flatten(1), x.flatten(1).t())


def copy(out: Tensor, x: Tensor) -> None:
    """out = x."""
    out.copy_(x)


def add(out: Tensor, x: Tensor) -> None:
    """out = out + x."""
    out.add_(x)


def add_sum(out: Tensor, x: Tensor) -> None:
    """out = out + the sum of x over its rows; out (features, 1)."""
    out.add_(x.sum(1, keepdim=True))


def fill(out: Tensor, number: float) -> None:
    """out = number."""
    out.fill_(number)


def scale(out: Tensor, mask: Tensor) -> None:
    """out = mask out; mask (1, rows)."""
    out.mul_(mask)


def activate(out: Tensor) -> None:
    """out = phi(out): leaky ReLU with slope 1/3, clipped to [-3, 3] (:func:`zf_pyro.networks.clipped_leaky_relu`)."""
    F.leaky_relu(out, 1.0 / 3.0, inplace=True).clamp_(-3.0, 3.0)


def activate_back(out: Tensor, gradient: Tensor, y: Tensor) -> None:
    """The gradient of x from that of y = phi(x)."""
    _clamp_back(gradient, y, -3.0, 3.0, grad_input=out)
    _leaky_back(out, y, 1.0 / 3.0, True, grad_input=out)


def clamp(out: Tensor, limit: float) -> None:
    """out = min(max(out, -limit), limit)."""
    out.clamp_(-limit, limit)


def clamp_back(out: Tensor, gradient: Tensor, y: Tensor, limit: float) -> None:
    """The gradient of x from that of y = clamp(x)."""
    _clamp_back(gradient, y, -limit, limit, grad_input=out)


def draw(z: Tensor, loc: Tensor, log_variance: Tensor, noise: Tensor) -> None:
    """z = loc + exp(log_variance / 2) noise."""
    torch.addcmul(loc, (0.5 * log_variance).exp_(), noise, out=z)


def draw_back(into_loc: Tensor, into_log_variance: Tensor, gradient: Tensor, z: Tensor, loc: Tensor) -> None:
    """Adds to the gradients of loc and of log_variance what that of z contributes."""
    into_loc.add_(gradient)
    # dz / dlog_variance = scale * noise / 2 = (z - loc) / 2
    into_log_variance.addcmul_(gradient, z - loc, value=0.5)


def sum_squares(parts: Tensor, x: Tensor) -> None:
    """parts = the sums of x^2 over blocks of features, as even as may be; parts (blocks, rows)."""
    _sums(parts, x, x)


def _sums(parts: Tensor, x: Tensor, y: Tensor) -> None:
    blocks = (value.tensor_split(len(parts)) for value in (x, y))
    for part, *values in zip(parts, *blocks, strict=True):
        torch.linalg.vecdot(*values, dim=0, out=part)


def _mean(parts: Tensor, count: int) -> Tensor:
    return (parts[0] if len(parts) == 1 else parts.sum(0)) / count


def log_density(out: Tensor, loc: Tensor, log_variance: Tensor, x: Tensor) -> None:
    """log N(x; tanh(loc), exp(log_variance)) in nats, summed over the features; out (1, rows)."""
    away = x - loc.tanh()
    terms = torch.addcmul(log_variance + math.log(2.0 * math.pi), away * away, (-log_variance).exp())
    torch.sum(terms, 0, keepdim=True, out=out).mul_(-0.5)


def log_density_back(
    into_loc: Tensor, into_log_variance: Tensor, gradient: Tensor, loc: Tensor, log_variance: Tensor, x: Tensor
) -> None:
    """The gradients of loc and of log_variance from that of the log-density, (1, rows)."""
    mean = loc.tanh()
    away = x - mean
    slope = away * (-log_variance).exp()
    torch.mul(gradient * slope, 1.0 - mean * mean, out=into_loc)
    torch.mul(gradient * 0.5, away * slope - 1.0, out=into_log_variance)


def modulate(
    gates: Tensor, normed: Tensor, inverse_deviation: Tensor, parts: Tensor, gain: Tensor, shift: Tensor
) -> None:
    """gates = gates + (1 + gain) normed + shift, where normed becomes itself / deviation.

    Its columns have mean 0, and ``parts`` the sums of their squares; inverse_deviation (1, rows) is written to as well.
    """
    torch.rsqrt(_mean(parts, len(normed)).add_(EPSILON), out=inverse_deviation[0])
    normed.mul_(inverse_deviation)
    gates.addcmul_(normed, gain).add_(normed).add_(shift)


def modulate_back(into_gain: Tensor, parts: Tensor, gradient: Tensor, normed: Tensor, gain: Tensor) -> None:
    """The gradient of gain from that of the gates, which is the shift's as well.

    parts are the sums over blocks of normed times its own gradient, (1 + gain) gradient, for ``normalise_back``.
    """
    torch.mul(gradient, normed, out=into_gain)
    _sums(parts, into_gain, 1.0 + gain)


def normalise_back(
    out: Tensor, parts: Tensor, gradient: Tensor, normed: Tensor, gain: Tensor, inverse_deviation: Tensor
) -> None:
    """The gradient of x, where normed = x / deviation(x), from that of the gates."""
    torch.addcmul(gradient, gradient, gain, out=out)
    out.addcmul_(normed, _mean(parts, len(normed)), value=-1.0).mul_(inverse_deviation)


def lstm(cell: Tensor, hidden: Tensor, tanh_cell: Tensor, gates: Tensor, before: Tensor) -> None:
    """c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g) and h_t = sigmoid(o) tanh(c_t); gates i, f, o, g in blocks.

    The gates are overwritten by what their nonlinearities make of them.
    """
    features = len(cell)
    i, f, o = gates[: 3 * features].sigmoid_().chunk(3)
    candidate = gates[3 * features :].tanh_()
    torch.mul(f, before, out=cell).addcmul_(i, candidate)
    torch.mul(o, torch.tanh(cell, out=tanh_cell), out=hidden)


def lstm_back(
    into_cell: Tensor, into_gates: Tensor, into_hidden: Tensor, gates: Tensor, before: Tensor, tanh_cell: Tensor
) -> None:
    """The gradient of the gates before their nonlinearities; that of c_t becomes that of c_{t-1}."""
    i, f, o, candidate = gates.chunk(4)
    into_i, into_f, into_o, into_candidate = into_gates.chunk(4)
    torch.mul(into_hidden, tanh_cell, out=into_o)
    through = torch.mul(into_hidden, o)
    into_cell.add_(_tanh_back(through, tanh_cell, grad_input=through))
    torch.mul(into_cell, candidate, out=into_i)
    torch.mul(into_cell, before, out=into_f)
    torch.mul(into_cell, i, out=into_candidate)
    into_cell.mul_(f)
    switches = 3 * len(into_cell)
    _sigmoid_back(into_gates[:switches], gates[:switches], grad_input=into_gates[:switches])
    _tanh_back(into_candidate, candidate, grad_input=into_candidate)
