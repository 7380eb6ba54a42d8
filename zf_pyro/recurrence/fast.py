"""The fast forms of the scans, with explicit backward passes instead of autograd (``engine/``).

- :func:`posterior_scan`, :func:`latent_scan` and :func:`state_scan` are time loops. Their plain forms loop over the
  model's step functions (:mod:`zf_pyro.recurrence.reference`).
- :func:`recurrence_scan` is one time loop for each layer. Its plain form is :meth:`zf_pyro.networks.Recurrence.step`.
- :func:`backward_scan` and :func:`layered_backward_scan` are time loops. Their plain forms are PyTorch's LSTM and GRU
  (:class:`zf_pyro.networks.BackwardRNN` and ``LayeredBackwardRNN``).
- :func:`prior_scan` and :func:`auxiliary_scan` take the states of all steps. Their plain forms are the step functions
  over all steps at once.

A loop sums each weight gradient over many steps at a time instead of step by step. The engine takes sequences
(time, rows, features), where rows are all batch dimensions in one: sequences times particles.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks import (
    MLP,
    BackwardRNN,
    Drive,
    ForwardRNN,
    GatedCell,
    LayeredBackwardRNN,
    PosteriorScan,
    Recurrence,
    State,
    fused_drive,
    in_gate_order,
    input_weights,
    loc_scale,
    turned,
)
from .engine.backward_loop import BackwardLoop
from .engine.buffers import Arena
from .engine.gru import GRULoop
from .engine.heads import DensityHead, ParameterHead
from .engine.latent_loop import LatentLoop
from .engine.loops import PosteriorLoop, StateLoop


def posterior_scan(
    posterior: MLP, cell: GatedCell, state: State, drive: Drive, contexts: Tensor, noise: Tensor, arena: Arena
) -> PosteriorScan:
    """Sample z_1..z_T from the posterior and run the recurrence with them.

    Args:
        posterior: the network of q; h_{t-1} is its first input.
        cell: the transition.
        state: h_0; (..., hidden).
        drive: the input part of the gates, from u; (time, ..., in), broadcast over the leading dimensions of the state.
        contexts: the part of b in the posterior's hidden layer, ``posterior.rest``; (time, ..., mlp), broadcast too.
        noise: standard normal samples; (time, ..., latent).
        arena: memory for the loop's buffers.
    """
    _check_steps(u=drive.v, b=contexts, noise=noise)
    batch_shape = state.hidden.shape[:-1]
    start = [field.reshape(-1, field.shape[-1]) for field in state]
    v, *gate_weights = cell.normalised(drive)
    sequences = (_rows(sequence, batch_shape) for sequence in (v, contexts, noise))
    weights = (*posterior.loop_weights(), *cell.modulation_weights(), cell.hidden_weights.weight, *gate_weights)
    outputs = PosteriorLoop.apply(arena, *start, *sequences, *weights)
    shaped = (output.view(output.shape[0], *batch_shape, output.shape[2]) for output in outputs)
    h, before, after, c, z, parameters = shaped
    pairs = State(before, c[:-1]), State(after, c[1:])
    return PosteriorScan(z, State(h, c), *pairs, *loc_scale(parameters))


def state_scan(cell: GatedCell, state: State, drive: Drive, modulation: Tensor | None, arena: Arena) -> State:
    """Return h_0..h_T for known latents.

    Args:
        cell: the transition.
        state: h_0; (..., hidden).
        drive: as for :func:`posterior_scan`.
        modulation: ``cell.modulation`` of z, column-major; (time, ..., modulation, batch). None if the drive has it.
        arena: memory for the loop's buffers.
    """
    latent_shape = drive.v.shape[1:-1]
    if modulation is not None:
        _check_steps(u=drive.v, z=modulation)
        latent_shape = modulation.shape[1:-2] + modulation.shape[-1:]
    batch_shape = torch.broadcast_shapes(state.hidden.shape[:-1], latent_shape)
    start = [_rows(field.unsqueeze(0), batch_shape).squeeze(0) for field in state]
    v, *gate_weights = cell.normalised(drive)
    latents = None if modulation is None else _columns(modulation, batch_shape)
    outputs = StateLoop.apply(arena, *start, _rows(v, batch_shape), latents, cell.hidden_weights.weight, *gate_weights)
    return State(*(output.view(output.shape[0], *batch_shape, output.shape[2]) for output in outputs))


def latent_scan(
    posterior: MLP, z: Tensor, contexts: Tensor, noise: Tensor, arena: Arena, added: tuple[MLP, Tensor] | None = None
) -> PosteriorScan:
    """Sample z_1..z_T from a posterior of z_{t-1} and of what is known before the loop.

    Args:
        posterior: the network of q; z_{t-1} is its first input.
        z: z_0; (..., latent).
        contexts: the part of the posterior's hidden layer beside z_{t-1}; (time, ..., mlp), broadcast over the leading
            dimensions of the noise.
        noise: standard normal samples; (time, ..., latent).
        arena: memory for the loop's buffers.
        added: a network whose first outputs are added to q's mean, and its contexts.

    Returns:
        The scan, whose states hold the latents alone.
    """
    _check_steps(b=contexts, noise=noise)
    batch_shape, latent_dim = noise.shape[1:-1], noise.shape[-1]
    tensors = [_rows(z.unsqueeze(0), batch_shape).squeeze(0), _rows(noise, batch_shape)]
    tensors += [_rows(contexts, batch_shape), *posterior.loop_weights()]
    if added is not None:
        first, second, bias = added[0].loop_weights()
        tensors += [_rows(added[1], batch_shape), first, second[:latent_dim], bias[:latent_dim]]
    outputs = LatentLoop.apply(arena, *tensors)
    whole, before, after, parameters = (output.view(len(output), *batch_shape, output.shape[2]) for output in outputs)
    states, early, late = (State(field, field[..., :0]) for field in (whole, before, after))
    return PosteriorScan(after, states, early, late, *loc_scale(parameters))


def recurrence_scan(network: Recurrence, state: State, embedding: nn.Sequential, frames: Tensor, arena: Arena) -> State:
    """Return the states h_1..h_T of a recurrence without latents; each field (time, ..., layers x hidden).

    Args:
        network: the recurrence.
        state: h_0; each field (..., layers x hidden).
        embedding: of frames, into the inputs of the recurrence.
        frames: (time, ..., *frame).
        arena: memory for the loop's buffers.
    """
    found: list[State] = []
    for layer, h, c in zip(network.layers, *map(network.split, state), strict=True):
        read, own = input_weights(layer), network.kind == "gru" and frames.device.type != "cpu"  # cuDNN's is faster
        if found or own:
            drive = Drive(found[-1].hidden if found else embedding(frames), *read)
        else:
            drive = fused_drive(embedding, frames, *read)
        batch_shape = torch.broadcast_shapes(drive.v.shape[1:-1], h.shape[:-1])
        start = [_rows(field.unsqueeze(0), batch_shape).squeeze(0) for field in (h, c)]
        v, weight = _rows(drive.v, batch_shape), layer.get_parameter("weight_hh_l0")
        if own:
            states = State(layer(v, start[0].unsqueeze(0))[0], start[1])
        elif network.kind == "gru":
            given = F.linear(v, drive.weight, drive.bias)
            states = State(GRULoop.apply(start[0], given, weight, layer.get_parameter("bias_hh_l0")), start[1])
        else:
            weights = in_gate_order(weight, drive.weight, drive.bias)
            states = State(*(field[1:] for field in StateLoop.apply(arena, *start, v, None, *weights)))
        shapes = ((len(v), *batch_shape, field.shape[-1]) for field in states)
        fields = zip(states, shapes, strict=True)
        found.append(State(*(field.expand(len(v), -1, -1).view(shape) for field, shape in fields)))
    return State(*(torch.cat(field, dim=-1) if len(field) > 1 else field[0] for field in zip(*found, strict=True)))


def layered_backward_scan(
    network: LayeredBackwardRNN, embedding: nn.Sequential, frames: Tensor, lengths: Tensor | None, arena: Arena
) -> Tensor:
    """Return b_1..b_T, (time, batch, hidden); the plain form is ``network`` itself.

    Args:
        network: the backward RNN.
        embedding: of frames.
        frames: (time, batch, *frame).
        lengths: real frames of each sequence, (batch,); None if all are.
        arena: memory for the loop's buffers.
    """
    recurrence, zeros = network.recurrence, next(network.parameters()).new_zeros
    flat = frames.reshape(*frames.shape[:2], -1)
    turned_frames = turned(flat, lengths).view(frames.shape)
    start = State(*(zeros(frames.shape[1], size) for size in recurrence.sizes))
    states = recurrence_scan(recurrence, start, embedding, turned_frames, arena)
    return turned(recurrence.top(states.hidden), lengths)


def backward_scan(network: BackwardRNN | ForwardRNN, drive: Drive, mask: Tensor | None, arena: Arena) -> Tensor:
    """Return b_1..b_T, (time, batch, hidden); the plain form is ``network`` itself. One that runs forwards reads frames
    in reverse, and its states are reversed.

    Args:
        network: the owner of the weights.
        drive: the input part of the gates, from x; (time, batch, in).
        mask: True on real frames, (time, batch); None if all are. Beyond them b is zero.
        arena: memory for the loop's buffers.
    """
    numbers = None if mask is None else mask.to(drive.v.dtype)
    return BackwardLoop.apply(arena, numbers, drive.v, *network.gate_weights(drive))


def auxiliary_scan(network: MLP, z: Tensor, hidden: Tensor, b: Tensor, arena: Arena) -> Tensor:
    """Return log p_xi(b_t | z_t [, h_{t-1}]) at every step, (time, ...) nats.

    The plain form is :meth:`zf_pyro.ZForcing.auxiliary`.

    Args:
        network: the auxiliary network; it reads z, or z and h.
        z: latents; (time, ..., latent).
        hidden: h_0..h_{T-1}; (time, ..., hidden).
        b: targets, which get no gradient; (time, ..., hidden), broadcast to the batch dimensions of z.
        arena: memory for the loop's buffers.
    """
    _check_steps(z=z, before=hidden, b=b)
    batch_shape = z.shape[1:-1]
    inputs = (z, hidden)[: len(network.in_dims)]
    sequences = (_rows(sequence, batch_shape) for sequence in inputs)
    return DensityHead.apply(arena, _rows(b, batch_shape), *network.weights(), *sequences).view(-1, *batch_shape)


def prior_scan(network: MLP, hidden: Tensor, arena: Arena) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of p(z_t | h_{t-1}) at every step, each (time, ..., latent).

    The plain form is :meth:`zf_pyro.ZForcing.prior`.

    Args:
        network: the prior network, or another whose inputs are known at all steps.
        hidden: h_0..h_{T-1}, or its inputs side by side; (time, ..., hidden).
        arena: memory for the loop's buffers.
    """
    batch_shape = hidden.shape[1:-1]
    parameters = ParameterHead.apply(arena, *network.weights(), _rows(hidden, batch_shape))
    return loc_scale(parameters.view(-1, *batch_shape, parameters.shape[-1]))


