"""The backward RNN's time loop as an autograd function.

Inputs and outputs are (time, rows, features), where rows are sequences. Buffers are column-major, as in
:mod:`zf_pyro.recurrence.engine.loops`.
"""

from typing import Any

import torch
from torch import Tensor

from .buffers import Arena, Tape
from .fastest import machine_for
from .loops import columns, more, refuse_second_derivatives, run_back, start
from .lstm import PlainCell
from .operations import Instruction, Ring, copy, scale, single


class BackwardLoop(torch.autograd.Function):
    """A standard LSTM run from the last step to the first; returns its states b_1..b_T, (time, rows, hidden)."""

    @staticmethod
    def forward(ctx: Any, arena: Arena, mask: Tensor | None, *tensors: Tensor) -> Tensor:
        """Run the loop.

        Args:
            ctx: the context of autograd.
            arena: memory for the buffers.
            mask: 1 or 0, (time, rows); None for 1. The state is zero where it is 0, so that each sequence starts at
                its own last frame.
            tensors: v (time, rows, in), W_h (4 hidden, hidden), W (4 hidden, in), b (4 hidden,).
        """
        v, *weights = tensors
        num_steps, rows, _ = v.shape
        tape, hidden_dim = Tape(arena, v), weights[0].shape[1]
        machine = machine_for(tape, hidden_dim, rows)
        c = tape.room(num_steps + 1, hidden_dim, rows)
        c[num_steps] = 0.0
        cell = PlainCell(machine, v.new_zeros(rows, hidden_dim), c, v, weights, backwards=True)
        out = arena.pool.empty(v, num_steps + 1, rows, hidden_dim)
        out[num_steps] = 0.0
        masks = () if mask is None else (Ring(mask.unsqueeze(1)),)
        program = [
            *cell.forward(None),
            *(Instruction(scale, (state, real)) for real in masks for state in (cell.after, cell.c_after)),
            Instruction(copy, (columns(out), cell.after)),
        ]
        machine.prepare(program)(num_steps - 1, num_steps, -1)
        ctx.machine, ctx.cell, ctx.masks = machine, cell, masks
        ctx.save_for_backward(out, *weights)
        return out[:num_steps]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments from that of b_1..b_T, (time, rows, hidden)."""
        refuse_second_derivatives()
        machine, cell = ctx.machine, ctx.cell
        cell.hidden.x = columns(ctx.saved_tensors[0]).later(1)  # step t comes from the state of t + 1
        cell.start_back()
        v_gradient = torch.empty_like(cell.v.tensor) if ctx.needs_input_grad[2] else None
        h_ring, c_ring = (single(torch.zeros_like(cell.h.tensor[0])) for _ in range(2))
        program = [
            *more(h_ring, gradient),
            *(Instruction(scale, (state, real)) for real in ctx.masks for state in (h_ring, c_ring)),
            *cell.back(
                h_ring,
                c_ring,
                start(h_ring, None),
                None,
                None,
                None if v_gradient is None else Ring(v_gradient),
            ),
        ]
        run_back(machine, program, cell.products, cell.num_steps, cell.rows, 1)
        rows = None if v_gradient is None else v_gradient.transpose(1, 2)
        return None, None, rows, *cell.gradients()
