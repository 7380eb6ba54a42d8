"""The time loops over whole sequences, with weight gradients formed once a loop instead of once a step.

:func:`posterior_scan` and :func:`state_scan` are the fast loops: everything known beforehand is computed for all steps
at once, the loop runs without autograd, and its way back is written out (:mod:`zf_pyro.kernels`). Their plain twins
:func:`reference_posterior_scan` and :func:`reference_state_scan` loop over the model's own step functions under
ordinary autograd, and are what any subclass with step functions of its own runs on.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .kernels import Bounded, BoundedModulation, Cell, LinearModulation, NormedCell, PlainCell
from .networks import MLP, ConcatenateCell, ConditionalLayerNormCell, State, loc_scale


class PosteriorScan(NamedTuple):
    """What a pass over z_t ~ q(z_t | h_{t-1}, b_t), h_t = f(u_t, z_t, h_{t-1}) leaves."""

    z: Tensor
    """z_1..z_T; (time, ..., latent)."""
    states: State
    """h_0..h_T; (time + 1, ..., hidden)."""
    loc: Tensor
    """Means of q; (time, ..., latent)."""
    scale: Tensor
    """Standard deviations of q; (time, ..., latent)."""


def reference_posterior_scan(
    posterior: Callable[[State, Tensor], Any],
    transition: Callable[[State, Tensor, Tensor], State],
    state: State,
    u: Tensor,
    b: Tensor,
    noise: Tensor,
) -> PosteriorScan:
    """The plain loop over step functions; u (time, ..., *frame), b (time, ..., hidden), noise (time, ..., latent)."""
    states, z, locs, scales = [state], [], [], []
    for u_t, b_t, noise_t in zip(u.unbind(0), b.unbind(0), noise.unbind(0), strict=True):
        q = posterior(state, b_t).base_dist
        z.append(q.loc + q.scale * noise_t)
        state = transition(state, u_t, z[-1])
        states.append(state)
        locs.append(q.loc)
        scales.append(q.scale)
    return PosteriorScan(torch.stack(z), _stack(states), torch.stack(locs), torch.stack(scales))


def reference_state_scan(
    transition: Callable[[State, Tensor, Tensor], State], state: State, u: Tensor, z: Tensor
) -> State:
    """h_0..h_T by the plain loop over ``transition``; u (time, ..., *frame), z (time, ..., latent)."""
    states = [state]
    for u_t, z_t in zip(u.unbind(0), z.unbind(0), strict=True):
        state = transition(state, u_t, z_t)
        states.append(state)
    return _stack(states)


def posterior_scan(
    posterior: MLP,
    cell: ConditionalLayerNormCell | ConcatenateCell,
    state: State,
    inputs: Tensor,
    contexts: Tensor,
    noise: Tensor,
) -> PosteriorScan:
    """Draw z and run the recurrence.

    Args:
        posterior: the network of q, h_{t-1} its first input.
        cell: the transition.
        state: h_0; (..., hidden).
        inputs: what u adds to the gates, ``cell.inputs``; (time, ..., 4 hidden), broadcast over the state's batch.
        contexts: what b adds to the posterior's hidden layer, ``posterior.rest``; (time, ..., mlp), likewise.
        noise: standard normal draws; (time, ..., latent).
    """
    batch_shape = state.hidden.shape[:-1]
    columns = [_columns(sequence, batch_shape) for sequence in (inputs, contexts, noise)]
    start = [_columns(field.unsqueeze(0), batch_shape).squeeze(0) for field in state]
    h, c, z, parameters = _PosteriorLoop.apply(*start, *columns, *posterior.loop_weights(), *cell.loop_weights())
    h, c, z, parameters = (_rows(sequence, batch_shape) for sequence in (h, c, z, parameters))
    return PosteriorScan(z, State(h, c), *loc_scale(parameters))


def state_scan(
    cell: ConditionalLayerNormCell | ConcatenateCell, state: State, inputs: Tensor, modulation: Tensor
) -> State:
    """h_0..h_T where z is known too: ``modulation`` (time, ..., modulation) is ``cell.modulation`` of it."""
    batch_shape = torch.broadcast_shapes(state.hidden.shape[:-1], modulation.shape[1:-1])
    columns = [_columns(sequence, batch_shape) for sequence in (inputs, modulation)]
    start = [_columns(field.unsqueeze(0), batch_shape).squeeze(0) for field in state]
    h, c = _StateLoop.apply(*start, *columns, cell.hidden_weights.weight)
    return State(_rows(h, batch_shape), _rows(c, batch_shape))


def _stack(states: Sequence[State]) -> State:
    return State(*(torch.stack(torch.broadcast_tensors(*field)) for field in zip(*states, strict=True)))


def _columns(sequence: Tensor, batch_shape: torch.Size) -> Tensor:
    """(time, ..., features), broadcast to the batch, as (time, features, rows)."""
    missing = len(batch_shape) - (sequence.dim() - 2)
    sequence = sequence[(slice(None), *[None] * missing)]
    sequence = sequence.expand(-1, *batch_shape, -1).flatten(1, -2) if batch_shape else sequence.unsqueeze(1)
    return sequence.transpose(1, 2).contiguous()


def _rows(sequence: Tensor, batch_shape: torch.Size) -> Tensor:
    """(time, features, rows) as (time, *batch, features)."""
    rows = sequence.transpose(1, 2).contiguous()
    return rows.view(rows.shape[0], *batch_shape, rows.shape[2])


def _refuse_second_derivatives() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the fast recurrence has no second derivatives (create_graph=True); build the net with "
            "ZForcing(..., recurrence='reference') to get them"
        )


def _filled(start: Tensor, num_steps: int) -> Tensor:
    """Room for num_steps + 1 states, the first filled in."""
    states = start.new_empty(num_steps + 1, *start.shape)
    states[0] = start
    return states


class _PosteriorLoop(torch.autograd.Function):
    """(h_0, c_0, inputs, contexts, noise, posterior's three weights, modulation's weights, W_h) -> h, c, z, (loc, log var).

    All by columns. Two modulation weights mean a :class:`PlainCell`, four a :class:`NormedCell`.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        h_0, c_0, inputs, contexts, noise, first, second, bias, *weights, hidden_weight = tensors
        num_steps, latent_dim, rows = noise.shape
        h, c = _filled(h_0, num_steps), _filled(c_0, num_steps)
        z = torch.empty_like(noise)
        posterior = Bounded(first, second, bias, 8.0, num_steps, rows)
        modulation: BoundedModulation | LinearModulation
        cell: Cell
        if len(weights) == 4:
            modulation = BoundedModulation(tuple(weights), num_steps, rows)
            cell = NormedCell(hidden_weight, h, c)
        else:
            modulation = LinearModulation(tuple(weights), num_steps, rows)
            cell = PlainCell(hidden_weight, h, c)
        for t in range(num_steps):
            loc, log_variance = posterior.forward(t, h[t], contexts[t]).split(latent_dim)
            z_t = torch.addcmul(loc, (0.5 * log_variance).exp_(), noise[t], out=z[t])
            cell.forward(t, inputs[t], modulation.forward(t, z_t))
        ctx.posterior, ctx.modulation, ctx.cell, ctx.z = posterior, modulation, cell, z
        ctx.set_materialize_grads(False)
        # Weights are saved for autograd to notice a change in place; the outputs are other views of the buffers, so
        # that no buffer kept here owns the graph that owns it.
        ctx.save_for_backward(first, second, bias, *weights, hidden_weight)
        return h.detach(), c.detach(), z.detach(), posterior.out.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        ctx.saved_tensors  # noqa: B018 - raises if a weight changed in place
        posterior, modulation, cell, z = ctx.posterior, ctx.modulation, ctx.cell, ctx.z
        num_steps, latent_dim, _rows = z.shape
        into_h, into_c, into_z, into_parameters = (
            [None] * (num_steps + 1) if gradient is None else gradient.unbind(0) for gradient in gradients
        )
        for network in (posterior, modulation, cell):
            network.start_back()
        inputs_gradient = torch.empty_like(cell.gates)
        contexts_gradient = torch.empty_like(posterior.hidden)
        h_gradient = _accumulator(into_h[num_steps], cell.h[0])
        c_gradient = _accumulator(into_c[num_steps], cell.c[0])
        for t in reversed(range(num_steps)):
            out = cell.gates.new_empty(cell.modulation_blocks * cell.width, z.shape[2])
            modulated = modulation.network.out[t] if cell.modulation_blocks == 2 else out
            linear_gradient = cell.back(t, h_gradient, c_gradient, modulated, out, inputs_gradient[t])
            z_gradient = _accumulator(into_z[t], z[t])
            modulation.back(t, z[t], out, z_gradient)
            parameters_gradient = _accumulator(into_parameters[t], posterior.out[t])
            loc_gradient, log_variance_gradient = parameters_gradient.split(latent_dim)
            loc_gradient += z_gradient
            # dz / dlog_variance = scale * noise / 2 = (z - loc) / 2
            log_variance_gradient.addcmul_(z_gradient, z[t] - posterior.out[t, :latent_dim], value=0.5)
            h_gradient = _accumulator(into_h[t], cell.h[0])
            h_gradient.addmm_(cell.product.transposed, linear_gradient)
            posterior.back(t, cell.h[t], parameters_gradient, h_gradient, contexts_gradient[t])
            if into_c[t] is not None:
                c_gradient += into_c[t]
        return (
            h_gradient,
            c_gradient,
            inputs_gradient,
            contexts_gradient,
            None,
            posterior.first.gradient(),
            posterior.second.gradient(),
            posterior.second.bias_gradient,
            *modulation.gradients(),
            cell.product.gradient(),
        )


