"""p(x_t | h_t): what a frame is, how the networks read one, and its density.

An emission is a description without weights: the model owns one linear layer from h_t (and one from b_t, for the
backward likelihood) to ``num_parameters`` numbers, and the emission turns those into a distribution over one frame.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

__all__ = ["Bernoulli", "Categorical", "Emission", "Gaussian", "GaussianMixture"]


def _require_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


class Emission(ABC):
    """The family of p(x_t | h_t)."""

    has_rsample: ClassVar[bool] = False
    """Whether gradients flow through a drawn frame."""
    integer: ClassVar[bool] = False
    """Whether x holds integers, (batch, time), rather than floats, (batch, time, frame_dim)."""

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """How many numbers a frame's density takes."""

    @property
    @abstractmethod
    def event_shape(self) -> torch.Size:
        """Shape of one frame."""

    @property
    @abstractmethod
    def support(self) -> constraints.Constraint:
        """Where one frame may lie."""

    @property
    @abstractmethod
    def values(self) -> str:
        """What x may hold, in words."""

    @abstractmethod
    def valid(self, x: Tensor) -> Tensor:
        """Which frames of x (..., *event_shape) have a density; (...)."""

    @abstractmethod
    def embedding(self, embed_dim: int) -> nn.Module:
        """A new network that reads frames (..., *event_shape) into (..., embed_dim)."""

    @abstractmethod
    def start(self, like: Tensor) -> Tensor:
        """The input at the first step, u_1, one for each frame of ``like`` (..., *event_shape)."""

    @abstractmethod
    def distribution(self, parameters: Tensor) -> TorchDistribution:
        """The density of a frame from parameters (..., num_parameters); batch shape (...)."""


@dataclass(frozen=True)
class _Frames(Emission):
    """Frames of floats, read by a linear layer; the first input is a frame of zeros."""

    frame_dim: int
    """Numbers in one frame."""

    def __post_init__(self) -> None:
        _require_positive("frame_dim", self.frame_dim)

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

    def embedding(self, embed_dim: int) -> nn.Module:
        return nn.Linear(self.frame_dim, embed_dim)

    def start(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like)


@dataclass(frozen=True)
class Gaussian(_Frames):
    """A diagonal Gaussian: parameters are the mean and the log-variance of each number."""

    has_rsample: ClassVar[bool] = True

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
    """Gaussians in the mixture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive("num_components", self.num_components)

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
    """Independent binary numbers, floats 0 or 1: parameters are their logits."""

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
    """One of ``num_classes`` symbols, an integer; the first input is a start token of its own."""

    num_classes: int
    """Symbols, numbered from 0."""
    integer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_positive("num_classes", self.num_classes)

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
