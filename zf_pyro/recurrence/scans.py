"""Scans of a network over whole sequences: each runs the fast form if that is exact, else the plain one.

The functions here are the methods ``scan_posterior``, ``scan_states``, ``scan_backward``, ``scan_prior`` and
``scan_auxiliary`` of a network. All have gradients and run in the dtype of the network's weights.
"""

from typing import Protocol, cast

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from ..checks import int64
from ..networks import (
    MLP,
    BackwardRNN,
    Drive,
    GatedCell,
    LayeredBackwardRNN,
    PosteriorScan,
    State,
    StepFunctions,
    fused_drive,
    own_step_functions,
)
from .chunks import in_chunks
from .engine.buffers import LoopMemory
from .engine.fastest import compiles
from .fast import auxiliary_scan, backward_scan, layered_backward_scan, posterior_scan, prior_scan, state_scan
from .precision import in_full_precision
from .reference import reference_posterior_scan, reference_state_scan


class LoopingNetwork(StepFunctions, Protocol):
    """A network that chooses between fast loops and plain ones."""

    recurrence: str
    has_fast_loops: bool
    """Whether fast loops exist for its cell and number of layers."""


class BackwardNetwork(LoopingNetwork, Protocol):
    """A network with a backward RNN and an auxiliary that have fast forms."""

    embedding: nn.Sequential
    auxiliary_network: MLP
    auxiliary_l2: bool
    loop_memory: LoopMemory

    @property
    def backward_rnn(self) -> nn.Module:
        """The backward RNN; a :class:`.BackwardRNN` where ``parts_of`` says so."""
        ...


class PriorNetwork(LoopingNetwork, Protocol):
    """A network whose prior has a fast form."""

    loop_memory: LoopMemory

    @property
    def prior_network(self) -> nn.Module:
        """The network of the prior; an :class:`.MLP` where ``parts_of`` says so."""
        ...


class ScannedNetwork(BackwardNetwork, PriorNetwork, Protocol):
    """A network with the modules whose weights the fast forms of :class:`zf_pyro.ZForcing` read."""

    cell: GatedCell
    posterior_network: MLP
    latents_see_input: bool


@in_full_precision
def scan_posterior(net: ScannedNetwork, state: State, u: Tensor, b: Tensor, noise: Tensor) -> PosteriorScan:
    """Sample z_1..z_T from the posterior and run the recurrence with them.

    Args:
        net: the network.
        state: h_0; each field (..., hidden).
        u: raw input frames; (time, ..., *frame).
        b: backward states; (time, ..., hidden).
        noise: standard normal samples; (time, ..., latent).
    """
    if uses_plain_loop(net):
        return reference_posterior_scan(net.past, net.posterior, net.transition, state, u, b, noise)
    memory = net.loop_memory.forward
    if not net.latents_see_input:
        contexts = net.posterior_network.rest(b)
        return posterior_scan(net.posterior_network, net.cell, state, _drive(net, u), contexts, noise, memory)
    read = net.embedding(u)  # once: dropout gives the latents and the gates the same elements
    drive = _drive(net, u, read)
    contexts = net.posterior_network.rest(b, read)
    scan = posterior_scan(net.posterior_network, net.cell, state, drive, contexts, noise, memory)
    hidden = torch.cat([scan.before.hidden, _expanded(read, noise.shape[1:-1])], dim=-1)
    return scan._replace(before=scan.before._replace(hidden=hidden))


@in_full_precision
def scan_states(net: ScannedNetwork, state: State, u: Tensor, z: Tensor) -> State:
    """Return h_0..h_T for known latents.

    Args:
        net: the network.
        state: h_0; each field (..., hidden).
        u: raw input frames; (time, ..., *frame).
        z: latents; (time, ..., latent).

    Returns:
        Each field (time + 1, ..., hidden).
    """
    if uses_plain_loop(net):
        return reference_state_scan(net.past, net.transition, state, u, z)
    modulation = in_chunks(lambda z: net.cell.modulation(z).transpose(-1, -2), z)
    return state_scan(net.cell, state, _drive(net, u), modulation, net.loop_memory.forward)


