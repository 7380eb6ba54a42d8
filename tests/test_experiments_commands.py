"""The command zf-pyro: its subcommands run, describe themselves, and end with a sentence where they cannot."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest

from zf_pyro import ZForcing
from zf_pyro.data import load_series
from zf_pyro.data import prepare as corpora
from zf_pyro.experiments import commands
from zf_pyro.experiments.commands import completed
from zf_pyro.experiments.commands.info import facts
from zf_pyro.experiments.series_run import load_run

pytest.importorskip("jsonargparse", reason="the command line needs jsonargparse")


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "zf_pyro", "info"], capture_output=True, text=True, check=True)
    assert "zf-pyro  " in done.stdout
    assert "none that PyTorch can use" in done.stdout or "GPU  " in done.stdout


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_subcommand_describes_itself_and_its_flags(name, capsys):
    with pytest.raises(SystemExit) as ended:
        commands.main([name, "--help"])
    assert ended.value.code == 0
    assert (commands.COMMANDS[name].__doc__ or "").splitlines()[0] in " ".join(capsys.readouterr().out.split())


def test_an_unknown_subcommand_is_refused(capsys):
    with pytest.raises(SystemExit):
        commands.main(["train_all"])
    assert "train_all" in capsys.readouterr().err


def test_an_error_of_a_file_or_a_value_ends_with_a_sentence(monkeypatch):
    def info() -> None:
        """Fail."""
        raise ValueError("horizon must be a positive integer, got 0")

    monkeypatch.setitem(commands.COMMANDS, "info", info)
    with pytest.raises(SystemExit, match="error: horizon must be a positive integer, got 0"):
        commands.main(["info"])


def test_info_names_what_is_missing(monkeypatch):
    module = importlib.import_module("zf_pyro.experiments.commands.info")  # the name alone is the function
    monkeypatch.setattr(module, "PACKAGES", ("torch", "no-such-package"))
    found = facts()
    assert found["no-such-package"] == "not installed"
    assert found["torch"][0].isdigit()
    assert "cores" in found["processor"]


# From a table to forecasts ------------------------------------------------------------------------------------------

MONTHS = 48
SIZES = ("--embed-dim", "4", "--hidden-dim", "5", "--latent-dim", "2", "--mlp-dim", "4")
TRAINED = ("--max-steps", "4", "--validate-every", "2", "--evaluation-particles", "2", *SIZES, "--device", "cpu")


def sales(shops=8, months=MONTHS, gaps=0.0):
    """Sales of shops by month, with a price that is known beforehand and a kind of shop."""
    pd = pytest.importorskip("pandas", reason="tables are read by pandas")
    random = np.random.default_rng(0)
    dates = pd.date_range("2015-01-01", periods=months, freq="MS")
    tables = []
    for shop in range(shops):
        sold = 20 + shop + 5 * np.sin(2 * np.pi * np.arange(months) / 12) + random.normal(size=months)
        sold[random.random(months) < gaps] = np.nan
        price = random.normal(size=months)
        columns = {"shop": f"s{shop}", "month": dates, "sold": sold, "price": price, "kind": "ab"[shop % 2]}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def prepared(folder, table, *flags):
    path = folder / "sales.csv"
    table.to_csv(path, index=False)
    given = ["prepare", str(path), "--sequence", "shop", "--time", "month", "--frequency", "MS", "--values", "sold"]
    commands.main([*given, *flags, "--out", str(folder / "prepared")])
    return folder / "prepared"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder with a table, its prepared form, and a run on it."""
    folder = tmp_path_factory.mktemp("plain")
    data = prepared(folder, sales(), "--test", "0.25")
    commands.main(["train", str(data), *TRAINED, "--objective", "elbo", "--out", str(folder / "run")])
    return folder


def test_prepare_writes_parts_names_and_scaling(tmp_path, capsys):
    flags = ("--covariates", "price", "--static", "kind", "--by", "time", "--validation", "2017", "--test", "2018-01")
    sets = load_series(prepared(tmp_path, sales(gaps=0.1), *flags, "--context", "12", "--scaling", "robust"))
    assert [len(sets.train), len(sets.validation), len(sets.test)] == [8, 8, 8]
    assert (int(sets.train.lengths[0]), int(sets.test.lengths[0])) == (24, 24)
    assert str(sets.test.times(0)[12])[:10] == "2018-01-01"
    assert sets.train.scaling.kinds == ("robust",)
    assert sets.train.covariate_names == ["price", "kind=a", "kind=b"]
    said = capsys.readouterr().out
    assert "train: 8 sequences, 192 steps, month 2015-01-01" in said
    assert "of the elements missing" in said


