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

from .arena import Arena, Tape
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
    arena: Arena,
) -> PosteriorScan:
    """Draw z and run the recurrence.

    Args:
        posterior: the network of q, h_{t-1} its first input.
        cell: the transition.
        state: h_0; (..., hidden).
        inputs: what u adds to the gates, ``cell.inputs``; (time, ..., 4 hidden), broadcast over the state's batch.
        contexts: what b adds to the posterior's hidden layer, ``posterior.rest``; (time, ..., mlp), likewise.
        noise: standard normal draws; (time, ..., latent).
        arena: memory for the loop's buffers.
    """
    batch_shape = state.hidden.shape[:-1]
    start = [field.reshape(-1, field.shape[-1]) for field in state]
    sequences = [_rows(sequence, batch_shape) for sequence in (inputs, contexts, noise)]
    weights = (*posterior.loop_weights(), *cell.loop_weights())
    outputs = _PosteriorLoop.apply(arena, *start, *sequences, *weights)
    h, c, z, parameters = (output.view(output.shape[0], *batch_shape, output.shape[2]) for output in outputs)
    return PosteriorScan(z, State(h, c), *loc_scale(parameters))


def state_scan(
    cell: ConditionalLayerNormCell | ConcatenateCell, state: State, inputs: Tensor, modulation: Tensor, arena: Arena
) -> State:
    """h_0..h_T where z is known too: ``modulation`` (time, ..., modulation) is ``cell.modulation`` of it."""
    batch_shape = torch.broadcast_shapes(state.hidden.shape[:-1], modulation.shape[1:-1])
    start = [_rows(field.unsqueeze(0), batch_shape).squeeze(0) for field in state]
    sequences = [_rows(sequence, batch_shape) for sequence in (inputs, modulation)]
    outputs = _StateLoop.apply(arena, *start, *sequences, cell.hidden_weights.weight)
    return State(*(output.view(output.shape[0], *batch_shape, output.shape[2]) for output in outputs))


def _stack(states: Sequence[State]) -> State:
    return State(*(torch.stack(torch.broadcast_tensors(*field)) for field in zip(*states, strict=True)))


def _rows(sequence: Tensor, batch_shape: torch.Size) -> Tensor:
    """(time, ..., features), broadcast to the batch, as (time, rows, features)."""
    missing = len(batch_shape) - (sequence.dim() - 2)
    sequence = sequence[(slice(None), *[None] * missing)].expand(-1, *batch_shape, -1)
    return sequence.reshape(sequence.shape[0], -1, sequence.shape[-1])


def _refuse_second_derivatives() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the fast recurrence has no second derivatives (create_graph=True); build the net with "
            "ZForcing(..., recurrence='reference') to get them"
        )


def _filled(states: Tensor, start: Tensor) -> Tensor:
    """``states`` (time + 1, features, rows) with the first filled in from ``start`` (rows, features)."""
    states[0] = start.t()
    return states


def _row_major(columns: Tensor) -> Tensor:
    """A copy of (time, features, rows) as (time, rows, features)."""
    return columns.transpose(1, 2).clone(memory_format=torch.contiguous_format)


def _steps(gradient: Tensor | None, num_steps: int) -> Sequence[Tensor | None]:
    return [None] * num_steps if gradient is None else gradient.unbind(0)


def _accumulator(gradient: Tensor | None, like: Tensor) -> Tensor:
    """A copy of ``gradient`` (rows, features) by columns, to add to; zeros like ``like`` if there is none."""
    return torch.zeros_like(like) if gradient is None else gradient.t().clone(memory_format=torch.contiguous_format)


