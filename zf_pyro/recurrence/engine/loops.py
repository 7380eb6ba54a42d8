"""The time loops as autograd functions with explicit backward passes, since autograd inside them would be slow.

Inputs and outputs are (time, rows, features), where rows are sequences times particles. Buffers are column-major,
(features, rows) at each step (:mod:`zf_pyro.recurrence.engine.operations`). :mod:`zf_pyro.recurrence.fast` shapes the
arguments; the PyTorch forms are in :mod:`zf_pyro.recurrence.reference`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .buffers import Arena, Tape
from .fastest import machine_for
from .linear import Product, steps_per_fold
from .lstm import Cell, NormedCell, PlainCell
from .machines import Machine
from .mlp import Bounded, LinearModulation, MLPModulation
from .operations import Instruction, Instructions, Ring, add, copy, draw, draw_back, fill, single


def refuse_second_derivatives() -> None:
    """Refuse a backward pass that should itself be differentiable."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the fast recurrence has no second derivatives (create_graph=True); build the net with "
            "recurrence='reference', an argument of its class, to get them"
        )


def _cells(c_0: Tensor, num_steps: int, arena: Arena) -> Tensor:
    """Buffer for c_0..c_T, (time + 1, hidden, rows), starting with ``c_0`` (rows, hidden). No tape: it is returned."""
    rows, hidden_dim = c_0.shape
    c = arena.pool.empty(c_0, num_steps + 1, hidden_dim, rows)
    c[0] = c_0.t()
    return c


def columns(rows: Tensor) -> Ring:
    """The column-major view of ``rows`` (time, rows, features)."""
    return Ring(rows.transpose(1, 2))


def accumulator(gradient: Tensor | None, like: Ring) -> Tensor:
    """A column-major copy of ``gradient`` (rows, features) to add to; for None, zeros like an entry of ``like``."""
    if gradient is None:
        return torch.zeros_like(like.tensor[0])
    return gradient.t().clone(memory_format=torch.contiguous_format)


def start(out: Ring, *gradients: Tensor | None) -> Instructions:
    """Set ``out`` to the sum of each step's gradients from outside the loop, (time, rows, features), or to zero."""
    given = [columns(gradient) for gradient in gradients if gradient is not None]
    if not given:
        return [Instruction(fill, (out,), 0.0)]
    return [Instruction(copy, (out, given[0])), *(Instruction(add, (out, other)) for other in given[1:])]


def more(out: Ring, gradient: Tensor | None) -> Instructions:
    """Add each step's gradient from outside the loop, (time, rows, features), to ``out``."""
    return [] if gradient is None else [Instruction(add, (out, columns(gradient)))]


def run_back(
    machine: Machine, program: Instructions, products: Sequence[Product], steps: int, rows: int, by: int
) -> None:
    """Run a backward pass in direction ``by`` and fold whenever the slots of the products are full.

    Folds start at multiples of their size, so that their steps fill the slots from the first on.
    """
    if torch.compiler.is_compiling():  # as runs_eagerly, without a call more in every loop
        return torch.compiler.disable(run_back)(machine, program, products, steps, rows, by)
    noting = [instruction for part in products for instruction in part.noting]
    run, size = machine.prepare([*program, *noting]), steps_per_fold(steps, rows)
    for first in range(0, steps, size)[::by]:
        count = min(size, steps - first)
        run(first if by == 1 else first + count - 1, count, by)
        for part in products:
            part.fold(first, count)


def noise_gradient(into_z: Tensor, log_variance: Tensor) -> Tensor:
    """Gradient of the noise, (time, rows, latent), from those of z = loc + exp(log_variance / 2) * noise.

    Args:
        into_z: gradients of z, through all that follows; (time, latent, rows). Overwritten.
        log_variance: (time, latent, rows).
    """
    return into_z.mul_((0.5 * log_variance).exp_()).transpose(1, 2)