def test_a_part_may_be_left_out(tmp_path):
    sets = load_series(prepared(tmp_path, sales(), "--test", "null"))
    assert sets.test is None
    assert len(sets.validation) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--values", "cost"), "error: values must name columns of the table, .* got 'cost'"),
        (("--values", "kind"), "error: feature 'kind' must hold numbers"),
        (("--frequency", "fortnight"), "error: frequency must be a positive offset of pandas"),
        (
            ("--by", "time", "--validation", "soon", "--test", "null"),
            "error: validation must be a part between 0 and 1 or a time",
        ),
        (("--by", "time", "--validation", "0.5", "--test", "0.5"), "error: validation and test must leave a part"),
        (("--scaling", "log"), "error: scaling must be"),
    ],
)
def test_prepare_refuses_with_a_sentence(tmp_path, flags, message):
    with pytest.raises(SystemExit, match=message):
        prepared(tmp_path, sales(2, 12), *flags)
    assert not (tmp_path / "prepared").exists()


def test_a_corpus_is_prepared_by_its_name(tmp_path, capsys):
    assert tuple(corpora.CORPORA) == commands.CORPORA
    with pytest.raises(SystemExit, match="0"), pytest.warns(RuntimeWarning, match="found in sys.modules"):
        commands.main(["prepare", "digits", "--help"])
    assert "--out" in capsys.readouterr().out


def test_lists_and_switches_are_given_as_plain_words():
    def function(values: list[str], quantiles: list[float] | None, overwrite: bool, out: str) -> None: ...

    given = "a.csv --values a b --out x --quantiles 0.05,0.5 0.9 --overwrite"
    expected = ["a.csv", '--values=["a", "b"]', "--out", "x", "--quantiles=[0.05,0.5,0.9]", "--overwrite=true"]
    assert completed(given.split(), function) == expected
    assert completed(["--values", '["a b"]', "--overwrite", "false"], function) == [
        '--values=["a b"]',
        "--overwrite=false",
    ]


def test_a_run_keeps_network_names_and_bounds(plain):
    run = load_run(plain / "run")
    assert isinstance(run.net, ZForcing)
    assert (run.net.hidden_dim, run.net.covariate_dim, run.net.training) == (5, 0, False)
    train = load_series(plain / "prepared").train
    assert (run.names.layout, run.names.scaling) == (train.layout, train.scaling)
    evaluations = run.results["evaluations"]
    assert {"test", "validation", "test, original units"} <= set(evaluations)
    scaled, original = (
        evaluations[name]["bounds"]["elbo"]["nats_per_frame"]["value"] for name in ("test", "test, original units")
    )
    assert scaled - original == pytest.approx(np.log(train.scaling.scale[0]))
    assert (plain / "run" / "figure.png").is_file()


def test_training_reads_covariates_and_gaps(tmp_path):
    data = prepared(tmp_path, sales(gaps=0.1), "--covariates", "price", "--static", "kind")
    commands.main(
        ["train", str(data), "--model", "vrnn", "--objective", "elbo", *TRAINED, "--out", str(tmp_path / "a")]
    )
    net = load_run(tmp_path / "a").net
    assert (net.covariate_dim, net.missing) == (3, "fill")
    rnn = ("--baseline", "rnn", "--logger", "csv")
    commands.main(["train", str(data), *rnn, *TRAINED, "--out", str(tmp_path / "b")])
    with pytest.raises(ValueError, match="holds the baseline 'rnn', take a run of a stochastic network"):
        load_run(tmp_path / "b")
    with pytest.raises(SystemExit, match="linear_gaussian is for series without covariates and gaps"):
        commands.main(["train", str(data), "--baseline", "linear_gaussian", "--out", str(tmp_path / "c")])


def test_counts_need_values_in_their_own_units(plain, tmp_path):
    with pytest.raises(SystemExit, match=r"'sold' is scaled: prepare the table with\s+--scaling none"):
        commands.main(["train", str(plain / "prepared"), "--emission", "poisson", "--out", str(tmp_path / "run")])
    counts = sales(4, 24).assign(sold=lambda table: table.sold.round())
    data = prepared(tmp_path, counts, "--scaling", "none")
    flags = ("--emission", "poisson", "--objective", "elbo", *TRAINED, "--max-steps", "2")
    commands.main(["train", str(data), *flags, "--out", str(tmp_path / "counts")])
    assert type(load_run(tmp_path / "counts").net.emission_family).__name__ == "Poisson"


