"""Bounds on the log-likelihood of each sequence, and the likelihood that is left without what its latents say."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import require_count
from ..inference import ParticleFilter
from ..models import StochasticRNN
from ..networks import State, evaluating
from ..objectives import step_terms
from ..paths import real_frames, zero_padding
from ..recurrence import in_chunks
from .batching import Part, parts, replayed_paths, require_sequences


class Bounds(NamedTuple):
    """Lower bounds on log p(x), each (batch,) in nats, summed over the real steps of a sequence."""

    elbo: Tensor
    """The evidence lower bound, with the analytic KL, averaged over the particles."""
    importance_weighted: Tensor
    """log (1/K sum_k p(x, z_k) / q(z_k | x)) over K particles, by Burda et al. 2016
    (https://arxiv.org/abs/1509.00519): tighter, and tight as K grows."""
    kl: Tensor
    """KL(q || p) of all latents, averaged over the particles."""


@torch.no_grad()
def bounds(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    num_particles: int = 64,
    *,
    context: Tensor | None = None,
    batch_size: int = 64,
    chunk_particles: int = 8,
) -> Bounds:
    """Bounds on log p(x) under ``net`` in evaluation mode, one a sequence.

    Args:
        net: the net; left in the mode it was found in.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        num_particles: K, draws of the latents of each sequence.
        context: the frame before the first, given and not scored; (batch, frame) or (batch,).
        batch_size: sequences worked on at once.
        chunk_particles: draws worked on at once. With ``batch_size`` it bounds the memory, not the result.

    Raises:
        TypeError, ValueError: a count that is not a positive integer; or x, lengths or context that ``net`` refuses.
    """
    counts = {"num_particles": num_particles, "batch_size": batch_size, "chunk_particles": chunk_particles}
    for name, count in counts.items():
        require_count(name, count)
    require_sequences(net, x, lengths, context)
    rows, found = [], []
    with evaluating(net):
        for part in parts(x, lengths, context, batch_size):
            left, chunks = num_particles, []
            while left > 0:
                chunks.append(_particles(net, part, min(left, chunk_particles)))
                left -= chunk_particles
            log_weight, log_likelihood, kl = (torch.cat(field) for field in zip(*chunks, strict=True))
            tightest = log_weight.logsumexp(0) - math.log(num_particles)
            rows.append(part.rows)
            found.append(Bounds((log_likelihood - kl).mean(0), tightest, kl.mean(0)))
    back = torch.cat(rows).argsort()
    return Bounds(*(torch.cat(field)[back] for field in zip(*found, strict=True)))


@torch.no_grad()
def particle_bound(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    num_particles: int = 64,
    *,
    context: Tensor | None = None,
    batch_size: int = 64,
) -> Tensor:
    """log of the particle filter's estimate of p(x), a lower bound on log p(x) in expectation.

    Tighter than the importance-weighted bound where sequences are long, as particles that have gone astray are dropped
    on the way (Maddison et al. 2017, https://arxiv.org/abs/1705.09279).

    Args:
        net: the net; left in the mode it was found in.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        num_particles: K, of each sequence, drawn from the guide and resampled as
            :class:`zf_pyro.inference.ParticleFilter` does by default.
        context: the frame before the first, given and not scored; (batch, frame) or (batch,).
        batch_size: sequences filtered at once.

    Returns:
        (batch,) nats.

    Raises:
        TypeError, ValueError: a count that is not a positive integer; or x, lengths or context that ``net`` refuses.
        MemoryError: the particles do not fit.
    """
    require_count("num_particles", num_particles)
    require_count("batch_size", batch_size)
    require_sequences(net, x, lengths, context)
    particles = ParticleFilter(net, num_particles)
    result = torch.empty(len(x), dtype=net.emission_layer.weight.dtype, device=x.device)
    with evaluating(net):
        for part in parts(x, lengths, context, batch_size):
            result[part.rows] = particles.run(part.x, part.lengths, part.context).log_evidence
    return result


@torch.no_grad()
def prior_mean_log_likelihood(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    context: Tensor | None = None,
    batch_size: int = 64,
) -> Tensor:
    """sum_t log p(x_t | h_t) where each z_t is the mean of its prior p(z_t | h_{t-1}).

    What the net makes of the frames before, with nothing said by the latents: where it is no lower than the bounds,
    they are not used. No bound on log p(x) itself.

    Args:
        net: the net; left in the mode it was found in.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        context: the frame before the first, given and not scored; (batch, frame) or (batch,).
        batch_size: sequences worked on at once.

    Returns:
        (batch,) nats.

    Raises:
        TypeError, ValueError: a count that is not a positive integer; or x, lengths or context that ``net`` refuses.
    """
    require_count("batch_size", batch_size)
    require_sequences(net, x, lengths, context)
    result = torch.empty(len(x), dtype=net.emission_layer.weight.dtype, device=x.device)
    with evaluating(net):
        for part in parts(x, lengths, context, batch_size):
            result[part.rows] = _at_prior_means(net, part)
    return result


def _particles(net: StochasticRNN, part: Part, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x, z) - log q(z | x), log p(x | z) and the KL of ``count`` draws; each (count, batch)."""
    model, guide = replayed_paths(net, part, count)
    steps = step_terms(model, guide)
    log_weight = steps.log_likelihood + model.log_prob() - guide.log_prob()
    fields = torch.stack([log_weight, steps.log_likelihood, steps.kl])
    if guide.run.mask is not None:
        fields = fields.where(guide.run.mask.unsqueeze(1), 0.0)
    log_weight, log_likelihood, kl = fields.sum(1)
    return log_weight, log_likelihood, kl


def _at_prior_means(net: StochasticRNN, part: Part) -> Tensor:
    frames = (part.x.long() if net.emission_family.integer else part.x).transpose(0, 1)
    real = None if part.lengths is None else real_frames(part.lengths, len(frames))
    if real is not None:
        frames = zero_padding(frames, real)
    state, states = net.initial_state(part.x.shape[:1]), []
    for u_t in net.inputs(frames.transpose(0, 1), part.context).unbind(1):
        state = net.transition(state, u_t, net.prior(state).mean)
        states.append(state)
    hidden, cell = (torch.stack(field) for field in zip(*states, strict=True))
    if net.emission_family.integer:
        frames = frames.unsqueeze(-1)

    def log_prob(hidden: Tensor, cell: Tensor, x: Tensor) -> Tensor:
        x = x.squeeze(-1) if net.emission_family.integer else x
        return net.emission(State(hidden, cell)).log_prob(x)

    found = in_chunks(log_prob, hidden, cell, frames)
    return (found if real is None else found.where(real, 0.0)).sum(0)