@in_full_precision
def scan_backward(net: BackwardNetwork, x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Return the backward states b_1..b_T, (time, batch, hidden).

    Args:
        net: the network.
        x: frames; (time, batch, *frame).
        mask: True on real frames, (time, batch); None if all are.
        lengths: number of real frames of each sequence, (batch,); None if all are.
    """
    lengths = int64(lengths)
    network = net.backward_rnn
    known = isinstance(network, BackwardRNN | LayeredBackwardRNN)
    if not known or _reference(net) or x.device.type != "cpu" or not own_step_functions(net, "backward_states"):
        return network(net.embedding(x), lengths)
    if isinstance(network, LayeredBackwardRNN):
        return layered_backward_scan(network, net.embedding, x, lengths, net.loop_memory.backward)
    network = cast(BackwardRNN, network)
    return backward_scan(network, network.drive(net.embedding, x), mask, net.loop_memory.backward)


@in_full_precision
def scan_auxiliary(net: BackwardNetwork, z: Tensor, before: State, b: Tensor) -> Tensor:
    """Return log p_xi(b_t | z_t [, h_{t-1}]) at every step, (time, ...) nats.

    Args:
        net: the network.
        z: latents; (time, ..., latent).
        before: h_0..h_{T-1}; each field (time, ..., hidden).
        b: targets; (time, ..., hidden).
    """
    if has_fast_form(net, "auxiliary", z) and not net.auxiliary_l2:
        return auxiliary_scan(net.auxiliary_network, z, before.hidden, b, net.loop_memory.auxiliary)

    def log_prob(z: Tensor, hidden: Tensor, cell: Tensor, b: Tensor) -> Tensor:
        return net.auxiliary(z, State(hidden, cell)).log_prob(b)

    return in_chunks(log_prob, z, *before, b)


@in_full_precision
def scan_prior(net: PriorNetwork, before: State) -> TorchDistribution:
    """Return p(z_t | h_{t-1}) at every step; ``before`` is h_0..h_{T-1}, each field (time, ..., hidden)."""
    if has_fast_form(net, "prior", before.hidden):
        return Normal(*prior_scan(cast(MLP, net.prior_network), before.hidden, net.loop_memory.prior)).to_event(1)
    return net.prior(before)


def _expanded(sequence: Tensor, batch_shape: torch.Size) -> Tensor:
    """Expand (time, ..., features) to (time, *batch_shape, features)."""
    missing = len(batch_shape) - (sequence.dim() - 2)
    return sequence[(slice(None), *[None] * missing)].expand(-1, *batch_shape, -1)


def uses_plain_loop(net: LoopingNetwork) -> bool:
    """Tell whether loops must call the step functions: some are custom, or ``recurrence="reference"`` is set."""
    return _reference(net) or not own_step_functions(net, "past", "posterior", "transition")


def _drive(net: ScannedNetwork, u: Tensor, embedded: Tensor | None = None) -> Drive:
    """The input part of the gates; u (time, ..., *frame), and e(u) where it is known."""
    return fused_drive(net.embedding, u, net.cell.input_weights.weight, net.cell.input_weights.bias, embedded)


def has_fast_form(net: LoopingNetwork, step_function: str, like: Tensor) -> bool:
    """Tell whether a step function has a compiled form over whole sequences.

    Args:
        net: the network.
        step_function: its name, such as ``"prior"``.
        like: a sequence (time, ..., features) that it reads.
    """
    return own_step_functions(net, step_function) and not _reference(net) and compiles(like)


def _reference(net: LoopingNetwork) -> bool:
    return (
        net.recurrence == "reference" or not net.has_fast_loops or torch.jit.is_tracing()
    )  # torch.jit cannot trace the fast loops
