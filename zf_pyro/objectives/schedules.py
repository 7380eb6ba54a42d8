"""Weights of the objective as functions of the training step."""

from dataclasses import dataclass
from numbers import Real
from typing import Protocol

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


def as_schedule(name: str, weight: "float | Schedule") -> Schedule:
    """``weight`` as a schedule.

    Raises:
        ValueError: it is a negative or non-finite number.
        TypeError: it is neither a number nor a function of the step.
    """
    if callable(weight):
        return weight
    if isinstance(weight, bool) or not isinstance(weight, Real):
        raise TypeError(f"{name} must be a number or a schedule such as Linear(0.2, 1.0, 1000), got {weight!r}")
    return Constant(_weight(name, weight))


def _weight(name: str, value: object) -> float:
    return require_number(name, value, "a finite number of at least 0", 0.0)
