"""``zf-pyro prepare``: a table becomes a prepared folder of series."""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...data import Series, SeriesSets, from_folder, save_series


def prepare(
    table: Path,
    sequence: str | None = None,
    time: str | None = None,
    values: list[str] | None = None,
    covariates: list[str] | None = None,
    static: list[str] | None = None,
    frequency: float | str | None = None,
    scaling: dict[str, str] | str = "standard",
    time_gap: bool = False,
    fill_covariates: Literal["forward"] | None = None,
    by: Literal["sequence", "time"] = "sequence",
    validation: float | str | None = 0.1,
    test: float | str | None = 0.1,
    context: int = 0,
    seed: int = 0,
    csv: dict[str, Any] | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Prepare a table for training: check, scale and split its series. Or a corpus: zf-pyro prepare CORPUS --help.

    Args:
        table: A CSV or Parquet file, or a folder of such files. A row is a step of a sequence.
        sequence: Column that tells the sequences apart; each file is one if left out.
        time: Column of times: dates, durations or numbers. Rows are steps in their order if left out.
        values: Columns to be learned and forecast; all that no other flag names if left out.
        covariates: Columns that are known at every step, in the future too.
        static: Columns with one value per sequence.
        frequency: Step of a regular grid, such as D, h, 15min, MS (month starts) or a number; times as given if left
            out. Forecasts have times if there is one.
        scaling: standard, robust or none; or a dictionary of these by column.
        time_gap: Add the time since the last step as a covariate.
        fill_covariates: Repeat the last known value of a covariate where it is missing.
        by: Hold out whole sequences, or the last steps of all sequences.
        validation: Share of the sequences or steps held out for validation; or, by time, its first time. null for none.
        test: Share held out for test; or, by time, its first time. null for none.
        context: By time, steps of the earlier parts that validation and test begin with, to forecast from.
        seed: Seed of the drawing by sequence.
        csv: Arguments of pandas.read_csv, as in --csv.sep ";" --csv.decimal ",".
        out: The prepared folder; prepared/NAME of the table if left out.
        overwrite: Replace an earlier preparation.
    """
    out = Path("prepared") / table.name.split(".")[0] if out is None else out
    settings: dict[str, Any] = {"scaling": scaling, "frequency": frequency, "time_gap": time_gap}
    settings["fill_covariates"] = fill_covariates
    series = from_folder(table, sequence, time, values, covariates, static, csv=csv, **settings)
    parts = (_part(series, part) for part in (validation, test))
    sets = series.split(by, **dict(zip(("validation", "test"), parts, strict=True)), context=context, seed=seed)
    save_series(out, sets, overwrite=overwrite)
    print(described(sets))
    print(f"in {out}")


def prepare_corpus(arguments: Sequence[str]) -> None:
    """Run ``python -m zf_pyro.data.prepare`` with these arguments."""
    given, sys.argv = sys.argv, ["zf-pyro prepare", *arguments]
    try:
        runpy.run_module("zf_pyro.data.prepare", run_name="__main__")
    finally:
        sys.argv = given


def described(sets: SeriesSets) -> str:
    """Summary of prepared series: a line per part with its sequences, steps and times, then names and gaps."""
    lines, axis = [], sets.train.layout.axis
    for name, part in sets._asdict().items():
        if part is None:
            continue
        count = int(part.lengths.sum())
        ends = [part.steps(index).times[[0, -1]] for index in range(len(part))]
        first, last = min(times[0] for times in ends), max(times[1] for times in ends)
        when = "" if axis.kind == "step" else f", {axis.name} {axis.show(first)} to {axis.show(last)}"
        missing = sum(int(np.isnan(part.steps(index).values).sum()) for index in range(len(part)))
        gaps = f", {missing / count / part.frame_dim:.1%} of the elements missing" if missing else ""
        lines.append(f"{name:>10}: {len(part):,} sequences, {count:,} steps{when}{gaps}")
    lines.append(f"{'features':>10}: {', '.join(sets.train.features)}")
    if sets.train.layout.covariates:
        lines.append(f"{'covariates':>10}: {', '.join(sets.train.covariate_names)}")
    return "\n".join(lines)


def _part(series: Series, given: float | str | None) -> float | str | None:
    """Part of a split as it is meant: a share, a time of the kind of the times, or none."""
    if given is None or given in ("null", "none", "None"):
        return None
    if series.layout.axis.dated and not (isinstance(given, float | int) and 0 < given < 1):
        return f"{given:g}" if isinstance(given, float | int) else given  # a year is text of a date
    return given
