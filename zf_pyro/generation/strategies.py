"""Decoding strategies, p(x_t | h_t) to a frame: sampling, and the nucleus of symbols.

Temperature and likeliest frame belong to the emission (:class:`zf_pyro.emissions.Emission`).
"""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent

from ..checks import require_number


def drawn(distribution: TorchDistribution) -> Tensor:
    """A sample without gradients, (*batch_shape, *event). For normals without the copies that ``sample`` makes."""
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if type(base) is dist.Normal:  # a subclass may sample otherwise
        return torch.addcmul(base.loc, base.scale, torch.randn_like(base.scale)).detach()
    if not isinstance(base, torch.distributions.Distribution):
        raise TypeError(f"distribution must be a distribution, got {type(base).__name__}")
    return distribution.sample()


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
