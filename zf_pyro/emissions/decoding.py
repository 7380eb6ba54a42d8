"""Likeliest frames and tempered densities of the usual distributions."""

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent

from ..checks import require_number


def tempered(distribution: TorchDistribution, temperature: float) -> TorchDistribution:
    """The density to the power 1 / temperature, normalised.

    Logits are divided by the temperature, a Gaussian's variance is multiplied by it. Components and weights of a
    mixture are tempered separately, as is usual (Ha, Eck 2018, https://arxiv.org/abs/1704.03477, section 3.3), since
    the exact power is no mixture of the same form.

    Args:
        distribution: diagonal normals, mixtures of them, Bernoulli or categorical.
        temperature: above 0. 1 changes nothing, lower values favour likely frames.

    Raises:
        TypeError: another distribution.
    """
    if require_number("temperature", temperature, "above 0", 0.0, ends="(]") == 1.0:
        return distribution
    if isinstance(distribution, dist.MixtureSameFamily):
        components = tempered(distribution.component_distribution, temperature)
        return dist.MixtureSameFamily(tempered(distribution.mixture_distribution, temperature), components)
    base = _base(distribution)
    if type(base) is dist.Normal:  # a subclass may have another density
        made: TorchDistribution = dist.Normal(base.loc, base.scale * temperature**0.5)
    elif isinstance(base, dist.Bernoulli):
        made = dist.Bernoulli(logits=base.logits / temperature)
    elif isinstance(base, dist.Categorical):
        made = dist.Categorical(logits=base.logits / temperature)
    else:
        raise TypeError(
            "distribution must be a diagonal normal, a mixture of them, Bernoulli or categorical for a temperature "
            f"other than 1, got {_name(distribution)}: define tempered(distribution, temperature) in the emission"
        )
    return made.to_event(distribution.event_dim)


def most_likely(distribution: TorchDistribution) -> Tensor:
    """The frame of highest density; for a mixture the mean of its heaviest component.

    Args:
        distribution: any with a ``mode``, or a mixture.

    Returns:
        (*batch_shape, *event_shape).

    Raises:
        TypeError: a distribution without a mode.
    """
    if isinstance(distribution, dist.MixtureSameFamily):
        means = distribution.component_distribution.mean
        heaviest = distribution.mixture_distribution.logits.argmax(-1)
        inner = means.dim() - heaviest.dim() - 1
        return means.take_along_dim(heaviest[(..., *[None] * (inner + 1))], -1 - inner).squeeze(-1 - inner)
    base = _base(distribution)
    if isinstance(base, dist.Bernoulli):  # its own mode is NaN at a probability of one half
        return (base.logits > 0).to(base.logits.dtype)
    try:
        return distribution.mode
    except NotImplementedError as error:
        raise TypeError(
            f"distribution must have a mode, got {_name(distribution)}: define mode(distribution) in the emission"
        ) from error


def _base(distribution: TorchDistribution) -> TorchDistribution:
    """The distribution whose dimensions ``to_event`` turned into an event."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _name(distribution: TorchDistribution) -> str:
    return type(_base(distribution)).__name__
