"""``zf-pyro forecast``: forecasts of a network as a table."""

from pathlib import Path
from typing import Literal

import pyro
import torch
from torch import Tensor

from ...checks import require_count, require_number
from ...data import Series, from_folder
from ...evaluation import FilterForecaster
from .scoring import part_of
from .training_run import opened

ENDINGS = (".csv", ".parquet")


def forecast(
    run: Path,
    data: Path,
    horizon: int,
    out: Path,
    source: Path | None = None,
    split: Literal["train", "validation", "test"] = "test",
    quantiles: str = "0.05,0.5,0.95",
    samples: int = 200,
    particles: int = 256,
    seed: int = 0,
) -> None:
    """Forecast the steps after each sequence, as a CSV or Parquet table with means and quantiles.

    With covariates, the last steps of each sequence are those to forecast: rows with covariates and without values.

    Args:
        run: Folder that zf-pyro train wrote.
        data: Folder that zf-pyro prepare wrote.
        horizon: Steps to forecast.
        out: CSV or Parquet file to write.
        source: CSV or Parquet file, or a folder of them, of new data with the columns of the prepared ones.
        split: Part of the prepared data that is forecast without a source.
        quantiles: Quantiles between 0 and 1, separated by commas.
        samples: Samples of each forecast.
        particles: Particles of the filter.
        seed: Seed of the samples.
    """
    import pandas as pd

    if out.suffix not in ENDINGS:
        raise ValueError(f"out must end in {' or '.join(ENDINGS)}, got {out}")
    levels = [
        require_number("quantiles", float(level), "numbers between 0 and 1", 0.0, 1.0, "()")
        for level in quantiles.split(",")
    ]
    horizon = require_count("horizon", horizon)
    net, sets = found = opened(run, data)
    part = part_of(found, split) if source is None else from_folder(source, like=sets.train)
    pyro.set_rng_seed(seed)
    drawn = samples_of(FilterForecaster(net, num_samples=samples, num_particles=particles), part, horizon)
    values = part.inverse(drawn)
    edges = torch.quantile(values, torch.tensor(levels, dtype=values.dtype), dim=0)
    future = not part.covariate_dim
    shown = part if future else ends_of(part, horizon)
    tables = {"mean": values.mean(0), **{f"{level:g}": edge for level, edge in zip(levels, edges, strict=True)}}
    frames = {name: shown.to_pandas(summary, units="none", future=future) for name, summary in tables.items()}
    keys = [column for column in frames["mean"].columns if column not in part.features]
    columns = {f"{feature}_{name}": frame[feature] for feature in part.features for name, frame in frames.items()}
    result = pd.concat([frames["mean"][keys], pd.DataFrame(columns)], axis=1)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".csv":
        result.to_csv(out, index=False)
    else:
        result.to_parquet(out, index=False)
    print(f"{len(part):,} sequences, {horizon} steps each, in {out}")


def ends_of(part: Series, horizon: int) -> Series:
    """The last ``horizon`` steps of each sequence.

    Raises:
        ValueError: a sequence without frames before them, or with values in them.
    """
    segments = part.segments.copy()
    segments[:, 1] = segments[:, 2] - horizon
    if (segments[:, 1] <= part.segments[:, 1]).any():
        row = int((segments[:, 1] <= part.segments[:, 1]).argmax())
        raise ValueError(
            f"sequence {part.ids[row]!r} has {int(part.lengths[row])} frames, so none before the {horizon} to forecast"
        )
    ends = part.part(segments)
    for row in range(len(ends)):
        observed = ends[row].observed
        if observed is None or observed.any():
            raise ValueError(
                f"sequence {part.ids[row]!r} has values in its last {horizon} steps: a forecast with covariates needs "
                "rows at the end that have covariates and no values; add them, or take another horizon"
            )
    return ends


def samples_of(forecaster: FilterForecaster, part: Series, horizon: int) -> Tensor:
    """Samples in scaled units, (num_samples, sequence, horizon, frame), in the order of the data."""
    known = bool(part.covariate_dim)
    if known:
        ends_of(part, horizon)
    lengths = part.lengths - horizon * known
    found = torch.empty(forecaster.num_samples, len(part), horizon, part.frame_dim)
    for length in sorted(set(lengths.tolist())):
        rows = [row for row, own in enumerate(lengths.tolist()) if own == length]
        batch = part.batch(rows)
        observed = None if batch.observed is None else batch.observed[:, :length]
        observed = None if observed is None or observed.all() else observed
        found[:, rows] = forecaster(
            batch.x[:, :length], None, horizon, covariates=batch.covariates, observed=observed
        ).float()
    return found
