"""net.forecast and net.anomaly_scores: exact on linear-Gaussian sequences, and with the names that went in."""

import importlib
import math

import numpy as np
import pyro
import pytest
import torch
from torch.distributions import Normal

from zf_pyro import emissions
from zf_pyro.diagnostics.plots import plot_forecast
from zf_pyro.evaluation import anomaly_scores, forecast
from zf_pyro.inference import ParticleFilter

from .comparing import EXACT
from .conftest import random_frames, random_net
from .linear_gaussian import LinearGaussian, conditional, simulated
from .own_emissions import MatrixFrames

LENGTHS = torch.tensor([4, 2, 3])


def seeded(function, *args, **settings):
    pyro.set_rng_seed(3)
    return function(*args, **settings)


def test_samples_are_those_of_the_filter(member):
    net, x = random_net("gaussian", **member), random_frames("gaussian")
    found = seeded(net.forecast, x, horizon=5, num_samples=6, num_particles=8, proposal="prior")
    filter = ParticleFilter(net, 8, proposal="prior")
    pyro.set_rng_seed(3)
    whole = filter.run(x)
    pyro.set_rng_seed(3)
    expected = filter.start(x).forecast(5, num_samples=6)
    torch.testing.assert_close(torch.as_tensor(found.values), expected, **EXACT)
    torch.testing.assert_close(torch.as_tensor(found["ess"].values), whole.ess[-1], **EXACT)


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_moments_are_those_of_the_kalman_filter(proposal):
    """Sequences of several lengths, in batches of two that are ordered by length."""
    net, x = LinearGaussian(), simulated(3, 4)
    settings = {"num_samples": 10_000, "num_particles": 10_000, "proposal": proposal, "batch_size": 2}
    found = net.forecast(x.masked_fill(padding(x), torch.nan), LENGTHS, horizon=3, **settings)
    assert found["length"].values.tolist() == LENGTHS.tolist()
    for i, length in enumerate(LENGTHS.tolist()):
        steps = length + 3
        wanted, given = [steps + t for t in range(length, steps)], [steps + t for t in range(length)]
        mean, covariance = conditional(steps, wanted, given, x[i : i + 1, :length, 0])
        samples = torch.as_tensor(found.values[:, i, :, 0])
        torch.testing.assert_close(samples.mean(0), mean[0], rtol=0, atol=0.08)
        torch.testing.assert_close(samples.T.cov(), covariance, rtol=0.06, atol=0.04)


def padding(x):
    return (torch.arange(x.shape[1]) >= LENGTHS.unsqueeze(1)).unsqueeze(-1)


def test_scores_of_a_sequence_sum_to_the_likelihood_of_the_filter(member):
    net, x = random_net("gaussian", **member), random_frames("gaussian")
    found = seeded(net.anomaly_scores, x, num_samples=0, num_particles=8)
    expected = seeded(ParticleFilter(net, 8, proposal="prior").run, x)
    torch.testing.assert_close(torch.as_tensor(found["score"].values), -expected.log_increments.T, **EXACT)
    assert list(found.data_vars) == ["score"]


def test_scores_and_tails_are_those_of_exact_forecasts():
    """With lengths and a missing frame; batches of two, ordered by length."""
    net, x = LinearGaussian(), simulated(3, 4)
    observed = torch.ones(3, 4, dtype=torch.bool)
    observed[0, 1] = False
    hidden = padding(x) | ~observed.unsqueeze(-1)
    settings = {"num_samples": 100, "num_particles": 20_000, "batch_size": 2}
    found = net.anomaly_scores(x.masked_fill(hidden, torch.nan), LENGTHS, observed=observed, **settings)
    assert (np.isnan(found["score"].values) == hidden[..., 0].numpy()).all()
    assert (np.isnan(found["tail_probability"].values) == hidden[..., 0].numpy()).all()
    for i, length in enumerate(LENGTHS.tolist()):
        for t in range(length):
            if hidden[i, t, 0]:
                continue
            given = [t + 1 + s for s in range(t) if observed[i, s]]
            seen = [s for s in range(t) if observed[i, s]]
            mean, variance = conditional(t + 1, [2 * t + 1], given, x[i : i + 1, seen, 0])
            predicted = Normal(mean.squeeze(), variance.squeeze().sqrt())
            cell = found.isel(sequence=i, step=t)
            assert cell["score"].item() == pytest.approx(-predicted.log_prob(x[i, t, 0]).item(), abs=0.12)
            distance = (x[i, t, 0] - predicted.mean).abs() / predicted.stddev
            exact = torch.special.erfc(distance / math.sqrt(2)).item()
            assert cell["tail_probability"].item() == pytest.approx(exact, abs=0.15)


