"""Forms of the auxiliary: its target, and what it is measured against.

The plain auxiliary log p_xi(b_t | z_t, .) of a target that hardly varies earns thousands of nats by fitting a constant
with a small variance, without z. Each option here takes that away in a way of its own. They can be combined.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from ..checks import require_flag
from ..networks import State, StepFunctions
from ..paths import PosteriorPath, align
from ..recurrence import in_chunks, in_full_precision

LEAST_DEVIATION = 1e-4
"""Deviation of a unit of b_t below which it counts as constant: a hundredth of that in a fresh network."""
SCALE = 1.0 / 3.0
"""Deviation of a standardised target, so that three deviations lie in the range of the auxiliary's mean, a tanh."""
BEST_CONSTANT = -0.5 * math.log(2.0 * math.pi * math.e * SCALE**2)
"""Mean log-density of a target of deviation ``SCALE`` under the best normal distribution without inputs, in nats."""


class Statistics(NamedTuple):
    """Mean and standard deviation of each unit of b_t over all real frames of a batch; each (backward,)."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, b: Tensor, mask: Tensor | None) -> "Statistics":
        """Those of b (time, batch, backward), real where ``mask`` (time, batch) is True; everywhere if None."""
        b = b.detach()
        real = b.new_ones(b.shape[:2]) if mask is None else mask.to(b.dtype)
        shares = (real / real.sum().clamp(min=1.0)).unsqueeze(-1)
        mean = (shares * b).sum((0, 1))
        return cls(mean, (shares * (b - mean).square()).sum((0, 1)).sqrt())


@dataclass(frozen=True)
class Auxiliary:
    """Form of the auxiliary; by default log p_xi(b_t | z_t [, h_{t-1}]), the sum over the units of b_t.

    Args:
        standardised: standardise each unit of b_t by its mean and deviation over the batch's real frames, and count
            nats above those of the best constant. A unit that does not vary counts nothing. The statistics are those
            of the batch. Running ones would lag behind b_t, whose spread grows many times over in training, and would
            have to be saved. Segments of recomputation share those of the whole batch; processes have their own.
        contrastive: less the log of the mean density of the targets that other sequences of the batch have at the same
            step: log p_xi(b_t | z_t, .) - log mean_j p_xi(b_t^j | z_t, .). It is zero for a target that is the same for
            all sequences, and at most the log of their number per step, whatever the size of b_t. A second head without
            z would change the figure alone: its gradient does not reach z. The difference to the prior's z has no
            bound: the head then learns to be wrong where the posterior is not.
        per_unit: the weight applies to the mean over the units of b_t, so that one weight means the same at every size.
            Steps need no such thing: the likelihood is a sum over them too.

    Raises:
        TypeError: a switch that is no bool.
        ValueError: ``per_unit`` of the contrastive form, which has no size.
    """

    standardised: bool = False
    contrastive: bool = False
    per_unit: bool = False

    def __post_init__(self) -> None:
        for name in ("standardised", "contrastive", "per_unit"):
            require_flag(name, getattr(self, name))
        if self.contrastive and self.per_unit:
            raise ValueError(
                "per_unit must be False with contrastive=True, whose nats per step do not depend on the size of b_t"
            )

    def log_prob(self, guide: PosteriorPath, z: Tensor | None = None, statistics: Statistics | None = None) -> Tensor:
        """The auxiliary at every step, b_t held fixed; (time, ..., batch) nats.

        Args:
            guide: the guide's run.
            z: latents in place of its own, at the same h_{t-1}; (time, ..., latent).
            statistics: of the target; of the run's own b_t if None.
        """
        z = guide.latents() if z is None else z
        return self.density(guide.net, z, guide.before(), guide.b.detach(), guide.run.mask, statistics)

    def density(
        self,
        net: StepFunctions,
        z: Tensor,
        before: State,
        b: Tensor,
        mask: Tensor | None,
        statistics: Statistics | None = None,
    ) -> Tensor:
        """:meth:`log_prob` of any latents and states; (time, ..., batch) nats.

        Args:
            net: the model.
            z: latents; (time, ..., batch, latent).
            before: what they depend on; each field (time, ..., batch, hidden).
            b: backward states, the targets; (time, batch, backward).
            mask: True on real frames, (time, batch); None if all are.
            statistics: of the targets; those of b itself if None.
        """
        dims = z.dim() - 2
        if not (self.standardised or self.contrastive):
            return net.scan_auxiliary(z, before, align(b, dims))
        target, varies = self.target(b, mask, statistics)
        real = b.new_ones(b.shape[:2]) if mask is None else mask.to(b.dtype)

        def value(z: Tensor, hidden: Tensor, cell: Tensor, target: Tensor, real: Tensor) -> Tensor:
            normal = _normal(net.auxiliary(z, State(hidden, cell)))
            if self.contrastive:
                return contrast(normal, target, real.squeeze(-1), varies)
            return ((normal.log_prob(target) - BEST_CONSTANT) * varies).sum(-1)

        sequences = [align(sequence, dims) for sequence in (target, real.unsqueeze(-1))]
        return in_full_precision(lambda _, *given: in_chunks(value, *given))(net, z, *before, *sequences)

    def target(self, b: Tensor, mask: Tensor | None, statistics: Statistics | None = None) -> tuple[Tensor, Tensor]:
        """What the auxiliary predicts, (time, batch, backward), and 1 for units that count, else 0, (backward,).

        Args:
            b: backward states; (time, batch, backward).
            mask: True on real frames, (time, batch); None if all are.
            statistics: of the targets; those of b itself if None.
        """
        varies = b.new_ones(b.shape[2])
        if not self.standardised:
            return b, varies
        mean, deviation = Statistics.of(b, mask) if statistics is None else statistics
        varies = (deviation > LEAST_DEVIATION).to(b.dtype)
        return (b - mean) * (varies * SCALE / deviation.clamp(min=LEAST_DEVIATION)), varies

    def weighted(self, auxiliary: Tensor, units: int) -> Tensor:
        """What the weight applies to, of the auxiliary (...) in nats; ``units`` is the size of b_t."""
        return auxiliary / units if self.per_unit else auxiliary


def _normal(distribution: Any) -> Normal:
    """The normal distribution of each unit.

    Raises:
        TypeError: the auxiliary is another one.
    """
    found = distribution.base_dist if isinstance(distribution, Independent) else None
    if not isinstance(found, Normal) or distribution.reinterpreted_batch_ndims != 1:
        raise TypeError(
            f"the forms of the auxiliary need net.auxiliary to return Normal(...).to_event(1), got {distribution}: "
            "leave auxiliary= out"
        )
    return found


def contrast(normal: Normal, b: Tensor, real: Tensor, weights: Tensor) -> Tensor:
    """log p(b_i) less the log of the mean density of all b_j, at every step; (time, ..., batch) nats.

    Args:
        normal: p_xi of each unit; batch shape (time, ..., batch, backward).
        b: targets; (time, ..., batch, backward), broadcast with it.
        real: 1 on real frames, else 0; (time, ..., batch). Only real ones are compared with.
        weights: of the units; (backward,).
    """
    counts = real.sum(-1, keepdim=True).clamp(min=1.0)
    # Around the mean of the step, since squares of large values would lose the small differences.
    centre = ((real / counts).unsqueeze(-1) * b).sum(-2, keepdim=True)
    target, loc = b - centre, normal.loc - centre
    precision = weights * normal.scale.square().reciprocal()
    squares = precision @ target.square().mT - 2.0 * ((precision * loc) @ target.mT)
    densities = -0.5 * squares  # log p_i(b_j), (time, ..., batch, batch), but for terms of i alone
    own = torch.eye(b.shape[-2], dtype=torch.bool, device=b.device)
    compared = densities.masked_fill(~((real > 0).unsqueeze(-2) | own), -math.inf)
    return densities.diagonal(dim1=-2, dim2=-1) - compared.logsumexp(-1) + counts.log()
