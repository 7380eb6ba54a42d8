"""The time loops as autograd functions: no autograd inside, the way back written out.

Inputs and outputs are (time, rows, features); buffers are by columns (:mod:`zf_pyro.kernels`).
:mod:`zf_pyro.recurrence` lays the arguments out, and holds the plain twins.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arena import Arena, Tape
from .cells import Cell, NormedCell, PlainCell
from .kernels import Bounded, BoundedModulation, LinearModulation, with_ones
from .products import Product


def _refuse_second_derivatives() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the fast recurrence has no second derivatives (create_graph=True); build the net with "
            "ZForcing(..., recurrence='reference') to get them"
        )


def _cells(c_0: Tensor, num_steps: int) -> Tensor:
    """Room for c_0..c_T by columns, with c_0 (rows, hidden) filled in; not on a tape, since it is handed out."""
    rows, hidden_dim = c_0.shape
    c = c_0.new_empty(num_steps + 1, hidden_dim, rows)
    c[0] = c_0.t()
    return c


def _row_major(columns: Sequence[Tensor]) -> Tensor:
    """A copy of steps (features, rows) as (time, rows, features)."""
    features, rows = columns[0].shape
    out = columns[0].new_empty(len(columns), rows, features)
    for target, step in zip(out.unbind(0), columns, strict=True):
        target.copy_(step.t())
    return out


def _steps(gradient: Tensor | None, num_steps: int) -> Sequence[Tensor | None]:
    return [None] * num_steps if gradient is None else gradient.unbind(0)


def _accumulator(gradient: Tensor | None, like: Tensor) -> Tensor:
    """A copy of ``gradient`` (rows, features) by columns, to add to; zeros like ``like`` if there is none."""
    if gradient is None:
        return torch.zeros_like(like)
    return gradient.t().clone(memory_format=torch.contiguous_format)


def _columns_gradient(wanted: bool, like: Cell, in_dim: int) -> tuple[Tensor | None, Sequence[Tensor | None]]:
    """Where the gradient of v goes, (time, in, rows) and its steps, if it is wanted."""
    if not wanted:
        return None, [None] * like.num_steps
    gradient = like.scratch.new_empty(like.num_steps, in_dim, like.rows)
    return gradient, gradient.unbind(0)


def _rows(columns: Tensor | None) -> Tensor | None:
    return None if columns is None else columns.transpose(1, 2)


class PosteriorLoop(torch.autograd.Function):
    """(arena, h_0, c_0, v, contexts, noise, q's three weights, modulation's, the cell's) -> h, c, z, parameters.

    One modulation weight means a :class:`PlainCell`, four a :class:`NormedCell`.
    """

    @staticmethod
    def forward(ctx: Any, arena: Arena, *tensors: Any) -> tuple[Tensor, ...]:
        h_0, c_0, v, contexts, noise, first, second, bias, *weights = tensors
        num_steps, rows, latent_dim = noise.shape
        tape, c = Tape(arena, noise), _cells(c_0, num_steps)
        posterior = Bounded(Product([first], None, tape), second, bias, 8.0, tape, num_steps, rows)
        modulation: BoundedModulation | LinearModulation
        cell: Cell
        if len(weights) == 4 + 3:
            modulation = BoundedModulation(weights[:4], tape, num_steps, rows)
            cell = NormedCell(h_0, c, v, weights[4:], tape)
        else:
            modulation = LinearModulation(weights[:1], tape, num_steps, rows)
            cell = PlainCell(h_0, c, v, weights[1:], tape)
        buffer = with_ones(tape, num_steps, latent_dim, rows)
        z, draws = buffer.unbind(0), buffer[:, :latent_dim].unbind(0)
        deviations = (contexts.transpose(1, 2).unbind(0), noise.transpose(1, 2).unbind(0), draws)
        for t, (context_t, noise_t, z_t) in enumerate(zip(*deviations, strict=True)):
            loc, log_variance = posterior.forward(t, cell.h[t], context_t).split(latent_dim)
            torch.addcmul(loc, (0.5 * log_variance).exp_(), noise_t, out=z_t)
            cell.forward(t, modulation.forward(t, z[t]))
        ctx.tape, ctx.posterior, ctx.modulation, ctx.cell, ctx.z = tape, posterior, modulation, cell, z
        ctx.in_dim = v.shape[2]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(first, second, bias, *weights)  # so that a change in place is noticed
        return _row_major(cell.h), c.transpose(1, 2).detach(), _row_major(draws), _row_major(posterior.out)

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
        v_gradient, into_v = _columns_gradient(ctx.needs_input_grad[3], cell, ctx.in_dim)
        contexts_gradient = first.new_empty(num_steps, rows, first.shape[0])
        modulation_gradient = first.new_empty(cell.modulation_blocks * cell.width, rows)
        h_gradient = _accumulator(into_h[num_steps], cell.h[0])
        c_gradient = _accumulator(into_c[num_steps], cell.c[0])
        targets = into_v, contexts_gradient.transpose(1, 2).unbind(0)
        for t, into_v_t, context_t in zip(reversed(range(num_steps)), *map(reversed, targets), strict=True):
            h_before = _accumulator(into_h[t], cell.h[0])
            cell.back(t, h_gradient, c_gradient, modulation.out[t], modulation_gradient, h_before, into_v_t)
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
            _rows(v_gradient),
            contexts_gradient,
            None,
            *posterior.first.gradient(),
            *posterior.second.gradient(),
            *modulation.gradients(),
            *cell.gradients(),
        )


class StateLoop(torch.autograd.Function):
    """(arena, h_0, c_0, v, modulation, the cell's weights) -> h, c; modulation by columns, (time, features, rows)."""

    @staticmethod
    def forward(ctx: Any, arena: Arena, *tensors: Any) -> tuple[Tensor, ...]:
        h_0, c_0, v, modulation, *weights = tensors
        tape, c = Tape(arena, v), _cells(c_0, len(v))
        normed = modulation.shape[1] == 8 * h_0.shape[1]
        cell = (NormedCell if normed else PlainCell)(h_0, c, v, weights, tape)
        for t, modulation_t in enumerate(modulation.unbind(0)):
            cell.forward(t, modulation_t)
        ctx.tape, ctx.cell, ctx.in_dim = tape, cell, v.shape[2]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(modulation, *weights)
        return _row_major(cell.h), c.transpose(1, 2).detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        cell, modulation = ctx.cell, ctx.saved_tensors[0]
        into_h, into_c = (_steps(gradient, cell.num_steps + 1) for gradient in gradients)
        cell.start_back()
        v_gradient, into_v = _columns_gradient(ctx.needs_input_grad[3], cell, ctx.in_dim)
        modulation_gradient = torch.empty_like(modulation)
        h_gradient = _accumulator(into_h[cell.num_steps], cell.h[0])
        c_gradient = _accumulator(into_c[cell.num_steps], cell.c[0])
        for t in reversed(range(cell.num_steps)):
            h_before = _accumulator(into_h[t], cell.h[0])
            cell.back(t, h_gradient, c_gradient, modulation[t], modulation_gradient[t], h_before, into_v[t])
            h_gradient = h_before
            c_share = into_c[t]
            if c_share is not None:
                c_gradient += c_share.t()
        return None, h_gradient.t(), c_gradient.t(), _rows(v_gradient), modulation_gradient, *cell.gradients()


class BackwardLoop(torch.autograd.Function):
    """(arena, mask, v, W_h, W, b) -> b_1..b_T, the states of a plain LSTM run from the last step to the first.

    Where ``mask`` (time, rows) is 0 the state is zero, so that each sequence starts at its own last frame. None: 1.
    """

    @staticmethod
    def forward(ctx: Any, arena: Arena, mask: Tensor | None, *tensors: Tensor) -> Tensor:
        v, *weights = tensors
        num_steps, rows, _ = v.shape
        tape, hidden_dim = Tape(arena, v), weights[0].shape[1]
        start = v.new_zeros(rows, hidden_dim)
        c = tape.room(num_steps + 1, hidden_dim, rows)
        c[0] = 0.0
        cell = PlainCell(start, c, v.flip(0), weights, tape)
        masks = [None] * num_steps if mask is None else mask.flip(0).unbind(0)
        out = v.new_empty(num_steps, rows, hidden_dim)
        for s, (mask_s, out_s) in enumerate(zip(masks, reversed(out.unbind(0)), strict=True)):
            cell.forward(s, None)
            if mask_s is not None:
                cell.h[s + 1].mul_(mask_s)
                cell.c[s + 1].mul_(mask_s)
            out_s.copy_(cell.h[s + 1].t())
        ctx.tape, ctx.cell, ctx.masks, ctx.in_dim = tape, cell, masks, v.shape[2]
        ctx.save_for_backward(*weights)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        cell = ctx.cell
        _ = ctx.saved_tensors
        cell.start_back()
        v_gradient, into_v = _columns_gradient(ctx.needs_input_grad[2], cell, ctx.in_dim)
        into_h = list(reversed(gradient.unbind(0)))
        c_gradient = torch.zeros_like(cell.c[0])
        h_gradient = _accumulator(into_h[-1], cell.h[0])
        for s in reversed(range(cell.num_steps)):
            if ctx.masks[s] is not None:
                h_gradient *= ctx.masks[s]
                c_gradient *= ctx.masks[s]
            h_before = _accumulator(into_h[s - 1] if s else None, cell.h[0])
            cell.back(s, h_gradient, c_gradient, None, None, h_before, into_v[s])
            h_gradient = h_before
        rows = _rows(v_gradient)
        return None, None, None if rows is None else rows.flip(0), *cell.gradients()
