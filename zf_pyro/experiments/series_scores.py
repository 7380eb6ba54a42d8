"""Scores of the forecasts of a trained network by backtests, against naive, seasonal naive and ETS."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..checks import require_choice, require_count
from ..data import Series
from ..evaluation import ETS, Backtest, Estimate, FilterForecaster, Naive, SeasonalNaive, backtest
from ..models import StochasticRNN

Baseline = Literal["naive", "seasonal_naive", "ets"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
"""Baselines by name. A season that is not known leaves out the seasonal one, and makes ETS one without a season."""
LEVELS = (0.5, 0.9)
"""Probabilities of the central intervals."""


class ForecastScores(NamedTuple):
    """Backtests of a network and of baselines on the same forecasts."""

    backtests: dict[str, Backtest]
    """By name; the network first."""
    horizon: int
    """Steps of each forecast."""
    left_out: dict[str, str]
    """The reason by the name of each baseline that could not forecast these data."""
    warned: tuple[str, ...]
    """What the baselines warned of."""

    def to_json(self) -> dict[str, Any]:
        """Estimates as [value, standard error], by name, and by feature and step ahead of the network."""
        first, *_ = self.backtests.values()
        found: dict[str, Any] = {
            "horizon": self.horizon,
            "units": first.units,
            "forecasts": len(first.owner),
            "sequences": len(set(first.owner.tolist())),
            "scores": {name: _pairs(one.estimates()) for name, one in self.backtests.items()},
            "crps_skill": {name: _pairs({"": first.skill(one)})[""] for name, one in [*self.backtests.items()][1:]},
            "by_feature": {
                feature: {name: _pairs(one.estimates(feature=feature)) for name, one in self.backtests.items()}
                for feature in first.features
            },
            "by_step": [_pairs(first.estimates(step=step)) for step in range(1, self.horizon + 1)],
        }
        return {**found, "left_out": self.left_out, "warned": list(self.warned)}

    def report(self) -> str:
        """Text table with headings and units: a line for the network and each baseline."""
        first, *_ = self.backtests.values()
        unit = _unit(first)
        heads = [
            "",
            f"CRPS, {unit}",
            "saved, %",
            "log score, nats",
            *(f"coverage {100 * level:g} %" for level in LEVELS),
        ]
        heads += [f"width {100 * LEVELS[-1]:g} %, {unit}", f"energy, {unit}"]
        rows = []
        for name, one in self.backtests.items():
            found = one.estimates()
            saved = "" if one is first else _shown(first.skill(one), 100)
            cells = [name, _shown(found["crps"]), saved, _shown(found["log_score"])]
            cells += [_shown(found[f"coverage_{level:g}"], 100) for level in LEVELS]
            rows.append([*cells, _shown(found[f"width_{LEVELS[-1]:g}"]), _shown(found["energy"])])
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *rows)
        ]
        count, owners = len(first.owner), len(set(first.owner.tolist()))
        title = (
            f"{count:,} forecasts of {self.horizon} steps, of {owners:,} sequences; lower is better but for coverage"
        )
        notes = [f"left out: {name}, {reason}" for name, reason in self.left_out.items()]
        return "\n".join([title, *lines, "saved: share of the CRPS that the network saves, ± standard errors", *notes])


def score_forecasts(
    net: StochasticRNN,
    series: Series,
    *,
    name: str = "network",
    horizon: int = 12,
    first: int | None = None,
    every: int | None = None,
    season: int | None = None,
    baselines: Sequence[str] = BASELINES,
    num_samples: int = 200,
    num_particles: int = 256,
    units: str | None = None,
    progress: bool = False,
) -> ForecastScores:
    """Backtest a network and baselines on the same origins of the same series.

    Args:
        net: the network, in evaluation mode.
        series: the data.
        name: name of the network in the result.
        horizon: steps of each forecast.
        first: steps before the first origin; one origin per sequence, ``horizon`` steps before its end, if None.
        every: steps from one origin to the next; the horizon if None.
        season: steps of a season, for the seasonal naive forecast and ETS.
        baselines: of :data:`BASELINES`. One that cannot forecast these data is left out, with its reason.
        num_samples: samples of each forecast.
        num_particles: particles of the filter.
        units: ``original`` or ``scaled``; if None, original units for one feature, and scaled ones for several, which
            may differ in their units.
        progress: show progress bars.

    Raises:
        TypeError, ValueError: as :func:`zf_pyro.evaluation.backtest`, or an unknown baseline.
    """
    horizon = require_count("horizon", horizon)
    season = None if season is None else require_count("season", season, least=2)
    chosen = units or ("original" if series.frame_dim == 1 else "scaled")
    asked: dict[str, Any] = {"horizon": horizon, "first": first, "every": every, "levels": LEVELS, "units": chosen}
    found = {
        name: backtest(
            FilterForecaster(net, num_samples=num_samples, num_particles=num_particles),
            series,
            progress=progress,
            **asked,
        )
    }
    left_out: dict[str, str] = {}
    warned: list[str] = []
    for baseline in baselines:
        require_choice("baselines", baseline, BASELINES)
        if baseline == "seasonal_naive" and season is None:
            left_out[baseline] = "no season was given"
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            try:
                found[baseline] = backtest(_baseline(baseline, season, num_samples), series, progress=progress, **asked)
            except (ValueError, ImportError) as error:
                left_out[baseline] = str(error)
        warned += [str(one.message) for one in caught if issubclass(one.category, RuntimeWarning)]
    return ForecastScores(found, horizon, left_out, tuple(dict.fromkeys(warned)))


def _baseline(name: str, season: int | None, num_samples: int) -> Callable[..., Tensor]:
    if name == "naive":
        return Naive(num_samples=num_samples)
    if name == "seasonal_naive":
        return SeasonalNaive(season or 1, num_samples=num_samples)
    return ETS(season, num_samples=num_samples)


def _unit(one: Backtest) -> str:
    """Unit of CRPS, width and energy score."""
    if one.units == "scaled":
        return "scaled units"
    return one.features[0] if len(one.features) == 1 else "original units"


def _pairs(found: Mapping[str, Estimate]) -> dict[str, Any]:
    """Estimates as [value, standard error], null for what is not finite."""
    return {
        name: [float(part) if torch.tensor(float(part)).isfinite() else None for part in one]
        for name, one in found.items()
    }


def _shown(one: Estimate, times: float = 1.0) -> str:
    error = "" if one.standard_error != one.standard_error else f" ± {times * one.standard_error:.2g}"
    return f"{times * one.value:.4g}{error}"
