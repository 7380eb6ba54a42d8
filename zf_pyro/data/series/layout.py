"""Names and kinds of the columns of a data set, as they go into a record and come out of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from .times import TimeAxis

Category = str | int | float | bool


@dataclasses.dataclass(frozen=True)
class Covariate:
    """One covariate as it was given. A category is read as one column of zeros and ones per category."""

    name: str
    kind: str
    """``number``, ``flag`` for True and False, or ``category``."""
    categories: tuple[Category, ...] = ()
    static: bool = False

    @property
    def columns(self) -> list[str]:
        """Names of the columns that a network reads."""
        return [self.name] if self.kind != "category" else [f"{self.name}={value}" for value in self.categories]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Columns of a data set."""

    features: tuple[str, ...]
    covariates: tuple[Covariate, ...] = ()
    """In the order given; the time since the last frame comes last."""
    axis: TimeAxis = dataclasses.field(default_factory=TimeAxis)
    sequence: str = "sequence"
    """Name of the identifiers of sequences."""
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments by which the data were prepared, so that other data can be prepared alike."""

    @property
    def covariate_names(self) -> list[str]:
        """Names of the columns that a network reads as covariates."""
        return [name for covariate in self.covariates for name in covariate.columns]

    def expand(self, covariates: np.ndarray) -> np.ndarray:
        """Columns that a network reads, (steps, covariate) float32, of one column per covariate, (steps, given).

        A category becomes zeros and a one. The first linear layer of a network over them is its embedding.
        """
        found = []
        for i, covariate in enumerate(self.covariates):
            column = covariates[:, i : i + 1]
            categories = np.arange(len(covariate.categories))
            found.append(column == categories if covariate.kind == "category" else column)
        return np.concatenate([part.astype(np.float32) for part in found], axis=1)

    def to_dict(self) -> dict[str, Any]:
        """The layout in JSON's types."""
        return {**dataclasses.asdict(self), "columns": dict(self.columns)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Layout":
        """The layout of :meth:`to_dict`, read from JSON."""
        covariates = tuple(
            Covariate(**{**found, "categories": tuple(found["categories"])}) for found in fields["covariates"]
        )
        return cls(
            tuple(fields["features"]),
            covariates,
            TimeAxis(**fields["axis"]),
            fields["sequence"],
            dict(fields["columns"]),
        )

    def require_same(self, other: "Layout", what: str) -> None:
        """Refuse data with other columns.

        Raises:
            ValueError: other features, covariates or times; the message names the first difference.
        """
        for name in ("features", "covariate_names"):
            own, theirs = list(getattr(self, name)), list(getattr(other, name))
            if own != theirs:
                raise ValueError(
                    f"{what} must have the {name} {own}, got {theirs}: prepare it with like= this data set"
                )
        if (self.axis.kind, self.axis.frequency) != (other.axis.kind, other.axis.frequency):
            raise ValueError(f"{what} must have times of {self.axis}, got {other.axis}")
        if self.axis.kind == "datetime" and (self.axis.zone is None) != (other.axis.zone is None):
            zones = [axis.zone or "no time zone" for axis in (self.axis, other.axis)]
            raise ValueError(
                f"{what} must have dates in {zones[0]}, got {zones[1]}: set or drop the zone with .dt.tz_localize, so "
                "that times mean the same"
            )
