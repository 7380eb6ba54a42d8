"""The emissions of this package."""

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from ..checks import require_count
from .family import Emission


@dataclass(frozen=True)
class _Frames(Emission):
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
class Gaussian(_Frames):
    """A diagonal Gaussian: parameters are the mean and the log-variance of each element."""

    @property
    def num_parameters(self) -> int:
        return 2 * self.frame_dim

    def distribution(self, parameters: Tensor) -> TorchDistribution:
        mean, log_variance = parameters.chunk(2, dim=-1)
        return dist.Normal(mean, (0.5 * log_variance).exp()).to_event(1)


@dataclass(frozen=True)
class GaussianMixture(_Frames):
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


@dataclass(frozen=True)
class Bernoulli(_Frames):
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
