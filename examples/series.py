"""From a table to forecasts: monthly temperatures of the sea off Peru, El Nino's own, 1950 to 2010.

The data set is ``statsmodels.datasets.elnino``, which is installed with statsmodels (public domain, NOAA). Of the data
sets that come with well-kept packages it alone has a season, events that a calendar cannot explain, a covariate known
in advance (the calendar), and enough months for training, validation and a test of ten years:

    python examples/series.py --out runs/series

reads the table, trains a ``ZForcing`` on 1950 to 1989, keeps the weights of the best bound on 1990 to 2000, and

- forecasts twelve months from rolling origins in 2001 to 2010, against seasonal naive forecasts and an ETS model;
- fills in months that were hidden from it;
- finds the months that were least to be expected.

``--out`` then holds figure.png, report.html, forecasts.csv and results.json. Under three minutes on two CPU cores.
"""

import copy
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import matplotlib
import numpy as np
import pandas as pd
import pyro
import torch
from pyro.infer import SVI
from pyro.optim import ClippedAdam
from tqdm import tqdm

from zf_pyro import Linear, ZForcing, ZForcingELBO
from zf_pyro.data import Series, SeriesBatch, from_dataframe
from zf_pyro.diagnostics.measurements import Measurement
from zf_pyro.diagnostics.report import Section, Verdict, write_report
from zf_pyro.emissions import Gaussian
from zf_pyro.evaluation import ETS, Backtest, SeasonalNaive, backtest, bounds

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIZES = {"embed_dim": 16, "hidden_dim": 32, "latent_dim": 8, "mlp_dim": 32, "dropout": 0.2}
WINDOW, BATCH_SIZE = 60, 16
"""Months of a training window, and windows of a batch."""
CONTEXT, HORIZON = 240, 12
"""Months that a forecast reads, and months that it forecasts."""
VALIDATION, TEST = "1990-01-01", "2001-01-01"


def table() -> pd.DataFrame:
    """The data as a table with a row per month: time, sst in degrees Celsius, and the calendar as two waves."""
    import statsmodels.api as sm

    wide = sm.datasets.elnino.load_pandas().data
    months = {name: number for number, name in enumerate(wide.columns[1:], 1)}
    long = wide.melt("YEAR", var_name="month", value_name="sst")
    parts = {"year": long["YEAR"].astype(int), "month": long["month"].map(months), "day": 1}
    long["time"] = pd.to_datetime(pd.DataFrame(parts))
    return with_calendar(long[["time", "sst"]].sort_values("time", ignore_index=True))


