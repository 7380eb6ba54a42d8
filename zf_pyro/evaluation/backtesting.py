"""Backtests: forecasts from rolling origins, scored in original units, with standard errors over sequences."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import require_choice, require_count, require_flag
from ..data import Series, SeriesItem, arguments_of, progress_bar
from .estimates import Estimate, ratio
from .forecast_scores import crps, energy_score, interval, log_score, pit

SCORES = ("crps", "energy", "log_score")
UNITS = ("original", "scaled")


class Backtest(NamedTuple):
    """Scores of every forecast element; NaN where it was not seen. Lower is better but for ``inside``."""

    crps: Tensor
    """Fair CRPS in ``units``; (forecast, horizon, feature) float64."""
    log_score: Tensor
    """Minus the log of a kernel density estimate, nats; (forecast, horizon, feature)."""
    energy: Tensor
    """Fair energy score of the elements of a frame that were seen; (forecast, horizon)."""
    pit: Tensor
    """Randomised probability integral transform; (forecast, horizon, feature)."""
    inside: dict[float, Tensor]
    """1 where the central interval of a level holds the element; (forecast, horizon, feature)."""
    width: dict[float, Tensor]
    """Width of that interval in ``units``; (forecast, horizon, feature)."""
    owner: Tensor
    """Position of the sequence of each forecast; (forecast,) int64."""
    origins: Tensor
    """Frames before each forecast; (forecast,) int64."""
    features: tuple[str, ...]
    """Names of the features."""
    ids: list[Any]
    """Identifiers of the sequences."""
    units: str
    """``original`` or ``scaled``."""

    def estimates(self, feature: str | None = None, step: int | None = None) -> dict[str, Estimate]:
        """Mean of each score over the elements that were seen.

        Standard errors are over sequences: forecasts of one sequence are not independent. They are NaN for a single
        one.

        Args:
            feature: name of one feature; all if None. The energy score is of whole frames, so it is left out.
            step: steps ahead, from 1; all if None.

        Raises:
            ValueError: no such feature or step.
        """
        found = {"crps": self.crps, "log_score": self.log_score}
        if feature is None:
            found["energy"] = self.energy.unsqueeze(-1)
        found |= {f"coverage_{level:g}": values for level, values in self.inside.items()}
        found |= {f"width_{level:g}": values for level, values in self.width.items()}
        return {name: self._mean(self._part(values, name, feature, step)) for name, values in found.items()}

    def skill(self, baseline: "Backtest", score: str = "crps") -> Estimate:
        """1 - S / S_baseline: the share of the baseline's score that this forecast saves, with its standard error.

        Raises:
            ValueError: another score, or a backtest of other forecasts.
        """
        require_choice("score", score, SCORES)
        ours, theirs = getattr(self, score), getattr(baseline, score)
        same = ours.shape == theirs.shape and torch.equal(ours.isnan(), theirs.isnan())
        same = same and torch.equal(self.owner, baseline.owner)
        if not same or not torch.equal(self.origins, baseline.origins) or self.units != baseline.units:
            raise ValueError(
                "baseline must be a backtest of the same data, origins, horizon and units, got another one"
            )
        (own, _), (other, _) = self._sums(ours), self._sums(theirs)
        found = ratio(own, other)
        return Estimate(1 - found.value, found.standard_error)

    def _part(self, values: Tensor, name: str, feature: str | None, step: int | None) -> Tensor:
        if step is not None:
            if require_count("step", step) > values.shape[1]:
                raise ValueError(f"step must be at most the horizon, {values.shape[1]}, got {step}")
            values = values[:, step - 1 : step]
        if feature is not None:
            require_choice("feature", feature, self.features)
            values = values[:, :, self.features.index(feature)].unsqueeze(-1)
        return values

    def _sums(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and number of the elements of each sequence that were seen; (sequences,) float64."""
        flat, count = values.flatten(1), len(self.ids)
        sums = torch.zeros(count, dtype=torch.float64).index_add_(
            0, self.owner, flat.nan_to_num(0.0, torch.inf, -torch.inf).sum(1)
        )
        seen = torch.zeros(count, dtype=torch.float64).index_add_(0, self.owner, (~flat.isnan()).double().sum(1))
        return sums[seen > 0], seen[seen > 0]

    def _mean(self, values: Tensor) -> Estimate:
        sums, seen = self._sums(values)
        return ratio(sums, seen) if len(seen) else Estimate(float("nan"), float("nan"))


