"""Bounds on the log-likelihood of each sequence, and its log-likelihood with the latents at their prior means."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..checks import require_count
from ..data import progress_bar
from ..inference import ParticleFilter
from ..models import StochasticRNN, guided
from ..networks import State, evaluating, latent_of
from ..objectives import path_densities
from ..paths import RunInputs, prepare_inputs
from ..recurrence import in_chunks
from .batching import Part, parts, replayed_paths, require_given


class Bounds(NamedTuple):
    """Lower bounds on log p(x), each (batch,) in nats, summed over the real steps of a sequence."""

    elbo: Tensor
    """Evidence lower bound, averaged over the particles; with the analytic KL, unless the posterior is a flow."""
    importance_weighted: Tensor
    """log (1/K sum_k p(x, z_k) / q(z_k | x)) over K particles, by Burda et al. 2016
    (https://arxiv.org/abs/1509.00519): tighter than the ELBO, and tight as K grows."""
    kl: Tensor
    """KL(q || p) of all latents, averaged over the particles; of a flow, the mean of log q - log p at the samples."""


@torch.no_grad()
def bounds(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    num_particles: int = 64,
    *,
    guide: Callable[..., Any] | None = None,
    context: Tensor | None = None,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    batch_size: int = 64,
    chunk_particles: int = 8,
    progress: bool = False,
) -> Bounds:
    """Bounds on log p(x) of each sequence under ``net`` in evaluation mode.

    Args:
        net: the model; its mode is restored afterwards.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        num_particles: K, samples of the latents of each sequence.
        guide: ``net.guide``, or a guide of :func:`zf_pyro.inference.refine` for these sequences.
        context: the frame before the first, given and not scored; (batch, frame) or (batch,).
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``. What
            was not seen is not scored.
        batch_size: sequences processed at once.
        chunk_particles: samples processed at once. With ``batch_size`` it bounds the memory; it does not change the
            bounds.
        progress: whether to show a progress bar.

    Raises:
        TypeError, ValueError: a count that is not a positive integer; or x, lengths or context that ``net`` refuses.
    """
    num_particles, batch_size = require_count("num_particles", num_particles), require_count("batch_size", batch_size)
    chunk_particles, net = require_count("chunk_particles", chunk_particles), guided(net, guide, "bounds")
    given = require_given(net, x, lengths, context, covariates=covariates, observed=observed)
    x, lengths, covariates, observed = given
    rows, found = [], []
    with evaluating(net), progress_bar("bounds", "sequence", len(x), progress) as bar:
        for part in parts(x, lengths, context, batch_size, covariates=covariates, observed=observed):
            left, chunks, b = num_particles, [], None
            while left > 0:
                sums, b = _particles(net, part, min(left, chunk_particles), b)
                chunks.append(sums)
                left -= chunk_particles
            log_weight, log_likelihood, kl = torch.cat(chunks, dim=1)
            tightest = log_weight.logsumexp(0) - math.log(num_particles)
            rows.append(part.rows)
            found.append(Bounds((log_likelihood - kl).mean(0), tightest, kl.mean(0)))
            bar.update(len(part.rows))
    back = torch.cat(rows).argsort()
    return Bounds(*(torch.cat(field)[back] for field in zip(*found, strict=True)))


@torch.no_grad()
def particle_bound(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    num_particles: int = 64,
    *,
    guide: Callable[..., Any] | None = None,
    context: Tensor | None = None,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Tensor:
    """Log of the particle filter's estimate of p(x), a lower bound on log p(x) in expectation.

    Tighter than the importance-weighted bound for long sequences, since particles of low weight are dropped at each
    resampling (Maddison et al. 2017, https://arxiv.org/abs/1705.09279).

    Args:
        net: the model; its mode is restored afterwards.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        num_particles: K particles of each sequence, with the guide as proposal and the default resampling of
            :class:`zf_pyro.inference.ParticleFilter`.
        guide: ``net.guide``, or a guide of :func:`zf_pyro.inference.refine` for these sequences.
        context: the frame before the first, given and not scored; (batch, frame) or (batch,).
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``. What
            was not seen is not scored.
        batch_size: sequences filtered at once.
        progress: whether to show a progress bar.

    Returns:
        (batch,) nats.

    Raises:
        TypeError, ValueError: a count that is not a positive integer; or x, lengths or context that ``net`` refuses.
        MemoryError: the particles do not fit.
    """
    num_particles = require_count("num_particles", num_particles)
    batch_size = require_count("batch_size", batch_size)
    given = require_given(net, x, lengths, context, covariates=covariates, observed=observed)
    x, lengths, covariates, observed = given
    particles = ParticleFilter(net, num_particles, guide=guide)
    result = torch.empty(len(x), dtype=net.emission_layer.weight.dtype, device=x.device)
    with evaluating(net), progress_bar("particle bound", "sequence", len(x), progress) as bar:
        for part in parts(x, lengths, context, batch_size, covariates=covariates, observed=observed):
            result[part.rows] = particles.run(part.x, part.lengths, part.context, **part.named).log_evidence
            bar.update(len(part.rows))
    return result


@torch.no_grad()
def prior_mean_log_likelihood(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    context: Tensor | None = None,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Tensor:
    """sum_t log p(x_t | h_t) where each z_t is the mean of its prior p(z_t | h_{t-1}).

    The model then predicts from the earlier frames alone. Where this is no lower than the bounds, the latents are not
    used. It is no bound on log p(x) itself.

    Args:
        net: the model; its mode is restored afterwards.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        context: the frame before the first, given and not scored; (batch, frame) or (batch,).
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``. What
            was not seen is not scored.
        batch_size: sequences processed at once.
        progress: whether to show a progress bar.

    Returns:
        (batch,) nats.

    Raises:
        TypeError, ValueError: a count that is not a positive integer; or x, lengths or context that ``net`` refuses.
    """
    batch_size = require_count("batch_size", batch_size)
    given = require_given(net, x, lengths, context, covariates=covariates, observed=observed)
    x, lengths, covariates, observed = given
    result = torch.empty(len(x), dtype=net.emission_layer.weight.dtype, device=x.device)
    with evaluating(net), progress_bar("prior means", "sequence", len(x), progress) as bar:
        for part in parts(x, lengths, context, batch_size, covariates=covariates, observed=observed):
            run = prepare_inputs(net, part.x, part.lengths, part.context, None, **part.named)
            steps = prior_mean_steps(net, run)
            result[part.rows] = (steps if run.mask is None else steps.where(run.mask, 0.0)).sum(0)
            bar.update(len(part.rows))
    return result


def prior_mean_steps(net: StochasticRNN, run: RunInputs) -> Tensor:
    """log p(x_t | h_t) at every step of a run with frames, where each z_t is its prior mean; (time, batch) nats."""
    frames, state, states = cast(Tensor, run.x), run.initial_state, []
    for u_t in cast(Tensor, run.u).unbind(0):
        past = net.past(state, u_t)
        state = net.transition(past, u_t, latent_of(net.prior(past), "prior", net.latent_dim).mean)
        states.append(state)
    hidden, cell = (torch.stack(field) for field in zip(*states, strict=True))
    scalar = not net.emission_family.event_shape  # a dimension to cut along beside time and batch
    if scalar:
        frames = frames.unsqueeze(-1)

    def log_prob(hidden: Tensor, cell: Tensor, x: Tensor, seen: Tensor | None = None) -> Tensor:
        x = x.squeeze(-1) if scalar else x
        return net.emission_family.log_prob(net.emission(State(hidden, cell)), x, seen)

    return in_chunks(log_prob, hidden, cell, frames, *(() if run.seen is None else (run.seen,)))


def _particles(net: StochasticRNN, part: Part, count: int, b: Tensor | None) -> tuple[Tensor, Tensor]:
    """log p(x, z) - log q(z | x), log p(x | z) and the KL of samples, (3, count, batch); and the backward states."""
    model, guide = replayed_paths(net, part, count, b)
    found, kl = path_densities(model, guide), guide.kl(model)
    if guide.run.mask is not None:
        kl = kl.where(guide.run.mask.unsqueeze(1), 0.0)
    return torch.stack([found.log_weight, found.frames, kl.sum(0)]), guide.b