def test_a_frame_that_does_not_fit_stands_out():
    net, x = LinearGaussian(), simulated(4, 8)
    x[2, 5] += 15.0
    found = net.anomaly_scores(x)
    assert found["score"].argmax(...)["sequence"].item() == 2
    assert found["score"].argmax(...)["step"].item() == 5
    assert found["tail_probability"].values[2, 5] == pytest.approx(1 / 101)


@pytest.mark.parametrize(
    ("emission", "dims"),
    [
        (emissions.Categorical(4), ("sample", "sequence", "step")),
        (emissions.Gaussian(2), ("sample", "sequence", "step", "feature")),
        (MatrixFrames(), ("sample", "sequence", "step", "feature_0", "feature_1")),
    ],
)
def test_dimensions_have_names(emission, dims):
    net = random_net(emission)
    found = net.forecast(net.generate(2, 3), horizon=4, num_samples=5, num_particles=3)
    assert found.dims == dims
    assert found.name == "x"
    assert found.shape == (5, 2, 4, *emission.event_shape)
    assert found["step"].values.tolist() == [1, 2, 3, 4]
    assert np.issubdtype(found.dtype, np.integer) == emission.integer


def test_names_and_ids_come_out_again():
    net, x = random_net("gaussian"), random_frames("gaussian")
    coords = {"sequence": ["a", "b", "c"], "feature": ["load", "price"]}
    found = net.forecast(x, horizon=2, num_samples=20, num_particles=4, coords=coords)
    band = found.quantile([0.05, 0.95], "sample")
    assert band.sel(sequence="b", feature="price").dims == ("quantile", "step")
    times = np.arange("2024-01-01", "2024-01-05", dtype="datetime64[D]")
    scores = net.anomaly_scores(x, num_particles=4, num_samples=3, coords={"sequence": ["a", "b", "c"], "step": times})
    assert scores["score"].sel(sequence="c", step="2024-01-03").shape == ()
    assert len(scores.to_dataframe()) == 12


def test_modes_are_kept_and_dropout_is_off():
    net, x = random_net("gaussian", dropout=0.5).train(), random_frames("gaussian")
    first, second = (seeded(net.forecast, x, horizon=2, num_samples=3, num_particles=4) for _ in range(2))
    assert (first == second).all()
    found = seeded(net.anomaly_scores, x, num_samples=0, num_particles=4)
    assert net.training
    expected = seeded(net.eval().anomaly_scores, x, num_samples=0, num_particles=4)
    assert (found["score"] == expected["score"]).all()


def test_one_batch_or_many_and_a_batch_with_lengths(capsys):
    net, x = LinearGaussian(), simulated(3, 4)
    assert net.forecast((x, LENGTHS), horizon=1, num_samples=2)["length"].values.tolist() == LENGTHS.tolist()
    for size in (1, 2, 3):
        found = net.anomaly_scores(x, LENGTHS, num_samples=0, num_particles=20_000, batch_size=size, progress=True)
        expected = ParticleFilter(net, 4000).run(x, LENGTHS).log_evidence
        torch.testing.assert_close(-torch.as_tensor(found["score"].sum("step").values), expected, rtol=0, atol=0.15)
    assert "anomaly scores" in capsys.readouterr().err


