"""``zf-pyro evaluate``: bounds of a trained network, and scores of its forecasts."""

import json
from pathlib import Path
from typing import Literal

from ...evaluation import evaluate as bounds_of
from ...evaluation import report
from ...saving import write_atomically
from ..series_run import load_run
from ..series_scores import BASELINES, Baseline, score_forecasts


def evaluate(
    run: Path,
    data: Path | None = None,
    part: Literal["train", "validation", "test", "all"] = "test",
    horizon: int = 12,
    first: int | None = None,
    every: int | None = None,
    season: int | None = None,
    baselines: list[Baseline] = list(BASELINES),  # noqa: B006  # never changed
    samples: int = 200,
    particles: int = 256,
    units: Literal["original", "scaled"] | None = None,
    out: Path | None = None,
) -> None:
    """Score a trained network: bounds on the log-likelihood, and forecasts against simple ones by backtesting.

    Args:
        run: Folder that zf-pyro train has written.
        data: Other data of the same columns, a prepared folder or a table; those of the training if left out.
        part: Part of a prepared folder. A table has one part.
        horizon: Steps of each forecast.
        first: Steps before the first forecast; one forecast of the last steps of each sequence if left out.
        every: Steps from one forecast to the next; the horizon if left out.
        season: Steps of a season, as 12 for months, for seasonal_naive and ets.
        baselines: Simple forecasts to compare with, of naive, seasonal_naive and ets.
        samples: Samples of each forecast.
        particles: Particles of the filter that reads a sequence, and of the bound.
        units: Units of the scores; original for one feature, scaled for several, if left out.
        out: JSON file of all figures; evaluation.json in the run's folder if left out.
    """
    trained = load_run(run)
    series = trained.series(data, part)
    scores = score_forecasts(
        trained.net,
        series,
        name=str(trained.results["model"]),
        horizon=horizon,
        first=first,
        every=every,
        season=season,
        baselines=baselines,
        num_samples=samples,
        num_particles=particles,
        units=units,
        progress=True,
    )
    batches = series.batches(32, shuffle=False)
    bounds = bounds_of(
        trained.net, batches, filter_particles=particles, chunk_particles=4, batch_size=32, progress=True
    )
    print(report({part if data is None else str(data): bounds}))
    print()
    print(scores.report())
    for warning in scores.warned:
        print(f"warning: {warning}")
    out = run / "evaluation.json" if out is None else out
    found = {"part": part, "data": None if data is None else str(data), "bounds": bounds.to_json()}
    text = json.dumps({**found, "forecasts": scores.to_json()}, indent=1) + "\n"
    write_atomically(out, lambda file: file.write(text.encode()))
    print(f"\nin {out}")
