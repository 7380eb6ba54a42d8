"""Evidence and comparison of models: exact values, errors that cover them, and one verdict with ArviZ's own loo."""

import warnings

import numpy as np
import pytest
import torch
from pyro.distributions import Normal

from zf_pyro import to_arviz
from zf_pyro.diagnostics import check_weights, compare, evidence
from zf_pyro.diagnostics.arviz_versions import assemble, group, has_inference_data, pareto_k, require_arviz
from zf_pyro.diagnostics.evidence import measured
from zf_pyro.diagnostics.model_comparison import stacking_weights
from zf_pyro.inference import AnnealedImportanceSampling, ParticleFilter

from . import exact
from .conftest import random_frames, random_net
from .linear_gaussian import A, C, LinearGaussian, S, exact_evidence, simulated

RIGHT, WIDE, FAR = LinearGaussian(), LinearGaussian(narrow=2.0), LinearGaussian(shift=3.0)


class Noisy(LinearGaussian):
    """Model of the same latents whose frames have another standard deviation, so that its guide is wrong."""

    def __init__(self, deviation, **wrong):
        super().__init__(**wrong)
        self.deviation = deviation

    def emission(self, state):
        return Normal(A * state.hidden[..., :1], self.deviation).to_event(1)


@pytest.fixture
def arviz():
    """ArviZ without its own deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield require_arviz()


def posterior(net, x, draws=400, **settings):
    return to_arviz(net, x, num_samples=draws, groups=["posterior", "log_likelihood", "observed_data"], **settings)


# Evidence ------------------------------------------------------------------------------------------------------------


def test_the_evidence_of_an_exact_guide_is_exact():
    x = simulated(30, 3)
    result = evidence(posterior(RIGHT, x))
    assert result.elpd == pytest.approx(exact_evidence(x).sum().item(), rel=1e-9)
    np.testing.assert_allclose(result.elpd_i.values, exact_evidence(x), rtol=1e-9)
    assert result.mcse < 1e-5
    assert result.se == pytest.approx(result.se_sequences)
    assert (result.pareto_k.values == 0).all()
    assert not result.warning
    assert result.p == 0


def test_elpd_is_the_sum_of_the_log_mean_weights():
    data = to_arviz(WIDE, simulated(7, 3), num_samples=50)
    log_weights = torch.as_tensor(group(data, "sample_stats")["log_weight"].values[0])
    expected = log_weights.logsumexp(0) - np.log(50)
    result = measured(data)
    np.testing.assert_allclose(result.elpd_i.values, expected, rtol=1e-9)
    assert result.elpd == pytest.approx(float(expected.sum()))
    np.testing.assert_allclose(result.pareto_k.values, check_weights(data).pareto_k)


@pytest.mark.parametrize("emission", ["gaussian", "bernoulli"])
def test_the_evidence_agrees_with_quadrature_within_its_error(emission):
    net, x = exact.small(emission, "concatenate", 2)
    with torch.no_grad():
        expected = exact.log_evidence(net.eval(), x).numpy()
    result = measured(posterior(net, x, 4000, chunk=4000))
    assert (np.abs(result.elpd_i.values - expected) < 4 * result.mcse_i.values).all()
    assert (result.mcse_i.values < 0.05).all()


def test_errors_cover_the_evidence_of_these_sequences():
    covered = 0
    for seed in range(60):
        x = simulated(10, 3, seed)
        result = measured(posterior(WIDE, x, 60))
        covered += abs(result.elpd - exact_evidence(x).sum().item()) < 2 * np.hypot(result.mcse, result.mc_bias)
    assert covered >= 54


def test_the_bias_of_the_log_is_the_expected_one():
    x = simulated(300, 3)
    result = measured(posterior(WIDE, x, 30))
    short = result.elpd - exact_evidence(x).sum().item()
    assert abs(short - result.mc_bias) < 3 * result.mcse
    assert result.mc_bias < -2


def test_the_error_over_sequences_is_apart_from_that_of_the_estimates():
    x = simulated(400, 3)
    expected = np.sqrt(400 * exact_evidence(x).numpy().var(ddof=1))
    result = measured(posterior(WIDE, x, 5))
    assert result.se > 1.02 * expected
    assert result.se_sequences == pytest.approx(expected, rel=0.04)
    assert result.se**2 == pytest.approx(result.se_sequences**2 + result.mcse**2)


def test_one_sequence_has_no_error_over_sequences():
    result = measured(posterior(WIDE, simulated(1, 3), 60))
    assert np.isnan(result.se)
    assert result.mcse > 0


@pytest.mark.parametrize("net", [RIGHT, WIDE, FAR], ids=["exact", "wide", "far"])
@pytest.mark.parametrize("draws", [30, 400])
@pytest.mark.parametrize("source", ["guide", "importance"])
def test_arviz_gives_the_same_verdict(arviz, net, draws, source):
    data = posterior(net, simulated(12, 3), draws, posterior=source, num_particles=50)
    result, other = measured(data), arviz.loo(data, pointwise=True)
    if net is not RIGHT:
        np.testing.assert_allclose(other["pareto_k"].values, result.pareto_k.values, rtol=1e-6)
    bad = other["pareto_k"].values > float(other["good_k"])
    np.testing.assert_array_equal(bad, result.pareto_k.values > result.good_k)
    assert bool(other["warning"]) == bool(result.warning) == bool(bad.any())
    assert bad.all() if net is FAR else bad.mean() < 0.5
    if net is not FAR:
        assert float(other["elpd_loo" if has_inference_data() else "elpd"]) == pytest.approx(result.elpd, abs=1.0)
    assert arviz.plot_khat(other) is not None


def test_loo_over_densities_given_the_samples_would_mislead():
    """The harmonic mean has no finite variance, even over exact samples."""
    x = 2 * simulated(30, 8)
    given = group(to_arviz(RIGHT, x, num_samples=200, groups=["sample_stats"]), "sample_stats")["x_given_z"]
    given = given.sum("step").values[0]
    harmonic = np.log(len(given)) - np.log(np.exp(-given - (-given).max(0)).sum(0)) - (-given).max(0)
    assert harmonic.sum() - exact_evidence(x).sum().item() > 20


def test_a_subset_keeps_its_evidence():
    data = posterior(WIDE, simulated(6, 3), 80)
    some = assemble({"log_likelihood": group(data, "log_likelihood").isel(sequence=[1, 4], draw=slice(0, 40))})
    log_weights = 2 * group(data, "log_likelihood")["x"].log_evidence.values - group(data, "log_likelihood")["x"].values
    expected = torch.as_tensor(log_weights[0, :40][:, [1, 4]]).logsumexp(0) - np.log(40)
    found = measured(some).elpd_i
    np.testing.assert_allclose(found.values, expected, rtol=1e-9)
    assert found["sequence"].values.tolist() == [1, 4]


def test_few_samples_and_one_are_flagged():
    result = measured(posterior(WIDE, simulated(3, 2), 10))
    assert np.isinf(result.pareto_k.values).all()
    assert result.warning
    single = measured(posterior(RIGHT, simulated(3, 2), 1))
    assert np.isnan(single.mcse)
    assert single.warning


def test_bad_estimates_are_told():
    with pytest.warns(UserWarning, match=r"12 of 12 sequences have a k-hat above 0\.62.*Take more samples"):
        evidence(posterior(FAR, simulated(12, 3)))


def test_a_long_sequence_of_weights_far_apart_has_a_finite_evidence(arviz):
    net, x = random_net(spread=1.5).eval(), random_frames(batch=2, time=60)
    data = posterior(net, 30 * x, 60)
    result = measured(data)
    assert np.isfinite(result.elpd)
    assert result.elpd < -2000
    assert np.isfinite(float(arviz.loo(data)["elpd_loo" if has_inference_data() else "elpd"]))


# Estimates from elsewhere --------------------------------------------------------------------------------------------


def test_repetitions_of_a_filter_take_the_place_of_the_weights():
    x = simulated(12, 3)
    runs = torch.stack([ParticleFilter(FAR, 500, proposal="prior").run(x).log_evidence for _ in range(8)])
    data = posterior(FAR, x)
    result = evidence(data, runs)
    assert result.elpd == pytest.approx(exact_evidence(x).sum().item(), abs=3 * result.mcse)
    assert result.mcse < 0.5
    assert not result.warning
    alone = evidence(data, runs[0], errors=runs.std(0))
    assert alone.mcse == pytest.approx(float(runs.std(0).square().sum().sqrt()))


def test_weights_of_annealed_chains_have_a_k_hat():
    x = simulated(4, 3)
    annealed = AnnealedImportanceSampling(RIGHT, num_chains=40, num_temperatures=5).run(x)
    result = evidence(posterior(RIGHT, x, 30), annealed.log_weights)
    assert result.elpd == pytest.approx(annealed.log_evidence.sum().item(), abs=1e-6)
    np.testing.assert_allclose(result.pareto_k.values, pareto_k(annealed.log_weights.T.numpy()))


def test_exact_values_have_no_monte_carlo_error():
    x = simulated(12, 3)
    result = evidence(posterior(FAR, x, 30), exact_evidence(x), errors=0.0)
    assert result.elpd == pytest.approx(exact_evidence(x).sum().item())
    assert result.mcse == 0
    assert result.se == pytest.approx(result.se_sequences)


BAD = [
    ("no error", {"estimates": np.zeros(3)}, "errors must be given for one estimate per sequence"),
    ("one repetition", {"estimates": np.zeros((1, 3))}, "errors must be given"),
    ("of others", {"estimates": np.zeros((4, 2))}, r"estimates must be one per sequence, \(3,\).*\(4, 2\)"),
    ("both", {"estimates": np.zeros((4, 3)), "errors": 1.0}, "errors must be left out for repetitions"),
    ("errors alone", {"errors": 1.0}, "errors must be left out without estimates"),
    ("negative error", {"estimates": np.zeros(3), "errors": -1.0}, "errors must be one number of at least 0"),
    ("errors of others", {"estimates": np.zeros(3), "errors": np.ones(2)}, r"errors must be .*\(2,\)"),
    ("nan", {"estimates": np.full((4, 3), np.nan)}, "estimates must be finite, got 12 values"),
]


@pytest.mark.parametrize(("arguments", "match"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_estimates_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        evidence(posterior(RIGHT, simulated(3, 2), 5), **arguments)


def test_what_is_no_estimate_is_refused():
    data = posterior(RIGHT, simulated(3, 2), 5)
    with pytest.raises(TypeError, match="estimates must hold numbers"):
        evidence(data, np.array(["a", "b", "c"]))
    with pytest.raises(TypeError, match=r"data must be a result of zf_pyro\.to_arviz, got ELPDData"):
        evidence(measured(data))
    with pytest.raises(ValueError, match="must have the group 'log_likelihood'"):
        evidence(to_arviz(RIGHT, simulated(3, 2), groups=["posterior"]))


# Comparison ----------------------------------------------------------------------------------------------------------


def expected_difference(deviation, time):
    """Expected log p_right(x) - log p_noisy(x) per sequence from the right model: a divergence of normals, nats."""
    powers = torch.arange(time)
    transfer = torch.where(powers[:, None] >= powers, C ** (powers[:, None] - powers).clamp(min=0).double(), 0.0)
    shared = A**2 * transfer @ transfer.T
    right, noisy = (
        torch.distributions.MultivariateNormal(
            torch.zeros(time, dtype=torch.float64), shared + s**2 * torch.eye(time, dtype=torch.float64)
        )
        for s in (S, deviation)
    )
    return torch.distributions.kl_divergence(right, noisy).item()


def differences(repetitions, sequences, draws, deviation, time=3):
    """Differences and their errors of repeated comparisons with new sequences, and how often the right model wins."""
    found, first = [], 0
    right, noisy = LinearGaussian(narrow=1.5), Noisy(deviation, narrow=4.0)
    for seed in range(repetitions):
        x = simulated(sequences, time, 1000 + seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = compare({"noisy": posterior(noisy, x, draws), "right": posterior(right, x, draws)})
        first += table.index[0] == "right"
        sign = 1 if table.index[0] == "right" else -1
        found.append((sign * abs(table["elpd_diff"].iloc[1]), table["dse"].iloc[1]))
    return np.array(found), first


@pytest.mark.slow
@pytest.mark.parametrize(("sequences", "draws"), [(60, 50), (20, 400)])
def test_the_right_order_and_coverage_in_ninety_of_a_hundred(sequences, draws):
    found, first = differences(100, sequences, draws, 1.0)
    truth = sequences * expected_difference(1.0, 3)
    assert first >= 90
    assert (np.abs(found[:, 0] - truth) < 2 * found[:, 1]).sum() >= 90


def test_the_better_model_comes_first_by_the_difference_of_evidence():
    x = simulated(60, 3)
    table = compare({"noisy": posterior(Noisy(1.0, narrow=4.0), x), "right": posterior(RIGHT, x)})
    assert list(table.index) == ["right", "noisy"]
    truth = 60 * expected_difference(1.0, 3)
    assert abs(abs(table["elpd_diff"].iloc[1]) - truth) < 3 * table["dse"].iloc[1]
    assert table["weight"].iloc[0] > 0.9
    assert table["weight"].sum() == pytest.approx(1.0)


def test_the_error_of_a_difference_includes_that_of_the_estimates():
    """One model with one guide twice: the sequences do not differ, the estimates do."""
    x = simulated(50, 3)
    table = compare({"one": posterior(WIDE, x, 200), "other": posterior(WIDE, x, 200)})
    expected = np.hypot(*table["mcse"])
    assert table["dse"].iloc[1] >= expected * 0.999
    assert table["dse"].iloc[1] == pytest.approx(expected, rel=0.35)
    exactly = compare({name: posterior(RIGHT, x, 30) for name in "ab"})
    assert exactly["dse"].iloc[1] < 1e-3


def test_evidence_below_what_exp_can_hold_is_compared(arviz):
    x = simulated(8, 3)
    exact_values, data = exact_evidence(x), posterior(RIGHT, x, 5)
    deep = {
        "best": evidence(data, exact_values - 2000, errors=0.1),
        "other": evidence(data, exact_values - 2003, errors=0.1),
        "mixed": evidence(data, exact_values - 4000 + 3000 * (torch.arange(8) == 0), errors=0.1),
    }
    table = compare(deep)
    assert list(table.index) == ["best", "other", "mixed"]
    assert np.isfinite(table.select_dtypes("number").drop(columns="p_worse", errors="ignore")).all().all()
    np.testing.assert_allclose(table["weight"], [7 / 8, 0, 1 / 8], atol=1e-3)
    assert abs(table["elpd_diff"].iloc[1]) == pytest.approx(24.0)
    assert arviz.plot_compare(table) is not None


def test_stacking_weights_are_those_of_arviz_where_it_can_compute_them(arviz):
    x = simulated(60, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = {name: measured(posterior(Noisy(s, narrow=2.0), x)) for name, s in (("a", 0.35), ("b", 1.2))}
        reference = arviz.compare(models, method="stacking")
    np.testing.assert_allclose(compare(models)["weight"], reference["weight"], atol=0.02)
    assert stacking_weights(np.zeros((5, 3))) == pytest.approx([1 / 3] * 3)


def test_the_models_whose_estimates_are_bad_are_named():
    x = simulated(12, 3)
    with pytest.warns(UserWarning, match=r"12 of 12 sequences of 'far' .* its place in the order rests on bad"):
        compare({"far": posterior(FAR, x), "right": posterior(RIGHT, x)})
    with pytest.warns(UserWarning, match=r"of 'far' .* the size of its lead rests on bad"):
        compare({"far": posterior(FAR, x), "worse": evidence(posterior(RIGHT, x), exact_evidence(x) - 99, errors=0.0)})
    filtered = torch.stack([ParticleFilter(FAR, 500, proposal="prior").run(x).log_evidence for _ in range(4)])
    table = compare({"far": evidence(posterior(FAR, x), filtered), "wide": posterior(WIDE, x)})
    assert abs(table["elpd_diff"].iloc[1]) < 3 * table["dse"].iloc[1]


def test_names_of_sequences_do_not_matter_where_the_frames_are_known():
    x = simulated(3, 2)
    named = posterior(RIGHT, x, 30, coords={"sequence": list("abc")}, labels=[1, 2, 1])
    assert len(compare({"named": named, "numbered": posterior(RIGHT, x, 30)})) == 2
    alone = [{"log_likelihood": group(data, "log_likelihood")} for data in (named, posterior(RIGHT, x, 30))]
    with pytest.raises(ValueError, match="same sequences"):
        compare({"named": assemble(alone[0]), "numbered": assemble(alone[1])})


def fewer(x):
    return posterior(RIGHT, x[:2], 5)


@pytest.mark.parametrize(
    ("models", "error", "match"),
    [
        (lambda x: {"one": posterior(RIGHT, x, 5)}, ValueError, "at least 2"),
        (lambda x: {"a": posterior(RIGHT, x, 5), "b": posterior(RIGHT, x + 1, 5)}, ValueError, "those of 'b'"),
        (lambda x: {"a": posterior(RIGHT, x, 5), "b": fewer(x)}, ValueError, "same sequences; those of 'b'"),
        (lambda x: {"a": measured(posterior(RIGHT, x, 5)), "b": fewer(x)}, ValueError, "same sequences"),
        (lambda x: [posterior(RIGHT, x, 5)], TypeError, "models must be a dictionary.*got list"),
        (lambda x: {"a": 1, "b": 2}, TypeError, r"must be a result of zf_pyro\.to_arviz, got int"),
    ],
    ids=["one model", "other sequences", "fewer sequences", "fewer than of an evidence", "a list", "numbers"],
)
def test_what_cannot_be_compared_is_refused(models, error, match):
    with pytest.raises(error, match=match):
        compare(models(simulated(3, 2)))


def test_results_of_arviz_itself_are_refused(arviz):
    data = posterior(RIGHT, simulated(3, 2), 30)
    with pytest.raises(TypeError, match=r"results of zf_pyro\.diagnostics\.evidence; that of 'a' has no mcse"):
        compare({"a": arviz.loo(data, pointwise=True), "b": data})