def test_train_refuses_with_a_sentence(plain, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*nothing"):
        commands.main(["train", str(tmp_path / "nothing"), "--out", str(tmp_path / "a")])
    with pytest.raises(SystemExit, match=r"error: .*run"):
        commands.main(["train", str(plain / "prepared"), "--out", str(plain / "run")])
    (tmp_path / "whole").mkdir()
    data = prepared(tmp_path / "whole", sales(4, 24), "--validation", "null")
    with pytest.raises(SystemExit, match="must have a validation part"):
        commands.main(["train", str(data), "--out", str(tmp_path / "b")])


def test_evaluate_scores_the_network_and_what_is_simple(plain, capsys):
    given = ["evaluate", str(plain / "run"), "--horizon", "4", "--first", "30", "--every", "7", "--season", "12"]
    commands.main([*given, "--samples", "20", "--particles", "4", "--out", str(plain / "scores.json")])
    said, shown = capsys.readouterr()
    bars = ("backtest of FilterForecaster", "backtest of Naive", "backtest of SeasonalNaive", "backtest of ETS")
    assert all(f"{bar}: 100%" in shown for bar in (*bars, "evaluation"))
    assert "6 forecasts of 4 steps, of 2 sequences" in said
    assert all(
        head in said for head in ("CRPS, sold", "log score, nats", "coverage 90 %", "width 90 %, sold", "energy")
    )
    found = json.loads((plain / "scores.json").read_text())
    scores = found["forecasts"]["scores"]
    assert list(scores) == ["zforcing", "naive", "seasonal_naive", "ets"]
    assert found["forecasts"]["left_out"] == {}
    assert found["bounds"]["num_sequences"] == 2
    skill = found["forecasts"]["crps_skill"]["naive"][0]
    assert skill == pytest.approx(1 - scores["zforcing"]["crps"][0] / scores["naive"]["crps"][0])


def test_a_baseline_that_cannot_forecast_is_named_with_its_reason(plain, capsys):
    given = ["evaluate", str(plain / "run"), "--horizon", "4", "--first", "2", "--every", "40", "--samples", "20"]
    commands.main([*given, "--particles", "4", "--baselines", "seasonal_naive", "ets", "--out", str(plain / "b.json")])
    found = json.loads((plain / "b.json").read_text())["forecasts"]
    assert found["left_out"]["seasonal_naive"] == "no season was given"
    assert "ETS cannot be fitted to sequence 0 of 2 frames" in found["left_out"]["ets"]
    assert "left out: ets, ETS cannot be fitted" in capsys.readouterr().out


def test_forecasts_have_names_ids_and_times_in_original_units(plain, capsys):
    given = ["forecast", str(plain / "run"), "--horizon", "3", "--quantiles", "0.1,0.9", "--samples", "40"]
    commands.main([*given, "--particles", "8", "--out", str(plain / "forecasts.csv")])
    assert "forecasts: 100%" in capsys.readouterr().err
    import pandas as pd

    found = pd.read_csv(plain / "forecasts.csv")
    assert list(found) == ["shop", "month", "sold_mean", "sold_0.1", "sold_0.9"]
    assert sorted(set(found["shop"])) == [f"s{i}" for i in range(8)]
    assert list(found["month"][:3]) == ["2019-01-01", "2019-02-01", "2019-03-01"]
    assert (found["sold_0.1"] < found["sold_mean"]).all()
    assert (found["sold_mean"] < found["sold_0.9"]).all()
    assert found["sold_mean"].between(5, 45).all()
    commands.main([*given, "--particles", "8", "--out", str(plain / "again.parquet")])
    pd.testing.assert_frame_equal(
        pd.read_parquet(plain / "again.parquet").drop(columns="month"), found.drop(columns="month")
    )


def test_a_new_table_is_forecast_from_its_own_end(plain):
    sales(2, 20).assign(shop=lambda table: "new" + table["shop"]).to_csv(plain / "new.csv", index=False)
    given = ["forecast", str(plain / "run"), "--data", str(plain / "new.csv"), "--horizon", "2", "--samples", "10"]
    commands.main([*given, "--particles", "4", "--out", str(plain / "new_forecasts.csv")])
    lines = (plain / "new_forecasts.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [
        [shop, month] for shop in ("news0", "news1") for month in ("2016-09-01", "2016-10-01")
    ]


def test_forecasts_with_covariates_and_gaps(tmp_path):
    flags = ("--covariates", "price", "--static", "kind", "--by", "time", "--context", "12")
    data = prepared(tmp_path, sales(4, gaps=0.1), *flags)
    commands.main(["train", str(data), "--objective", "elbo", *TRAINED, "--out", str(tmp_path / "run")])
    future = sales(4, MONTHS + 6)
    future[future["month"] >= "2019"].drop(columns=["sold", "kind"]).to_csv(tmp_path / "future.csv", index=False)
    given = ["forecast", str(tmp_path / "run"), "--horizon", "6", "--samples", "10", "--particles", "4"]
    commands.main([*given, "--future", str(tmp_path / "future.csv")])
    lines = (tmp_path / "run" / "forecasts.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 * 6
    assert lines[1].startswith("s0,2019-01-01,")
    with pytest.raises(SystemExit, match="'s0' has values in its last 6 steps: a forecast with the covariates"):
        commands.main(given)
    with pytest.raises(SystemExit, match="future must hold the 9 steps after sequence 's0'"):
        commands.main([*given, "--horizon", "9", "--future", str(tmp_path / "future.csv")])
    coming = sales(4, MONTHS + 3)  # whose last rows have no values
    coming.assign(sold=coming["sold"].where(coming["month"] < "2019")).to_csv(tmp_path / "coming.csv", index=False)
    new = ["forecast", str(tmp_path / "run"), "--data", str(tmp_path / "coming.csv"), "--samples", "10"]
    commands.main([*new, "--particles", "4", "--horizon", "3", "--out", str(tmp_path / "forecasts.csv")])
    rows = (tmp_path / "forecasts.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["2019-01-01", "2019-02-01", "2019-03-01"] * 4
    with pytest.raises(SystemExit, match="'s0' has values in its last 4 steps"):
        commands.main([*new, "--horizon", "4"])
    scored = ["evaluate", str(tmp_path / "run"), "--horizon", "3", "--samples", "20", "--particles", "4"]
    commands.main([*scored, "--baselines", "naive"])
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["forecasts"]["forecasts"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "{run}", "--horizon", "60"), "sequences must have 61 frames at least"),
        (("forecast", "{run}", "--out", "a.txt"), "out must end in .csv or .parquet, got a.txt"),
        (("forecast", "{run}", "--quantiles", "0.5,1.5"), "quantiles must be between 0 and 1"),
        (("forecast", "{run}", "--data", "{bad}"), "feature 'sold' must hold numbers"),
        (("forecast", "{folder}"), "holds no results.json, as zf-pyro train leaves"),
    ],
)
def test_a_finished_run_refuses_with_a_sentence(plain, words, message):
    sales(1, 5).assign(sold="many").to_csv(plain / "bad.csv", index=False)
    names = {"run": str(plain / "run"), "folder": str(plain), "bad": str(plain / "bad.csv")}
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        commands.main([word.format(**names) for word in words])


def test_data_in_another_scaling_are_refused(plain, tmp_path):
    data = prepared(tmp_path, sales().assign(sold=lambda table: 3 * table["sold"]))
    with pytest.raises(SystemExit, match="must have the scaling of these data, 'sold' minus"):
        commands.main(["evaluate", str(plain / "run"), "--data", str(data), "--horizon", "3"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* have a k-hat above")  # of a network barely trained
def test_diagnose_writes_one_page(plain, capsys):
    given = ["diagnose", str(plain / "run"), "--part", "all", "--draws", "25", "--simulations", "20", "--by-step", "1"]
    commands.main([*given, "--out", str(plain / "pages" / "report.html")])
    page = (plain / "pages" / "report.html").read_text()
    assert page.count("data:image/png") == 3
    assert "do the latents matter?" in page
    assert "is the guide right?" in page
    assert "sold of the longest sequence" in page
    assert 'src="http' not in page
    said, shown = capsys.readouterr()
    assert "nats a sequence" in said
    assert all(f"{bar}: 100%" in shown for bar in ("posterior draws", "step check", "calibration"))
