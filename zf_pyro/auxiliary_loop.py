"""The auxiliary's log-density over whole sequences as an autograd function, its way back written out.

A step needs none before it; running them one after the other keeps what a step computes in the cache, where under
autograd the same would be hundreds of megabytes. Its plain twin is :meth:`zf_pyro.ZForcing.auxiliary`.
"""

from typing import Any

import torch
from torch import Tensor

from .arena import Arena, Tape
from .instructions import Instruction, Ring, copy, fill, log_density, log_density_back, single
from .kernels import Bounded
from .loops import columns, refuse_second_derivatives, run_back
from .machines import machine_for
from .products import Product


class AuxiliaryLoop(torch.autograd.Function):
    """(arena, b, W_1, b_1, W_2, b_2, then z or z and h) -> log N(b; tanh(m), exp(v)), (m, v) = clip(MLP(z, h), -8, 8).

    Inputs are (time, rows, features), the output is (time, rows). b is held fixed.
    """

    @staticmethod
    def forward(ctx: Any, arena: Arena, *tensors: Any) -> Tensor:
        b, weight, bias, second, second_bias, *inputs = tensors
        num_steps, rows, hidden_dim = b.shape
        machine = machine_for(Tape(arena, b))
        weights = weight.split([x.shape[2] for x in inputs], 1)
        firsts = [Product(machine, part, None if k else bias) for k, part in enumerate(weights)]
        network = Bounded(machine, firsts, Product(machine, second, second_bias), 8.0, num_steps, rows)
        xs = [single(b.new_empty(x.shape[2], rows)) for x in inputs]
        target = single(b.new_empty(hidden_dim, rows))
        loc, log_variance = network.out.part(0, hidden_dim), network.out.part(hidden_dim, 2 * hidden_dim)
        out = b.new_empty(num_steps, 1, rows)
        load = Instruction(copy, (target, columns(b)))
        program = [
            *(Instruction(copy, (x, columns(given))) for x, given in zip(xs, inputs, strict=True)),
            *network.forward(*xs),
            load,
            Instruction(log_density, (Ring(out), loc, log_variance, target)),
        ]
        machine.prepare(program)(0, num_steps, 1)
        for first, given in zip(firsts, inputs, strict=True):
            first.x = columns(given)  # all steps of it, where the program went by one at a time
        ctx.machine, ctx.network, ctx.density, ctx.load = machine, network, (loc, log_variance, target), load
        ctx.save_for_backward(b, weight, second, second_bias, *inputs)  # so that a change in place is noticed
        return out.squeeze(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        machine, network = ctx.machine, ctx.network
        (
            b,
            *_,
        ) = ctx.saved_tensors
        inputs = ctx.saved_tensors[4:]
        num_steps, rows, hidden_dim = b.shape
        network.start_back()
        into = [single(b.new_empty(x.shape[2], rows)) for x in inputs]
        gradients = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]
        parameters = single(b.new_empty(2 * hidden_dim, rows))
        halves = parameters.part(0, hidden_dim), parameters.part(hidden_dim, 2 * hidden_dim)
        along = Ring(gradient.contiguous().unsqueeze(1))
        program = [
            ctx.load,
            Instruction(log_density_back, (*halves, along, *ctx.density)),
            *(Instruction(fill, (x,), 0.0) for x in into),
            *network.back(parameters, *into),
            *(Instruction(copy, (columns(to), x)) for to, x in zip(gradients, into, strict=True)),
        ]
        run_back(machine, program, network.products, num_steps, rows, -1)
        weight = torch.cat([first.gradients()[0] for first in network.firsts], 1)
        return None, None, weight, network.firsts[0].gradients()[1], *network.second.gradients(), *gradients
