"""Objectives that evaluate another one in a different way: in segments of time, or in CUDA graphs."""

from torch import Tensor

from .elbo import ZForcingELBO
from .objective import Objective


class HeldELBO(Objective):
    """A :class:`ZForcingELBO` that another objective holds and evaluates.

    Weights and schedules are those of the held objective, and both are always at the same step.

    Args:
        objective: the objective held.
        purpose: what it is held for, as errors say it, such as "to be captured".

    Attributes:
        terms: parts of the latest loss, a :class:`~zf_pyro.Terms` without gradients; None before the first.
        other: what sites outside of whole paths added to the objective, in nats.

    Raises:
        TypeError: the objective is no ZForcingELBO.
        ValueError: the objective has more than one particle.
    """

    def __init__(self, objective: ZForcingELBO, purpose: str) -> None:
        if not isinstance(objective, ZForcingELBO):
            got = f"the class {objective.__name__}" if isinstance(objective, type) else type(objective).__name__
            raise TypeError(f"objective must be a ZForcingELBO {purpose}, got {got}")
        if objective.num_particles != 1:
            raise ValueError(f"num_particles must be 1 {purpose}, got {objective.num_particles}")
        self.objective, step = objective, objective.step
        super().__init__(objective.kl_schedule, 1, max_plate_nesting=objective.max_plate_nesting)
        self.step = step
        self.other: Tensor | float = 0.0

    @property
    def step(self) -> int:
        """Training steps taken, which the schedules go by."""
        return self.objective.step

    @step.setter
    def step(self, step: int) -> None:
        self.objective.step = step

    @property
    def aux_weight(self) -> float:
        """alpha at the current step."""
        return self.objective.aux_weight

    @property
    def backward_weight(self) -> float:
        """gamma at the current step."""
        return self.objective.backward_weight

    @property
    def measure_earned(self) -> bool:  # type: ignore[override]  # the held objective's
        """Whether ``terms.earned`` is measured."""
        return self.objective.measure_earned
