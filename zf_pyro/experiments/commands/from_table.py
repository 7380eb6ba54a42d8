"""``zf-pyro prepare``: a table of series as a prepared folder."""

from pathlib import Path
from typing import Any, Literal

from ...checks import require_name
from ...data import SeriesSets, from_folder, save_series


def prepare(
    source: Path,
    out: Path,
    values: str | None = None,
    sequence: str | None = None,
    time: str | None = None,
    covariates: str | None = None,
    static: str | None = None,
    split: Literal["time", "sequence", "none"] = "time",
    validation: float | str = 0.1,
    test: float | str = 0.2,
    context: int = 0,
    scaling: Literal["standard", "robust", "none"] = "standard",
    frequency: str | None = None,
    time_gap: bool = False,
    fill_covariates: Literal["forward"] | None = None,
    separator: str = ",",
    decimal: str = ".",
    encoding: str = "utf-8",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Prepare series of CSV or Parquet files for training.

    Args:
        source: A CSV or Parquet file, or a folder of them.
        out: Folder to write.
        values: Columns of values, separated by commas; all that are not named otherwise if left out.
        sequence: Column that tells the sequences apart; without it, each file is a sequence.
        time: Column of times; without it, rows are steps.
        covariates: Columns of what is known at every step, separated by commas.
        static: Columns with one value per sequence, separated by commas.
        split: Split by time or by sequence, or keep all for training.
        validation: Part of the steps or sequences for validation; or, by time, the first time of that part.
        test: The same for the test.
        context: Frames before their own that validation and test sequences begin with, by time.
        scaling: Scaling of the values, by the training part.
        frequency: Step of a regular grid, such as D, h or 15min, or a number.
        time_gap: Add the time since the last frame as a covariate.
        fill_covariates: Repeat the last known value of missing covariates.
        separator: Separator of columns in CSV files.
        decimal: Decimal point in CSV files.
        encoding: Encoding of CSV files.
        seed: Seed of a split by sequence.
        overwrite: Replace an earlier preparation.
    """
    data = from_folder(
        source,
        sequence,
        time,
        names_of_flag("values", values),
        names_of_flag("covariates", covariates),
        names_of_flag("static", static),
        csv={"sep": separator, "decimal": decimal, "encoding": encoding},
        scaling=scaling,
        frequency=number_of(frequency),
        time_gap=time_gap,
        fill_covariates=fill_covariates,
    )
    sets = SeriesSets(data, None, None)
    if split != "none":
        shares = {"validation": number_of(validation), "test": number_of(test)}
        sets = data.split(split, **shares, context=context, seed=seed)
    save_series(out, sets, overwrite=overwrite)
    for name, part in sets._asdict().items():
        if part is not None:
            gaps = ", with gaps" if part.has_gaps else ""
            print(f"{name:>10}: {len(part):,} sequences, {int(part.lengths.sum()):,} frames of {part.frame_dim}{gaps}")
    print(f"{'values':>10}: {', '.join(data.features)}")
    if data.covariate_dim:
        print(f"{'covariates':>10}: {', '.join(data.covariate_names)}")
    left_out = data.layout.columns["left_out"]
    if left_out:
        print(f"{'left out':>10}: {len(left_out):,} files; named in record.json")
    print(f"in {out}")


def names_of_flag(flag: str, text: str | None) -> list[str] | None:
    """Names separated by commas; None if there are none."""
    return None if text is None else [require_name(flag, name.strip()) for name in text.split(",")]


def number_of(text: Any) -> Any:
    """A flag's text as a number, where it is one."""
    try:
        return text if text is None else float(text)
    except ValueError:
        return text
