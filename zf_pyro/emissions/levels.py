"""Distributions of samples that take one of many levels: logistic densities integrated over cells, and mu-law cells."""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

Shape = torch.Size | list[int] | tuple[int, ...]
FLOATS_AT_ONCE = 1 << 22
"""Elements of the sums over levels that are in memory at once; 32 MiB in float64."""


class Levels(constraints.Constraint):
    """The levels 2 k / (2^bits - 1) - 1 for k = 0..2^bits - 1.

    Args:
        bits: bits of a level's number.
    """

    is_discrete = True

    def __init__(self, bits: int) -> None:
        self.last = 2**bits - 1
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """True for values (...) within rounding of a level."""
        number = (value + 1.0) * (0.5 * self.last)
        tolerance = max(1e-3, self.last * torch.finfo(value.dtype).eps)
        return ((number - number.round()).abs() <= tolerance) & (value.abs() <= 1.0)


class DiscretizedLogistics(TorchDistribution):
    """A mixture of logistic densities, integrated over the cells of levels; see :class:`.DiscretizedLogisticMixture`.

    Args:
        logits: of the weights; (..., components).
        means: (..., components).
        log_scales: (..., components).
        bits: bits of a level's number.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    def __init__(self, logits: Tensor, means: Tensor, log_scales: Tensor, bits: int) -> None:
        self.logits, self.means, self.log_scales = torch.broadcast_tensors(logits, means, log_scales)
        self.bits, self.last = bits, 2**bits - 1
        super().__init__(self.means.shape[:-1], validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The levels."""
        return Levels(self.bits)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> "DiscretizedLogistics":
        """The same with a larger batch shape."""
        shape = (*batch_shape, self.means.shape[-1])
        logits, means, log_scales = (part.expand(shape) for part in (self.logits, self.means, self.log_scales))
        return DiscretizedLogistics(logits, means, log_scales, self.bits)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities of the levels ``value`` (...), in nats."""
        rate, half = (-self.log_scales).exp(), 1.0 / self.last
        above = rate * (value.unsqueeze(-1) + half - self.means)
        below = rate * (value.unsqueeze(-1) - half - self.means)
        # sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - exp(b - a)) loses no digit, however far in the tail.
        lower = value.unsqueeze(-1) < half - 1.0
        upper = value.unsqueeze(-1) > 1.0 - half
        inner = (-torch.expm1(-2.0 * half * rate)).log()
        left = torch.where(upper, 0.0, F.logsigmoid(above))
        right = torch.where(lower, 0.0, F.logsigmoid(-below))
        cell = left + right + torch.where(lower | upper, 0.0, inner)
        return (self.logits.log_softmax(-1) + cell).logsumexp(-1)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Levels sampled without gradients; (*sample_shape, *batch_shape)."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.means.shape
            chosen = torch.distributions.Categorical(logits=self.logits).sample(torch.Size(sample_shape)).unsqueeze(-1)
            means = self.means.expand(shape).gather(-1, chosen).squeeze(-1)
            scales = self.log_scales.expand(shape).gather(-1, chosen).squeeze(-1).exp()
            tiny = torch.finfo(means.dtype).tiny
            uniform = torch.rand_like(means).clamp(min=tiny, max=1.0 - torch.finfo(means.dtype).eps)
            return self._nearest(means + scales * (uniform.log() - (-uniform).log1p()))

    @property
    def mean(self) -> Tensor:
        """Mean of the levels, the sum of each level times its probability; (*batch_shape).

        In the equal form max x - d sum_k P(x <= x_k) over all levels x_k but the last, whose distance is d. The time is
        that of 2^bits logistic functions per component.
        """
        means, rates = self.means.double(), (-self.log_scales.double()).exp()
        below = torch.zeros_like(means)
        levels_at_once = max(1, FLOATS_AT_ONCE // max(1, means.numel()))
        for first in range(0, self.last, levels_at_once):
            numbers = torch.arange(first, min(first + levels_at_once, self.last), device=means.device)
            edges = (2.0 * numbers.double() + 1.0) / self.last - 1.0
            below = below + torch.sigmoid(rates.unsqueeze(-1) * (edges - means.unsqueeze(-1))).sum(-1)
        components = 1.0 - (2.0 / self.last) * below
        return (self.logits.double().softmax(-1) * components).sum(-1).to(self.means.dtype)

    def heaviest(self) -> Tensor:
        """The level nearest to the mean of the heaviest component; (*batch_shape)."""
        return self._nearest(self.means.gather(-1, self.logits.argmax(-1, keepdim=True)).squeeze(-1))

    def _nearest(self, value: Tensor) -> Tensor:
        number = ((value + 1.0) * (0.5 * self.last)).round().clamp(0, self.last)
        return number * (2.0 / self.last) - 1.0


class MuLawCells(TorchDistribution):
    """A categorical distribution over mu-law cells; see :class:`.MuLaw`.

    Args:
        logits: (..., levels).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.interval(-1.0, 1.0)
    has_rsample = False

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=False)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> "MuLawCells":
        """The same with a larger batch shape."""
        return MuLawCells(self.logits.expand(*batch_shape, self.logits.shape[-1]))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities of the cells of ``value`` (...), in nats."""
        cells = mu_law_cell(value, self.logits.shape[-1])
        shape = torch.broadcast_shapes(cells.shape, self.logits.shape[:-1])
        found = self.logits.log_softmax(-1).expand(*shape, -1).gather(-1, cells.expand(shape).unsqueeze(-1))
        return found.squeeze(-1)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Centres of sampled cells, without gradients; (*sample_shape, *batch_shape)."""
        with torch.no_grad():
            cells = torch.distributions.Categorical(logits=self.logits).sample(torch.Size(sample_shape))
            return mu_law_centre(cells, self.logits.shape[-1]).to(self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        """Mean of the cells' centres; (*batch_shape)."""
        levels = self.logits.shape[-1]
        centres = mu_law_centre(torch.arange(levels, device=self.logits.device), levels)
        return self.logits.softmax(-1) @ centres.to(self.logits.dtype)

    def heaviest(self) -> Tensor:
        """The centre of the likeliest cell; (*batch_shape)."""
        return mu_law_centre(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits.dtype)


def mu_law_cell(x: Tensor, levels: int) -> Tensor:
    """Number of the cell of each x (...) in [-1, 1], int64."""
    compressed = x.sign() * (x.abs() * (levels - 1)).log1p() / math.log(levels)
    return ((compressed + 1.0) * (0.5 * levels)).floor().long().clamp(0, levels - 1)


def mu_law_centre(cells: Tensor, levels: int) -> Tensor:
    """The centre, after compression, of cells (...) as values in [-1, 1], float64."""
    compressed = (2.0 * cells.double() + 1.0) / levels - 1.0
    return compressed.sign() * (compressed.abs() * math.log(levels)).expm1() / (levels - 1)
