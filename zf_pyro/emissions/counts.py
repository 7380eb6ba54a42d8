"""Emissions of counts: Poisson and negative binomial frames. Counts are floats, as Pyro's distributions take them."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from .families import Frames
from .marginals import scarce


@dataclass(frozen=True)
class _Counts(Frames):
    """Frames of counts from 0."""

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.nonnegative_integer, 1)

    @property
    def values(self) -> str:
        return "whole numbers from 0"

    def valid(self, x: Tensor) -> Tensor:
        return ((x >= 0) & (x == x.round()) & x.isfinite()).all(-1)


@dataclass(frozen=True)
class Poisson(_Counts):
    """Independent Poisson counts: parameters are the log-rates.

    p(x) = rate^x exp(-rate) / x!
    """

    @property
    def num_parameters(self) -> int:
        return self.frame_dim

    def distribution(self, parameters: Tensor) -> TorchDistribution:
        return dist.Poisson(parameters.exp()).to_event(1)

    def marginal_parameters(self, frames: Tensor) -> Tensor:
        return scarce(frames).log()


@dataclass(frozen=True)
class NegativeBinomial(_Counts):
    """Independent negative binomial counts, of larger variance than Poisson ones: log-means, then log-dispersions.

    With mean m and dispersion r, the variance is m + m^2 / r, and

        p(x) = Gamma(x + r) / (x! Gamma(r)) (r / (r + m))^r (m / (r + m))^x

    Cameron, Trivedi, Regression Analysis of Count Data, 2013, section 3.3.1 (NB2).
    """

    @property
    def num_parameters(self) -> int:
        return 2 * self.frame_dim

    def distribution(self, parameters: Tensor) -> TorchDistribution:
        log_mean, log_dispersion = parameters.chunk(2, dim=-1)
        # Pyro's logits are those of a success; their odds are m / r.
        return dist.NegativeBinomial(log_dispersion.exp(), logits=log_mean - log_dispersion).to_event(1)

    def mode(self, distribution: TorchDistribution) -> Tensor:
        """floor(m (r - 1) / r) where r > 1, else 0."""
        base = distribution.base_dist
        return (base.mean * (base.total_count - 1.0) / base.total_count).clamp(min=0.0).floor()

    def marginal_parameters(self, frames: Tensor) -> Tensor:
        """Moments of frames (frames, frame): m is the mean, and r = m^2 / (variance - m), at most 100 m."""
        mean = scarce(frames)
        excess = frames.var(0, correction=0) - mean
        dispersion = mean.square() / excess.clamp(min=0.0).maximum(mean / 100.0)
        return torch.cat([mean.log(), dispersion.log()])
