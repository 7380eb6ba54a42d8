"""Decoding strategies, p(x_t | h_t) to a frame: sampling, temperature, nucleus, or the likeliest frame."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent

from ..checks import require_number


def drawn(distribution: TorchDistribution) -> Tensor:
    """A sample without gradients, (*batch_shape, *event). For normals without the copies that ``sample`` makes."""
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if isinstance(base, dist.Normal):
        return torch.addcmul(base.loc, base.scale, torch.randn_like(base.scale)).detach()
    if not isinstance(base, torch.distributions.Distribution):
        raise TypeError(f"distribution must be a distribution, got {type(base).__name__}")
    return distribution.sample()


def tempered(distribution: TorchDistribution, temperature: float) -> TorchDistribution:
    """The density to the power 1 / temperature, normalised.

    Logits are divided by the temperature, a Gaussian's variance is multiplied by it. Components and weights of a
    mixture are tempered separately, as is usual (Ha, Eck 2018, https://arxiv.org/abs/1704.03477, section 3.3), since
    the exact power is no mixture of the same form.

    Args:
        distribution: of :mod:`zf_pyro.emissions`: diagonal normals, mixtures of them, Bernoulli or categorical.
        temperature: above 0. 1 changes nothing, lower values favour likely frames.

    Raises:
        TypeError: another distribution.
    """
    if require_number("temperature", temperature, "above 0", 0.0, ends="(]") == 1.0:
        return distribution
    if isinstance(distribution, dist.MixtureSameFamily):
        components = tempered(distribution.component_distribution, temperature)
        return dist.MixtureSameFamily(tempered(distribution.mixture_distribution, temperature), components)
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if isinstance(base, dist.Normal):
        made: TorchDistribution = dist.Normal(base.loc, base.scale * temperature**0.5)
    elif isinstance(base, dist.Bernoulli):
        made = dist.Bernoulli(logits=base.logits / temperature)
    elif isinstance(base, dist.Categorical):
        made = dist.Categorical(logits=base.logits / temperature)
    else:
        raise _unknown(distribution)
    return made.to_event(distribution.event_dim)


def nucleus(distribution: TorchDistribution, top_p: float) -> TorchDistribution:
    """The likeliest symbols with a total probability of at least ``top_p``, normalised.

    Holtzman et al. 2020, https://arxiv.org/abs/1904.09751, section 3.1.

    Args:
        distribution: categorical.
        top_p: in (0, 1]. The likeliest symbol is always kept.

    Raises:
        ValueError: the distribution is not over symbols.
    """
    if not isinstance(distribution, dist.Categorical):
        raise ValueError(
            f"top_p is for symbols (emissions.Categorical): leave it out for {type(distribution).__name__}"
        )
    if require_number("top_p", top_p, "a probability in (0, 1]", 0.0, 1.0, "(]") == 1.0:
        return distribution
    ordered, order = distribution.probs.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before < top_p)
    return dist.Categorical(logits=distribution.logits.masked_fill(~kept, -torch.inf), validate_args=False)


def most_likely(distribution: TorchDistribution) -> Tensor:
    """The frame of highest density; for a mixture the mean of its heaviest component.

    Args:
        distribution: as for :func:`tempered`.

    Returns:
        (*batch_shape, *event_shape).

    Raises:
        TypeError: another distribution.
    """
    if isinstance(distribution, dist.MixtureSameFamily):
        means = distribution.component_distribution.mean
        heaviest = distribution.mixture_distribution.logits.argmax(-1)
        return means.take_along_dim(heaviest[..., None, None], -2).squeeze(-2)
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if isinstance(base, dist.Normal):
        return base.loc
    if isinstance(base, dist.Bernoulli):
        return (base.logits > 0).to(base.logits.dtype)
    if isinstance(base, dist.Categorical):
        return base.logits.argmax(-1)
    raise _unknown(distribution)


def _unknown(distribution: TorchDistribution) -> TypeError:
    return TypeError(
        "distribution must be a diagonal normal, a mixture of them, Bernoulli or categorical, "
        f"got {type(distribution).__name__}"
    )
