"""Forecasts and predictive checks against exact values."""

import numpy as np
import pytest
import torch

from zf_pyro import to_arviz
from zf_pyro.diagnostics import (
    autocorrelation,
    leave_future_out,
    predictive_check,
    quantiles,
    spectrum,
)
from zf_pyro.diagnostics.predictive_checks import PredictiveCheck

from .conftest import random_frames, random_net
from .linear_gaussian import LinearGaussian, exact_evidence, simulated

LENGTHS = torch.tensor([4, 2, 3])


# Forecasts -----------------------------------------------------------------------------------------------------------


def conditional(x, start, stop):
    """Exact log p(x_{start+1}..x_{stop} | x_1..x_start)."""
    before = exact_evidence(x[:, :start]) if start else 0.0
    return exact_evidence(x[:, :stop]) - before


@pytest.mark.parametrize(("first", "horizon"), [(0, 1), (1, 1), (1, 2), (2, 2)])
def test_forecasts_are_the_exact_conditional_densities(first, horizon):
    x = simulated(10, 4)
    found = leave_future_out(LinearGaussian(), x, first=first, horizon=horizon, num_particles=20_000)
    expected = torch.stack([conditional(x, t, t + horizon) for t in range(first, 5 - horizon)], 1)
    assert found.densities.shape == expected.shape
    torch.testing.assert_close(found.densities, expected, rtol=0, atol=0.15)
    assert found.elpd == pytest.approx(expected.sum().item(), abs=0.5)


def test_forecasts_do_not_reach_beyond_a_length():
    lengths = torch.tensor([3, 1, 2, 4])
    found = leave_future_out(LinearGaussian(), simulated(4, 4), lengths, first=1, horizon=2, num_particles=10)
    assert (~found.densities.isnan()).sum(1).tolist() == [1, 0, 0, 2]
    assert found.per_sequence.isnan().tolist() == [False, True, True, False]
    assert found.error > 0


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"first": -1}, "first must be an integer of at least 0"),
        ({"horizon": 0}, "horizon must be a positive integer"),
        ({"first": 3, "horizon": 2}, r"first \+ horizon must be at most 4, the longest sequence, got 3 \+ 2"),
        ({"num_particles": 0}, "num_particles must be a positive integer"),
    ],
)
def test_bad_forecasts_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        leave_future_out(random_net().eval(), random_frames(), **settings)


# Predictive checks ---------------------------------------------------------------------------------------------------


def test_sequences_of_the_model_itself_pass_and_others_do_not():
    net = LinearGaussian()
    lengths = torch.arange(60) % 9 + 4
    for statistic in (autocorrelation(2), quantiles(), spectrum(4)):
        own = predictive_check(to_arviz(net, simulated(60, 12), lengths, num_samples=60), statistic)
        assert (np.abs(own.surprise) < 4).all()
        other = predictive_check(to_arviz(net, 3 * torch.randn(60, 12, 1).double(), lengths, num_samples=60), statistic)
        assert (np.abs(other.surprise) > 4).any()
        assert ((other.p_value < 0.01) | (other.p_value > 0.99)).any()


def test_autocorrelation_is_that_of_the_definition():
    x = np.random.default_rng(0).normal(size=(4000, 30, 1))
    x[:, 1:] += 0.5 * x[:, :-1]  # a moving average: 0.5 / 1.25 at lag 1, zero beyond
    found = autocorrelation(2)(x)
    np.testing.assert_allclose(found[:, 0], [0.4, 0.0], atol=0.02)


def test_statistics_leave_padding_out():
    x = np.random.default_rng(0).normal(size=(50, 8, 2))
    padded = np.concatenate([x, np.full((50, 5, 2), np.nan)], 1)
    for statistic in (autocorrelation(3), quantiles(), spectrum()):
        np.testing.assert_allclose(statistic(padded), statistic(x))


def test_the_spectrum_of_white_noise_is_flat_and_of_a_wave_has_a_peak():
    noise = np.random.default_rng(0).normal(size=(4000, 16, 1))
    np.testing.assert_allclose(spectrum(5)(noise)[1:, 0], 0.0, atol=0.15)
    wave = np.cos(np.pi * np.arange(32) / 2)[None, :, None] + 0.01 * noise[:32, :1]
    assert spectrum(5)(wave)[:, 0].argmax() == 2


def test_p_values_are_shares_of_replicates():
    check = PredictiveCheck(np.array([1.0, 5.0, 0.0]), np.array([[0.0, 1, 0], [1, 2, 0], [2, 3, 0], [3, 4, 0]]))
    np.testing.assert_allclose(check.p_value, [0.625, 0.0, 0.5])


def test_posterior_predictive_frames_are_checked_too():
    check = predictive_check(
        to_arviz(LinearGaussian(), simulated(50, 6), num_samples=40), quantiles(), "posterior_predictive"
    )
    assert (np.abs(check.surprise) < 5).all()


def test_other_groups_and_bad_lags_are_refused():
    data = to_arviz(random_net().eval(), random_frames(), LENGTHS, num_samples=3)
    with pytest.raises(ValueError, match="group_name must be one of"):
        predictive_check(data, quantiles(), "posterior")
    with pytest.raises(ValueError, match="max_lag must be a positive integer, got 0"):
        autocorrelation(0)
    with pytest.raises(ValueError, match="max_lag must be less than the 4 steps"):
        predictive_check(data, autocorrelation(4))
