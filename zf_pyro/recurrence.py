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
from .kernels import Bounded, BoundedModulation, Cell, LinearModulation, NormedCell, PlainCell, with_ones
from .networks import MLP, ConcatenateCell, ConditionalLayerNormCell, State, loc_scale
from .products import Product


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
        inputs: what u adds to the gates, ``cell.inputs`` by columns, (time, ..., 4 hidden, batch); broadcast over the
            leading dimensions of the state.
        contexts: what b adds to the posterior's hidden layer, ``posterior.rest``; (time, ..., mlp), likewise.
        noise: standard normal draws; (time, ..., latent).
        arena: memory for the loop's buffers.
    """
    batch_shape = state.hidden.shape[:-1]
    start = [field.reshape(-1, field.shape[-1]) for field in state]
    sequences = _columns(inputs, batch_shape), _rows(contexts, batch_shape), _rows(noise, batch_shape)
    weights = (*posterior.loop_weights(), *cell.loop_weights())
    outputs = _PosteriorLoop.apply(arena, *start, *sequences, *weights)
    h, c, z, parameters = (output.view(output.shape[0], *batch_shape, output.shape[2]) for output in outputs)
    return PosteriorScan(z, State(h, c), *loc_scale(parameters))


def state_scan(
    cell: ConditionalLayerNormCell | ConcatenateCell, state: State, inputs: Tensor, modulation: Tensor, arena: Arena
) -> State:
    """h_0..h_T where z is known too.

    Args:
        cell: the transition.
        state: h_0; (..., hidden).
        inputs: as for :func:`posterior_scan`.
        modulation: ``cell.modulation`` of z by columns, (time, ..., modulation, batch).
        arena: memory for the loop's buffers.
    """
    lead, batch = modulation.shape[1:-2], modulation.shape[-1:]
    batch_shape = torch.broadcast_shapes(state.hidden.shape[:-1], lead + batch)
    start = [_rows(field.unsqueeze(0), batch_shape).squeeze(0) for field in state]
    sequences = [_columns(sequence, batch_shape) for sequence in (inputs, modulation)]
    outputs = _StateLoop.apply(arena, *start, *sequences, cell.hidden_weights.weight)
    return State(*(output.view(output.shape[0], *batch_shape, output.shape[2]) for output in outputs))


def _stack(states: Sequence[State]) -> State:
    return State(*(torch.stack(torch.broadcast_tensors(*field)) for field in zip(*states, strict=True)))


def _rows(sequence: Tensor, batch_shape: torch.Size) -> Tensor:
    """(time, ..., features), broadcast to the batch, as (time, rows, features)."""
    missing = len(batch_shape) - (sequence.dim() - 2)
    sequence = sequence[(slice(None), *[None] * missing)].expand(-1, *batch_shape, -1)
    return sequence.reshape(sequence.shape[0], -1, sequence.shape[-1])


def _columns(sequence: Tensor, batch_shape: torch.Size) -> Tensor:
    """(time, ..., features, batch), broadcast to the batch, as (time, features, rows)."""
    missing = len(batch_shape) - (sequence.dim() - 2)
    sequence = sequence.movedim(-2, 1)[(slice(None), slice(None), *[None] * missing)]
    return sequence.expand(-1, -1, *batch_shape).reshape(sequence.shape[0], sequence.shape[1], -1).contiguous()


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
    """(arena, h_0, c_0, inputs, contexts, noise, q's three weights, modulation's weights, W_h) -> h, c, z, parameters.

    Inputs and buffers by columns, the rest by rows. One modulation weight means a :class:`PlainCell`, four a
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
        posterior = Bounded(Product(first, None, tape), second, bias, 8.0, tape, num_steps, rows)
        modulation: BoundedModulation | LinearModulation
        cell: Cell
        if len(weights) == 4:
            modulation = BoundedModulation(weights, tape, num_steps, rows)
            cell = NormedCell(hidden_weight, h, c, tape)
        else:
            modulation = LinearModulation(weights, tape, num_steps, rows)
            cell = PlainCell(hidden_weight, h, c, tape)
        buffer = with_ones(tape, num_steps, latent_dim, rows)
        z, draws = buffer.unbind(0), buffer[:, :latent_dim]
        deviations = (contexts.transpose(1, 2).unbind(0), noise.transpose(1, 2).unbind(0), draws.unbind(0))
        for t, (inputs_t, context_t, noise_t, z_t) in enumerate(zip(inputs.unbind(0), *deviations, strict=True)):
            loc, log_variance = posterior.forward(t, cell.h[t], context_t).split(latent_dim)
            torch.addcmul(loc, (0.5 * log_variance).exp_(), noise_t, out=z_t)
            cell.forward(t, inputs_t, modulation.forward(t, z[t]))
        ctx.tape, ctx.posterior, ctx.modulation, ctx.cell, ctx.z = tape, posterior, modulation, cell, z
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(first, second, bias, *weights, hidden_weight)  # so that a change in place is noticed
        return _row_major(h), c.transpose(1, 2).detach(), _row_major(draws), _row_major(posterior.buffer)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        first = ctx.saved_tensors[0]
        posterior, modulation, cell, z = ctx.posterior, ctx.modulation, ctx.cell, ctx.z
        num_steps, rows, latent_dim = cell.num_steps, cell.rows, z[0].shape[0] - 1
        into_h, into_c = (_steps(gradient, num_steps + 1) for gradient in gradients[:2])
        into_z, into_parameters = (_steps(gradient, num_steps) for gradient in gradients[2:])
        for network in (posterior, modulation, cell):
            network.start_back()
        inputs_gradient = first.new_empty(num_steps, cell.width, rows)
        contexts_gradient = first.new_empty(num_steps, rows, first.shape[0])
        modulation_gradient = first.new_empty(cell.modulation_blocks * cell.width, rows)
        h_gradient = _accumulator(into_h[num_steps], cell.h[0])
        c_gradient = _accumulator(into_c[num_steps], cell.c[0])
        targets = inputs_gradient.unbind(0), contexts_gradient.transpose(1, 2).unbind(0)
        for t, inputs_t, context_t in zip(reversed(range(num_steps)), *map(reversed, targets), strict=True):
            h_before = _accumulator(into_h[t], cell.h[0])
            cell.back(t, h_gradient, c_gradient, modulation.out[t], modulation_gradient, inputs_t, h_before)
            draw = z[t][:latent_dim]
            z_gradient = _accumulator(into_z[t], draw)
            modulation.back(t, z[t], modulation_gradient, z_gradient)
            parameters_gradient = _accumulator(into_parameters[t], posterior.out[t])
            loc_gradient, log_variance_gradient = parameters_gradient.split(latent_dim)
            loc_gradient += z_gradient
            # dz / dlog_variance = scale * noise / 2 = (z - loc) / 2
            log_variance_gradient.addcmul_(z_gradient, draw - posterior.out[t][:latent_dim], value=0.5)
            context_t.copy_(posterior.back(t, cell.h[t], parameters_gradient, h_before))
            h_gradient = h_before
            c_share = into_c[t]
            if c_share is not None:
                c_gradient += c_share.t()
        return (
            None,
            h_gradient.t(),
            c_gradient.t(),
            inputs_gradient,
            contexts_gradient,
            None,
            *posterior.first.gradient(),
            *posterior.second.gradient(),
            *modulation.gradients(),
            *cell.product.gradient(),
        )


