"""The time loop of latents that follow one another without a recurrence between them, as an autograd function.

Inputs and outputs are (time, rows, features), where rows are sequences times particles. Buffers are column-major, as in
:mod:`zf_pyro.recurrence.engine.loops`.
"""

from typing import Any

import torch
from torch import Tensor

from .buffers import Arena, Tape
from .fastest import machine_for
from .linear import Product
from .loops import accumulator, columns, more, noise_gradient, refuse_second_derivatives, run_back, start
from .mlp import Bounded
from .operations import Instruction, Instructions, Ring, add, copy, draw, draw_back, single


class LatentLoop(torch.autograd.Function):
    """Sampling z_t ~ q(z_t | z_{t-1}, rest_t); returns z, before, after, q.

    - z is z_0..z_T, before z_0..z_{T-1} and after z_1..z_T, all in one memory. Each has a gradient of its own.
    - q is the means and log-variances of z_1..z_T, (time, rows, 2 latent).

    The parameters of q are clip(MLP(z_{t-1}, rest_t), -8, 8). A second MLP, likewise clipped, may be added to the mean.
    """

    @staticmethod
    def forward(ctx: Any, arena: Arena, *tensors: Any) -> tuple[Tensor, ...]:
        """Run the loop.

        Args:
            ctx: the context of autograd.
            arena: memory for the buffers.
            tensors: z_0 (rows, latent) and noise (time, rows, latent); contexts (time, rows, mlp) and ``loop_weights``
                of q's MLP; the same four of the MLP that is added to the mean, or none of them.
        """
        z_0, noise, *given = tensors
        num_steps, rows, latent_dim = noise.shape
        machine = machine_for(Tape(arena, noise), given[1].shape[0], rows)
        z, noise_t = machine.room(num_steps + 1, latent_dim, rows), machine.room(1, latent_dim, rows)
        z.tensor[0].copy_(z_0.t())
        networks, program = [], Instructions()
        for contexts, first, second, bias in (given[:4], given[4:])[: len(given) // 4]:
            parts = [Product(machine, first)], Product(machine, second, bias)
            networks.append(Bounded(machine, *parts, 8.0, num_steps, rows))
            program += networks[-1].forward(z, rest=columns(contexts))
        posterior, *added = networks
        q = posterior.out
        for residual in added:  # the sum in a buffer of its own: the backward pass reads each network's output
            q = machine.room(num_steps, 2 * latent_dim, rows)
            into = q.part(0, latent_dim), residual.out
            program += [Instruction(copy, (q, posterior.out)), Instruction(add, into)]
        z_out = arena.pool.empty(noise, num_steps + 1, rows, latent_dim)
        parameters_out = noise.new_empty(num_steps, rows, 2 * latent_dim)
        z_out[0] = z_0
        program += [
            Instruction(copy, (noise_t, columns(noise))),
            Instruction(draw, (z.later(1), q.part(0, latent_dim), q.part(latent_dim, 2 * latent_dim), noise_t)),
            Instruction(copy, (columns(z_out).later(1), z.later(1))),
            Instruction(copy, (columns(parameters_out), q)),
        ]
        machine.prepare(program)(0, num_steps, 1)
        ctx.machine, ctx.networks, ctx.z, ctx.q = machine, networks, z, q
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z_out, *given)  # so that autograd detects in-place changes
        return z_out, z_out[:-1], z_out[1:], parameters_out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments from those of the outputs, each (time or time + 1, rows, features) or None."""
        refuse_second_derivatives()
        _, contexts, *_ = ctx.saved_tensors
        machine, networks, z = ctx.machine, ctx.networks, ctx.z
        posterior, *added = networks
        num_steps, (latent_dim, rows) = len(contexts), z.tensor.shape[1:]
        into_z, into_before, into_after, into_parameters = gradients
        for network in networks:
            network.start_back()
        z_gradient = accumulator(None if into_z is None else into_z[num_steps], z)
        carried = single(z_gradient)
        outs = [contexts.new_empty(num_steps, rows, network.inner.tensor.shape[1]) for network in networks]
        loc, log_variance = (posterior.gradient.part(k * latent_dim, (k + 1) * latent_dim) for k in (0, 1))
        into_noise = torch.empty_like(z.tensor[1:]) if ctx.needs_input_grad[2] else None
        # The reverse of the forward program. `carried` is the gradient of z_t, then that of z_{t-1}.
        program = [
            *more(carried, into_after),
            *([] if into_noise is None else [Instruction(copy, (Ring(into_noise), carried))]),
            *start(posterior.gradient, into_parameters),
            Instruction(draw_back, (loc, log_variance, carried, z.later(1), ctx.q.part(0, latent_dim))),
            *(Instruction(copy, (residual.gradient, loc)) for residual in added),
            *start(carried, into_before, into_z),
        ]
        for network, out in zip(networks, outs, strict=True):
            program += network.back(carried)
            program.append(Instruction(copy, (columns(out), network.firsts[0].slots)))
        products = [part for network in networks for part in network.products]
        trained = any(ctx.needs_input_grad[4:])
        run_back(machine, program, products if trained else (), num_steps, rows, -1)
        found: list[Tensor | None] = [None, z_gradient.t(), None]
        if into_noise is not None:
            found[2] = noise_gradient(into_noise, ctx.q.tensor[:, latent_dim:])
        for network, out in zip(networks, outs, strict=True):
            found += [out, *(gradient for part in network.products for gradient in part.gradients())]
        return tuple(found)
