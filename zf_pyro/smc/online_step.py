"""One step of a particle filter that goes on with time, as pure functions of tensors without branches on values.

The same functions run in :class:`.OnlineFilter` and in a step that :func:`zf_pyro.export_step` exports.
"""

import math
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent

from ..models import StochasticRNN
from ..networks import State, latent_of, proposed, sampled
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
    )


def of_particles(field: Tensor, index: Tensor) -> Tensor:
    """Elements of ``field`` (batch, particles, ...) at particles ``index`` (batch, chosen); (batch, chosen, ...)."""
    inner = field.dim() - 2
    shape = *index.shape, *field.shape[2:]
    return field.gather(1, index.reshape(*index.shape, *[1] * inner).expand(shape))


def advanced(
    net: StochasticRNN, particles: Particles, b_t: Tensor | None, guided: Tensor | None, noise: Tensor
) -> tuple[Tensor, State, Tensor]:
    """Propose z_t and move to h_t.

    Args:
        net: the model.
        particles: after resampling.
        b_t: what the guide reads, (batch, 1, backward); None where the prior proposes.
        guided: True for sequences whose latents the guide proposes, (batch,); all of them if None.
        noise: standard normal, (batch, particles, latent).

    Returns:
        z_t (batch, particles, latent), h_t, and log p(z_t) - log q(z_t) (batch, particles), zero under the prior.
    """
    past = net.past(particles.state, particles.u)
    prior = latent_of(net.prior(past), "prior", net.latent_dim)
    if b_t is None:
        z, ratio = sampled(prior, noise)[0], torch.zeros_like(noise[..., 0])
    else:
        z, ratio = proposed(prior, latent_of(net.posterior(past, b_t), "posterior", net.latent_dim), noise)
        if guided is not None:
            own = guided.unsqueeze(-1)
            z = torch.where(own.unsqueeze(-1), z, sampled(prior, noise)[0])
            ratio = torch.where(own, ratio, 0.0)
    return z, net.transition(past, particles.u, z), ratio


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


def seen_log_prob(distribution: TorchDistribution, x: Tensor, seen: Tensor | None) -> Tensor:
    """log p of the elements of a frame that were seen, (...) nats; see :func:`require_parts`.

    Args:
        distribution: of whole frames; batch shape (...).
        x: frames, with any valid value for unseen elements; (..., *frame).
        seen: True where an element was seen, of the shape of x or one that broadcasts with it; all if None.
    """
    if seen is None:
        return distribution.log_prob(x)
    rank = len(distribution.event_shape)
    if not factorises(distribution):
        return torch.where(seen.flatten(seen.dim() - rank).all(-1), distribution.log_prob(x), 0.0)
    elements = distribution.base_dist.log_prob(x) if rank else distribution.log_prob(x)
    found = torch.where(seen, elements, 0.0)
    return found.flatten(found.dim() - rank).sum(-1) if rank else found


def require_parts(distribution: TorchDistribution, seen: Tensor) -> None:
    """Refuse frames of which a part was seen, where the density of a part is not known.

    Args:
        distribution: of whole frames; batch shape (...).
        seen: True where an element was seen; (batch, *frame).

    Raises:
        TypeError: there are such frames, and elements are not independent.
    """
    parts = seen.reshape(len(seen), -1)
    if not factorises(distribution) and bool((parts.all(-1) != parts.any(-1)).any()):
        raise TypeError(
            f"observed must be one value per frame, (batch,), for {type(distribution).__name__}, whose elements depend "
            "on one another, got frames of which a part was seen: mark those frames as unseen, or use an emission of "
            "independent elements such as emissions.Gaussian"
        )


def factorises(distribution: TorchDistribution) -> bool:
    """Whether the elements of a frame are independent, so that the density of a part of them is a product."""
    if not distribution.event_shape:
        return True
    independent = isinstance(distribution, Independent)
    return independent and distribution.reinterpreted_batch_ndims == len(distribution.event_shape)
