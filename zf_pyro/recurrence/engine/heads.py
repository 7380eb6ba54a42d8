"""The prior and the auxiliary network over whole sequences, as autograd functions with explicit backward passes.

Their steps are independent. Running one after the other keeps the intermediate results of a step in cache; under
autograd those of all steps are hundreds of megabytes. The PyTorch forms are :meth:`zf_pyro.ZForcing.prior` and
``auxiliary``; second derivatives use them.

Inputs and outputs are (time, rows, features), where rows are sequences times particles.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

from ...networks import bounded, clipped_leaky_relu
from .buffers import Arena, Tape
from .fastest import machine_for
from .linear import Product
from .loops import columns, run_back
from .mlp import Bounded
from .operations import Instruction, Instructions, Ring, copy, fill, log_density, log_density_back, single


class Head:
    """A clamped MLP of every step: ``out`` is clip(MLP(x_1, x_2, ...), -8, 8).

    Args:
        arena: memory for the buffers.
        weights: W_1 (mlp, in), b_1 (mlp,), W_2 (out, mlp), b_2 (out,).
        inputs: x_i, (time, rows, features).
    """

    def __init__(self, arena: Arena, weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        weight, bias, second, second_bias = weights
        self.num_steps, self.rows, _ = inputs[0].shape
        self.machine = machine_for(Tape(arena, weight), len(weight), self.rows)
        self.inputs, self.pool = inputs, arena.pool
        parts = weight.split([x.shape[2] for x in inputs], 1)
        firsts = [Product(self.machine, part, None if k else bias) for k, part in enumerate(parts)]
        product = Product(self.machine, second, second_bias)
        self.network = Bounded(self.machine, firsts, product, 8.0, self.num_steps, self.rows)
        self.out = self.network.out

    def forward(self) -> Instructions:
        """Instructions of one step, from the inputs to ``out``."""
        xs = [single(x.new_empty(x.shape[2], self.rows)) for x in self.inputs]
        loaded = [Instruction(copy, (x, columns(given))) for x, given in zip(xs, self.inputs, strict=True)]
        program = [*loaded, *self.network.forward(*xs)]
        for first, given in zip(self.network.firsts, self.inputs, strict=True):
            first.x = columns(given)  # the folds read all steps where they lie, the program a copy of one
        return program

    def start_back(self) -> Ring:
        """Prepare the backward pass and return the ring to set to the gradient of ``out``."""
        self.network.start_back()
        return self.network.gradient

    def back(self, before: Instructions, trained: bool) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Run the backward pass and return the gradients of the weights and of the inputs.

        Args:
            before: instructions that set the gradient of ``out`` at each step.
            trained: whether any weight needs its gradient. Otherwise the weights' gradients are zeros.
        """
        into = [single(x.new_empty(x.shape[2], self.rows)) for x in self.inputs]
        gradients = [self.pool.empty(x, *x.shape) for x in self.inputs]
        program = [
            *before,
            *(Instruction(fill, (x,), 0.0) for x in into),
            *self.network.back(*into),
            *(Instruction(copy, (columns(to), x)) for to, x in zip(gradients, into, strict=True)),
        ]
        run_back(self.machine, program, self.network.products if trained else (), self.num_steps, self.rows, -1)
        weight = torch.cat([first.gradients()[0] for first in self.network.firsts], 1)
        return (weight, self.network.firsts[0].gradients()[1], *self.network.second.gradients()), gradients


def _outer(weight: Tensor, bias: Tensor, second: Tensor, second_bias: Tensor, *inputs: Tensor) -> Tensor:
    """The PyTorch form of a head before its clamp."""
    return F.linear(clipped_leaky_relu(F.linear(torch.cat(inputs, -1), weight, bias)), second, second_bias)


def _differentiable(plain: Callable[..., Tensor], tensors: Sequence[Tensor], gradient: Tensor) -> list[Tensor | None]:
    """Differentiable gradients of a PyTorch form; None for tensors that do not require one."""
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    found = iter(torch.autograd.grad(plain(*tensors), wanted, gradient, create_graph=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]


class ParameterHead(torch.autograd.Function):
    """Parameters of a normal distribution at every step, clip(MLP(x), -8, 8); (time, rows, out)."""

    @staticmethod
    def forward(ctx: Any, arena: Arena, *tensors: Any) -> Tensor:
        """Run all steps; tensors are W_1 (mlp, in), b_1 (mlp,), W_2 (out, mlp), b_2 (out,) and x (time, rows, in)."""
        *weights, x = tensors
        head = Head(arena, weights, [x])
        out = x.new_empty(head.num_steps, head.rows, head.out.tensor.shape[1])
        program = [*head.forward(), Instruction(copy, (columns(out), head.out))]
        head.machine.prepare(program)(0, head.num_steps, 1)
        ctx.head = head
        ctx.save_for_backward(*tensors)  # so that autograd detects in-place changes
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments from that of the output, (time, rows, out)."""
        if torch.is_grad_enabled():
            return None, *_differentiable(lambda *given: _outer(*given).clamp(-8.0, 8.0), ctx.saved_tensors, gradient)
        _ = ctx.saved_tensors  # raises if one was changed in place
        load = Instruction(copy, (ctx.head.start_back(), columns(gradient)))
        weights, inputs = ctx.head.back([load], any(ctx.needs_input_grad[1:5]))
        return None, *weights, *inputs


class DensityHead(torch.autograd.Function):
    """log N(b; tanh(m), exp(v)) in nats at every step, (time, rows), where (m, v) = clip(MLP(z [, h]), -8, 8).

    b gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, arena: Arena, b: Tensor, *tensors: Any) -> Tensor:
        """Run all steps.

        Args:
            ctx: the context of autograd.
            arena: memory for the buffers.
            b: targets, (time, rows, hidden).
            tensors: W_1, b_1, W_2, b_2 as for :class:`Head`, then z (time, rows, latent) or z and h
                (time, rows, hidden).
        """
        num_steps, rows, hidden_dim = b.shape
        head = Head(arena, tensors[:4], tensors[4:])
        target = single(b.new_empty(hidden_dim, rows))
        given = head.out.part(0, hidden_dim), head.out.part(hidden_dim, 2 * hidden_dim), target
        out, load = b.new_empty(num_steps, 1, rows), Instruction(copy, (target, columns(b)))
        program = [*head.forward(), load, Instruction(log_density, (Ring(out), *given))]
        head.machine.prepare(program)(0, num_steps, 1)
        ctx.head, ctx.run, ctx.load = head, given, load
        ctx.save_for_backward(b, *tensors)
        return out.squeeze(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments from that of the log-density, (time, rows)."""
        b, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():

            def density(*given: Tensor) -> Tensor:
                loc, deviation = bounded(_outer(*given))
                return Normal(loc.tanh(), deviation).log_prob(b.detach()).sum(-1)

            return None, None, *_differentiable(density, tensors, gradient)
        hidden_dim, own, along = b.shape[2], ctx.head.start_back(), Ring(gradient.contiguous().unsqueeze(1))
        halves = own.part(0, hidden_dim), own.part(hidden_dim, 2 * hidden_dim)
        program = [ctx.load, Instruction(log_density_back, (*halves, along, *ctx.run))]
        weights, inputs = ctx.head.back(program, any(ctx.needs_input_grad[2:6]))
        return None, None, *weights, *inputs
