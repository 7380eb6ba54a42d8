"""The time loops, and weight gradients formed once a loop instead of once a step.

Autograd adds a gradient as large as the weight at every step of a loop: for a step of a few rows that is more memory
traffic than arithmetic. :class:`DeferredWeights` applies an affine map whose backward returns only the gradient of
its input and notes (input, output gradient); when the loop has been walked back, the weight's gradient is one
product over time x batch. It knows nothing of cells. :func:`reference_posterior_scan` and
:func:`reference_state_scan` are the plain loops over the model's step functions that it is held to.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .networks import Kernel, State, plain

ROWS_PER_PRODUCT = 4096
"""Rows noted before they are folded into the weight gradient: enough for full speed, few enough to bound memory."""


class PosteriorScan(NamedTuple):
    """What a pass over z_t ~ q(z_t | h_{t-1}, b_t), h_t = f(u_t, z_t, h_{t-1}) leaves."""

    z: list[Tensor]
    """z_t for t = 1..T; each (..., latent)."""
    states: list[State]
    """h_0..h_T; each (..., hidden)."""
    loc: Tensor
    """Means of q; (time, ..., latent)."""
    scale: Tensor
    """Standard deviations of q; (time, ..., latent)."""


def posterior_scan(
    posterior: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    kernel: Kernel,
    state: State,
    inputs: Tensor,
    contexts: Tensor,
    noise: Sequence[Tensor],
) -> PosteriorScan:
    """Draw z and run the recurrence, everything that is known beforehand given as whole sequences.

    Args:
        posterior: (h_{t-1}, context) -> mean and standard deviation of q.
        kernel: the cell's step.
        state: h_0, (..., hidden).
        inputs: what u adds to the gates, (time, ..., 4 hidden).
        contexts: what b adds to the posterior's hidden layer, (time, ..., mlp).
        noise: standard normal draws, one (..., latent) a step.
    """
    states, z, locs, scales = [state], [], [], []
    for inputs_t, context_t, noise_t in zip(inputs.unbind(0), contexts.unbind(0), noise, strict=True):
        loc, scale = posterior(state.hidden, context_t)
        z_t = torch.addcmul(loc, scale, noise_t)
        state = kernel.advance(state, inputs_t, kernel.modulate(z_t))
        states.append(state)
        z.append(z_t)
        locs.append(loc)
        scales.append(scale)
    return PosteriorScan(z, states, torch.stack(locs), torch.stack(scales))


def state_scan(kernel: Kernel, state: State, inputs: Tensor, modulation: Tensor) -> list[State]:
    """h_1..h_T where z is known too: ``modulation`` (time, ..., modulation) is what z does to the gates."""
    states = []
    for inputs_t, modulation_t in zip(inputs.unbind(0), modulation.unbind(0), strict=True):
        state = kernel.advance(state, inputs_t, modulation_t)
        states.append(state)
    return states


def reference_posterior_scan(
    posterior: Callable[[State, Tensor], Any],
    transition: Callable[[State, Tensor, Tensor], State],
    state: State,
    u: Tensor,
    b: Tensor,
    noise: Sequence[Tensor],
) -> PosteriorScan:
    """:func:`posterior_scan` as a plain loop over the model's own step functions; u and b are (time, ...)."""
    states, z, locs, scales = [state], [], [], []
    for u_t, b_t, noise_t in zip(u.unbind(0), b.unbind(0), noise, strict=True):
        q = posterior(state, b_t)
        z.append(q.mean + q.stddev * noise_t)
        state = transition(state, u_t, z[-1])
        states.append(state)
        locs.append(q.mean)
        scales.append(q.stddev)
    return PosteriorScan(z, states, torch.stack(locs), torch.stack(scales))