class PosteriorLoop(torch.autograd.Function):
    """Sampling from the posterior q along with the recurrence; returns h, before, after, c, z, q.

    - h is h_0..h_T, before h_0..h_{T-1} and after h_1..h_T, all in one memory. Each has a gradient of its own, since
      the backward pass of a slice writes a gradient as large as h.
    - q is the means and log-variances of z, (time, rows, 2 latent).
    """

    @staticmethod
    def forward(ctx: Any, arena: Arena, *tensors: Any) -> tuple[Tensor, ...]:
        """Run the loop.

        Args:
            ctx: the context of autograd.
            arena: memory for the buffers.
            tensors: h_0 and c_0 (rows, hidden); v (time, rows, in), contexts (time, rows, mlp) and noise
                (time, rows, latent); ``loop_weights`` of q's MLP; one weight of a :class:`LinearModulation` or four of
                a :class:`MLPModulation`; three weights of the cell.
        """
        h_0, c_0, v, contexts, noise, first, second, bias, *weights = tensors
        num_steps, rows, latent_dim = noise.shape
        tape, c = Tape(arena, noise), _cells(c_0, num_steps, arena)
        machine = machine_for(tape, h_0.shape[1], rows)
        parts = [Product(machine, first)], Product(machine, second, bias)
        posterior = Bounded(machine, *parts, 8.0, num_steps, rows)
        modulation: MLPModulation | LinearModulation
        cell: Cell
        if len(weights) == 4 + 3:
            normed = len(weights[2]) == 8 * h_0.shape[1]
            modulation = MLPModulation(weights[:4], machine, num_steps, rows, 3.0 if normed else math.inf)
            cell = (NormedCell if normed else PlainCell)(machine, h_0, c, v, weights[4:])
        else:
            modulation = LinearModulation(weights[:1], machine, num_steps, rows)
            cell = PlainCell(machine, h_0, c, v, weights[1:])
        z, noise_t = machine.room(num_steps, latent_dim, rows), machine.room(1, latent_dim, rows)
        loc, log_variance = posterior.out.part(0, latent_dim), posterior.out.part(latent_dim, 2 * latent_dim)
        h_out, z_out = arena.pool.empty(noise, num_steps + 1, *h_0.shape), torch.empty_like(noise)
        parameters_out = noise.new_empty(num_steps, rows, 2 * latent_dim)
        h_out[0] = h_0
        program = [
            *posterior.forward(cell.before, rest=columns(contexts)),
            Instruction(copy, (noise_t, columns(noise))),
            Instruction(draw, (z, loc, log_variance, noise_t)),
            *modulation.forward(z),
            *cell.forward(modulation.out),
            Instruction(copy, (columns(h_out).later(1), cell.after)),
            Instruction(copy, (columns(z_out), z)),
            Instruction(copy, (columns(parameters_out), posterior.out)),
        ]
        machine.prepare(program)(0, num_steps, 1)
        ctx.machine, ctx.posterior, ctx.modulation, ctx.cell, ctx.z = machine, posterior, modulation, cell, z
        ctx.set_materialize_grads(False)
        c_out = c.transpose(1, 2).detach()
        ctx.save_for_backward(h_out, first, second, bias, *weights, c_out)  # so that autograd detects in-place changes
        return h_out, h_out[:-1], h_out[1:], c_out, z_out, parameters_out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments from those of the outputs, each (time or time + 1, rows, features) or None."""
        refuse_second_derivatives()
        h, first, *_ = ctx.saved_tensors
        machine, posterior, modulation, cell, z = ctx.machine, ctx.posterior, ctx.modulation, ctx.cell, ctx.z
        # The folds read all hidden states. Detached: h's graph owns ctx, and a reference back would be a cycle.
        posterior.firsts[0].x = cell.hidden.x = columns(h.detach())
        num_steps, rows, latent_dim = cell.num_steps, cell.rows, z.tensor.shape[1]
        into_h, into_before, into_after, into_c, into_z, into_parameters = gradients
        for network in (posterior, modulation, cell):
            network.start_back()
        v_gradient = torch.empty_like(cell.v.tensor) if ctx.needs_input_grad[3] else None
        contexts_gradient = first.new_empty(num_steps, rows, first.shape[0])
        into_noise = torch.empty_like(z.tensor) if ctx.needs_input_grad[5] else None
        h_gradient = accumulator(None if into_h is None else into_h[num_steps], cell.h)
        c_gradient = accumulator(None if into_c is None else into_c[num_steps], cell.c)
        h_ring, c_ring, z_gradient = single(h_gradient), single(c_gradient), single(torch.empty_like(z.tensor[0]))
        loc, log_variance = (posterior.gradient.part(k * latent_dim, (k + 1) * latent_dim) for k in (0, 1))
        # The reverse of the forward program: cell, modulation, z, posterior. h_{t-1} collects its gradient from the
        # outputs (in `carried`), the cell and the posterior.
        program = [
            *more(h_ring, into_after),
            *cell.back(
                h_ring,
                c_ring,
                [*start(h_ring, into_before, into_h), *more(c_ring, into_c)],
                modulation.out,
                modulation.gradient,
                None if v_gradient is None else Ring(v_gradient),
            ),
            *start(z_gradient, into_z),
            *modulation.back(z_gradient),
            *([] if into_noise is None else [Instruction(copy, (Ring(into_noise), z_gradient))]),
            *start(posterior.gradient, into_parameters),
            Instruction(draw_back, (loc, log_variance, z_gradient, z, posterior.out.part(0, latent_dim))),
            *posterior.back(h_ring),
            Instruction(copy, (columns(contexts_gradient), posterior.firsts[0].slots)),
        ]
        products, trained = (*posterior.products, *modulation.products, *cell.products), any(ctx.needs_input_grad[6:])
        run_back(machine, program, products if trained else (), num_steps, rows, -1)
        return (
            None,
            h_gradient.t(),
            c_gradient.t(),
            None if v_gradient is None else v_gradient.transpose(1, 2),
            contexts_gradient,
            None if into_noise is None else noise_gradient(into_noise, posterior.out.tensor[:, latent_dim:]),
            *(gradient for part in products[: -len(cell.products)] for gradient in part.gradients()),
            *cell.gradients(),
        )


class StateLoop(torch.autograd.Function):
    """The recurrence for known latents; returns h_0..h_T and c_0..c_T, (time + 1, rows, hidden)."""

    @staticmethod
    def forward(ctx: Any, arena: Arena, *tensors: Any) -> tuple[Tensor, ...]:
        """Run the loop.

        Args:
            ctx: the context of autograd.
            arena: memory for the buffers.
            tensors: h_0 and c_0 (rows, hidden); v (time, rows, in); the modulation, column-major,
                (time, 8 hidden, rows) for :class:`NormedCell`, (time, 4 hidden, rows), or None if v has the latents;
                three weights of the cell.
        """
        h_0, c_0, v, modulation, *weights = tensors
        tape, c = Tape(arena, v), _cells(c_0, len(v), arena)
        machine = machine_for(tape, h_0.shape[1], len(h_0))
        normed = modulation is not None and modulation.shape[1] == 8 * h_0.shape[1]
        cell = (NormedCell if normed else PlainCell)(machine, h_0, c, v, weights)
        h_out = arena.pool.empty(v, len(c), *h_0.shape)
        h_out[0] = h_0
        given = None if modulation is None else Ring(modulation)
        program = [*cell.forward(given), Instruction(copy, (columns(h_out).later(1), cell.after))]
        machine.prepare(program)(0, len(v), 1)
        ctx.machine, ctx.cell = machine, cell
        ctx.set_materialize_grads(False)
        c_out = c.transpose(1, 2).detach()
        ctx.save_for_backward(h_out, modulation, *weights, c_out)
        return h_out, c_out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments from those of h and c, (time + 1, rows, hidden) or None."""
        refuse_second_derivatives()
        machine, cell, (h, modulation, *_) = ctx.machine, ctx.cell, ctx.saved_tensors
        cell.hidden.x = columns(h.detach())
        into_h, into_c = gradients
        cell.start_back()
        v_gradient = torch.empty_like(cell.v.tensor) if ctx.needs_input_grad[3] else None
        modulation_gradient = None if modulation is None else torch.empty_like(modulation)
        h_gradient = accumulator(None if into_h is None else into_h[cell.num_steps], cell.h)
        c_gradient = accumulator(None if into_c is None else into_c[cell.num_steps], cell.c)
        h_ring, c_ring = single(h_gradient), single(c_gradient)
        carried = [*start(h_ring, into_h), *more(c_ring, into_c)]
        into_v = None if v_gradient is None else Ring(v_gradient)
        rings = (None if tensor is None else Ring(tensor) for tensor in (modulation, modulation_gradient))
        program = cell.back(h_ring, c_ring, carried, *rings, into_v)
        products = cell.products if any(ctx.needs_input_grad[5:]) else ()
        run_back(machine, program, products, cell.num_steps, cell.rows, -1)
        rows = None if v_gradient is None else v_gradient.transpose(1, 2)
        return None, h_gradient.t(), c_gradient.t(), rows, modulation_gradient, *cell.gradients()
