"""Training, validation and test parts, by sequence or by time, with the scaling of the training part alone."""

from typing import Any, NamedTuple

import numpy as np

from ...checks import require_choice, require_count
from ..folders.splits import draw_groups
from .rows import Steps
from .scaling import Scaling
from .series import Series


class SeriesSets(NamedTuple):
    """Parts of one data set, in the scaling of the first."""

    train: Series
    validation: Series | None
    test: Series | None


def split_series(
    series: Series,
    by: str = "sequence",
    *,
    validation: Any = 0.1,
    test: Any = 0.1,
    context: int = 0,
    seed: int = 0,
) -> SeriesSets:
    """Split a data set, and scale all parts by the training part.

    Nothing of a later part enters an earlier one. By ``sequence``, whole sequences are drawn. By ``time``, all steps
    before one time are for training, those from it on for validation, and those from another on for test: the same
    times for every sequence. A sequence without steps in a part is not in it.

    Args:
        series: the data.
        by: ``"sequence"`` or ``"time"``.
        validation: part of the sequences or of all steps, between 0 and 1; or, by time, the first time of the part, as
            a date (or its text) or a number of the kind of the times. None for no such part.
        test: likewise.
        context: by time, frames before their own that validation and test sequences begin with, so that forecasts can
            start from them. They are frames of the earlier parts; the scaling does not change.
        seed: seed of the drawing by sequence.

    Raises:
        ValueError: too few sequences, an empty part, a sequence with fewer than ``context`` frames before its part, or
            a category that the training part has not.
    """
    require_choice("by", by, ("sequence", "time"))
    context = require_count("context", context, least=0)
    wanted = {name: part for name, part in (("validation", validation), ("test", test)) if part is not None}
    if by == "sequence":
        if context:
            raise ValueError("context is for by='time': by sequence, the parts are whole sequences")
        found = _by_sequence(series, wanted, seed)
    else:
        found = _by_time(series, wanted, context)
    train = series.part(found["train"])
    steps = rows_of(train)
    scaling = Scaling.fit(series.scaling.names, series.scaling.kinds, steps.values)
    covariate_scaling = Scaling.fit(series.covariate_scaling.names, series.covariate_scaling.kinds, steps.covariates)
    parts = {
        name: Series(series.rows, series.layout, scaling, covariate_scaling, segments)
        for name, segments in found.items()
    }
    for name, part in parts.items():
        if name != "train":
            _require_known(series, name, steps, rows_of(part))
    return SeriesSets(parts["train"], parts.get("validation"), parts.get("test"))


def rows_of(series: Series) -> Steps:
    """All steps of a data set, one sequence after the other, in original units."""
    found = [series.steps(index) for index in range(len(series))]
    return Steps(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _by_sequence(series: Series, wanted: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    sequences = np.unique(series.segments[:, 0])
    if len(sequences) <= len(wanted):
        raise ValueError(
            f"a split by sequence needs {len(wanted) + 1} sequences at least, one per part, got {len(sequences)}: take "
            "by='time', or name the column that tells the sequences apart as sequence="
        )
    members = [f"{sequence:012d}" for sequence in sequences]
    drawn = draw_groups(members, wanted, seed, "sequences")
    owner = series.segments[:, 0]
    found = {name: np.isin(owner, [int(member) for member in chosen]) for name, chosen in drawn.items()}
    return {name: series.segments[rows] for name, rows in found.items()}


def _by_time(series: Series, wanted: dict[str, Any], context: int) -> dict[str, np.ndarray]:
    times = [series.steps(index).times for index in range(len(series))]
    cuts = _cuts(series, np.sort(np.concatenate(times)), wanted)
    names = ["train", *wanted]
    found: dict[str, list[tuple[int, int, int]]] = {name: [] for name in names}
    for index, (sequence, start, _) in enumerate(series.segments.tolist()):
        ends = [0, *np.searchsorted(times[index], cuts, side="left").tolist(), len(times[index])]
        for name, first, last in zip(names, ends[:-1], ends[1:], strict=True):
            if first == last:
                continue
            before = context if name != "train" else 0
            if before > first:
                raise ValueError(
                    f"context must be at most the frames before the {name} part, {first} of sequence "
                    f"{series.ids[index]!r}, got {context}: take a shorter one, or leave such sequences out with "
                    "select() or at_least()"
                )
            found[name].append((sequence, start + first - before, start + last))
    for name, segments in found.items():
        if not segments:
            shown = {part: series.layout.axis.show(cut) for part, cut in zip(wanted, cuts, strict=True)}
            raise ValueError(f"the {name} part holds no steps, with the parts from {shown} on: give other times")
    return {name: np.array(segments) for name, segments in found.items()}


def _cuts(series: Series, times: np.ndarray, wanted: dict[str, Any]) -> list[Any]:
    """First time of each part after the first, ascending."""
    names = list(wanted)
    if not wanted:
        return []
    parts = {name: isinstance(value, float) and 0 < value < 1 for name, value in wanted.items()}
    if any(parts.values()) != all(parts.values()):
        raise ValueError(f"validation and test must both be parts between 0 and 1, or both times, got {wanted}")
    if all(parts.values()):
        if sum(wanted.values()) >= 1:
            raise ValueError(f"validation and test must leave a part for training, got {wanted}")
        left = [1 - sum(wanted[later] for later in names[i:]) for i in range(len(names))]
        return [times[min(len(times) - 1, max(1, round(share * len(times))))] for share in left]
    cuts = [_time(series, name, value) for name, value in wanted.items()]
    if cuts != sorted(cuts):
        raise ValueError(f"validation must begin before test, got {wanted}")
    return cuts


def _time(series: Series, name: str, value: Any) -> Any:
    """A time that was given, as a plain number."""
    axis = series.layout.axis
    if not axis.dated:
        if isinstance(value, bool | str) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
            raise ValueError(f"{name} must be a part between 0 and 1 or a time, a number, got {value!r}")
        return value
    import pandas as pd

    try:
        if isinstance(value, bool | int | float | np.number):
            raise ValueError("the times are dates or durations")
        found = pd.Timestamp(value) if axis.kind == "datetime" else pd.Timedelta(value)
        if found is pd.NaT:
            raise ValueError("it is missing")
        if axis.kind == "datetime":
            if (found.tzinfo is None) != (axis.zone is None) and not isinstance(value, str):
                raise ValueError("one of it and the times has a time zone")
            if axis.zone is not None:
                found = found.tz_localize(axis.zone) if found.tzinfo is None else found
                found = found.tz_convert("UTC").tz_localize(None)
        return found.as_unit("ns").value
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{name} must be a part between 0 and 1 or a time, such as '2024-01-31', got {value!r} ({error})"
        ) from error


def _require_known(series: Series, name: str, train: Steps, part: Steps) -> None:
    for i, covariate in enumerate(series.layout.covariates):
        if covariate.kind == "category":
            new = np.setdiff1d(part.covariates[:, i], train.covariates[:, i])
            if len(new):
                raise ValueError(
                    f"covariate {covariate.name!r} has the category {covariate.categories[int(new[0])]!r} in the "
                    f"{name} part, which the training part has not, so nothing could be learned of it: split "
                    "otherwise, or leave the covariate or these sequences out"
                )
