"""SIXO: FIVO with a twist, so that particles are weighed by the frames that follow as well."""

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import require_count
from ..models import StochasticRNN
from ..paths import RunInputs
from ..smc import Filtered, Known, Twist, TwistedRun, require_twist, states_ahead
from .density_ratio import density_ratio_loss
from .fivo import FIVO


class SIXO(FIVO):
    """E[log p^(x)] with p^(x) the evidence estimate of a twisted particle filter: Lawson et al. 2022.

    https://arxiv.org/abs/2206.05952. A twist r_t(h_t, b_{t+1}), a :class:`zf_pyro.inference.Twist`, multiplies the
    weight of step t by r_t / r_{t-1}. After a sequence's last frame r is 1. So the objective is a lower bound on
    log p(x) for any twist, and with log r = 0 it is :class:`FIVO`. It is tight where the guide is exact and r_t is
    p(x_{t+1}..x_T | z_1..z_t, x_1..x_t).

    Model, guide and twist take their gradients from one run:

    - Model and guide ascend the bound as under FIVO, without the gradient of the resampling. log r_t is a constant
      there. Its gradient would stand for that of the resampling with the opposite sign: it raises r_t for particles
      that are heavy at t, and lowers it for those whose offspring are heavy at t + 1.
    - The twist learns a density ratio by classification (:func:`.density_ratio.density_ratio_loss`), from sequences
      sampled from the model. Its loss is left out of the value of the objective. Without gradients nothing is sampled.
    - With ``resampling_gradient=True`` the twist ascends the bound instead, as model and guide do (SIXO-u of the
      paper). It needs multinomial resampling, and its gradient has far more variance.

    Args:
        num_particles: K, for each sequence.
        twist: log r_t. SVI and :class:`zf_pyro.training.Training` train its parameters.
        num_negatives: mismatched pairs per sequence and step from which the twist learns.
        settings: as for :class:`FIVO`.

    Attributes:
        step: training steps taken, on which the schedule depends.
        bound: the latest value of the objective for each sequence, without gradients; (batch,) nats.

    Raises:
        TypeError: ``twist`` is no twist.
        ValueError: as for FIVO, or no negatives.
    """

    def __init__(self, num_particles: int = 16, *, twist: Twist, num_negatives: int = 8, **settings: Any) -> None:
        super().__init__(num_particles, **settings)
        self.twist = require_twist(twist)
        self.num_negatives = require_count("num_negatives", num_negatives)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The twist."""
        return (self.twist,)

    def _filtered(self, net: StochasticRNN, run: RunInputs, lengths: Tensor | None) -> Filtered:
        self.twist.register()
        return super()._filtered(net, run, lengths)

    def _twisted(self, net: StochasticRNN, run: RunInputs, known: Known, lengths: Tensor | None) -> TwistedRun:
        b = states_ahead(self.twist, net, run, known.b, lengths)
        return TwistedRun(self.twist, b, run.mask, differentiable=self.resampling_gradient)

    def _loss(self, bound: Tensor, net: StochasticRNN, run: RunInputs, lengths: Tensor | None) -> Tensor:
        loss = super()._loss(bound, net, run, lengths)
        if self.resampling_gradient or not torch.is_grad_enabled():
            return loss
        ratio = density_ratio_loss(self.twist, net.unrefined, run, lengths, self.num_negatives)
        return loss + (ratio - ratio.detach())
