"""Distributions of latents, as step functions return them: diagonal normals, and autoregressive flows of them."""

from typing import cast

import torch
from pyro.distributions import Normal, TorchDistribution
from pyro.distributions.torch import Independent as PyroIndependent
from torch import Tensor
from torch.distributions import Independent
from torch.distributions import Normal as TorchNormal

from .flows import AutoregressiveFlow, noise_log_prob

Latent = TorchDistribution
"""A distribution that :func:`latent_of` has let pass: a diagonal normal as one event, or a flow of one."""


def latent_of(distribution: object, step_function: str, latent_dim: int, batch_shape: tuple[int, ...] = ()) -> Latent:
    """The result of a step function as a distribution of a latent.

    Loops, filters and diagnostics read means and deviations of a normal, and noise of a flow. Any other distribution
    with a ``loc`` and a ``scale`` would be sampled and scored as the normal with the same two.

    Args:
        distribution: the result.
        step_function: its name, ``"prior"`` or ``"posterior"``, for errors.
        latent_dim: size of z_t.
        batch_shape: batch shape that the result has at least, as one has that depends on all of the past.

    Raises:
        TypeError: it is neither a diagonal normal nor a flow of one.
        ValueError: it is of another size.
    """
    known = type(distribution) is AutoregressiveFlow
    if isinstance(distribution, Independent) and type(distribution) in (PyroIndependent, Independent):
        known = type(distribution.base_dist) in (Normal, TorchNormal) and distribution.reinterpreted_batch_ndims == 1
    if not known:
        raise TypeError(
            f"{step_function} must return dist.Normal(loc, scale).to_event(1), or zf_pyro.networks.AutoregressiveFlow "
            f"for a flow of it, got {_described(distribution)}, of which only loc and scale would count: return one of "
            "the two, or sample your distribution in Pyro programs of your own, made of the step functions"
        )
    latent = cast(Latent, distribution)
    if latent.event_shape != (latent_dim,):
        raise ValueError(
            f"{step_function} must return a distribution of latents of size {latent_dim}, got the event shape "
            f"{tuple(latent.event_shape)}: give loc and scale (..., {latent_dim})"
        )
    if latent.batch_shape != batch_shape and batch_shape:
        return latent.expand(torch.broadcast_shapes(latent.batch_shape, batch_shape))
    return latent


def _described(distribution: object) -> str:
    """A distribution by name, with that of its base."""
    base = getattr(distribution, "base_dist", None)
    if isinstance(distribution, Independent):
        return f"{type(base).__name__}(...).to_event({distribution.reinterpreted_batch_ndims})"
    if isinstance(distribution, type):
        return f"the class {distribution.__name__}"
    name = type(distribution).__name__
    if type(distribution) in (Normal, TorchNormal):
        return f"{name}(...) without to_event(1)"
    return name if base is None else f"{name} of {_described(base)}"


def base_of(latent: Latent) -> TorchNormal:
    """The normal that a latent is, or whose sample its flow takes; batch shape (..., latent)."""
    return latent.base if isinstance(latent, AutoregressiveFlow) else cast(Independent, latent).base_dist


def with_base(latent: Latent, loc: Tensor, scale: Tensor) -> Latent:
    """A latent of the same kind with another loc and scale, each (..., latent)."""
    if isinstance(latent, AutoregressiveFlow):
        return AutoregressiveFlow(loc, scale, latent.flows)
    return Normal(loc, scale).to_event(1)


def sampled(latent: Latent, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The sample of standard normal noise (..., latent), (..., latent), and its log-density in nats, (...)."""
    if isinstance(latent, AutoregressiveFlow):
        return latent.from_noise(noise)
    base = base_of(latent)
    return base.loc + base.scale * noise, noise_log_prob(base.scale, noise)


def noise_of(latent: Latent, value: Tensor) -> Tensor:
    """The standard normal noise whose sample is ``value`` (..., latent); (..., latent)."""
    if isinstance(latent, AutoregressiveFlow):
        return latent.to_noise(value)[0]
    base = base_of(latent)
    return (value - base.loc) / base.scale


def proposed(prior: Latent, posterior: Latent, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The sample z of q from noise (..., latent), (..., latent), and log p(z) - log q(z) in nats, (...)."""
    if isinstance(prior, AutoregressiveFlow) or isinstance(posterior, AutoregressiveFlow):
        z, log_q = sampled(posterior, noise)
        return z, prior.log_prob(z) - log_q
    p, q = base_of(prior), base_of(posterior)
    return normals_proposed((p.loc, p.scale), (q.loc, q.scale), noise)


def normals_proposed(
    prior: tuple[Tensor, Tensor], posterior: tuple[Tensor, Tensor], noise: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`proposed` of diagonal normals, each given by loc and scale (..., latent); noise (..., latent)."""
    (loc, scale), (q_loc, q_scale) = prior, posterior
    z = q_loc + q_scale * noise
    terms = (q_scale / scale).log() + 0.5 * (noise.square() - ((z - loc) / scale).square())
    return z, terms.sum(-1)
