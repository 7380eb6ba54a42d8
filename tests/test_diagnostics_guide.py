"""Checks of the guide: each detects the wrong guides that it should, and accepts the exact one."""

import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import MCMC, NUTS

from zf_pyro import to_arviz
from zf_pyro.diagnostics import calibrate, check_weights, compare_posteriors
from zf_pyro.diagnostics.arviz_versions import assemble, group, pareto_k
from zf_pyro.diagnostics.calibration import ecdf_band
from zf_pyro.evaluation import bounds
from zf_pyro.inference import AnnealedImportanceSampling, ParticleFilter, refine

from . import exact
from .conftest import random_net
from .linear_gaussian import LinearGaussian, exact_evidence, simulated

RIGHT = LinearGaussian()
NARROW, WIDE = LinearGaussian(narrow=0.5), LinearGaussian(narrow=2.0)
SHIFTED = LinearGaussian(shift=1.0)
BLIND = LinearGaussian(blind=True)
WRONG = {"narrow": NARROW, "needle": LinearGaussian(narrow=0.1), "wide": WIDE, "shifted": SHIFTED, "blind": BLIND}
WRONG["far"] = LinearGaussian(shift=3.0)


def checked(net, x, draws=1000, evidence=None):
    data = to_arviz(net, x, num_samples=draws, groups=["sample_stats"], chunk=draws)
    return check_weights(data, evidence)


def test_the_exact_guide_passes_every_check_of_its_weights():
    x = simulated(20, 3)
    check = checked(RIGHT, x, evidence=exact_evidence(x))
    assert (check.pareto_k == 0.0).all()
    np.testing.assert_allclose(check.efficiency, 1.0, rtol=1e-9)
    np.testing.assert_allclose(check.gap, 0.0, atol=1e-9)
    np.testing.assert_allclose(check.elbo, exact_evidence(x), rtol=1e-9)
    assert len(check.bad_tails()) == 0
    assert "0 of 20 sequences" in check.summary()
    assert "what to do" not in check.summary()


def test_a_failed_check_ends_with_the_remedy_and_the_remedy_works():
    x = simulated(4, 3)
    check = checked(WRONG["far"], x)
    assert "what to do: take more samples; or repair the guide" in check.summary()
    assert "zf_pyro.inference.refine(net, x, lengths)" in check.summary()
    guide = refine(WRONG["far"], x, steps=300)
    data = to_arviz(WRONG["far"], x, posterior=guide, num_samples=400, groups=["sample_stats"])
    assert "what to do" not in check_weights(data).summary()


@pytest.mark.parametrize("wrong", WRONG)
def test_the_gap_and_the_efficiency_name_every_wrong_guide(wrong):
    x = simulated(20, 3)
    check = checked(WRONG[wrong], x, 4000, exact_evidence(x))
    assert (check.gap > 0.2).all()
    assert (check.efficiency < 0.85).all()


def test_the_gap_is_the_divergence_from_the_posterior():
    """Variance halved: 1/2 (1/2 - 1 + log 2) nats per latent. Mean shifted by one deviation: 1/2 nat per latent."""
    x = simulated(20, 3)
    evidence = exact_evidence(x)
    assert checked(NARROW, x, 4000, evidence).gap.mean() == pytest.approx(1.5 * (0.5 - 1 + np.log(2)), abs=0.02)
    assert checked(SHIFTED, x, 4000, evidence).gap.mean() == pytest.approx(1.5, abs=0.05)


def test_tails_name_guides_that_miss_where_the_posterior_is():
    """k-hat detects a tenth of the variance, a shift by three deviations, and the prior; not a wider guide."""
    x = simulated(20, 3)
    assert len(checked(WRONG["needle"], x).bad_tails()) > 15
    assert len(checked(WRONG["far"], x).bad_tails()) > 15
    assert len(checked(BLIND, 3 * x).bad_tails()) > 15
    assert len(checked(WIDE, x).bad_tails()) == 0


