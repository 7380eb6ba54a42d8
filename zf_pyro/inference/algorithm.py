"""What a row of the table of algorithms says, and the three kinds of rows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from . import builders

Evidence = Literal["", "bound", "estimate"]
Scoring = Literal["batch", "step by step"]


@dataclass(frozen=True)
class Algorithm:
    """A row of :data:`zf_pyro.inference.ALGORITHMS`."""

    description: str
    """What it is, in one line."""
    build: Callable[..., Any]
    """``build(net, **settings)``: the algorithm on ``net``, an object of Pyro's or in Pyro's style. What trains takes
    ``optim``, a PyroOptim; what needs a guide takes ``guide`` and ``model``, programs instead of the net's; other
    settings go to the class of the row."""
    call: str
    """The method of what ``build`` returns that takes ``(x, lengths)`` and does the work."""
    returns: str
    """What that method returns."""
    trains: bool
    """Whether it changes those parameters of the net that require gradients."""
    needs_guide: bool
    """Whether it runs a guide, ``net.guide`` by default. What does not brings one of its own or needs none."""
    evidence: Evidence
    """What it says of log p(x): nothing, a lower bound, or the logarithm of an unbiased estimate of p(x)."""
    scoring: Scoring
    """Whether a call evaluates heads and densities over time x batch at once, or step by step."""
    amortised: bool
    """Whether it takes new sequences at every call; one that is not is fitted to those that it was first given."""
    limits: str = ""
    """What it cannot do here, and why."""


class Algorithms(Mapping[str, Algorithm]):
    """Algorithms by name; an unknown name raises a KeyError that lists the known ones."""

    def __init__(self, rows: dict[str, Algorithm]) -> None:
        self._rows = rows

    def __getitem__(self, name: str) -> Algorithm:
        if name not in self._rows:
            raise KeyError(f"inference must be one of {', '.join(self._rows)}; got {name!r}")
        return self._rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def objective(
    description: str,
    kind: Callable[..., Any],
    *,
    returns: str = "the loss, minus the bound, in nats summed over the batch",
    evidence: Evidence = "bound",
    scoring: Scoring = "batch",
    limits: str = "",
    build: Callable[..., Any] | None = None,
    **defaults: Any,
) -> Algorithm:
    """A row of an objective for SVI with the net's own guide."""
    return Algorithm(
        description,
        build or builders.svi(kind, **defaults),
        "step",
        returns,
        trains=True,
        needs_guide=True,
        evidence=evidence,
        scoring=scoring,
        amortised=True,
        limits=limits,
    )


def autoguide(description: str, name: str, limits: str = "", **defaults: Any) -> Algorithm:
    """A row of an autoguide; its bound is one only because the padding has a density (with_padding_prior)."""
    return Algorithm(
        description,
        builders.autoguide(name, **defaults),
        "step",
        "the loss, minus the bound, in nats summed over the batch",
        trains=True,
        needs_guide=False,
        evidence="" if name in ("AutoDelta", "AutoLaplaceApproximation") else "bound",
        scoring="batch",
        amortised=False,
        limits=limits,
    )


def draws(
    description: str,
    build: Callable[..., Any],
    call: str,
    returns: str,
    *,
    trains: bool = False,
    needs_guide: bool = False,
    evidence: Evidence = "",
    scoring: Scoring = "batch",
    amortised: bool = True,
    limits: str = "",
) -> Algorithm:
    """A row of what draws latents, most of it without training."""
    return Algorithm(description, build, call, returns, trains, needs_guide, evidence, scoring, amortised, limits)
