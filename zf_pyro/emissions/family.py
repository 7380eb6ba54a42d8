"""The base of all emissions. Three members are abstract; the others have defaults made of these three."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn
from torch.distributions import Independent

from .decoding import most_likely, tempered
from .marginals import most_probable


class Emission(ABC):
    """The family of p(x_t | h_t).

    A subclass has :attr:`num_parameters`, :attr:`event_shape` and :meth:`distribution`. The other members may be
    overridden where their default does not fit.
    """

    integer: ClassVar[bool] = False
    """Whether x holds integers, (batch, time, *frame), instead of floats."""

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Number of parameters of a frame's density."""

    @property
    @abstractmethod
    def event_shape(self) -> torch.Size:
        """Shape of one frame."""

    @abstractmethod
    def distribution(self, parameters: Tensor, *weights: Any) -> TorchDistribution:
        """The density of a frame from parameters (..., num_parameters).

        Its batch shape is (...), its event shape :attr:`event_shape`. Parameters are any real numbers; with parameters
        of zeros, the density of an untrained network must exist. A subclass with :meth:`weights` gets these as further
        arguments.
        """

    def weights(self) -> tuple[nn.Module, ...]:
        """New modules with weights of the density that all frames share; none by default."""
        return ()

    @cached_property
    def _example(self) -> TorchDistribution:
        """The density with parameters of zeros; batch shape ()."""
        with torch.device("cpu"):  # for its shapes, also where a network is built without values
            found = self.distribution(torch.zeros(self.num_parameters))
        if (found.batch_shape, found.event_shape) != (torch.Size(), self.event_shape):
            raise ValueError(
                f"{self}.distribution must have the batch shape (...) and the event shape {tuple(self.event_shape)} "
                f"for parameters (..., {self.num_parameters}), got batch shape {tuple(found.batch_shape)} and event "
                f"shape {tuple(found.event_shape)} for ({self.num_parameters},); see to_event"
            )
        return found

    @property
    def has_rsample(self) -> bool:
        """Whether gradients flow through a sampled frame."""
        return bool(self._example.has_rsample)

    @property
    def support(self) -> constraints.Constraint:
        """The support of one frame. By default that of the density with parameters of zeros."""
        found = self._example.support
        if found is None:
            raise TypeError(f"{type(self._example).__name__} has no support: define support in {type(self).__name__}")
        return found

    @property
    def factorises(self) -> bool:
        """Whether the density of a frame is a product over its elements, of which some may then be missing."""
        if type(self).weights is not Emission.weights:  # elements of a density with weights of its own may depend
            return False
        found = self._example
        return isinstance(found, Independent) and not found.base_dist.event_shape

    @property
    def flag_dim(self) -> int:
        """Parts of a frame that may be missing by themselves: its elements, or 1 where it is seen as a whole or not."""
        return self.event_shape.numel() if self.factorises else 1

    def log_prob(self, distribution: TorchDistribution, x: Tensor, seen: Tensor | None) -> Tensor:
        """Log-density of what was seen of frames.

        Args:
            distribution: p(x_t | h_t), of batch shape (...).
            x: frames, (..., *event_shape); where nothing was seen, any that have a density.
            seen: (..., flags), see :attr:`flag_dim`; None where all was.

        Returns:
            (...) nats; 0 for a frame of which nothing was seen.

        Raises:
            TypeError: flags of elements for a density that is no product over them.
        """
        if seen is None:
            return distribution.log_prob(x)
        if not self.factorises:
            return distribution.log_prob(x).where(seen.squeeze(-1), 0.0)
        if not isinstance(distribution, Independent) or distribution.base_dist.event_shape:
            raise TypeError(
                f"emission must return independent elements, as {self} does, for frames with missing elements, got "
                f"{type(distribution).__name__}: mark whole frames as missing, or return a distribution.to_event(...)"
            )
        elements = distribution.base_dist.log_prob(x)
        event_dim = len(self.event_shape)
        flags = seen.reshape(*seen.shape[:-1], *self.event_shape)
        return elements.where(flags, 0.0).sum([-1 - i for i in range(event_dim)])

    def masked(self, distribution: TorchDistribution, seen: Tensor) -> TorchDistribution:
        """The distribution of frames whose log-density counts what was seen alone, as :meth:`log_prob` does.

        Args:
            distribution: p(x_t | h_t), of batch shape (...).
            seen: (..., flags), see :attr:`flag_dim`.
        """
        if not self.factorises:
            return distribution.mask(seen.squeeze(-1))
        base, flags = distribution.base_dist, seen.reshape(*seen.shape[:-1], *self.event_shape)
        return base.mask(flags).to_event(len(self.event_shape))

    @cached_property
    def example_frame(self) -> Tensor:
        """A frame that has a density under all parameters, to stand where nothing was seen; (*event_shape)."""
        zeros = torch.zeros(self.event_shape, dtype=torch.long if self.integer else torch.get_default_dtype())
        if bool(self.valid(zeros)):
            return zeros
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = self._example.sample()
        return found.long() if self.integer else found

    @property
    def has_units(self) -> bool:
        """Whether frames are real or positive numbers, whose density depends on their unit."""
        support = self.support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        if isinstance(support, (constraints.greater_than, constraints.greater_than_eq)):
            return bool(torch.as_tensor(support.lower_bound).eq(0).all())
        return isinstance(support, type(constraints.real))

    @property
    def values(self) -> str:
        """Valid values of x, in words for errors."""
        return f"values in the support {self.support}"

    def valid(self, x: Tensor) -> Tensor:
        """True for frames of x (..., *event_shape) that have a density; (...)."""
        batch_shape = x.shape[: x.dim() - len(self.event_shape)]
        inside = self.support.check(x).reshape(*batch_shape, -1).all(-1)
        return inside & x.isfinite().reshape(*batch_shape, -1).all(-1)

    def embedding(self, embed_dim: int) -> nn.Module:
        """A new module that embeds frames, (..., *event_shape) to (..., embed_dim): a linear layer over all elements.

        Raises:
            TypeError: frames are integers, for which the subclass must define an embedding.
        """
        if self.integer:
            raise TypeError(
                f"{type(self).__name__} has integer frames: define embedding(embed_dim), as Categorical does"
            )
        linear = nn.Linear(self.event_shape.numel(), embed_dim)
        return linear if len(self.event_shape) == 1 else nn.Sequential(Flattened(len(self.event_shape)), linear)

    def start(self, like: Tensor) -> Tensor:
        """The input at the first step, u_1, one for each frame of ``like`` (..., *event_shape): zeros by default."""
        return torch.zeros_like(like)

    # The start of training ------------------------------------------------------------------------------------------

    def marginal_parameters(self, frames: Tensor) -> Tensor:
        """Parameters under which the density is that of the frames (frames, *event_shape) of a data set.

        By default the most probable ones, from a start at zeros; a closed form in most subclasses.

        Returns:
            (num_parameters,).
        """
        return most_probable(self.distribution, frames, torch.zeros(self.num_parameters))

    def parameter_units(self, parameters: Tensor) -> Tensor:
        """The unit of each parameter, by which the start multiplies the weights from h_t: 1 by default.

        A location has the unit of the frames. So it is its scale, and the start does not depend on their unit.

        Args:
            parameters: of :meth:`marginal_parameters`, (num_parameters,).

        Returns:
            (num_parameters,), positive.
        """
        return torch.ones_like(parameters)

    # Decoding -------------------------------------------------------------------------------------------------------

    def mode(self, distribution: TorchDistribution) -> Tensor:
        """The likeliest frame of p(x_t | h_t), (*batch_shape, *event_shape), for reconstruction and greedy generation.

        By default :func:`zf_pyro.emissions.most_likely`.
        """
        return most_likely(distribution)

    def tempered(self, distribution: TorchDistribution, temperature: float) -> TorchDistribution:
        """p(x_t | h_t) to the power 1 / temperature, normalised. By default :func:`zf_pyro.emissions.tempered`."""
        return tempered(distribution, temperature)


class Flattened(nn.Module):
    """Frames (..., *event_shape) as vectors (..., elements).

    Args:
        event_dim: dimensions of a frame; 0 for single numbers.
    """

    def __init__(self, event_dim: int) -> None:
        super().__init__()
        self.event_dim = event_dim

    def forward(self, x: Tensor) -> Tensor:
        """x (..., *event_shape) as (..., elements)."""
        return x.flatten(-self.event_dim) if self.event_dim else x.unsqueeze(-1)