class _PosteriorLoop(torch.autograd.Function):
    """(arena, h_0, c_0, inputs, contexts, noise, q's three weights, modulation's weights, W_h) -> h, c, z, (loc, log var).

    Arguments and results by rows, buffers by columns. Two modulation weights mean a :class:`PlainCell`, four a
    :class:`NormedCell`.
    """

    @staticmethod
    def forward(ctx: Any, arena: Arena, *tensors: Tensor) -> tuple[Tensor, ...]:
        h_0, c_0, inputs, contexts, noise, first, second, bias, *weights, hidden_weight = tensors
        num_steps, rows, latent_dim = noise.shape
        hidden_dim = h_0.shape[1]
        tape = Tape(arena, noise)
        h = _filled(tape.room(num_steps + 1, hidden_dim, rows), h_0)
        c = _filled(c_0.new_empty(num_steps + 1, hidden_dim, rows), c_0)
        z = tape.room(num_steps, latent_dim, rows)
        posterior = Bounded(first, second, bias, 8.0, tape, tape.room(num_steps, 2 * latent_dim, rows))
        modulation: BoundedModulation | LinearModulation
        cell: Cell
        if len(weights) == 4:
            modulation = BoundedModulation(weights, tape, num_steps, rows)
            cell = NormedCell(hidden_weight, h, c, tape)
        else:
            modulation = LinearModulation(weights, num_steps, rows)
            cell = PlainCell(hidden_weight, h, c, tape)
        for t in range(num_steps):
            loc, log_variance = posterior.forward(t, h[t], contexts[t].t()).split(latent_dim)
            z_t = torch.addcmul(loc, (0.5 * log_variance).exp_(), noise[t].t(), out=z[t])
            cell.forward(t, inputs[t].t(), modulation.forward(t, z_t))
        ctx.tape, ctx.posterior, ctx.modulation, ctx.cell, ctx.z = tape, posterior, modulation, cell, z
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(first, second, bias, *weights, hidden_weight)  # so that a change in place is noticed
        return _row_major(h), c.transpose(1, 2).detach(), _row_major(z), _row_major(posterior.out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        ctx.saved_tensors  # noqa: B018 - raises if a weight changed in place
        posterior, modulation, cell, z = ctx.posterior, ctx.modulation, ctx.cell, ctx.z
        num_steps, latent_dim, rows = z.shape
        into_h, into_c = (_steps(gradient, num_steps + 1) for gradient in gradients[:2])
        into_z, into_parameters = (_steps(gradient, num_steps) for gradient in gradients[2:])
        for network in (posterior, modulation, cell):
            network.start_back()
        inputs_gradient = z.new_empty(num_steps, rows, cell.width)
        contexts_gradient = z.new_empty(num_steps, rows, posterior.hidden.shape[1])
        gates_gradient = z.new_empty(cell.width, rows)
        modulation_gradient = z.new_empty(cell.modulation_blocks * cell.width, rows)
        h_gradient = _accumulator(into_h[num_steps], cell.h[0])
        c_gradient = _accumulator(into_c[num_steps], cell.c[0])
        for t in reversed(range(num_steps)):
            h_before = _accumulator(into_h[t], cell.h[0])
            modulated = modulation.network.out[t] if isinstance(modulation, BoundedModulation) else modulation.out
            cell.back(t, h_gradient, c_gradient, modulated, modulation_gradient, gates_gradient, h_before)
            inputs_gradient[t] = gates_gradient.t()
            z_gradient = _accumulator(into_z[t], z[t])
            modulation.back(t, z[t], modulation_gradient, z_gradient)
            parameters_gradient = _accumulator(into_parameters[t], posterior.out[t])
            loc_gradient, log_variance_gradient = parameters_gradient.split(latent_dim)
            loc_gradient += z_gradient
            # dz / dlog_variance = scale * noise / 2 = (z - loc) / 2
            log_variance_gradient.addcmul_(z_gradient, z[t] - posterior.out[t, :latent_dim], value=0.5)
            contexts_gradient[t] = posterior.back(t, cell.h[t], parameters_gradient, h_before).t()
            h_gradient = h_before
            if into_c[t] is not None:
                c_gradient += into_c[t].t()
        return (
            None,
            h_gradient.t(),
            c_gradient.t(),
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
    """(arena, h_0, c_0, inputs, modulation, W_h) -> h, c; arguments and results by rows, buffers by columns."""

    @staticmethod
    def forward(ctx: Any, arena: Arena, *tensors: Tensor) -> tuple[Tensor, ...]:
        h_0, c_0, inputs, modulation, hidden_weight = tensors
        num_steps, rows, width = inputs.shape
        tape = Tape(arena, inputs)
        h = _filled(tape.room(num_steps + 1, width // 4, rows), h_0)
        c = _filled(c_0.new_empty(num_steps + 1, width // 4, rows), c_0)
        kind = NormedCell if modulation.shape[2] == 2 * width else PlainCell
        cell = kind(hidden_weight, h, c, tape)
        for t in range(num_steps):
            cell.forward(t, inputs[t].t(), modulation[t].t())
        ctx.tape, ctx.cell = tape, cell
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(modulation, hidden_weight)
        return _row_major(h), c.transpose(1, 2).detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        cell = ctx.cell
        modulation = ctx.saved_tensors[0]
        num_steps, rows = modulation.shape[:2]
        into_h, into_c = (_steps(gradient, num_steps + 1) for gradient in gradients)
        cell.start_back()
        inputs_gradient = modulation.new_empty(num_steps, rows, cell.width)
        modulation_gradient = torch.empty_like(modulation)
        gates_gradient = modulation.new_empty(cell.width, rows)
        modulated_gradient = modulation.new_empty(modulation.shape[2], rows)
        h_gradient = _accumulator(into_h[num_steps], cell.h[0])
        c_gradient = _accumulator(into_c[num_steps], cell.c[0])
        for t in reversed(range(num_steps)):
            h_before = _accumulator(into_h[t], cell.h[0])
            cell.back(t, h_gradient, c_gradient, modulation[t].t(), modulated_gradient, gates_gradient, h_before)
            inputs_gradient[t], modulation_gradient[t] = gates_gradient.t(), modulated_gradient.t()
            h_gradient = h_before
            if into_c[t] is not None:
                c_gradient += into_c[t].t()
        return None, h_gradient.t(), c_gradient.t(), inputs_gradient, modulation_gradient, cell.product.gradient()
