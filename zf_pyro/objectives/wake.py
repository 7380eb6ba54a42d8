"""WakePhi: the guide's objective in the wake phase of reweighted wake-sleep, one weight per sequence."""

from typing import Any

import torch
from torch import Tensor

from ..checks import require_count
from .importance import ImportanceWeightedELBO
from .log_weights import densities
from .programs import PyroProgram
from .schedules import Schedule
from .traces import replayed, scaled


class WakePhi(ImportanceWeightedELBO):
    """KL(p(z | x) || q(z | x)) in its gradient, by self-normalised importance weights of each sequence.

    Bornschein, Bengio 2015, "Reweighted wake-sleep", https://arxiv.org/abs/1406.2751. Samples z_k of the guide are held
    fixed. The gradient of the loss is minus the sum over k of v_k d log q(z_k | x), v_k the normalised weights. The
    value of the loss is minus the importance-weighted bound, of which the gradient is not a derivative.

    The gradient is of every parameter of log q, those that model and guide share too. It is for the guide:
    :func:`zf_pyro.inference.fit_guide` holds the model fixed. :class:`pyro.infer.ReweightedWakeSleep` has one weight
    for a whole batch. The estimate is biased by 1 / K of the weights; it leads to a guide that covers the posterior.

    Args:
        num_particles: K, at least 2.
        kl_weight: as for :class:`ImportanceWeightedELBO`.
        max_plate_nesting: as for any Pyro ELBO; found by a trial run if not given.
        retain_graph: as for any Pyro ELBO.

    Attributes:
        step: training steps taken, on which the schedule depends.
        bound: the latest importance-weighted bound of each sequence, without gradients; (batch,) nats.

    Raises:
        ValueError: fewer than two particles, or a negative weight.
    """

    def __init__(
        self,
        num_particles: int = 16,
        *,
        kl_weight: float | Schedule = 1.0,
        max_plate_nesting: float = float("inf"),
        retain_graph: bool | None = None,
    ) -> None:
        super().__init__(
            require_count("num_particles", num_particles, least=2),
            doubly_reparameterised=True,  # the guide runs twice
            kl_weight=kl_weight,
            max_plate_nesting=max_plate_nesting,
            retain_graph=retain_graph,
        )

    def _doubly_reparameterised(self, model: PyroProgram, guide: PyroProgram, args: Any, kwargs: Any) -> Tensor:
        """The loss, a scalar."""
        with torch.no_grad():
            drawn = self._get_guide_trace(guide, args, kwargs)
        again = replayed(guide, drawn, *args, **kwargs)
        found = densities(*self._checked(replayed(model, drawn, *args, **kwargs), again), "WakePhi")
        log_weights = found.log_weights(self.kl_weight).detach()
        self.bound = self._mean(found.log_weights()).detach().reshape(-1)
        value = -scaled(self._mean(log_weights), found.scale).sum()
        objective = torch.as_tensor(found.scale * log_weights.softmax(0) * found.log_proposal()).sum()
        return value - (objective - objective.detach())
