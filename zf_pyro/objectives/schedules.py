"""Weights of the objective as functions of the training step."""

import inspect
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, cast

from torch import Tensor, nn

from ..checks import require_count, require_number


class Schedule(Protocol):
    """A stateless function from the training step, counted from 0, to a weight."""

    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """The same weight at every step."""

    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _weight("value", self.value))

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """From ``start`` to ``end``, up or down, in ``num_steps`` equal steps; ``end`` from then on.

    The paper's KL weight, from 0.2 up by 5e-5 a step, is ``Linear(0.2, 1.0, 16_000)``.
    """

    start: float
    end: float
    num_steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _weight("start", self.start))
        object.__setattr__(self, "end", _weight("end", self.end))
        object.__setattr__(self, "num_steps", require_count("num_steps", self.num_steps))

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(step / self.num_steps, 1.0)

    @classmethod
    def of_epochs(cls, start: float, end: float, num_epochs: float, steps_per_epoch: int) -> "Linear":
        """From ``start`` to ``end`` in so many epochs, rounded to steps, at least one.

        Args:
            start: first weight.
            end: last weight.
            num_epochs: epochs, or a part of one.
            steps_per_epoch: training steps of an epoch, such as ``len(loader)``.
        """
        epochs = require_number("num_epochs", num_epochs, "a positive number", 0.0, ends="(]")
        steps = require_count("steps_per_epoch", steps_per_epoch)
        return cls(start, end, max(1, round(epochs * steps)))


class WeightInMemory:
    """A weight of the objective as a scalar in memory, which a CUDA graph reads at each replay.

    Whether it is positive is fixed at capture, since that decides which terms are computed.
    """

    def __init__(self, value: Tensor, positive: bool) -> None:
        self.value, self.positive = value, positive

    def __gt__(self, zero: float) -> bool:
        return self.positive

    def __mul__(self, other: Tensor) -> Tensor:
        return self.value * other

    __rmul__ = __mul__


def as_schedule(name: str, weight: "float | Schedule") -> Schedule:
    """``weight`` as a schedule.

    Raises:
        ValueError: it is a negative or non-finite number.
        TypeError: it is neither a number nor a function of the step; a class of schedules, a network or its program.
    """
    if isinstance(weight, type):
        raise TypeError(
            f"{name} must be a number or a schedule, got the class {weight.__name__}: give an instance, for example "
            "Linear(0.2, 1.0, 1000)"
        )
    program = isinstance(weight, nn.Module) or isinstance(getattr(weight, "__self__", None), nn.Module)
    if callable(weight) and not program:
        _require_function_of_step(name, weight)
        return weight
    if program or isinstance(weight, bool) or not isinstance(weight, Real):
        raise TypeError(f"{name} must be a number or a schedule such as Linear(0.2, 1.0, 1000), got {weight!r}")
    return Constant(_weight(name, weight))


def weight_at(name: str, schedule: Schedule, step: int) -> float:
    """The weight of a training step.

    Raises:
        ValueError: the schedule returns a negative or non-finite number.
        TypeError: the schedule returns no number.
    """
    weight: Any = schedule(step)
    if isinstance(weight, WeightInMemory):
        return cast(float, weight)
    found = weight
    if isinstance(weight, Tensor) and weight.dim() == 0 and not weight.requires_grad and not weight.is_complex():
        found = weight.item()
    described = f"the schedule of {name} must return a finite number of at least 0"
    if isinstance(found, bool) or not isinstance(found, Real):
        raise TypeError(f"{described}, got {weight!r} at step {step}")
    if not 0.0 <= float(found) < float("inf"):
        raise ValueError(f"{described}, got {weight!r} at step {step}")
    return float(found)


def _require_function_of_step(name: str, schedule: Any) -> None:
    try:
        inspect.signature(schedule).bind(0)
    except TypeError as error:
        raise TypeError(
            f"{name} must be a number or a function of the training step, counted from 0; {schedule!r} cannot be "
            f"called with a step alone: {error}"
        ) from error
    except ValueError:  # builtins without a signature
        return


def _weight(name: str, value: object) -> float:
    return require_number(name, value, "a finite number of at least 0", 0.0)
