"""``zf-pyro evaluate``: forecasts of a network against baselines."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pyro
from torch import Tensor

from ...data import Series
from ...evaluation import ARIMA, ETS, Backtest, FilterForecaster, Naive, SeasonalNaive, backtest
from .training_run import Opened, opened

COLUMNS = ("crps", "energy", "log_score", "coverage_0.5", "coverage_0.9", "width_0.9")


def evaluate(
    run: Path,
    data: Path,
    horizon: int,
    first: int | None = None,
    every: int | None = None,
    period: int | None = None,
    split: Literal["train", "validation", "test"] = "test",
    classical: bool = False,
    samples: int = 200,
    particles: int = 256,
    out: Path | None = None,
    seed: int = 0,
) -> None:
    """Score forecasts of a trained network against baselines, from rolling origins.

    Args:
        run: Folder that zf-pyro train wrote.
        data: Folder that zf-pyro prepare wrote.
        horizon: Steps of each forecast.
        first: Frames before the first origin; one origin per sequence, horizon frames before its end, if left out.
        every: Steps between origins; the horizon if left out.
        period: Steps of a season, for the seasonal naive forecast and ETS; none if left out.
        split: Part of the data.
        classical: Compare with ETS and ARIMA of statsmodels, too, which are fitted at every origin.
        samples: Samples of each forecast.
        particles: Particles of the filter.
        out: CSV file for the table.
        seed: Seed of all samples.
    """
    part = part_of(opened_ := opened(run, data), split)
    methods: dict[str, Callable[..., Tensor]] = {
        "network": FilterForecaster(opened_.net, num_samples=samples, num_particles=particles),
        "naive": Naive(num_samples=samples, seed=seed),
    }
    if period is not None:
        methods["seasonal naive"] = SeasonalNaive(period, num_samples=samples, seed=seed)
    if classical:
        methods["ETS"] = ETS(period, num_samples=samples, seed=seed)
        methods["ARIMA"] = ARIMA((1, 1, 1), num_samples=samples, seed=seed)
    pyro.set_rng_seed(seed)
    settings = {"horizon": horizon, "first": first, "every": every, "seed": seed}
    found = {name: backtest(method, part, **settings) for name, method in methods.items()}  # type: ignore[arg-type]  # by name
    print(table(found))
    if out is not None:
        write_table(out, found)
        print(f"in {out}")


def part_of(found: Opened, split: str) -> Series:
    """One part of the data.

    Raises:
        ValueError: the data have no such part.
    """
    part: Series | None = getattr(found.sets, split)
    if part is None:
        raise ValueError(f"split must be a part of the data, got {split!r}, which was not prepared: give another one")
    return part


def table(found: dict[str, Backtest]) -> str:
    """Scores by method, each with its standard error over sequences, and what the network saves of each baseline."""
    lines = [f"{'':>16}" + "".join(f"{name:>24}" for name in COLUMNS) + f"{'network saves':>24}"]
    for name, scores in found.items():
        estimates = scores.estimates()
        cells = [f"{estimates[column].value:.4g} ± {estimates[column].standard_error:.2g}" for column in COLUMNS]
        if name != "network":
            saved = found["network"].skill(scores)
            cells.append(f"{saved.value:.1%} ± {saved.standard_error:.1%}")
        lines.append(f"{name:>16}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def write_table(out: Path, found: dict[str, Backtest]) -> None:
    """Write the estimates as CSV: method, feature, score, value, standard error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["method", "feature", "score", "value", "standard_error"])
        for name, scores in found.items():
            for feature in (None, *scores.features):
                for score, estimate in scores.estimates(feature).items():
                    rows.writerow([name, feature or "all", score, *estimate])