def backtest(
    forecaster: Callable[..., Tensor],
    data: Any,
    *,
    horizon: int,
    first: int | None = None,
    every: int | None = None,
    levels: Sequence[float] = (0.5, 0.9),
    units: str = "original",
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Backtest:
    """Forecast from rolling origins, and score the frames that followed. Nothing is fitted again.

    Args:
        forecaster: called as ``forecaster(x, lengths, horizon)``, with x (batch, time, frame) up to the origin and
            lengths (batch,); returns samples (num_samples, batch, horizon, frame). If it has parameters ``covariates``
            and ``observed``, it gets those of the data: (batch, time + horizon, covariate), and (batch, time, frame).
        data: a :class:`zf_pyro.data.Series`, or one batch of x and lengths, with ``covariates`` and ``observed`` if
            there are.
        horizon: steps of each forecast.
        first: frames before the first origin; None for one origin per sequence, ``horizon`` frames before its end.
        every: steps from one origin to the next; the horizon if None, so that no frame is forecast twice.
        levels: probabilities of the central intervals.
        units: ``original``, where the data have a scaling, or ``scaled``.
        batch_size: sequences that are forecast at once. All have the same origin.
        seed: seed of the randomised probability integral transform.
        progress: whether to show a progress bar.

    Raises:
        TypeError: data of another form, or missing values for a forecaster without a parameter ``observed``.
        ValueError: a sequence shorter than ``first`` and the horizon, samples of another shape, or none that is finite.
    """
    horizon, batch_size = require_count("horizon", horizon), require_count("batch_size", batch_size)
    first = None if first is None else require_count("first", first)
    every = horizon if every is None else require_count("every", every)
    if isinstance(levels, str | float) or len(set(levels)) < len(levels):
        raise ValueError(f"levels must be a list of different probabilities, such as (0.5, 0.9), got {levels!r}")
    if hasattr(data, "dataset"):
        raise TypeError(
            f"data must be a data set or one batch, got {type(data).__name__}: give the data set that it reads"
        )
    require_choice("units", units, UNITS)
    require_flag("progress", progress)
    given = data if isinstance(data, Series) else _Held(data)
    wanted = _wanted(forecaster, given.has_gaps)
    plan = _plan(given.lengths, given.ids, horizon, first, every, batch_size)
    found: dict[str, list[Tensor]] = {}
    for number, (origin, rows) in enumerate(_shown(plan, forecaster, progress)):
        items = [given.read(row, 0, origin + horizon) for row in rows]
        x, covariates, observed = (_stacked([item[field] for item in items]) for field in range(3))
        known = {"covariates": covariates, "observed": None if observed is None else observed[:, :origin]}
        known = {name: value for name, value in known.items() if name in wanted and value is not None}
        samples = forecaster(x[:, :origin], torch.full((len(rows),), origin), horizon, **known)
        samples = _require_samples(samples, x[:, origin:])
        targets = x[:, origin:].double()
        if isinstance(given, Series) and units == "original":
            samples, targets = given.inverse(samples), _targets(given, rows, origin, horizon)
        elif observed is not None:
            targets = targets.where(observed[:, origin:], torch.nan)
        scored = {
            "crps": crps(samples, targets),
            "log_score": log_score(samples, targets),
            "energy": energy_score(samples, targets),
            "pit": pit(samples, targets, seed=seed + number),
            "owner": torch.tensor(rows),
            "origins": torch.full((len(rows),), origin),
        }
        for level in levels:
            bounds = interval(samples, targets, level)
            scored |= {f"inside {level}": bounds.inside, f"width {level}": bounds.width}
        for name, values in scored.items():
            found.setdefault(name, []).append(values.cpu())
    parts = {name: torch.cat(values) for name, values in found.items()}
    order = torch.argsort(parts["owner"] * (1 + int(parts["origins"].max())) + parts["origins"])
    parts = {name: values[order] for name, values in parts.items()}
    inside, width = ({level: parts.pop(f"{kind} {level}") for level in levels} for kind in ("inside", "width"))
    features = tuple(given.features)
    return Backtest(
        **parts,
        inside=inside,
        width=width,
        features=features,
        ids=given.ids,
        units=units if isinstance(given, Series) else "scaled",
    )


class _Held:
    """One batch, read like a data set."""

    def __init__(self, data: Any) -> None:
        fields = data._asdict() if hasattr(data, "_asdict") else data
        known = {}
        if isinstance(fields, dict):
            known = {name: fields[name] for name in ("covariates", "observed") if fields.get(name) is not None}
            fields = {name: value for name, value in fields.items() if name not in ("covariates", "observed")}
        found = arguments_of(fields, "data")
        x = self.x = found["x"]
        if x.dim() != 3 or not x.is_floating_point():
            raise ValueError(
                f"data must hold x (batch, time, frame) of floats, got {x.dtype} of shape {tuple(x.shape)}"
            )
        self.lengths = found.get("lengths", torch.full((len(x),), x.shape[1]))
        self.covariates, self.observed = known.get("covariates"), known.get("observed")
        self.has_gaps = self.observed is not None
        self.ids, self.features = [*range(len(x))], [f"x_{i}" for i in range(x.shape[2])]

    def read(self, row: int, start: int, stop: int) -> SeriesItem:
        """Frames of one sequence."""
        fields = (self.x, self.covariates, self.observed)
        return SeriesItem(*(None if field is None else field[row, start:stop] for field in fields))  # type: ignore[arg-type]  # x is there


def _wanted(forecaster: Callable[..., Tensor], gaps: bool) -> set[str]:
    """Those of ``covariates`` and ``observed`` that a forecaster takes."""
    if not callable(forecaster):
        raise TypeError(f"forecaster must be a function of x, lengths and horizon, got {type(forecaster).__name__}")
    parameters = inspect.signature(forecaster).parameters
    every = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    wanted = {name for name in ("covariates", "observed") if every or name in parameters}
    if gaps and "observed" not in wanted:
        raise TypeError(
            "forecaster must have a parameter observed, since the data have missing values: (batch, time, frame) bool, "
            "True where an element was seen"
        )
    return wanted


def _plan(
    lengths: Tensor, ids: list[Any], horizon: int, first: int | None, every: int, batch_size: int
) -> list[tuple[int, list[int]]]:
    """Origins, each with the positions of the sequences that are forecast from it together."""
    sizes = lengths.tolist()
    least = (1 if first is None else first) + horizon
    short = [row for row, size in enumerate(sizes) if size < least]
    if short:
        raise ValueError(
            f"sequences must have {least} frames at least, {least - horizon} before the first origin and a horizon of "
            f"{horizon}, got {sizes[short[0]]} in sequence {ids[short[0]]!r}: leave short ones out, as with "
            f"data.at_least({least}), or take a smaller first or horizon"
        )
    rows: dict[int, list[int]] = {}
    for row, size in enumerate(sizes):
        start = size - horizon if first is None else first
        for origin in range(start, size - horizon + 1, every):
            rows.setdefault(origin, []).append(row)
    return [
        (origin, chosen[i : i + batch_size])
        for origin, chosen in sorted(rows.items())
        for i in range(0, len(chosen), batch_size)
    ]


def _shown(
    plan: list[tuple[int, list[int]]], forecaster: Callable[..., Tensor], progress: bool
) -> Iterator[tuple[int, list[int]]]:
    """The origins of a plan, under a bar that counts forecasts."""
    name = getattr(forecaster, "__name__", type(forecaster).__name__)
    with progress_bar(f"backtest of {name}", "forecast", sum(len(rows) for _, rows in plan), progress) as bar:
        for origin, rows in plan:
            yield origin, rows
            bar.update(len(rows))


def _stacked(parts: list[Any]) -> Any:
    return None if parts[0] is None else torch.stack(parts)


def _targets(series: Series, rows: list[int], origin: int, horizon: int) -> Tensor:
    """Frames after the origin in original units, NaN where missing; (batch, horizon, frame)."""
    return torch.from_numpy(np.stack([series.steps(row, origin, origin + horizon).values for row in rows]))


def _require_samples(samples: Any, targets: Tensor) -> Tensor:
    shape = tuple(targets.shape)
    if not isinstance(samples, Tensor) or samples.dim() != 4 or tuple(samples.shape[1:]) != shape or len(samples) < 2:
        got = f"shape {tuple(samples.shape)}" if isinstance(samples, Tensor) else type(samples).__name__
        raise ValueError(f"forecaster must return samples (num_samples, *{shape}), at least 2 of them, got {got}")
    return samples.detach().cpu().double()
