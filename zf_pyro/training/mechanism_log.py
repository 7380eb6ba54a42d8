"""Log of the auxiliary at work, and warnings where it is earned without the latents or crowds out the likelihood."""

import functools
import warnings
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from ..checks import require_count, require_flag, require_number
from ..objectives import HeldELBO, ZForcingELBO, mechanism
from .parameters import call

LEAST_SHARE = 0.1
"""Share of a rise of the auxiliary that z is to earn."""


MOST_PULL, IN_A_ROW = 5.0, 3
"""Norm of the auxiliary's gradient over that of the likelihood's, and measurements in a row above it, of which
training warns. In docs/results.md all runs above 15 are behind annealing; what is ahead on each seed has at most 1."""

COMPARED = ("auxiliary", "log_likelihood")
TINY = 1e-30
"""In place of a gradient of zero, in what the warning says."""


class UnearnedAuxiliaryWarning(UserWarning):
    """The auxiliary rose, and z earned less than a tenth of it."""


class CrowdingAuxiliaryWarning(UserWarning):
    """The gradient of the auxiliary was several times that of the likelihood."""


class MechanismLog(Callback):
    """Logs the auxiliary at work every so many steps, and warns once where it is earned without z, and once where its
    gradient is several times that of the likelihood.

    Logged, for a :class:`~zf_pyro.ZForcingELBO`, on the training batch before its step:

    - ``mechanism/earned``, what z earns of the auxiliary in nats per sequence, and ``mechanism/spread``, the standard
      deviation of b_t over sequences, while the auxiliary has a weight;
    - ``mechanism/grad_norm_TERM``, the norm of the gradient of each weighted term: ``log_likelihood``, ``kl``,
      ``auxiliary``, ``backward``. As ``train/grad_norm`` it is that of ``scale`` times the loss, before clipping.

    A measurement has a line of its own in the table, at the number of steps taken.

    Measuring changes neither weights nor random numbers. With several processes it is done on the first one's share.
    :func:`zf_pyro.training.fit` has one without gradient norms, for a ZForcingELBO.

    Args:
        every: steps between two measurements. Gradient norms cost up to five steps' time at each, all else half of one.
        gradient_norms: measure gradient norms.
        rise: nats per sequence by which the auxiliary may rise before z has to earn a tenth of the rise.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(self, every: int = 100, *, gradient_norms: bool = True, rise: float = 100.0) -> None:
        self.every = require_count("every", every)
        self.gradient_norms = require_flag("gradient_norms", gradient_norms)
        self.rise = require_number("rise", rise, "a positive number of nats", 0.0, ends="(]")
        self.first: tuple[int, float] | None = None
        self.warned = False
        self.crowded = 0

    def state_dict(self) -> dict[str, Any]:
        """Step and auxiliary of the first measurement, whether that warning was given, and how often in a row the
        auxiliary's gradient was too large."""
        return {"first": self.first, "warned": self.warned, "crowded": self.crowded}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        first = state_dict["first"]
        self.first, self.warned = None if first is None else (int(first[0]), float(first[1])), state_dict["warned"]
        self.crowded = state_dict.get("crowded", 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Measure before the first batch of every so many steps."""
        module = cast(Any, pl_module)
        objective = module.objective
        due = trainer.global_step % self.every == 0 and batch_idx % module.accumulate == 0 and trainer.is_global_zero
        if not due or not isinstance(objective, ZForcingELBO | HeldELBO):
            return
        auxiliary = objective.aux_weight > 0
        if not auxiliary and not self.gradient_norms:
            return

        measure = functools.partial(
            mechanism, objective, gradient_norms=self.gradient_norms, parameters=module.trained().values()
        )
        found = call(measure, batch, *module.programs)
        values = {f"grad_norm_{name}": module.scale * norm for name, norm in found.gradient_norms.items()}
        if auxiliary:
            values |= {"earned": found.terms.earned.mean(), "spread": found.spread}
            self._judge(trainer.global_step, float(found.terms.auxiliary.mean()), float(values["earned"]))
            if self.gradient_norms and trainer.global_step > 0:
                self._compare(trainer.global_step, *(float(values[f"grad_norm_{term}"]) for term in COMPARED))
        plain = {f"mechanism/{name}": float(value) for name, value in values.items()}
        for logger in trainer.loggers:  # a line of its own: Lightning would repeat the values at every step
            logger.log_metrics(plain, step=trainer.global_step)
        for name, number in plain.items():
            module.log(name, number, logger=False, rank_zero_only=True)

    def _compare(self, step: int, auxiliary: float, likelihood: float) -> None:
        """Warn once where the auxiliary's gradient was too large at several measurements in a row."""
        if self.crowded >= IN_A_ROW:
            return
        self.crowded = self.crowded + 1 if auxiliary > MOST_PULL * likelihood else 0
        if self.crowded == IN_A_ROW:
            warnings.warn(
                f"the auxiliary's gradient is {auxiliary / max(likelihood, TINY):.0f} times that of the likelihood at "
                f"step {step}, and was above {MOST_PULL:g} at {IN_A_ROW} measurements in a row: it crowds out the "
                "likelihood. Lower aux_weight until it is below 1 (docs/training.md)",
                CrowdingAuxiliaryWarning,
                stacklevel=2,
            )

    def _judge(self, step: int, auxiliary: float, earned: float) -> None:
        """Warn once where z earns less than a tenth of a rise of more than ``rise`` nats."""
        if self.first is None:
            self.first = step, auxiliary
        rise = auxiliary - self.first[1]
        if not self.warned and rise > self.rise and earned < LEAST_SHARE * rise:
            self.warned = True
            warnings.warn(
                f"the auxiliary rose by {rise:.0f} nats per sequence from step {self.first[0]} to {step}, of which z "
                f"earns {earned:.1f}: it is earned without z, and its gradient crowds out the likelihood's. Lower "
                "aux_weight, give backward_weight, or take another form of the auxiliary (docs/training.md)",
                UnearnedAuxiliaryWarning,
                stacklevel=2,
            )
