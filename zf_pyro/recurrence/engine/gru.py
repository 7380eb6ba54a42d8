"""PyTorch's GRU over whole sequences, as an autograd function whose weight gradients are formed once.

Under autograd each step adds a gradient as large as the weights. Here they are one product over all steps. Values of a
step are column-major, (features, rows), as in :mod:`zf_pyro.recurrence.engine.loops`; the loop has no instructions.
"""

from typing import Any

import torch
from torch import Tensor

from .loops import refuse_second_derivatives


class GRULoop(torch.autograd.Function):
    """The states h_1..h_T of a GRU, (time, rows, hidden), in the equations and gate order of ``torch.nn.GRU``.

    r, u = sigmoid(given + W_h h_{t-1} + b_h);  n = tanh(given' + r (W_h' h_{t-1} + b_h'));
    h_t = (1 - u) n + u h_{t-1}.
    """

    @staticmethod
    def forward(ctx: Any, h_0: Tensor, given: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Run the loop; h_0 (rows, hidden), given (time, rows, 3 hidden), W_h (3 hidden, hidden), b_h (3 hidden,)."""
        (num_steps, rows, width), hidden_dim = given.shape, h_0.shape[1]
        h = given.new_empty(num_steps + 1, hidden_dim, rows)
        h[0] = h_0.t()
        gates = given.transpose(1, 2).contiguous()
        recurrent, kept = given.new_empty(width, rows), given.new_empty(num_steps, hidden_dim, rows)
        bias_column, switches = bias.unsqueeze(1), 2 * hidden_dim
        for before, after, gates_t, kept_t in zip(
            h[:-1].unbind(0), h[1:].unbind(0), gates.unbind(0), kept.unbind(0), strict=True
        ):
            torch.addmm(bias_column, weight, before, out=recurrent)
            r, u = gates_t[:switches].add_(recurrent[:switches]).sigmoid_().chunk(2)
            kept_t.copy_(recurrent[switches:])
            n = gates_t[switches:].addcmul_(r, kept_t).tanh_()
            torch.lerp(n, before, u, out=after)
        out = h[1:].transpose(1, 2).contiguous()
        ctx.save_for_backward(h_0, weight, bias, out)  # so that autograd detects in-place changes
        ctx.buffers = h, gates, kept
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments from that of the states, (time, rows, hidden)."""
        refuse_second_derivatives()
        _, weight, *_ = ctx.saved_tensors
        h, gates, kept = ctx.buffers
        hidden_dim = h.shape[1]
        switches = 2 * hidden_dim
        incoming = gradients[0].transpose(1, 2).contiguous()
        into_given, into_recurrent = torch.empty_like(gates), torch.empty_like(gates)
        transposed, into_h = weight.t().contiguous(), torch.zeros_like(h[0])
        sequences = (incoming, gates, kept, h[:-1], into_given, into_recurrent)
        for step in zip(*(reversed(sequence.unbind(0)) for sequence in sequences), strict=True):
            incoming_t, gates_t, kept_t, before, given_t, recurrent_t = step
            (r, u, n), (into_r, into_u, into_n) = gates_t.chunk(3), given_t.chunk(3)
            into_h.add_(incoming_t)
            torch.sub(before, n, out=into_u).mul_(into_h)
            torch.addcmul(into_h, into_h, u, value=-1.0, out=into_n)
            torch.ops.aten.tanh_backward.grad_input(into_n, n, grad_input=into_n)
            torch.mul(into_n, kept_t, out=into_r)
            torch.ops.aten.sigmoid_backward.grad_input(
                given_t[:switches], gates_t[:switches], grad_input=given_t[:switches]
            )
            recurrent_t[:switches].copy_(given_t[:switches])
            torch.mul(into_n, r, out=recurrent_t[switches:])
            into_h.mul_(u).addmm_(transposed, recurrent_t)
        rows = into_recurrent.transpose(0, 1).flatten(1)  # (3 hidden, time x rows)
        weight_gradient = rows @ h[:-1].transpose(0, 1).flatten(1).t()
        return into_h.t(), into_given.transpose(1, 2), weight_gradient, rows.sum(1)