class _StateLoop(torch.autograd.Function):
    """(arena, h_0, c_0, inputs, modulation, W_h) -> h, c.

    Inputs, modulation and buffers by columns, the rest by rows.
    """

    @staticmethod
    def forward(ctx: Any, arena: Arena, *tensors: Tensor) -> tuple[Tensor, ...]:
        h_0, c_0, inputs, modulation, hidden_weight = tensors
        num_steps, width, rows = inputs.shape
        tape = Tape(arena, inputs)
        h = _filled(tape.room(num_steps + 1, width // 4, rows), h_0)
        c = _filled(c_0.new_empty(num_steps + 1, width // 4, rows), c_0)
        kind = NormedCell if modulation.shape[1] == 2 * width else PlainCell
        cell = kind(hidden_weight, h, c, tape)
        for t, (inputs_t, modulation_t) in enumerate(zip(inputs.unbind(0), modulation.unbind(0), strict=True)):
            cell.forward(t, inputs_t, modulation_t)
        ctx.tape, ctx.cell = tape, cell
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(modulation, hidden_weight)
        return _row_major(h), c.transpose(1, 2).detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        cell = ctx.cell
        modulation = ctx.saved_tensors[0]
        into_h, into_c = (_steps(gradient, cell.num_steps + 1) for gradient in gradients)
        cell.start_back()
        inputs_gradient = modulation.new_empty(cell.num_steps, cell.width, cell.rows)
        modulation_gradient = torch.empty_like(modulation)
        h_gradient = _accumulator(into_h[cell.num_steps], cell.h[0])
        c_gradient = _accumulator(into_c[cell.num_steps], cell.c[0])
        for t in reversed(range(cell.num_steps)):
            h_before = _accumulator(into_h[t], cell.h[0])
            cell.back(t, h_gradient, c_gradient, modulation[t], modulation_gradient[t], inputs_gradient[t], h_before)
            h_gradient = h_before
            c_share = into_c[t]
            if c_share is not None:
                c_gradient += c_share.t()
        return None, h_gradient.t(), c_gradient.t(), inputs_gradient, modulation_gradient, *cell.product.gradient()
