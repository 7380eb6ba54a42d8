"""``zf-pyro forecast``: forecasts of a trained network as a table."""

from pathlib import Path
from typing import Any, Literal

from ...data import continued
from ..series_forecasts import forecast_table, with_ends
from ..series_run import load_run

QUANTILES = [0.05, 0.5, 0.95]


def forecast(
    run: Path,
    horizon: int = 12,
    data: Path | None = None,
    part: Literal["train", "validation", "test", "all"] = "all",
    future: Path | None = None,
    quantiles: list[float] = QUANTILES,
    samples: int = 500,
    particles: int = 256,
    seed: int = 0,
    csv: dict[str, Any] | None = None,
    out: Path | None = None,
) -> None:
    """Forecast the steps after each sequence, in original units, with names, identifiers and times.

    Where there are covariates, those of the steps to come are in --future; or in the last rows of each sequence of
    --data, which then have no values.

    Args:
        run: Folder that zf-pyro train has written.
        horizon: Steps of each forecast.
        data: Sequences to go on from, a table or a prepared folder; those of the training data if left out.
        part: Part of a prepared folder; all joins the parts to whole sequences.
        future: CSV or Parquet table of the covariates of the steps to come, with the columns of identifiers and times.
        quantiles: Quantiles of the forecasts, each a column beside the mean.
        samples: Samples of each forecast.
        particles: Particles of the filter that reads a sequence.
        seed: Random seed of the samples.
        csv: Arguments of pandas.read_csv for the table of covariates, as for zf-pyro prepare.
        out: The table, .csv or .parquet; forecasts.csv in the run's folder if left out.
    """
    out = run / "forecasts.csv" if out is None else out
    if out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"out must end in .csv or .parquet, got {out}")
    trained = load_run(run)
    series = trained.series(data, part)
    table = None if future is None else read_table(future, csv or trained.names.layout.columns.get("csv"))
    ends = table is None and series.layout.varying
    reaching = with_ends(series, horizon) if ends else continued(series, horizon, table)
    found = forecast_table(trained.net, reaching, horizon, quantiles, samples, particles, seed, progress=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    found.to_csv(out, index=False) if out.suffix == ".csv" else found.to_parquet(out, index=False)
    print(found.head(6).to_string(index=False))
    print(f"{len(found):,} rows in {out}")


def read_table(path: Path, csv: Any) -> Any:
    """A table of pandas from a CSV or Parquet file, by the arguments ``csv`` of :func:`pandas.read_csv`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as a table.
    """
    import pandas as pd

    if not path.is_file():
        raise FileNotFoundError(f"future must be a table, got {path}, which does not exist")
    try:
        return pd.read_parquet(path) if path.suffix in (".parquet", ".pq") else pd.read_csv(path, **(csv or {}))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table ({str(error).splitlines()[0]})") from error
