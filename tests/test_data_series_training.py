"""Networks train on the batches of a table, go on where they stopped, and forecast in the table's units."""

import numpy as np
import pandas as pd
import pytest
import torch

from zf_pyro import ZForcing, ZForcingELBO, emissions
from zf_pyro.data import from_dataframe, load_series, save_series
from zf_pyro.evaluation import FilterForecaster, backtest, evaluate
from zf_pyro.training import Training, fit

pytestmark = pytest.mark.filterwarnings("ignore:.*GPU available but not used.*")
SIZES = {"embed_dim": 4, "hidden_dim": 6, "latent_dim": 2, "mlp_dim": 4}


def table(gaps=True):
    days = pd.date_range("2024-01-01", periods=20, freq="D")
    rng = np.random.default_rng(0)
    frame = pd.concat(
        pd.DataFrame(
            {"id": f"s{i}", "day": days, "y": rng.normal(size=20), "z": rng.normal(size=20), "w": days.day_name()}
        )
        for i in range(6)
    )
    if gaps:
        frame.loc[rng.random(len(frame)) < 0.2, "y"] = np.nan
    return frame


def network(data, **settings):
    torch.manual_seed(0)
    missing = {"missing": "fill"} if data.has_gaps else {}
    return ZForcing(emissions.Gaussian(2), **SIZES, covariate_dim=data.covariate_dim, **missing, **settings)


def trained(data, out, *, max_steps, resume=False):
    net = network(data)
    fit(
        Training(net.model, net.guide, ZForcingELBO()),
        data.batches(2, seed=1),
        out=out,
        max_steps=max_steps,
        resume=resume,
        checkpoint_every=1,
        progress=False,
    )
    return net


def test_a_resumed_run_on_a_table_ends_like_one_that_was_not_stopped(tmp_path):
    data = from_dataframe(table(), "id", "day", ["y", "z"], "w")
    whole = trained(data, tmp_path / "whole", max_steps=5)
    trained(data, tmp_path / "parts", max_steps=2)
    save_series(tmp_path / "data", data)  # another process reads the data from the disk
    parts = trained(data, tmp_path / "parts", max_steps=5, resume=True)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)
    on_disk = trained(load_series(tmp_path / "data").train, tmp_path / "disk", max_steps=5)
    for one, other in zip(whole.parameters(), on_disk.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_on_other_data_does_not_go_on(tmp_path):
    frame = table()
    trained(from_dataframe(frame, "id", "day", ["y", "z"], "w"), tmp_path / "run", max_steps=1)
    frame["z"] = frame["z"] + 1e-6
    with pytest.raises(ValueError, match="sha256"):
        trained(from_dataframe(frame, "id", "day", ["y", "z"], "w"), tmp_path / "run", max_steps=2, resume=True)


def test_evaluation_takes_the_batches_of_a_table():
    data = from_dataframe(table(), "id", "day", ["y", "z"], "w")
    found = evaluate(network(data), data.batches(4, shuffle=False), num_particles=2)
    assert (found.num_sequences, found.num_frames) == (6, 120)


def test_a_network_forecasts_with_covariates_and_gaps():
    data = from_dataframe(table(), "id", "day", ["y", "z"], "w")
    found = backtest(
        FilterForecaster(network(data), num_samples=20, num_particles=8), data, horizon=3, first=14, every=3
    )
    assert torch.equal(
        found.crps.isnan(), torch.stack([~data[i].observed[t : t + 3] for i in range(6) for t in (14, 17)])
    )


def test_forecasts_imputations_and_scores_come_out_with_names_times_and_units():
    frame = table()
    data = from_dataframe(frame, "id", "day", ["y", "z"], frequency="D")
    net = network(data)
    x, lengths, _, observed = data.batch()
    forecast = net.forecast(
        x, lengths, horizon=2, num_samples=5, num_particles=4, observed=observed, coords=data.coords
    )
    named = data.to_xarray(forecast, future=True)
    assert named["sequence"].values.tolist() == forecast["sequence"].values.tolist() == data.ids
    assert (named["time"].values[0] == pd.date_range("2024-01-21", periods=2).to_numpy()).all()
    scores = net.anomaly_scores(x, lengths, num_particles=4, observed=observed)["score"]
    rows = data.to_pandas(scores, name="score")
    assert rows["day"].tolist() == frame["day"].tolist()
    filled = net.impute(x, lengths, observed=observed, num_samples=5, num_particles=4)
    values = data.to_pandas(filled.mean("sample"))
    seen = frame["y"].notna().to_numpy()
    np.testing.assert_allclose(values["y"][seen], frame["y"][seen], atol=1e-5)


def test_a_network_is_scored_by_backtests():
    data = from_dataframe(table(gaps=False), "id", "day", ["y", "z"])
    found = backtest(
        FilterForecaster(network(data), num_samples=20, num_particles=8), data, horizon=3, first=14, every=3
    )
    assert found.crps.shape == (12, 3, 2)
    assert found.estimates()["crps"].value < 10
    with pytest.raises(ValueError, match="proposal must be one of"):
        FilterForecaster(network(data), proposal="guess")