def _check_steps(**sequences: Tensor) -> None:
    """Refuse sequences (time, ...) of different numbers of steps, of which a loop would read some again and again."""
    steps = {name: sequence.shape[0] for name, sequence in sequences.items()}
    if len(set(steps.values())) > 1:
        raise ValueError(f"all sequences of a scan must have the same number of steps, got {steps}")


def _rows(sequence: Tensor, batch_shape: torch.Size) -> Tensor:
    """Broadcast (time, ..., features) to the batch and reshape it to (time, rows, features)."""
    if sequence.dim() == 3 and sequence.shape[1:2] == batch_shape:
        return sequence  # no view: autograd could not add gradients in place that come through one
    missing = len(batch_shape) - (sequence.dim() - 2)
    sequence = sequence[(slice(None), *[None] * missing)].expand(-1, *batch_shape, -1)
    return sequence.reshape(sequence.shape[0], batch_shape.numel(), sequence.shape[-1])


def _columns(sequence: Tensor, batch_shape: torch.Size) -> Tensor:
    """Broadcast (time, ..., features, batch) to the batch and reshape it to (time, features, rows)."""
    missing = len(batch_shape) - (sequence.dim() - 2)
    sequence = sequence.movedim(-2, 1)[(slice(None), slice(None), *[None] * missing)]
    return sequence.expand(-1, -1, *batch_shape).reshape(sequence.shape[0], sequence.shape[1], -1).contiguous()
