"""Distributions of single steps of a path, computed when they are first used."""

from abc import abstractmethod
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Independent, kl_divergence, register_kl

from ..emissions import Emission

Self = TypeVar("Self", bound="LazyStep")
Shape = torch.Size | list[int] | tuple[int, ...]
_NO_SHAPE = torch.Size()


class SitePath(Protocol):
    """A path as its sites see it; t counts the steps from 0."""

    masks: tuple[Tensor, ...] | None
    """True on the sequences that have not ended, for each step; (batch,)."""

    @property
    def finished(self) -> bool:
        """Whether every site has its value."""
        ...

    def step(self, t: int) -> TorchDistribution:
        """The distribution of z_t; event (latent,)."""
        ...

    def group(self) -> TorchDistribution:
        """The distributions of all z_t of a finished run; batch shape (time, ...)."""
        ...

    def step_log_prob(self, t: int, value: Tensor) -> Tensor:
        """Log-density of ``value`` (..., latent) at z_t, in nats; (...)."""
        ...

    def step_kl(self, prior: "SitePath", t: int) -> Tensor:
        """KL of z_t from its distribution in another finished run, in nats; (...)."""
        ...

    def draw(self, t: int, batch_shape: torch.Size) -> Tensor:
        """A sample of z_t; (*batch_shape, latent)."""
        ...


class FramePath(SitePath, Protocol):
    """A path with frames: a run of the model."""

    emission: Emission

    def frame_step(self, t: int) -> TorchDistribution:
        """The distribution of x_t; the event is one frame."""
        ...

    def frame_step_log_prob(self, t: int, value: Tensor) -> Tensor:
        """Log-density of ``value`` (..., *frame) at x_t, in nats; (...)."""
        ...


class LazyStep(TorchDistribution):
    """Step ``t`` of a path as a distribution. Every request goes to the path.

    Args:
        path: the run.
        t: the step, from 0.
        batch_shape: of the distribution.
        event_shape: of one value.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, path: SitePath, t: int, batch_shape: torch.Size, event_shape: torch.Size) -> None:
        self.path = path
        self.t = t
        super().__init__(batch_shape, event_shape, validate_args=False)

    def __getattr__(self, name: str) -> Any:
        """Say where parameters are; called for names that are not found.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(
            f"a step of a path has no {name!r}, since it is computed when it is used: its ``distribution`` is the one "
            "with parameters. Strategies of poutine.reparam cannot rewrite a step: sample net.prior and net.posterior "
            "in a program of your own"
        )

    @property
    def distribution(self) -> TorchDistribution:
        """The distribution with its parameters; batch shape as this one's."""
        return self._own().expand(self.batch_shape)

    @abstractmethod
    def _own(self) -> TorchDistribution: ...

    @abstractmethod
    def _log_prob(self, value: Tensor) -> Tensor: ...

    def expand(self: Self, batch_shape: Shape, _instance: Any = None) -> Self:
        """The same step with a larger batch shape. Samples are independent over the new dimensions."""
        batch_shape = torch.Size(batch_shape)
        if batch_shape == self.batch_shape:
            return self
        return type(self)(self.path, self.t, batch_shape, self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of ``value`` (..., *event) in nats; its batch shape and this one's, broadcast."""
        log_prob = self._log_prob(value)
        if log_prob.shape == self.batch_shape:
            return log_prob
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def rsample(self, sample_shape: Shape = _NO_SHAPE) -> Tensor:
        """A sample with gradients; (*sample_shape, *batch_shape, *event)."""
        return self.distribution.rsample(sample_shape)

    def sample(self, sample_shape: Shape = _NO_SHAPE) -> Tensor:
        """A sample without gradients; (*sample_shape, *batch_shape, *event)."""
        with torch.no_grad():
            return self.distribution.sample(sample_shape)

    @property
    def mean(self) -> Tensor:
        return self.distribution.mean

    @property
    def variance(self) -> Tensor:
        return self.distribution.variance

    @property
    def mode(self) -> Tensor:
        return self.distribution.mode

    def entropy(self) -> Tensor:
        """Entropy in nats; batch shape."""
        return self.distribution.entropy()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values, for categorical frames."""
        return self.distribution.enumerate_support(expand)


class LatentStep(LazyStep):
    """z_t of a path: its prior in the model's, its posterior in the guide's."""

    has_rsample = True
    support = constraints.real_vector

    def _own(self) -> TorchDistribution:
        return self.path.step(self.t)

    def _log_prob(self, value: Tensor) -> Tensor:
        return self.path.step_log_prob(self.t, value)

    def rsample(self, sample_shape: Shape = _NO_SHAPE) -> Tensor:
        """A sample with gradients, (*batch_shape, latent): the path's own unless a sample shape is given."""
        if sample_shape:
            return super().rsample(sample_shape)
        return self.path.draw(self.t, self.batch_shape)


class FrameStep(LazyStep):
    """x_t of the model's path: its emission."""

    path: FramePath

    def _own(self) -> TorchDistribution:
        return self.path.frame_step(self.t)

    def _log_prob(self, value: Tensor) -> Tensor:
        return self.path.frame_step_log_prob(self.t, value)

    has_rsample = False  # set for each emission by the path

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where one frame may lie."""
        return self.path.emission.support

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return self.path.emission.integer


@register_kl(LatentStep, LatentStep)
def _kl_steps(q: LatentStep, p: LatentStep) -> Tensor:
    if q.t == p.t and q.path.finished and p.path.finished:
        kl = q.path.step_kl(p.path, q.t)
        return kl.expand(torch.broadcast_shapes(kl.shape, q.batch_shape))
    return kl_divergence(q.distribution, p.distribution)


@register_kl(Independent, LatentStep)
def _kl_to_step(q: Independent, p: LatentStep) -> Tensor:
    return kl_divergence(q, p.distribution)


@register_kl(LatentStep, Independent)
def _kl_from_step(q: LatentStep, p: Independent) -> Tensor:
    return kl_divergence(q.distribution, p)
