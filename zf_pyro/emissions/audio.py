"""Emissions of raw audio, whose samples take one of a few thousand values: densities are probabilities of these."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ..checks import require_count
from .families import Frames
from .levels import DiscretizedLogistics, Levels, MuLawCells, mu_law_cell
from .marginals import most_probable, spread

MOST_BITS = 24
"""Float32 has 24 bits of precision, so more levels in [-1, 1] could not be told apart."""


@dataclass(frozen=True)
class DiscretizedLogisticMixture(Frames):
    """Samples on 2^bits levels from -1 to 1, each a mixture of logistic densities integrated over its level's cell.

        P(x) = sum_k pi_k [sigma((x + d / 2 - mu_k) / s_k) - sigma((x - d / 2 - mu_k) / s_k)]

    with d the distance of two levels; the cells of the two outermost levels reach to infinity. Salimans et al. 2017,
    https://arxiv.org/abs/1701.05517, section 2.1. Parameters: of each sample K logits, K means and K log-scales.
    Probabilities are in nats per sample; divided by log 2 they are bits.
    """

    num_components: int
    """Number of logistic densities per sample."""
    bits: int
    """Bits of a sample; level k of 2^bits is the value 2 k / (2^bits - 1) - 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "num_components", require_count("num_components", self.num_components))
        bits = require_count("bits", self.bits)
        if bits > MOST_BITS:
            raise ValueError(f"bits must be at most {MOST_BITS}, the precision of float32, got {bits}")
        object.__setattr__(self, "bits", bits)

    @property
    def num_parameters(self) -> int:
        return 3 * self.num_components * self.frame_dim

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(Levels(self.bits), 1)

    @property
    def values(self) -> str:
        return f"values on the {2**self.bits} levels from -1 to 1"

    def valid(self, x: Tensor) -> Tensor:
        return Levels(self.bits).check(x).all(-1)

    def distribution(self, parameters: Tensor) -> TorchDistribution:
        shape = (3, self.frame_dim, self.num_components)
        logits, means, log_scales = parameters.unflatten(-1, shape).unbind(-3)
        return DiscretizedLogistics(logits, means, log_scales, self.bits).to_event(1)

    def mode(self, distribution: TorchDistribution) -> Tensor:
        """The level nearest to the mean of the heaviest logistic density."""
        return distribution.base_dist.heaviest()

    def tempered(self, distribution: TorchDistribution, temperature: float) -> TorchDistribution:
        """Weights tempered, and scales multiplied by the square root of the temperature."""
        base = distribution.base_dist
        scales = base.log_scales + 0.5 * math.log(temperature)
        return DiscretizedLogistics(base.logits / temperature, base.means, scales, self.bits).to_event(1)

    def marginal_parameters(self, frames: Tensor) -> Tensor:
        """The most probable mixture for frames (frames, frame), from means at equally probable quantiles."""
        places = (torch.arange(self.num_components, dtype=frames.dtype) + 0.5) / self.num_components
        means = torch.stack([part.quantile(places) for part in frames.unbind(-1)])
        scale = (spread(frames) * 3.0).sqrt() / math.pi  # a logistic density of scale s has variance (pi s)^2 / 3
        log_scales = (scale / self.num_components).clamp(min=2.0**-self.bits).log()
        start = torch.stack([torch.zeros_like(means), means, log_scales.unsqueeze(-1).expand_as(means)]).flatten()
        return most_probable(self.distribution, frames, start)

    def parameter_units(self, parameters: Tensor) -> Tensor:
        """Each logistic density's scale for its mean; parameters (num_parameters,)."""
        units = torch.ones_like(parameters).view(3, self.frame_dim, self.num_components)
        units[1] = parameters.view_as(units)[2].exp()
        return units.flatten()


@dataclass(frozen=True)
class MuLaw(Frames):
    """Samples from -1 to 1 in ``levels`` cells that are narrow near 0, as a categorical distribution per sample.

        cell(x) = floor((f(x) + 1) / 2 * levels),   f(x) = sign(x) log(1 + mu |x|) / log(1 + mu),   mu = levels - 1

    ITU-T G.711; van den Oord et al. 2016, https://arxiv.org/abs/1609.03499, section 2.2. The density of a sample is the
    probability of its cell, so nats per sample divided by log 2 are bits. A sampled frame has the cells' centres.
    """

    levels: int = 256
    """Number of cells."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "levels", require_count("levels", self.levels, least=2))

    @property
    def num_parameters(self) -> int:
        return self.frame_dim * self.levels

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.interval(-1.0, 1.0), 1)

    @property
    def has_units(self) -> bool:
        return False

    @property
    def values(self) -> str:
        return "values from -1 to 1"

    def valid(self, x: Tensor) -> Tensor:
        return (x.abs() <= 1.0).all(-1)

    def distribution(self, parameters: Tensor) -> TorchDistribution:
        return MuLawCells(parameters.unflatten(-1, (self.frame_dim, self.levels))).to_event(1)

    def mode(self, distribution: TorchDistribution) -> Tensor:
        return distribution.base_dist.heaviest()

    def tempered(self, distribution: TorchDistribution, temperature: float) -> TorchDistribution:
        return MuLawCells(distribution.base_dist.logits / temperature).to_event(1)

    def marginal_parameters(self, frames: Tensor) -> Tensor:
        counts = F.one_hot(mu_law_cell(frames, self.levels), self.levels).to(frames.dtype)
        return (counts.sum(0) + 0.5).log().flatten()
