"""From a CSV to a trained network, scores, forecasts and a report, by the command alone."""

import csv

import numpy as np
import pandas as pd
import pytest

from zf_pyro.data import load_series
from zf_pyro.experiments import commands

pytest.importorskip("jsonargparse", reason="the command line needs jsonargparse")
pytest.importorskip("matplotlib", reason="the command train draws a figure")
pytestmark = pytest.mark.filterwarnings("ignore:.*k-hat.*")

SHOPS = ("a", "b", "c", "d")


def table(length=40):
    days = pd.date_range("2024-01-01", periods=length, freq="D")
    rng = np.random.default_rng(0)
    week = np.tile([1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 0.0], length)[:length]
    return pd.concat(
        pd.DataFrame(
            {
                "shop": shop,
                "day": days,
                "sales": 10 * week + rng.normal(size=length),
                "holiday": days.day == 1,
                "city": shop > "b",
            }
        )
        for shop in SHOPS
    )


def run(*arguments):
    commands.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table, prepared and trained on for a few steps."""
    folder = tmp_path_factory.mktemp("shops")
    table().to_csv(folder / "shops.csv", index=False)
    columns = ["--values", "sales", "--sequence", "shop", "--time", "day", "--frequency", "D"]
    cut = ["--validation", "0.1", "--test", "0.2", "--context", "25"]
    run("prepare", "--source", folder / "shops.csv", "--out", folder / "data", *columns, *cut)
    run("train", "--data", folder / "data", "--out", folder / "run", "--window", 20, "--smoke")
    return folder


def test_prepare_writes_what_the_functions_write(folder):
    sets = load_series(folder / "data")
    assert [part.lengths.tolist() for part in sets] == [[28] * 4, [29] * 4, [33] * 4]
    assert (sets.train.ids, sets.train.features, sets.train.layout.axis.frequency) == (
        ["a", "b", "c", "d"],
        ("sales",),
        "D",
    )


def test_train_leaves_a_network_and_its_results(folder):
    assert (folder / "run" / "net").is_dir()
    assert {"results.json", "sequences.csv", "figure.png"} <= {path.name for path in (folder / "run").iterdir()}


def test_evaluate_compares_with_baselines(folder, capsys):
    out = folder / "scores.csv"
    settings = ["--horizon", 7, "--first", 25, "--period", 7, "--samples", 40, "--particles", 8, "--out", out]
    run("evaluate", "--run", folder / "run", "--data", folder / "data", *settings)
    shown = capsys.readouterr().out.splitlines()
    assert [line[:16].strip() for line in shown[1:4]] == ["network", "naive", "seasonal naive"]
    with out.open() as file:
        rows = {(row["method"], row["feature"], row["score"]): float(row["value"]) for row in csv.DictReader(file)}
    assert rows["seasonal naive", "sales", "crps"] < rows["naive", "sales", "crps"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_forecast_writes_shops_days_means_and_quantiles(folder, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    out = folder / f"forecast.{ending}"
    run(
        *("forecast", "--run", folder / "run", "--data", folder / "data", "--horizon", 3, "--out", out),
        "--samples",
        40,
        "--particles",
        8,
    )
    found = pd.read_csv(out, parse_dates=["day"]) if ending == "csv" else pd.read_parquet(out)
    assert [*found.columns] == ["shop", "day", "sales_mean", "sales_0.05", "sales_0.5", "sales_0.95"]
    assert found["shop"].tolist() == [shop for shop in SHOPS for _ in range(3)]
    assert found["day"].tolist() == [*pd.date_range("2024-02-10", periods=3)] * 4
    assert (found["sales_0.05"] <= found["sales_0.5"]).all()


def test_forecast_reads_new_tables_with_the_columns_of_the_prepared_ones(folder):
    table(15).query("shop == 'b'").to_csv(folder / "new.csv", index=False)
    out = folder / "new_forecast.csv"
    settings = ["--source", folder / "new.csv", "--samples", 40, "--particles", 8, "--quantiles", "0.5"]
    run("forecast", "--run", folder / "run", "--data", folder / "data", "--horizon", 2, "--out", out, *settings)
    found = pd.read_csv(out)
    assert (found["shop"].tolist(), found["day"].tolist()) == (["b", "b"], ["2024-01-16", "2024-01-17"])


def test_diagnose_writes_a_report(folder):
    run(
        "diagnose", "--run", folder / "run", "--data", folder / "data", "--out", folder / "report.html", "--samples", 25
    )
    text = (folder / "report.html").read_text()
    assert "Do the latents matter?" in text
    assert "Is the guide right?" in text


def test_data_in_another_scaling_are_refused(folder, tmp_path):
    frame = table()
    frame["sales"] *= 3
    frame.to_csv(tmp_path / "shops.csv", index=False)
    columns = ["--values", "sales", "--sequence", "shop", "--time", "day", "--frequency", "D"]
    run("prepare", "--source", tmp_path / "shops.csv", "--out", tmp_path / "data", *columns)
    with pytest.raises(SystemExit, match=r"was trained with the mean \[.*\] of sales, .*give the data of its training"):
        run("evaluate", "--run", folder / "run", "--data", tmp_path / "data", "--horizon", 2)


def test_forecasts_with_covariates_are_of_the_rows_without_values(tmp_path):
    table().to_csv(tmp_path / "shops.csv", index=False)
    columns = [
        "--values",
        "sales",
        "--sequence",
        "shop",
        "--time",
        "day",
        "--covariates",
        "holiday",
        "--static",
        "city",
    ]
    run("prepare", "--source", tmp_path / "shops.csv", "--out", tmp_path / "data", *columns, "--test", 0.2)
    run("train", "--data", tmp_path / "data", "--out", tmp_path / "run", "--smoke")
    known = ["--run", tmp_path / "run", "--data", tmp_path / "data", "--samples", 40, "--particles", 8]
    run("evaluate", *known, "--horizon", 2, "--out", tmp_path / "scores.csv")
    coming = table(43).assign(sales=lambda rows: rows["sales"].where(rows["day"] < "2024-02-10"))
    coming.to_csv(tmp_path / "coming.csv", index=False)
    run("forecast", *known, "--horizon", 3, "--source", tmp_path / "coming.csv", "--out", tmp_path / "forecast.csv")
    found = pd.read_csv(tmp_path / "forecast.csv", parse_dates=["day"])
    assert found["day"].tolist() == [*pd.date_range("2024-02-10", periods=3)] * 4
    assert found.notna().all(axis=None)
    with pytest.raises(
        SystemExit, match="'a' has values in its last 4 steps: a forecast with covariates needs rows at the"
    ):
        run("forecast", *known, "--horizon", 4, "--source", tmp_path / "coming.csv", "--out", tmp_path / "forecast.csv")
    run("diagnose", *known[:4], "--out", tmp_path / "report.html", "--samples", 25)


def test_gaps_and_covariates_are_trained_on(tmp_path):
    frame = table()
    frame.loc[np.random.default_rng(1).random(len(frame)) < 0.2, "sales"] = np.nan
    frame.to_csv(tmp_path / "shops.csv", index=False)
    columns = [
        "--values",
        "sales",
        "--sequence",
        "shop",
        "--time",
        "day",
        "--covariates",
        "holiday",
        "--static",
        "city",
    ]
    run("prepare", "--source", tmp_path / "shops.csv", "--out", tmp_path / "data", *columns, "--test", 0.2)
    run("train", "--data", tmp_path / "data", "--out", tmp_path / "run", "--smoke")
    assert (tmp_path / "run" / "results.json").is_file()
    with pytest.raises(SystemExit, match="baseline rnn reads neither covariates nor gaps"):
        run("train", "--data", tmp_path / "data", "--out", tmp_path / "other", "--smoke", "--baseline", "rnn")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "data", "--emission", "poisson", "--out", "new"], "prepare the data with --scaling none"),
        (["train", "--data", "nowhere", "--out", "new"], "nowhere holds no record.json"),
        (
            ["evaluate", "--run", "nowhere", "--data", "data", "--horizon", "3"],
            "run must be a folder that zf-pyro train wrote",
        ),
        (["evaluate", "--run", "run", "--data", "data", "--horizon", "33"], "34 frames at least"),
        (["forecast", "--run", "run", "--data", "data", "--horizon", "3", "--out", "a.txt"], "out must end in .csv or"),
        (
            ["forecast", "--run", "run", "--data", "data", "--horizon", "3", "--out", "a.csv", "--quantiles", "2"],
            "between 0 and 1",
        ),
        (["prepare", "--source", "shops.csv", "--out", "data", "--values", "sales"], "holds prepared data"),
        (["prepare", "--source", "shops.csv", "--out", "b", "--values", "price"], "got 'price'"),
    ],
)
def test_what_cannot_be_used_ends_with_a_sentence(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit, match=message):
        run(*arguments)
