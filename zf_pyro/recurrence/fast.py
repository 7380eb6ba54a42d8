"""The time loops over whole sequences, with weight gradients formed once a loop instead of once a step.

:func:`posterior_scan`, :func:`state_scan` and :func:`backward_scan` are the fast loops, :func:`prior_scan` and
:func:`auxiliary_scan` the networks that only need what the loops leave: they run without autograd, and their way back
is written out (``engine/``). The plain twins :func:`reference_posterior_scan` and
:func:`reference_state_scan` loop over the model's own step functions under ordinary autograd, and are what any subclass
with step functions of its own runs on; that of the backward loop is PyTorch's LSTM
(:class:`zf_pyro.networks.BackwardRNN`), those of the networks are the step functions over all steps at once.
"""

import torch
from torch import Tensor

from ..networks import MLP, BackwardRNN, Drive, GatedCell, PosteriorScan, State, loc_scale
from .engine.buffers import Arena
from .engine.heads import DensityHead, ParameterHead
from .engine.loops import BackwardLoop, PosteriorLoop, StateLoop


def posterior_scan(
    posterior: MLP, cell: GatedCell, state: State, drive: Drive, contexts: Tensor, noise: Tensor, arena: Arena
) -> PosteriorScan:
    """Draw z and run the recurrence.

    Args:
        posterior: the network of q, h_{t-1} its first input.
        cell: the transition.
        state: h_0; (..., hidden).
        drive: what u sends to the gates; (time, ..., in), broadcast over the leading dimensions of the state.
        contexts: what b adds to the posterior's hidden layer, ``posterior.rest``; (time, ..., mlp), likewise.
        noise: standard normal draws; (time, ..., latent).
        arena: memory for the loop's buffers.
    """
    batch_shape = state.hidden.shape[:-1]
    start = [field.reshape(-1, field.shape[-1]) for field in state]
    v, *gate_weights = cell.standing(drive)
    sequences = (_rows(sequence, batch_shape) for sequence in (v, contexts, noise))
    weights = (*posterior.loop_weights(), *cell.modulation_weights(), cell.hidden_weights.weight, *gate_weights)
    outputs = PosteriorLoop.apply(arena, *start, *sequences, *weights)
    shaped = (output.view(output.shape[0], *batch_shape, output.shape[2]) for output in outputs)
    h, before, after, c, z, parameters = shaped
    return PosteriorScan(z, State(h, c), before, after, *loc_scale(parameters))


def state_scan(cell: GatedCell, state: State, drive: Drive, modulation: Tensor, arena: Arena) -> State:
    """h_0..h_T where z is known too.

    Args:
        cell: the transition.
        state: h_0; (..., hidden).
        drive: as for :func:`posterior_scan`.
        modulation: ``cell.modulation`` of z by columns, (time, ..., modulation, batch).
        arena: memory for the loop's buffers.
    """
    lead, batch = modulation.shape[1:-2], modulation.shape[-1:]
    batch_shape = torch.broadcast_shapes(state.hidden.shape[:-1], lead + batch)
    start = [_rows(field.unsqueeze(0), batch_shape).squeeze(0) for field in state]
    v, *gate_weights = cell.standing(drive)
    sequences = _rows(v, batch_shape), _columns(modulation, batch_shape)
    outputs = StateLoop.apply(arena, *start, *sequences, cell.hidden_weights.weight, *gate_weights)
    return State(*(output.view(output.shape[0], *batch_shape, output.shape[2]) for output in outputs))


def backward_scan(network: BackwardRNN, drive: Drive, mask: Tensor | None, arena: Arena) -> Tensor:
    """b_1..b_T; the plain twin is ``network`` itself.

    Args:
        network: whose weights to use.
        drive: what x sends to the gates; (time, batch, in).
        mask: True on real frames, (time, batch); None if all are. Beyond them b is zero.
        arena: memory for the loop's buffers.

    Returns:
        (time, batch, hidden).
    """
    numbers = None if mask is None else mask.to(drive.v.dtype)
    return BackwardLoop.apply(arena, numbers, drive.v, *network.gate_weights(drive))


def auxiliary_scan(network: MLP, z: Tensor, hidden: Tensor, b: Tensor, arena: Arena) -> Tensor:
    """log p_xi(b_t | z_t [, h_{t-1}]) at every step; the plain twin is :meth:`zf_pyro.ZForcing.auxiliary`.

    Args:
        network: of the auxiliary; it reads z, or z and h.
        z: latents; (time, ..., latent).
        hidden: h_0..h_{T-1}; (time, ..., hidden).
        b: targets, held fixed; (time, ..., hidden), broadcast to the batch dimensions of z.
        arena: memory for the loop's buffers.

    Returns:
        (time, ...) nats.
    """
    batch_shape = z.shape[1:-1]
    inputs = (z, hidden)[: len(network.in_dims)]
    sequences = (_rows(sequence, batch_shape) for sequence in inputs)
    return DensityHead.apply(arena, _rows(b, batch_shape), *network.weights(), *sequences).view(-1, *batch_shape)


def prior_scan(network: MLP, hidden: Tensor, arena: Arena) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of p(z_t | h_{t-1}) at every step; the plain twin is :meth:`zf_pyro.ZForcing.prior`.

    Args:
        network: of the prior.
        hidden: h_0..h_{T-1}; (time, ..., hidden).
        arena: memory for the loop's buffers.

    Returns:
        Both (time, ..., latent).
    """
    batch_shape = hidden.shape[1:-1]
    parameters = ParameterHead.apply(arena, *network.weights(), _rows(hidden, batch_shape))
    return loc_scale(parameters.view(-1, *batch_shape, parameters.shape[-1]))


def _rows(sequence: Tensor, batch_shape: torch.Size) -> Tensor:
    """(time, ..., features), broadcast to the batch, as (time, rows, features)."""
    if sequence.dim() == 3 and sequence.shape[1:2] == batch_shape:
        return sequence  # autograd adds up gradients in place unless they come back through a view
    missing = len(batch_shape) - (sequence.dim() - 2)
    sequence = sequence[(slice(None), *[None] * missing)].expand(-1, *batch_shape, -1)
    return sequence.reshape(sequence.shape[0], -1, sequence.shape[-1])


def _columns(sequence: Tensor, batch_shape: torch.Size) -> Tensor:
    """(time, ..., features, batch), broadcast to the batch, as (time, features, rows)."""
    missing = len(batch_shape) - (sequence.dim() - 2)
    sequence = sequence.movedim(-2, 1)[(slice(None), slice(None), *[None] * missing)]
    return sequence.expand(-1, -1, *batch_shape).reshape(sequence.shape[0], sequence.shape[1], -1).contiguous()