def test_bounds_of_the_check_are_those_of_the_evaluation():
    x = simulated(3, 2)
    check = checked(WIDE, x, 1000)
    reference = bounds(WIDE, x, num_particles=1000, chunk_particles=200)
    np.testing.assert_allclose(check.elbo, reference.elbo, atol=0.2)
    np.testing.assert_allclose(check.importance_weighted, reference.importance_weighted, atol=0.1)
    assert np.isnan(check.evidence).all()
    assert (check.gap > 0).all()


def test_the_remaining_gap_is_to_the_given_evidence():
    net, x = exact.small("gaussian", "concatenate", 2)
    with torch.no_grad():
        evidence = exact.log_evidence(net.eval(), x)
    check = checked(net, x, 8000, evidence)
    assert (np.abs(check.remaining) < 0.05).all()
    assert (check.gap > check.remaining).all()


def test_estimates_of_the_evidence_close_the_gap_that_the_bounds_leave():
    x = simulated(4, 3)
    filtered = ParticleFilter(BLIND, 4000).run(x).log_evidence
    annealed = AnnealedImportanceSampling(BLIND, num_chains=100, num_temperatures=20).run(x).log_evidence
    for evidence in (filtered, annealed):
        check = checked(BLIND, x, 25, evidence)
        assert (check.gap > 0.5).all()
        np.testing.assert_allclose(check.evidence, exact_evidence(x), atol=0.5)


def test_pareto_k_is_the_tail_index_of_the_weights():
    draws = np.random.default_rng(0).pareto(1 / 0.6, size=(4, 20_000)) + 1
    assert pareto_k(np.log(draws)).mean() == pytest.approx(0.6, abs=0.1)
    assert (pareto_k(np.zeros((3, 100))) == 0).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: check_weights(to_arviz(RIGHT, x, posterior="importance", num_samples=30)), "samples from the guide"),
        (lambda x: checked(RIGHT, x, 24), "at least 25 draws"),
        (lambda x: checked(RIGHT, x, 25, torch.zeros(7)), r"evidence must be one number a sequence.*\(2,\).*\(7,\)"),
    ],
    ids=["other draws", "few draws", "evidence of others"],
)
def test_what_cannot_be_checked_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call(simulated(2, 2))


# Calibration ---------------------------------------------------------------------------------------------------------


def test_ranks_of_the_exact_guide_are_uniform():
    calibration = calibrate(RIGHT, 600, num_steps=3)
    assert calibration.ranks.shape == (600, 3, 1)
    assert calibration.ranks.min() >= 0
    assert calibration.ranks.max() <= 63
    assert not calibration.outside().any()
    assert "0.01 expected outside" in calibration.summary()
    assert not calibration.failed
    assert "what to do" not in calibration.summary()


@pytest.mark.parametrize("wrong", ["narrow", "needle", "wide", "shifted", "far"])
def test_ranks_name_a_guide_of_wrong_width_or_place(wrong):
    calibration = calibrate(WRONG[wrong], 600, num_steps=3)
    assert calibration.outside().all()
    assert (
        "what to do: train the guide further with the model fixed, zf_pyro.inference.fit_guide" in calibration.summary()
    )


def test_ranks_do_not_name_a_guide_that_is_the_prior():
    """A limit of calibration: the prior is calibrated too."""
    assert not calibrate(BLIND, 600, num_steps=3).outside().any()


def test_any_posterior_can_be_calibrated():
    def exact_posterior(x, count):
        with torch.no_grad():
            return group(to_arviz(RIGHT, x, num_samples=count, groups=["posterior"]), "posterior")["z"].values[0]

    def sampler(x, count):
        return torch.as_tensor(exact_posterior(x, count))

    assert not calibrate(RIGHT, 300, 2, posterior=sampler).outside().any()
    assert calibrate(RIGHT, 300, 2, posterior=lambda x, n: sampler(x, n) + 0.5).outside().all()
    with pytest.raises(ValueError, match=r"posterior must return draws of shape \(63, 10, 2, 1\), got \(63, 10\)"):
        calibrate(RIGHT, 10, 2, posterior=lambda x, n: torch.zeros(n, len(x)))


