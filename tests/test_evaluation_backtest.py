"""Backtests cut sequences at their origins and score what followed; baselines are the distributions they claim."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from zf_pyro.data import SeriesBatch, from_arrays, from_dataframe
from zf_pyro.evaluation import ARIMA, ETS, Naive, SeasonalNaive, backtest, crps, energy_score, interval


def series(lengths=(9, 12, 10), *, gaps=False, covariates=False, seed=0):
    rng = np.random.default_rng(seed)
    values = [10 + 3 * rng.normal(size=(length, 2)) for length in lengths]
    if gaps:
        for part in values:
            part[rng.random(part.shape) < 0.3] = np.nan
    known = [np.arange(float(length)) for length in lengths] if covariates else None
    return from_arrays(values, covariates=known, scaling={"x_0": "robust"}, ids=["a", "b", "c"][: len(lengths)])


def spread(x, lengths, horizon):
    """Samples around the last frame, the same in every batch."""
    offsets = torch.linspace(-2, 2, 40)[:, None, None, None]
    return (x[:, -1:] + offsets).expand(-1, -1, horizon, -1)


# Origins --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [("a", 7), ("b", 10), ("c", 8)]),
        ({"first": 6}, [("a", 6), *[("b", t) for t in (6, 8, 10)], ("c", 6), ("c", 8)]),
        ({"first": 6, "every": 3}, [("a", 6), ("b", 6), ("b", 9), ("c", 6)]),
        ({"first": 7, "every": 1}, [("a", 7), *[("b", t) for t in (7, 8, 9, 10)], ("c", 7), ("c", 8)]),
    ],
)
def test_origins_roll_through_each_sequence(settings, expected):
    data = series()
    seen = []

    def forecaster(x, lengths, horizon):
        assert x.shape[1] == lengths[0] == lengths[-1]
        seen.append((x.clone(), horizon))
        return spread(x, lengths, horizon)

    found = backtest(forecaster, data, horizon=2, **settings)
    assert [(data.ids[i], t) for i, t in zip(found.owner, found.origins, strict=True)] == expected
    assert sum(len(x) for x, _ in seen) == len(expected)
    for x, horizon in seen:
        assert horizon == 2
        assert any(torch.equal(x[0], item.x[: x.shape[1]]) for item in (data[i] for i in range(3)))


def test_scores_are_those_of_samples_and_targets_in_original_units():
    data = series()
    found = backtest(spread, data, horizon=2, first=6)
    for number, (row, origin) in enumerate(zip(found.owner.tolist(), found.origins.tolist(), strict=True)):
        samples = data.inverse(spread(data[row].x[None, :origin], None, 2))[:, 0]
        targets = torch.from_numpy(data.steps(row, origin, origin + 2).values)
        torch.testing.assert_close(found.crps[number], crps(samples, targets))
        torch.testing.assert_close(found.energy[number], energy_score(samples, targets))
        bounds = interval(samples, targets, 0.9)
        torch.testing.assert_close(found.width[0.9][number], bounds.width)
        assert torch.equal(found.inside[0.9][number], bounds.inside)
    assert ((found.pit > 0) & (found.pit < 1)).all()


def test_scaled_units_are_the_scale_apart():
    data = series()
    scaled, original = (backtest(spread, data, horizon=2, units=units) for units in ("scaled", "original"))
    ratio = torch.tensor(data.scaling.scale, dtype=torch.float64).expand(3, 2, 2)
    torch.testing.assert_close(original.crps / scaled.crps, ratio, rtol=1e-5, atol=0)


def test_the_size_of_batches_changes_nothing():
    one, all_ = (backtest(spread, series(), horizon=2, first=4, every=1, batch_size=size) for size in (1, 64))
    for name in ("crps", "energy", "log_score", "owner", "origins"):
        assert torch.equal(getattr(one, name), getattr(all_, name)), name


# Gaps and covariates --------------------------------------------------------------------------------------------------


def test_missing_targets_are_not_scored_and_estimates_are_of_the_others():
    data = series((30, 30), gaps=True)
    found = backtest(Naive(num_samples=50), data, horizon=3, first=12)
    targets = np.stack(
        [data.steps(i, t, t + 3).values for i, t in zip(found.owner.tolist(), found.origins.tolist(), strict=True)]
    )
    assert torch.equal(found.crps.isnan(), torch.from_numpy(np.isnan(targets)))
    assert found.estimates()["crps"].value == pytest.approx(found.crps.nanmean().item())


def test_a_forecaster_gets_the_covariates_of_the_horizon_and_what_was_seen_if_it_takes_them():
    data = series(gaps=True, covariates=True)
    calls = []

    def forecaster(x, lengths, horizon, *, covariates, observed):
        calls.append((x.shape, covariates, observed.shape))
        return spread(x, lengths, horizon)

    backtest(forecaster, data, horizon=3, first=5, every=9)
    (shape, covariates, observed), *others = calls
    assert (shape, observed, others) == ((3, 5, 2), (3, 5, 2), [])
    assert torch.equal(covariates, torch.stack([data[i].covariates[:8] for i in range(3)]))


def test_a_forecaster_that_cannot_tell_gaps_is_refused():
    with pytest.raises(TypeError, match="forecaster must have a parameter observed"):
        backtest(spread, series(gaps=True), horizon=2)


@pytest.mark.parametrize("batch", [SeriesBatch, lambda x, lengths, *rest: (x, lengths)])
def test_one_batch_is_scored_like_a_data_set(batch):
    data = series()
    found = backtest(spread, batch(*data.batch()), horizon=2, first=6)
    expected = backtest(spread, data, horizon=2, first=6, units="scaled")
    torch.testing.assert_close(found.crps, expected.crps, rtol=1e-5, atol=1e-6)
    assert (found.units, found.features) == ("scaled", ("x_0", "x_1"))


# Estimates ------------------------------------------------------------------------------------------------------------


def test_standard_errors_are_over_sequences():
    data = series((8, 8, 8))
    found = backtest(spread, data, horizon=2, first=4, every=1)
    means = torch.stack([found.crps[found.owner == i].mean() for i in range(3)])
    estimate = found.estimates()["crps"]
    assert estimate.value == pytest.approx(means.mean().item())
    assert estimate.standard_error == pytest.approx((means.std() / math.sqrt(3)).item())
    assert math.isnan(backtest(spread, series((9,)), horizon=2).estimates()["crps"].standard_error)


def test_estimates_of_one_feature_and_one_step():
    found = backtest(spread, series(), horizon=2, first=4)
    one = found.estimates("x_1", step=2)
    assert one["crps"].value == pytest.approx(found.crps[:, 1, 1].mean().item())
    assert "energy" not in one
    assert set(found.estimates()) == {
        *("crps", "log_score", "energy", "coverage_0.5", "width_0.5", "coverage_0.9", "width_0.9"),
    }


def test_skill_is_the_share_saved_of_the_baselines_score():
    data = series()
    base, found = backtest(Naive(), data, horizon=2), backtest(spread, data, horizon=2)
    assert found.skill(base).value == pytest.approx(1 - (found.crps.sum() / base.crps.sum()).item())
    assert base.skill(base) == (0.0, pytest.approx(0.0))
    with pytest.raises(ValueError, match="baseline must be a backtest of the same data"):
        found.skill(backtest(Naive(), data, horizon=1))


def test_a_calibrated_forecast_covers_as_often_as_it_says():
    data = from_arrays(np.random.default_rng(1).normal(size=(200, 12, 1)), scaling="none")

    def forecaster(x, lengths, horizon):
        return torch.randn(99, len(x), horizon, 1, generator=torch.Generator().manual_seed(int(lengths[0])))

    found = backtest(forecaster, data, horizon=5, first=2)
    estimates = found.estimates()
    for level in (0.5, 0.9):
        error = math.sqrt(level * (1 - level) / (200 * 10))
        assert abs(estimates[f"coverage_{level}"].value - level) < 4 * error
    assert abs(found.pit.mean().item() - 0.5) < 4 * math.sqrt(1 / 12 / 2000)


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"horizon": 2, "first": 8},
            r"10 frames at least, 8 before the first origin .*got 9 in sequence 'a': .*at_least\(10\)",
        ),
        ({"horizon": 9}, r"10 frames at least, 1 before"),
        ({"horizon": 0}, r"horizon must be a positive integer"),
        ({"horizon": 2, "first": 0}, r"first must be a positive integer"),
        ({"horizon": 2, "every": 0}, r"every must be a positive integer"),
        ({"horizon": 2, "units": "metres"}, r"units must be one of"),
        ({"horizon": 2, "levels": 0.9}, r"levels must be a list of different probabilities"),
        ({"horizon": 2, "levels": [0.5, 0.5]}, r"levels must be a list of different probabilities"),
        ({"horizon": 2, "levels": [0.99]}, r"level 0.99 needs 199 samples"),
    ],
)
def test_backtests_without_a_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        backtest(spread, series(), **settings)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, lengths, horizon: x[:, -horizon:],
        lambda x, lengths, horizon: spread(x, lengths, horizon + 1),
        lambda x, lengths, horizon: spread(x, lengths, horizon)[:1],
        lambda x, lengths, horizon: None,
    ],
)
def test_samples_of_another_shape_are_refused(wrong):
    with pytest.raises(ValueError, match=r"forecaster must return samples \(num_samples, \*\(1, 2, 2\)\), at least 2"):
        backtest(wrong, series(), horizon=2)


def test_other_forecasters_and_data_are_refused():
    with pytest.raises(TypeError, match="forecaster must be a function of x, lengths and horizon, got int"):
        backtest(3, series(), horizon=2)
    with pytest.raises(ValueError, match=r"data must hold x \(batch, time, frame\) of floats"):
        backtest(spread, torch.zeros(3, 9), horizon=2)
    with pytest.raises(TypeError, match="got Loader: give the data set that it reads"):
        backtest(spread, series().batches(2), horizon=2)
    with pytest.raises(ValueError, match="feature must be one of"):
        backtest(spread, series(), horizon=2).estimates("speed")
    with pytest.raises(ValueError, match="step must be at most the horizon, 2"):
        backtest(spread, series(), horizon=2).estimates(step=3)


# Baselines ------------------------------------------------------------------------------------------------------------


def test_the_naive_forecast_of_a_line_goes_on():
    x = torch.arange(6.0).view(1, 6, 1) * torch.tensor([1.0, -2.0])
    found = Naive(num_samples=3)(x, None, 4)
    expected = torch.arange(6.0, 10.0)[:, None] * torch.tensor([1.0, -2.0])
    torch.testing.assert_close(found, expected.expand(3, 1, 4, 2))


def test_the_seasonal_naive_forecast_repeats_the_season_with_its_growth():
    season = torch.tensor([0.0, 5.0, 1.0])
    x = season.repeat(5)[None, :, None] + torch.arange(5.0).repeat_interleave(3)[None, :, None]
    long = torch.cat([x, x[:, -3:] + 1, x[:, -3:] + 2, x[:, -3:] + 3], dim=1)
    for end in (13, 14, 15):
        found = SeasonalNaive(3, num_samples=2)(x[:, :end], None, 7)
        torch.testing.assert_close(found, long[:, end : end + 7].expand(2, 1, 7, 1))


def test_frames_beyond_a_length_change_nothing():
    x = torch.randn(2, 9, 2)
    lengths = torch.tensor([9, 6])
    other = x.clone()
    other[1, 6:] = 1e6
    assert torch.equal(SeasonalNaive(2)(x, lengths, 3), SeasonalNaive(2)(other, lengths, 3))
    gaps = torch.ones(2, 9, 2, dtype=torch.bool)
    gaps[0, 4, 1] = False
    missing = x.clone()
    missing[0, 4, 1] = math.nan
    found = (SeasonalNaive(2)(values, lengths, 3, observed=gaps) for values in (x, missing))
    assert torch.equal(*found)


def test_a_gap_at_the_end_is_bridged_by_more_steps():
    x = torch.arange(8.0).view(1, 8, 1)
    observed = torch.ones(1, 8, 1, dtype=torch.bool)
    observed[0, 6:] = False
    for period in (1, 2, 3):
        found = SeasonalNaive(period, num_samples=2)(x.where(observed, torch.nan), None, 4, observed=observed)
        torch.testing.assert_close(found, torch.arange(8.0, 12.0).view(4, 1).expand(2, 1, 4, 1))


def test_steps_ahead_add_differences_drawn_with_replacement():
    x = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]).view(1, 5, 1)  # differences of 1 and -1, equally often
    samples = Naive(num_samples=20_000)(x, None, 2)[:, 0, :, 0]
    for step, distribution in ((0, {-1: 0.5, 1: 0.5}), (1, {-2: 0.25, 0: 0.5, 2: 0.25})):
        for value, probability in distribution.items():
            share = (samples[:, step] == value).double().mean().item()
            assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / 20_000)


def test_frames_are_drawn_whole_unless_elements_are_missing():
    x = torch.tensor([[0.0, 0.0], [1.0, 10.0], [3.0, 30.0], [7.0, 70.0]])[None]
    whole = Naive(num_samples=200)(x, None, 1)[:, 0, 0] - x[0, -1]
    assert {tuple(row) for row in whole.tolist()} == {(1.0, 10.0), (2.0, 20.0), (4.0, 40.0)}
    apart = Naive(num_samples=200)(x, None, 1, observed=torch.ones(1, 4, 2, dtype=torch.bool))[:, 0, 0] - x[0, -1]
    assert len({tuple(row) for row in apart.tolist()}) == 9


def test_the_same_seed_gives_the_same_samples():
    x = torch.randn(2, 8, 2)
    one, same, other = (SeasonalNaive(2, seed=seed)(x, None, 3) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_sequences_too_short_for_a_baseline_are_refused():
    x = torch.randn(2, 6, 1)
    with pytest.raises(ValueError, match=r"two values a season of 6 steps apart .*SeasonalNaive, sequence 0 has not"):
        SeasonalNaive(6)(x, None, 2)
    with pytest.raises(ValueError, match=r"two values a season of 4 steps apart .*sequence 1 has not"):
        SeasonalNaive(4)(x, torch.tensor([6, 4]), 2)
    with pytest.raises(ValueError, match="a value in each of the 7 seasons"):
        SeasonalNaive(7)(x, None, 2)
    with pytest.raises(ValueError, match=r"x must be \(batch, time, frame\)"):
        Naive()(x[0], None, 2)
    with pytest.raises(ValueError, match="period must be a positive integer"):
        SeasonalNaive(0)


# Models of statsmodels ------------------------------------------------------------------------------------------------


def test_a_random_walk_by_arima_has_its_mean_and_variance():
    pytest.importorskip("statsmodels")
    x = torch.randn(1, 60, 1, generator=torch.Generator().manual_seed(0)).cumsum(1)
    samples = ARIMA((0, 1, 0), num_samples=5_000)(x, None, 3)[:, 0, :, 0]
    variance = x.diff(dim=1).double().square().mean().item()
    for step in range(3):
        spread = variance * (step + 1)
        assert abs(samples[:, step].mean().item() - x[0, -1, 0].item()) < 4 * math.sqrt(spread / 5_000)
        assert abs(samples[:, step].var().item() / spread - 1) < 4 * math.sqrt(2 / 5_000)


def test_exponential_smoothing_continues_a_season_across_gaps():
    pytest.importorskip("statsmodels")
    noise = 0.05 * torch.randn(44, generator=torch.Generator().manual_seed(0))
    x = (torch.tensor([0.0, 4.0, 1.0, 2.0]).repeat(11) + noise).view(1, 44, 1)
    observed = torch.ones(1, 40, 1, dtype=torch.bool)
    observed[0, 7::9] = False
    found = ETS(4)(x[:, :40].where(observed, torch.nan), None, 4, observed=observed)
    torch.testing.assert_close(found.mean(0), x[:, 40:].double(), rtol=0, atol=0.25)


def test_sequences_too_short_for_a_model_are_refused():
    pytest.importorskip("statsmodels")
    with pytest.raises(ValueError, match="ETS cannot be fitted to sequence 0 of 3 frames"):
        ETS(12)(torch.randn(1, 3, 1), None, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ETS(1), "period must be an integer of at least 2"),
        (lambda: ARIMA((1, 0)), "order must be 3 integers"),
        (lambda: ARIMA((1, -1, 0)), "order must be an integer of at least 0"),
        (lambda: ARIMA(seasonal_order=(1, 0, 0)), "seasonal_order must be 4 integers"),
        (lambda: Naive(num_samples=0), "num_samples must be a positive integer"),
    ],
)
def test_settings_without_a_meaning_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# From a table to scores -----------------------------------------------------------------------------------------------


def test_a_table_is_split_forecast_and_scored_in_its_own_units():
    days = pd.date_range("2024-01-01", periods=60, freq="D")
    rng = np.random.default_rng(0)
    weekly = np.tile([10.0, 12.0, 11.0, 15.0, 30.0, 40.0, 5.0], 9)[:60]
    frame = pd.concat(
        [
            pd.DataFrame({"shop": shop, "day": days, "sales": weekly * scale + rng.normal(size=60)})
            for shop, scale in (("a", 1), ("b", 3))
        ]
    )
    data = from_dataframe(frame, "shop", "day", "sales", frequency="D").split(
        "time", validation=None, test="2024-02-15", context=45
    )
    plain, seasonal = (backtest(method, data.test, horizon=7, first=45) for method in (Naive(), SeasonalNaive(7)))
    assert seasonal.skill(plain).value > 0.8
    assert seasonal.ids == ["a", "b"]
    forecast = data.train.to_pandas(SeasonalNaive(7, num_samples=2)(*data.train.batch()[:2], 3), future=True)
    assert forecast["day"].min() == pd.Timestamp("2024-02-15")
