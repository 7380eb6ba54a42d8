"""One step of a particle filter that goes on with time, as pure functions of tensors without branches on values.

The same functions run in :class:`.OnlineFilter` and in a step that :func:`zf_pyro.export_step` exports.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..models import StochasticRNN
from ..networks import State, joined, latent_of, proposed, sampled
from .filter import FilterSettings
from .resampling import SCHEMES, effective_sample_size


class Particles(NamedTuple):
    """Weighted particles of several sequences after a frame."""

    state: State
    """h_t; each field (batch, particles, hidden)."""
    u: Tensor
    """x_t, the next input: (batch, 1, *frame), or (batch, particles, *frame) where particles differ in unseen
    elements."""
    log_weights: Tensor
    """Normalised, (batch, particles) nats."""
    flags: Tensor
    """True for parts of x_t that were seen, as networks of ``missing="fill"`` read; (batch, 1, flags), others 0."""


def resampled(particles: Particles, frames: Tensor, uniforms: Tensor, settings: FilterSettings) -> Particles:
    """Particles after resampling the sequences whose effective sample size is below the threshold.

    Args:
        particles: after the frame before.
        frames: frames taken in so far, (batch,). Before the first there is nothing to resample.
        uniforms: in [0, 1), (batch, particles).
        settings: the filter's settings.
    """
    log_weights = particles.log_weights
    count = log_weights.shape[-1]
    poor = (effective_sample_size(log_weights, dim=-1) < settings.threshold * count) & (frames > 0)
    everyone = torch.arange(count, device=log_weights.device).expand(log_weights.shape)
    chosen = SCHEMES[settings.resampling](log_weights, uniforms)
    ancestors = torch.where(poor.unsqueeze(-1), chosen, everyone)
    return Particles(
        State(*(of_particles(field, ancestors) for field in particles.state)),
        of_particles(particles.u, ancestors) if particles.u.shape[1] > 1 else particles.u,
        torch.where(poor.unsqueeze(-1), -math.log(count), log_weights),
        particles.flags,
    )


def of_particles(field: Tensor, index: Tensor) -> Tensor:
    """Elements of ``field`` (batch, particles, ...) at particles ``index`` (batch, chosen); (batch, chosen, ...)."""
    inner = field.dim() - 2
    shape = *index.shape, *field.shape[2:]
    return field.gather(1, index.reshape(*index.shape, *[1] * inner).expand(shape))


def advanced(
    net: StochasticRNN,
    particles: Particles,
    covariates_t: Tensor | None,
    b_t: Tensor | None,
    guided: Tensor | None,
    noise: Tensor,
) -> tuple[Tensor, State, Tensor]:
    """Propose z_t and move to h_t.

    Args:
        net: the model.
        particles: after resampling.
        covariates_t: c_t, (batch, covariates); None for a model without.
        b_t: what the guide reads, (batch, 1, backward); None where the prior proposes.
        guided: True for sequences whose latents the guide proposes, (batch,); all of them if None.
        noise: standard normal, (batch, particles, latent).

    Returns:
        z_t (batch, particles, latent), h_t, and log p(z_t) - log q(z_t) (batch, particles), zero under the prior.
    """
    known = None if covariates_t is None else covariates_t.unsqueeze(1)
    u_t = joined(net, particles.u, known, particles.flags if net.flag_dim else None)
    past = net.past(particles.state, u_t)
    prior = latent_of(net.prior(past), "prior", net.latent_dim)
    if b_t is None:
        z, ratio = sampled(prior, noise)[0], torch.zeros_like(noise[..., 0])
    else:
        z, ratio = proposed(prior, latent_of(net.posterior(past, b_t), "posterior", net.latent_dim), noise)
        if guided is not None:
            own = guided.unsqueeze(-1)
            z = torch.where(own.unsqueeze(-1), z, sampled(prior, noise)[0])
            ratio = torch.where(own, ratio, 0.0)
    return z, net.transition(past, u_t, z), ratio


def weighed(log_weights: Tensor, log_likelihood: Tensor, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised log-weights after a frame, (batch, particles), and log p(x_t | x_1..x_{t-1}), (batch,) nats.

    Args:
        log_weights: normalised, before the frame; (batch, particles).
        log_likelihood: log p(x_t | h_t), of the elements seen; (batch, particles).
        log_ratio: log p(z_t) - log q(z_t); (batch, particles).
    """
    log_joint = log_weights + log_likelihood + log_ratio
    increment = log_joint.logsumexp(-1)
    return log_joint - increment.unsqueeze(-1), increment
