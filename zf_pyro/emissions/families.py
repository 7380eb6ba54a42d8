"""The emissions of this package."""

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..checks import require_count
from .family import Emission
from .marginals import log_odds, most_probable, slices, spread


@dataclass(frozen=True)
class Frames(Emission):
    """Frames of floats, embedded by a linear layer. The first input is a frame of zeros."""

    frame_dim: int
    """Elements of one frame."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame_dim", require_count("frame_dim", self.frame_dim))

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size([self.frame_dim])

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def values(self) -> str:
        return "finite numbers"

    def valid(self, x: Tensor) -> Tensor:
        return x.isfinite().all(-1)


@dataclass(frozen=True)
class Gaussian(Frames):
    """A diagonal Gaussian: parameters are the mean and the log-variance of each element."""

    @property
    def num_parameters(self) -> int:
        return 2 * self.frame_dim

    def distribution(self, parameters: Tensor) -> TorchDistribution:
        mean, log_variance = parameters.chunk(2, dim=-1)
        return dist.Normal(mean, (0.5 * log_variance).exp()).to_event(1)

    def marginal_parameters(self, frames: Tensor) -> Tensor:
        return torch.cat([frames.mean(0), spread(frames).log()])

    def parameter_units(self, parameters: Tensor) -> Tensor:
        """Standard deviations for the means; parameters (num_parameters,)."""
        log_variance = parameters[self.frame_dim :]
        return torch.cat([(0.5 * log_variance).exp(), torch.ones_like(log_variance)])


@dataclass(frozen=True)
class GaussianMixture(Frames):
    """A mixture of diagonal Gaussians over the whole frame: logits, then means, then log-variances."""

    num_components: int
    """Number of Gaussians in the mixture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "num_components", require_count("num_components", self.num_components))

    @property
    def num_parameters(self) -> int:
        return self.num_components * (1 + 2 * self.frame_dim)

    def distribution(self, parameters: Tensor) -> TorchDistribution:
        k, d = self.num_components, self.frame_dim
        logits, means, log_variances = parameters.split([k, k * d, k * d], dim=-1)
        components = dist.Normal(means.unflatten(-1, (k, d)), (0.5 * log_variances.unflatten(-1, (k, d))).exp())
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), components.to_event(1))

    def marginal_parameters(self, frames: Tensor) -> Tensor:
        """Equal weights, and a Gaussian per slice of frames (frames, frame) along their largest variance."""
        parts = slices(frames, self.num_components)
        means, variances = (torch.stack(found) for found in zip(*((p.mean(0), spread(p)) for p in parts), strict=True))
        least = 1e-4 * spread(frames)
        logits = frames.new_zeros(self.num_components)
        return torch.cat([logits, means.flatten(), variances.maximum(least).log().flatten()])

    def parameter_units(self, parameters: Tensor) -> Tensor:
        """Each component's standard deviations for its means; parameters (num_parameters,)."""
        log_variances = parameters[self.num_components * (1 + self.frame_dim) :]
        ones = torch.ones_like(log_variances)
        return torch.cat([ones[: self.num_components], (0.5 * log_variances).exp(), ones])


@dataclass(frozen=True)
class Bernoulli(Frames):
    """Independent binary elements, floats 0 or 1: parameters are their logits."""

    @property
    def num_parameters(self) -> int:
        return self.frame_dim

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, 1)

    @property
    def values(self) -> str:
        return "zeros and ones"

    def valid(self, x: Tensor) -> Tensor:
        return ((x == 0) | (x == 1)).all(-1)

    def distribution(self, parameters: Tensor) -> TorchDistribution:
        return dist.Bernoulli(logits=parameters).to_event(1)

    def marginal_parameters(self, frames: Tensor) -> Tensor:
        return log_odds(frames)


@dataclass(frozen=True)
class Categorical(Emission):
    """One of ``num_classes`` symbols, an integer. The first input is a separate start token."""

    num_classes: int
    """Number of symbols, which are counted from 0."""
    integer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_classes", require_count("num_classes", self.num_classes))

    @property
    def num_parameters(self) -> int:
        return self.num_classes

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size()

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.num_classes - 1)

    @property
    def values(self) -> str:
        return f"integers from 0 to {self.num_classes - 1}"

    def valid(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x < self.num_classes)

    def embedding(self, embed_dim: int) -> nn.Module:
        return nn.Embedding(self.num_classes + 1, embed_dim)

    def start(self, like: Tensor) -> Tensor:
        return torch.full_like(like, self.num_classes)

    def distribution(self, parameters: Tensor) -> TorchDistribution:
        return dist.Categorical(logits=parameters)

    def marginal_parameters(self, frames: Tensor) -> Tensor:
        """Log-frequencies of frames (frames,), with half an occurrence of each symbol added."""
        counts = torch.bincount(frames.flatten(), minlength=self.num_classes).double()
        return (counts + 0.5).log().log_softmax(0)


@dataclass(frozen=True)
class StudentT(Frames):
    """Independent Student t elements: locations, log-scales, and degrees of freedom above 1 through a softplus.

    Heavier tails than a Gaussian's: outliers cost the logarithm of their distance, not its square. Degrees of freedom
    above 1 leave a mean.
    """

    @property
    def num_parameters(self) -> int:
        return 3 * self.frame_dim

    def distribution(self, parameters: Tensor) -> TorchDistribution:
        loc, log_scale, freedom = parameters.chunk(3, dim=-1)
        return dist.StudentT(1.0 + softplus(freedom), loc, log_scale.exp()).to_event(1)

    def tempered(self, distribution: TorchDistribution, temperature: float) -> TorchDistribution:
        """Scales multiplied by the square root of the temperature, since a power has no such form."""
        base = distribution.base_dist
        return dist.StudentT(base.df, base.loc, base.scale * temperature**0.5).to_event(1)

    def marginal_parameters(self, frames: Tensor) -> Tensor:
        """The most probable parameters for frames (frames, frame), from the median and 5 degrees of freedom.

        They are found for elements in units of their scale, in which the search is well-conditioned.
        """
        median = frames.median(0).values
        deviation = (frames - median).abs().mean(0)
        scale = deviation.maximum(spread(frames).sqrt())
        start = torch.cat([torch.zeros_like(scale).repeat(2), torch.full_like(scale, 4.0)])
        # The likelihood of an element that never changes has no maximum. It keeps the start.
        places = torch.linspace(-1.0, 1.0, len(frames), dtype=frames.dtype).unsqueeze(1)
        varying = ((frames - median) / scale).where(deviation > 0.0, places)
        found = most_probable(self.distribution, varying, start).where((deviation > 0.0).repeat(3), start)
        loc, log_scale, freedom = found.chunk(3)
        return torch.cat([median + scale * loc, log_scale + scale.log(), freedom])

    def parameter_units(self, parameters: Tensor) -> Tensor:
        """Scales for the locations; parameters (num_parameters,)."""
        log_scale = parameters.chunk(3)[1]
        return torch.cat([log_scale.exp(), torch.ones_like(log_scale).repeat(2)])
