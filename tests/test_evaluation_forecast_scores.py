"""Scores of samples equal their definitions; their expectations are exact over all samples of small distributions."""

import itertools
import math

import numpy as np
import pytest
import torch

from zf_pyro.evaluation import crps, energy_score, interval, log_score, pit

VALUES, WEIGHTS = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.5, 0.2, 0.3])


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tuples(count):
    """All samples of ``count`` values of a small distribution, (count, tuples), and their probabilities."""
    index = torch.tensor([*itertools.product(range(len(VALUES)), repeat=count)])
    return VALUES[index].T, WEIGHTS[index].double().prod(1)


# CRPS -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fair", [True, False])
def test_the_crps_is_its_definition(fair):
    samples, targets = draw(7, 4, 3), draw(4, 3, seed=1)
    apart = (samples[:, None] - samples[None]).abs().sum((0, 1)) / (7 * (6 if fair else 7))
    expected = (samples - targets).abs().mean(0) - apart / 2
    torch.testing.assert_close(crps(samples, targets, fair=fair), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("target", [-1.0, 1.0, 2.0])
def test_the_fair_crps_is_unbiased_for_any_number_of_samples(count, target):
    samples, weights = tuples(count)
    estimate = (crps(samples, torch.full(samples.shape[1:], target)) * weights).sum()
    apart = (VALUES[:, None] - VALUES).abs().double()
    expected = (WEIGHTS.double() * (VALUES - target).abs()).sum() - (WEIGHTS[:, None] * WEIGHTS * apart).sum() / 2
    assert estimate.item() == pytest.approx(expected.item(), abs=1e-7)


@pytest.mark.parametrize("target", [-2.0, 0.0, 0.7])
def test_the_crps_of_a_normal_is_its_closed_form(target):
    levels = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    samples = 2 * math.sqrt(2) * torch.erfinv(2 * levels - 1) + 0.5
    z = torch.tensor((target - 0.5) / 2, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    closed = 2 * (z * (2 * normal.cdf(z) - 1) + 2 * normal.log_prob(z).exp() - 1 / math.sqrt(math.pi))
    assert crps(samples, torch.tensor(target)).item() == pytest.approx(closed.item(), abs=1e-4)


def test_the_crps_of_far_values_keeps_its_digits():
    samples, targets = draw(9, 5), draw(5, seed=1)
    torch.testing.assert_close(crps(samples + 2**30, targets + 2**30), crps(samples, targets), rtol=0, atol=1e-6)


# Energy score ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fair", [True, False])
def test_the_energy_score_in_one_dimension_is_the_crps(fair):
    samples, targets = draw(30, 6, 2), draw(6, 2, seed=1)
    found = energy_score(samples[..., None], targets[..., None], fair=fair)
    torch.testing.assert_close(found, crps(samples, targets, fair=fair), rtol=0, atol=1e-13)


def test_the_energy_score_is_its_definition_in_blocks(monkeypatch):
    monkeypatch.setattr("zf_pyro.evaluation.forecast_scores.PAIRS", 200)
    samples, targets = draw(8, 5, 4, 3), draw(5, 4, 3, seed=1)
    apart = (samples[:, None] - samples[None]).norm(dim=-1).sum((0, 1)) / (8 * 7)
    expected = (samples - targets).norm(dim=-1).mean(0) - apart / 2
    torch.testing.assert_close(energy_score(samples, targets), expected, rtol=0, atol=1e-13)


def test_the_energy_score_is_of_the_elements_that_were_seen():
    samples, targets = draw(8, 4, 3), draw(4, 3, seed=1)
    gappy = targets.clone()
    gappy[:2, 1] = math.nan
    gappy[3] = math.nan
    found = energy_score(samples, gappy)
    torch.testing.assert_close(found[:2], energy_score(samples[:, :2, ::2], targets[:2, ::2]))
    assert found[2] == energy_score(samples, targets)[2]
    assert found[3].isnan()


# Log score ------------------------------------------------------------------------------------------------------------


def test_the_log_score_is_that_of_a_kernel_density_estimate():
    stats = pytest.importorskip("scipy.stats")
    samples, targets = draw(11, 3), draw(3, seed=1)
    for i in range(3):
        own = samples[:, i].numpy()
        quartiles = stats.mstats.mquantiles(own, (0.25, 0.75), alphap=0, betap=0)
        deviation = own.std(ddof=1)
        bandwidth = 0.9 * min(deviation, (quartiles[1] - quartiles[0]) / 1.34) * 11**-0.2
        density = stats.gaussian_kde(own, bandwidth / deviation)(targets[i].item())[0]
        assert log_score(samples, targets)[i].item() == pytest.approx(-math.log(density), abs=1e-10)


def test_the_log_score_of_equal_samples_is_infinite():
    assert log_score(torch.ones(5, 2), torch.tensor([1.0, 2.0])).tolist() == [-math.inf, math.inf]


# Intervals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "level"), [(19, 0.9), (39, 0.9), (3, 0.5), (199, 0.99), (99, 0.5)])
def test_intervals_hold_an_exchangeable_target_with_their_probability(count, level):
    ranks = torch.randperm(count + 1, generator=torch.Generator().manual_seed(0)).double()
    samples = torch.stack([ranks[torch.arange(count + 1) != i] for i in range(count + 1)], dim=1)
    assert interval(samples, ranks, level).inside.mean().item() == pytest.approx(level, abs=1e-12)


def test_coverage_width_and_score_of_a_known_interval():
    samples = torch.arange(1.0, 20.0)[:, None].expand(-1, 5)
    found = interval(samples, torch.tensor([1.0, 0.0, 19.0, 21.0, math.nan]), 0.9)
    assert found.lower.tolist() == [1.0] * 5
    assert found.upper.tolist() == [19.0] * 5
    assert found.inside.tolist()[:4] == [1.0, 0.0, 1.0, 0.0]
    assert found.width.tolist()[:4] == [18.0] * 4
    assert found.score.tolist()[:4] == pytest.approx([18.0, 18.0 + 20 * 1.0, 18.0, 18.0 + 20 * 2.0])
    assert found.inside[4].isnan()
    assert found.width[4].isnan()
    assert found.score[4].isnan()


def test_ends_between_samples_are_interpolated():
    found = interval(torch.tensor([0.0, 1.0, 2.0, 10.0])[:, None], torch.zeros(1), 0.5)
    assert (found.lower.item(), found.upper.item()) == (pytest.approx(0.25), pytest.approx(8.0))


# Probability integral transform ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4])
def test_the_transform_is_uniform_for_counts_and_any_number_of_samples(count):
    drawn, weights = tuples(count + 1)
    samples, targets = drawn[:-1], drawn[-1]
    below, equal = (samples < targets).sum(0), (samples == targets).sum(0)
    u = torch.rand(targets.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(pit(samples, targets, seed=3), (below + u * (equal + 1)) / (count + 1))
    cells = torch.arange(count + 1)[:, None]
    share = ((below <= cells) & (cells <= below + equal)) / (equal + 1)
    torch.testing.assert_close((share * weights).sum(1), torch.full((count + 1,), 1 / (count + 1)).double())


# Missing targets and bad input ----------------------------------------------------------------------------------------

SCORES = [crps, energy_score, log_score, lambda *pair: interval(*pair).inside, pit]


@pytest.mark.parametrize("score", SCORES)
def test_a_missing_target_has_no_score_and_changes_no_other(score):
    samples, targets = draw(20, 4, 2), draw(4, 2, seed=1)
    gappy = targets.clone()
    gappy[1] = math.nan
    found, whole = score(samples, gappy), score(samples, targets)
    assert found[1].isnan().all()
    rest = [0, 2, 3]
    assert torch.equal(found[rest], whole[rest])


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("samples", "targets", "error", "message"),
    [
        (torch.zeros(20, 3), torch.zeros(4), ValueError, r"samples must be \(num_samples, \*targets.shape\)"),
        (torch.zeros(1, 3), torch.zeros(3), ValueError, r"at least 2 of them"),
        (torch.full((20, 3), math.nan), torch.zeros(3), ValueError, r"samples must be finite"),
        (torch.zeros(20, 3), torch.full((3,), math.inf), ValueError, r"targets must be finite, NaN where missing"),
        (np.zeros((20, 3)), torch.zeros(3), TypeError, r"samples must be a torch.Tensor, got ndarray"),
    ],
)
def test_samples_and_targets_that_do_not_fit_are_refused(score, samples, targets, error, message):
    with pytest.raises(error, match=message):
        score(samples, targets)


def test_levels_without_a_meaning_are_refused():
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        interval(torch.zeros(20, 3), torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match=r"level 0.95 needs 39 samples at least, .*got 38: draw more"):
        interval(torch.zeros(38, 3), torch.zeros(3), 0.95)