def with_calendar(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the covariates: known in advance, as far as one wants to forecast."""
    angle = 2 * np.pi * (rows["time"].dt.month - 1) / 12
    return rows.assign(cos=np.cos(angle), sin=np.sin(angle), cos2=np.cos(2 * angle), sin2=np.sin(2 * angle))


CALENDAR = ["cos", "sin", "cos2", "sin2"]


def prepared(rows: pd.DataFrame) -> tuple[Series, Series, Series]:
    """Training and validation years, and all of them in the scaling of the training years."""
    scaling = dict.fromkeys(CALENDAR, "none")
    data = from_dataframe(rows, time="time", values=["sst"], covariates=CALENDAR, frequency="MS", scaling=scaling)
    sets = data.split("time", validation=VALIDATION, test=TEST)
    whole = from_dataframe(rows, like=sets.train)
    return sets.train, sets.validation, whole


def batches(data: Series) -> Iterator[SeriesBatch]:
    """Endless batches; each pass over the windows has a new order."""
    loader = data.windows(WINDOW, every=WINDOW // 4).batches(BATCH_SIZE)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def train(net: ZForcing, training: Series, validation: Series, max_steps: int) -> dict[str, list[float]]:
    """Fit ``net`` with an annealed KL weight, then load the weights of the best validation bound."""
    first, checked = training.batch(), validation.batch()
    net.initialise(first.x, first.lengths, covariates=first.covariates)
    elbo = ZForcingELBO(Linear(0.2, 1.0, max(1, max_steps // 4)))
    svi = SVI(net.model, net.guide, ClippedAdam({"lr": 3e-3, "lrd": 0.1 ** (1 / max_steps), "clip_norm": 10.0}), elbo)
    best, weights = -float("inf"), net.state_dict()
    history: dict[str, list[float]] = {"step": [], "bound": []}
    with tqdm(total=max_steps, desc="training", unit="step") as progress:
        for step, batch in enumerate(itertools.islice(batches(training), max_steps), 1):
            svi.step(batch.x, batch.lengths, covariates=batch.covariates)
            progress.update()
            if step % 10 and step != max_steps:
                continue
            found = bounds(net, checked.x, checked.lengths, 16, covariates=checked.covariates)
            bound = float(found.importance_weighted) / int(checked.lengths)
            history["step"].append(step)
            history["bound"].append(bound)
            progress.set_postfix({"validation, nats a month": f"{bound:.3f}"})
            if bound > best:
                best, weights = bound, copy.deepcopy(net.state_dict())
    net.load_state_dict(weights)
    net.eval()
    return history


def backtests(net: ZForcing, whole: Series, every: int, num_samples: int) -> dict[str, Backtest]:
    """Forecasts of the test years from rolling origins, by the network and by its rivals."""

    def network(x: torch.Tensor, lengths: torch.Tensor, horizon: int, covariates: torch.Tensor) -> torch.Tensor:
        near = covariates[:, -(CONTEXT + horizon) :]
        found = net.forecast(x[:, -CONTEXT:], horizon=horizon, covariates=near, num_samples=num_samples)
        return torch.from_numpy(found.values)

    rivals = {"ZForcing": network, "seasonal naive": SeasonalNaive(12), "ETS": ETS(12)}
    first = int((whole.times(0) < np.datetime64(TEST)).sum())
    return {name: backtest(rival, whole, horizon=HORIZON, first=first, every=every) for name, rival in rivals.items()}


def hidden_months(net: ZForcing, whole: Series, num_samples: int) -> dict[str, Any]:
    """Months of the validation years filled in where one in five was hidden; degrees Celsius."""
    batch, times = whole.batch(), whole.times(0)
    part = (times >= np.datetime64("1985-01-01")) & (times < np.datetime64(TEST))
    x, covariates = batch.x[:, part], batch.covariates[:, part]
    observed = torch.from_numpy(np.random.default_rng(0).random(part.sum()) > 0.2).unsqueeze(0)
    filled = net.impute(x, observed=observed, covariates=covariates, num_samples=num_samples)
    samples = whole.inverse(filled.values)[:, 0, :, 0]
    truth = whole.inverse(x.numpy())[0, :, 0]
    gaps = ~observed[0].numpy()
    line = np.interp(np.arange(len(truth)), np.flatnonzero(~gaps), truth[~gaps])
    low, high = np.quantile(samples[:, gaps], [0.05, 0.95], axis=0)
    return {
        "times": times[part],
        "truth": truth,
        "gaps": gaps,
        "samples": samples,
        "rmse": float(np.sqrt(np.mean((samples.mean(0) - truth)[gaps] ** 2))),
        "rmse_line": float(np.sqrt(np.mean((line - truth)[gaps] ** 2))),
        "coverage": float(((truth[gaps] >= low) & (truth[gaps] <= high)).mean()),
    }


def series(out: Path = Path("runs/series"), seed: int = 0, max_steps: int = 160, smoke: bool = False) -> None:
    """Train on the table, and write forecasts, figure, report and results.

    Args:
        out: Folder for figure.png, report.html, forecasts.csv and results.json.
        seed: Random seed of weights and samples.
        max_steps: Training steps.
        smoke: Only check that everything runs; the results are meaningless.
    """
    torch.set_num_threads(1)
    max_steps, every, num_samples = (4, 96, 20) if smoke else (max_steps, 3, 200)
    pyro.set_rng_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    training, validation, whole = prepared(table())
    net = ZForcing(Gaussian(1), **SIZES, covariate_dim=whole.covariate_dim)
    history = train(net, training, validation, max_steps)

    tests = backtests(net, whole, every, num_samples)
    filled = hidden_months(net, whole, num_samples)
    batch = whole.batch()
    scores = net.anomaly_scores(batch.x, batch.lengths, covariates=batch.covariates, num_samples=0)
    times = whole.times(0)
    unusual = pd.Series(scores["score"].values[0], pd.to_datetime(times), name="nats").sort_values(ascending=False)

    future = pd.DataFrame({"time": pd.date_range(times[-1], periods=HORIZON + 1, freq="MS")[1:]})
    known = torch.tensor(with_calendar(future)[CALENDAR].values, dtype=torch.float32).unsqueeze(0)
    covariates = torch.cat([batch.covariates[:, -CONTEXT:], known], 1)
    ahead = net.forecast(batch.x[:, -CONTEXT:], horizon=HORIZON, covariates=covariates, num_samples=num_samples)
    named = whole.to_xarray(ahead.values, future=True, name="sst")
    quantiles = named.quantile([0.05, 0.5, 0.95], "sample")
    rows = quantiles.isel(sequence=0, feature=0).transpose("step", "quantile").values
    pd.DataFrame(rows, future["time"], ["5 %", "50 %", "95 %"]).to_csv(out / "forecasts.csv")

    figure = draw(tests, filled, unusual, whole, rows, future["time"].values)
    figure.savefig(out / "figure.png", dpi=110)
    results = report(out / "report.html", tests, filled, unusual, history, figure)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(shown(tests))
    print(f"hidden months: RMSE {filled['rmse']:.2f} degrees, by a straight line {filled['rmse_line']:.2f}")
    print("least expected: " + ", ".join(time.strftime("%Y-%m") for time in unusual.index[:6]))


def shown(tests: dict[str, Backtest]) -> str:
    """The scores of the forecasts as a table of text."""
    head = f"{'':>16}{'CRPS, degrees':>16}{'90 % interval holds':>22}{'its width, degrees':>20}"
    lines = [head]
    for name, test in tests.items():
        found = test.estimates()
        figures = found["crps"].value, 100 * found["coverage_0.9"].value, found["width_0.9"].value
        lines.append(f"{name:>16}{figures[0]:>16.3f}{figures[1]:>20.1f} %{figures[2]:>20.2f}")
    return "\n".join(lines)


def draw(
    tests: dict[str, Backtest],
    filled: dict[str, Any],
    unusual: pd.Series,
    whole: Series,
    ahead: np.ndarray,
    future: np.ndarray,
) -> Any:
    """Forecast, accuracy by step, hidden months, and months that were not to be expected."""
    figure, ((first, second), (third, fourth)) = plt.subplots(2, 2, figsize=(12, 6.6), layout="constrained")
    times, values = whole.times(0), whole.inverse(whole.batch().x.numpy())[0, :, 0]
    first.plot(times[-60:], values[-60:], "k-", lw=1, label="observed")
    first.fill_between(future, ahead[:, 0], ahead[:, 2], color="C0", alpha=0.25, lw=0, label="90 % of samples")
    first.plot(future, ahead[:, 1], "C0-", label="median")
    first.set(title="Forecast of twelve months", xlabel="year", ylabel="degrees Celsius")
    first.legend(loc="lower left")
    for name, test in tests.items():
        second.plot(range(1, HORIZON + 1), test.crps.nanmean((0, 2)), ".-", label=name)
    second.set(title="Rolling origins, 2001 to 2010", xlabel="months ahead", ylabel="CRPS, degrees (lower is better)")
    second.set_ylim(0)
    second.legend(loc="lower right")
    shown = filled["times"] >= np.datetime64("1995-01-01")
    gaps = np.flatnonzero(shown & filled["gaps"])
    low, middle, high = np.quantile(filled["samples"][:, gaps], [0.05, 0.5, 0.95], axis=0)
    seen = np.where(filled["gaps"], np.nan, filled["truth"])[shown]
    third.plot(filled["times"][shown], seen, "k.-", lw=1, ms=3, label="seen")
    error = np.stack([middle - low, high - middle])
    third.errorbar(filled["times"][gaps], middle, error, fmt="none", ecolor="C0", label="filled in, 90 %")
    third.plot(filled["times"][gaps], filled["truth"][gaps], "x", color="C1", ms=5, label="hidden")
    third.set(title="Months that were hidden", xlabel="year", ylabel="degrees Celsius")
    third.legend(loc="lower left")
    fourth.plot(unusual.sort_index(), color="C0", lw=0.8)
    for time in unusual.index[:3]:
        fourth.annotate(time.strftime("%b %Y"), (time, unusual[time]), fontsize="small")
    fourth.set(title="Unlikely months", xlabel="year", ylabel="nats: -log p(month | months before)")
    return figure


def report(
    path: Path,
    tests: dict[str, Backtest],
    filled: dict[str, Any],
    unusual: pd.Series,
    history: dict[str, list[float]],
    figure: Any,
) -> dict[str, Any]:
    """Write the report, and return its numbers."""
    found = {name: test.estimates() for name, test in tests.items()}
    own, rivals = found["ZForcing"], {name: values for name, values in found.items() if name != "ZForcing"}
    better = {name: 1 - own["crps"].value / values["crps"].value for name, values in rivals.items()}
    coverage, ahead = own["coverage_0.9"].value, min(better.values())
    rows = [
        Measurement(f"CRPS of {name}", f"{values['crps'].value:.3f}", "degrees Celsius", "less is better")
        for name, values in found.items()
    ]
    interval = f"{100 * coverage:.1f}", "% of the months", "90"
    rows.append(Measurement("months within the 90 % interval", *interval, 0.85 <= coverage <= 0.95))
    gaps = Measurement(
        "error of hidden months", f"{filled['rmse']:.2f}", "degrees Celsius", f"{filled['rmse_line']:.2f} by a line"
    )
    months = ", ".join(time.strftime("%B %Y") for time in unusual.index[:6])
    verdicts = [
        Verdict("Forecasts", f"CRPS {100 * ahead:.0f} % below that of the best rival.", ahead > 0.1),
        Verdict(
            "Intervals", f"{100 * coverage:.0f} % of the months lie in the 90 % interval.", 0.85 <= coverage <= 0.95
        ),
        Verdict("Gaps", f"Error {filled['rmse']:.2f} degrees.", filled["rmse"] < filled["rmse_line"]),
    ]
    text = f"Least expected: {months}. The strongest events of the record are those of 1982/83 and 1997/98."
    sections = [
        Section("Forecasts of twelve months", "Rolling origins in 2001 to 2010.", rows),
        Section("Months that were hidden", "One in five of 1985 to 2000.", [gaps]),
        Section("Months that were not to be expected", text, (), figure, "Forecast, scores, gaps, and anomalies."),
    ]
    write_report(path, "El Nino: forecasts, gaps and anomalies", sections, verdicts)
    scores = {name: {key: value.value for key, value in values.items()} for name, values in found.items()}
    filling = {name: filled[name] for name in ("rmse", "rmse_line", "coverage")}
    least = [time.strftime("%Y-%m") for time in unusual.index[:12]]
    return {"scores": scores, "below": better, "hidden": filling, "least_expected": least, "validation": history}


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(series, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that it all runs; results are meaningless.")
    series(**parser.parse_args().as_dict())