class _StateLoop(torch.autograd.Function):
    """(h_0, c_0, inputs, modulation, W_h) -> h, c; all by columns."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        h_0, c_0, inputs, modulation, hidden_weight = tensors
        num_steps = inputs.shape[0]
        h, c = _filled(h_0, num_steps), _filled(c_0, num_steps)
        kind = NormedCell if modulation.shape[1] == 2 * inputs.shape[1] else PlainCell
        cell = kind(hidden_weight, h, c)
        for t in range(num_steps):
            cell.forward(t, inputs[t], modulation[t])
        ctx.cell = cell
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(modulation, hidden_weight)
        return h.detach(), c.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        cell = ctx.cell
        modulation = ctx.saved_tensors[0]
        num_steps = modulation.shape[0]
        into_h, into_c = (
            [None] * (num_steps + 1) if gradient is None else gradient.unbind(0) for gradient in gradients
        )
        cell.start_back()
        inputs_gradient, modulation_gradient = torch.empty_like(cell.gates), torch.empty_like(modulation)
        h_gradient = _accumulator(into_h[num_steps], cell.h[0])
        c_gradient = _accumulator(into_c[num_steps], cell.c[0])
        for t in reversed(range(num_steps)):
            linear_gradient = cell.back(
                t, h_gradient, c_gradient, modulation[t], modulation_gradient[t], inputs_gradient[t]
            )
            h_gradient = _accumulator(into_h[t], cell.h[0])
            h_gradient.addmm_(cell.product.transposed, linear_gradient)
            if into_c[t] is not None:
                c_gradient += into_c[t]
        return h_gradient, c_gradient, inputs_gradient, modulation_gradient, cell.product.gradient()


def _accumulator(gradient: Tensor | None, like: Tensor) -> Tensor:
    """A copy of ``gradient`` to add to; zeros if there is none."""
    return torch.zeros_like(like) if gradient is None else gradient.clone(memory_format=torch.contiguous_format)
