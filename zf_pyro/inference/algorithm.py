"""Rows of the table of algorithms: their fields, and constructors for the three kinds of rows."""

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
    """One line on the algorithm."""
    build: Callable[..., Any]
    """``build(net, **settings)`` makes the algorithm on ``net``: an object of Pyro's, or one in Pyro's style.

    - ``optim``: a PyroOptim, for algorithms that train.
    - ``guide`` and ``model``: programs in place of the network's, for algorithms that need a guide. Those that run step
      functions take a guide of :func:`zf_pyro.inference.refine`, and no other program.
    - Other settings go to the class of the row.
    """
    call: str
    """Name of the method that takes ``(x, lengths)`` and does the work, on the object that ``build`` returns."""
    returns: str
    """Result of that method."""
    trains: bool
    """True if it updates the parameters of the network that require gradients."""
    needs_guide: bool
    """True if it runs a guide, ``net.guide`` by default. The others bring a guide of their own, or need none."""
    evidence: Evidence
    """Information on log p(x): none, a lower bound, or the logarithm of an unbiased estimate of p(x)."""
    scoring: Scoring
    """Evaluation of the prior, emission and densities: over time x batch at once, or step by step."""
    amortised: bool
    """True if it takes new sequences at every call. Otherwise it is fitted to the sequences of its first call."""
    limits: str = ""
    """Limitations on these models, with reasons."""


class Algorithms(Mapping[str, Algorithm]):
    """Algorithms by name; an unknown name raises a KeyError that lists the known ones."""

    def __init__(self, rows: dict[str, Algorithm]) -> None:
        self._rows = rows

    def __getitem__(self, name: str) -> Algorithm:
        if not isinstance(name, str) or name not in self._rows:
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
    """Row of an objective for SVI, by default with the guide of the network."""
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
    """Row of an autoguide. Its loss is a bound only because ``with_padding_prior`` gives the padding a density."""
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
    """Row of an algorithm that samples latents, in most cases without training."""
    return Algorithm(description, build, call, returns, trains, needs_guide, evidence, scoring, amortised, limits)