def test_the_band_holds_a_uniform_ecdf_as_often_as_it_says():
    rng = np.random.default_rng(1)
    low, high = ecdf_band(200, 64, 0.9)
    counts = rng.multinomial(200, np.full(64, 1 / 64), size=2000).cumsum(1)[:, :-1] / 200
    inside = ((counts >= low) & (counts <= high)).all(1).mean()
    assert inside == pytest.approx(0.9, abs=0.03)
    narrow, wide = ecdf_band(200, 64, 0.9), ecdf_band(200, 64, 0.99999)
    assert (wide[0] <= narrow[0]).all()
    assert (wide[1] >= narrow[1]).all()


def test_the_band_leaves_random_states_alone():
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002  the global state is under test
    ecdf_band(50, 16, 0.9)
    assert (before[0] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize("argument", ["num_simulations", "num_steps", "num_draws", "batch_size"])
def test_calibration_refuses_bad_counts(argument):
    with pytest.raises(ValueError, match=f"{argument} must be a positive integer, got 0"):
        calibrate(RIGHT, **{argument: 0})


def test_calibration_refuses_training_mode():
    with pytest.raises(ValueError, match=r"net\.eval"):
        calibrate(random_net(), 10, 2)


# Against NUTS --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nuts():
    """Two sequences of two steps, and NUTS samples of their latents."""
    pyro.set_rng_seed(0)
    x = simulated(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mcmc = MCMC(NUTS(RIGHT.model), 150, warmup_steps=50, num_chains=2, disable_progbar=True)
    mcmc.run(x)
    return x, to_arviz(RIGHT, x, posterior=mcmc, groups=["posterior"])


@pytest.mark.slow
def test_nuts_agrees_with_the_exact_guide(nuts):
    x, reference = nuts
    comparison = compare_posteriors(to_arviz(RIGHT, x, num_samples=1000), reference)
    assert comparison.share_apart <= 1 / 4
    assert (np.abs(comparison.mean_shift) < 0.35).all()
    assert (np.abs(comparison.scale_ratio - 1) < 0.25).all()


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
def test_nuts_names_every_wrong_guide(nuts, wrong):
    x, reference = nuts
    comparison = compare_posteriors(to_arviz(WRONG[wrong], x, num_samples=1000), reference)
    assert comparison.share_apart >= 3 / 4
    if wrong == "narrow":
        # The total variance is halved for the second latent, the variance of the guide for the first.
        np.testing.assert_allclose(comparison.scale_ratio, np.sqrt(0.5), atol=0.15)
    if wrong == "shifted":
        assert (comparison.mean_shift > 0.7).all()


def test_padding_is_left_out_of_the_comparison():
    x, lengths = simulated(3, 3), torch.tensor([3, 1, 2])
    data = to_arviz(RIGHT, x, lengths, num_samples=500, groups=["posterior"])
    other = to_arviz(RIGHT, x, lengths, num_samples=500, groups=["posterior"])
    comparison = compare_posteriors(data, other)
    assert np.isfinite(comparison.distance).sum() == 6
    assert comparison.share_apart <= 2 / 6
    assert "of latents apart" in comparison.summary()


@pytest.mark.slow
def test_one_chain_of_mcmc_is_no_reference(nuts):
    x, reference = nuts
    alone = assemble({"posterior": group(reference, "posterior").isel(chain=[0])})
    with pytest.raises(ValueError, match=r"at least 2 chains.*got 1"):
        compare_posteriors(to_arviz(RIGHT, x, num_samples=30), alone)


def test_posteriors_of_other_sequences_are_not_compared(nuts):
    with pytest.raises(ValueError, match="same sequences, got 4 and 2 sequences"):
        compare_posteriors(to_arviz(RIGHT, simulated(4, 2), num_samples=30), nuts[1])