def reference_state_scan(
    transition: Callable[[State, Tensor, Tensor], State], state: State, u: Tensor, z: Sequence[Tensor]
) -> list[State]:
    """:func:`state_scan` as a plain loop over the model's own transition; u is (time, ...)."""
    states = []
    for u_t, z_t in zip(u.unbind(0), z, strict=True):
        state = transition(state, u_t, z_t)
        states.append(state)
    return states


class DeferredWeights:
    """An :data:`~zf_pyro.networks.Affine` for loops: the weight's gradient is formed after the last step.

    Values and gradients are those of :func:`~zf_pyro.networks.plain` up to the order of summation. Under
    ``create_graph=True`` it turns into an ordinary linear layer, so second derivatives are right as well.
    """

    def __call__(self, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return plain(weight, bias)
        ledger = _Ledger()
        handles = _Collect.apply(ledger, weight, bias)
        return lambda x: _Apply.apply(ledger, x, *handles)


class _Ledger:
    """Sums over the steps of one weight, for the backward pass under way.

    Notes belong to one pass: a pass that was cut short (say ``autograd.grad`` for the inputs alone) never reaches
    the weight, and what it noted must not leak into the next.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.task = -1
        self.rows = 0
        self.inputs: list[Tensor] = []
        self.gradients: list[Tensor] = []
        self.weight_gradient: Tensor | None = None
        self.bias_gradient: Tensor | None = None

    def note(self, x: Tensor, gradient: Tensor, with_bias: bool) -> None:
        task = torch._C._current_graph_task_id()
        if task != self.task:
            self.clear()
            self.task = task
        self.inputs.append(x.detach().reshape(-1, x.shape[-1]))
        self.gradients.append(gradient.reshape(-1, gradient.shape[-1]))
        self.rows += self.inputs[-1].shape[0]
        if self.rows >= ROWS_PER_PRODUCT:
            self.fold(with_bias)

    def fold(self, with_bias: bool) -> None:
        if not self.inputs:
            return
        x, gradient = torch.cat(self.inputs), torch.cat(self.gradients)
        self.inputs, self.gradients, self.rows = [], [], 0
        if self.weight_gradient is None:
            self.weight_gradient = gradient.t() @ x
        else:
            self.weight_gradient.addmm_(gradient.t(), x)
        if with_bias:
            total = gradient.sum(0)
            self.bias_gradient = total if self.bias_gradient is None else self.bias_gradient + total

    def take(self, with_bias: bool) -> tuple[Tensor | None, Tensor | None]:
        if torch._C._current_graph_task_id() != self.task:
            self.clear()
        self.fold(with_bias)
        taken = self.weight_gradient, self.bias_gradient
        self.clear()
        return taken


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


class _Collect(torch.autograd.Function):
    """Stands between the weight and its uses: autograd walks back through it once all of them are done."""

    @staticmethod
    def forward(ctx: Any, ledger: _Ledger, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        ctx.ledger = ledger
        ctx.with_bias = bias is not None
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), None if bias is None else bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, weight_gradient: Tensor | None, bias_gradient: Tensor | None = None) -> tuple:  # type: ignore[override]
        deferred_weight, deferred_bias = ctx.ledger.take(ctx.with_bias)
        return None, _add(weight_gradient, deferred_weight), _add(bias_gradient, deferred_bias)


class _Apply(torch.autograd.Function):
    """x W^T + b, whose backward leaves the weight's share in the ledger."""

    @staticmethod
    def forward(ctx: Any, ledger: _Ledger, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.ledger = ledger
        ctx.with_bias = bias is not None
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        input_gradient = gradient @ weight if ctx.needs_input_grad[1] else None
        if torch.is_grad_enabled():  # create_graph: stay an ordinary, twice differentiable layer
            rows = gradient.reshape(-1, gradient.shape[-1])
            weight_gradient = rows.t() @ x.reshape(-1, x.shape[-1])
            return None, input_gradient, weight_gradient, rows.sum(0) if ctx.with_bias else None
        ctx.ledger.note(x, gradient, ctx.with_bias)
        return None, input_gradient, None, None