@pytest.mark.parametrize("function", [forecast, anomaly_scores])
def test_bad_arguments_are_refused_by_name(function):
    net, x = random_net("gaussian"), random_frames("gaussian")
    needed = {"horizon": 2} if function is forecast else {}
    for arguments, error, message in (
        ({"x": x.float()}, TypeError, "x must be torch.float64"),
        ({"x": x[0]}, ValueError, r"x must have shape \(batch, time, 2\)"),
        ({"lengths": torch.tensor([5, 1, 1])}, ValueError, "lengths must be between 1 and 4"),
        ({"num_samples": 1.5}, ValueError, "num_samples must be .*, got 1.5"),
        ({"num_particles": 0}, ValueError, "num_particles must be a positive integer, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer, got 0"),
        ({"observed": torch.ones(3, 4)}, TypeError, "observed must hold bools"),
        ({"observed": torch.ones(3, 5).bool()}, ValueError, "observed must have 4 steps, as x has, got 5"),
        ({"context": x}, ValueError, "context must be one frame a sequence"),
        ({"covariates": x}, ValueError, "covariates must be left out for a model of covariate_dim=0"),
        ({"coords": ["a"]}, TypeError, "coords must be a dictionary of values by dimension, got list"),
        ({"coords": {"time": [1]}}, ValueError, r"coords must give values of some of the dimensions .*, got 'time'"),
        ({"coords": {"sequence": [1]}}, ValueError, r"coords\['sequence'\] must have 3 values, got shape \(1,\)"),
        ({"progress": 1}, TypeError, "progress must be True or False, got 1"),
        ({"x": x.masked_fill(x > 0, torch.nan)}, ValueError, "must hold finite numbers"),
    ):
        with pytest.raises(error, match=message):
            function(net, **{"x": x, **needed, **arguments})
    if function is forecast:
        with pytest.raises(ValueError, match="horizon must be a positive integer, got 0"):
            forecast(net, x, horizon=0)
        with pytest.raises(ValueError, match="proposal must be one of"):
            forecast(net, x, horizon=1, proposal="guide")
        with pytest.raises(MemoryError, match="num_samples must be at most"):
            forecast(net, x, horizon=1, num_samples=10**13)


def test_every_model_has_the_methods(member):
    assert {"forecast", "anomaly_scores"} <= set(dir(member["model"]))


def test_a_plot_has_bands_frames_before_and_what_came():
    pytest.importorskip("matplotlib").use("Agg")
    net, x = random_net("gaussian"), random_frames("gaussian", 3, 6)
    coords = {"sequence": ["a", "b", "c"], "feature": ["load", "price"]}
    found = net.forecast(x[:, :4], LENGTHS, horizon=2, num_samples=50, num_particles=4, coords=coords)
    ax = plot_forecast(found, 1, 1, x=x[:, :4], future=x[:, 4:])
    assert (ax.get_title(), ax.get_ylabel()) == ("sequence b", "feature price")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["90 %", "50 %", "median", "x", "future"]
    median, before, after = ax.lines
    np.testing.assert_allclose(median.get_ydata(), found.median("sample").values[1, :, 1])
    assert before.get_xdata().tolist() == [-1, 0]
    np.testing.assert_allclose(before.get_ydata(), x[1, :2, 1])
    np.testing.assert_allclose(after.get_ydata(), x[1, 4:, 1])
    symbols = random_net("categorical")
    tokens = random_frames("categorical")
    plot_forecast(symbols.forecast(tokens, horizon=2, num_samples=9, num_particles=4), x=tokens, ax=ax)
    for arguments, error, message in (
        ({"forecast": x}, TypeError, "forecast must be a result of net.forecast, got Tensor"),
        ({"sequence": 3}, ValueError, "sequence must be between 0 and 2, got 3"),
        ({"feature": 2}, ValueError, "feature must be between 0 and 1, got 2"),
        ({"x": x[:2]}, ValueError, "x must hold frames of the 3 sequences of the forecast"),
        ({"future": x[..., 0]}, ValueError, "future must hold frames of the 3 sequences"),
        ({"x": x.numpy()}, TypeError, "x must be a torch.Tensor, got ndarray"),
    ):
        with pytest.raises(error, match=message):
            plot_forecast(**{"forecast": found, "ax": ax, **arguments})
    importlib.import_module("matplotlib.pyplot").close(ax.figure)
