"""The filter that goes on with time: what is missing weighs nothing, and is summed over; tails of the forecast."""

import math

import pyro
import pytest
import torch

from zf_pyro.inference import ParticleFilter

from .comparing import EXACT, assert_same
from .conftest import EMISSIONS, random_frames, random_net
from .exact import log_evidence
from .linear_gaussian import LinearGaussian, conditional, joint, simulated
from .own_emissions import OWN
from .test_models_family import covered

TIME = 6
ALL_EMISSIONS = {**EMISSIONS, **OWN}
QUICK = {"gaussian", "mixture", "categorical", "NADE", "MatrixFrames"}
"""Emissions in the default suite."""
every_emission = pytest.mark.parametrize(
    "emission", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ALL_EMISSIONS]
)


# Missing frames -----------------------------------------------------------------------------------------------------


SLOW_FILLS = [pytest.param(value, marks=pytest.mark.slow) for value in (float("inf"), 1e30)]


@pytest.mark.parametrize("fill", [float("nan"), *SLOW_FILLS])
@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_values_that_were_not_seen_change_nothing(proposal, fill, member):
    net, x = random_net("gaussian", **member), random_frames("gaussian", 3, TIME)
    observed = torch.rand(3, TIME, 2, generator=torch.Generator().manual_seed(1)) < 0.6
    found = []
    for frames in (x, x.where(observed, fill)):
        pyro.set_rng_seed(3)
        run = ParticleFilter(net, 5, threshold=0.9).start(3, proposal=proposal)
        steps = [run.step(frames[:, t], observed=observed[:, t]).log_likelihood for t in range(TIME)]
        found.append({"increments": torch.stack(steps), "weights": run.log_weights, "next": run.forecast(2)})
        assert torch.stack(steps).isfinite().all()
    assert_same(*found)


@every_emission
def test_a_frame_that_was_not_seen_weighs_nothing(emission):
    net = random_net(ALL_EMISSIONS[emission])
    x = net.generate(3, 3)
    run = ParticleFilter(net, 5, proposal="prior", threshold=0.0).start(x)
    before, missing = run.log_weights, torch.tensor([True, False, False])
    step = run.step(x[:, 0], observed=missing)
    torch.testing.assert_close(step.log_likelihood[1:], torch.zeros(2).double(), **EXACT)
    torch.testing.assert_close(run.log_weights[1:], before[1:], **EXACT)
    assert step.log_likelihood[0] != 0
    after = run.step(x[:, 1])
    assert after.log_likelihood.isfinite().all()


@pytest.mark.parametrize("emission", ["gaussian", "categorical", "bernoulli", "NADE"])
def test_gaps_are_those_of_the_filter_over_whole_sequences(emission, member):
    """Step by step, and taken in at once."""
    net = random_net(ALL_EMISSIONS[emission], **member)
    x = net.generate(3, TIME)
    shape = x.shape if net.emission_family.factorises else x.shape[:2]
    observed = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    filter = ParticleFilter(net, 7, proposal="prior", threshold=0.9)
    pyro.set_rng_seed(3)
    whole = filter.run(x, observed=observed)
    run = filter.start(3)
    pyro.set_rng_seed(3)
    found = torch.stack([run.step(x[:, t], observed=observed[:, t]).log_likelihood for t in range(TIME)])
    torch.testing.assert_close(found, whole.log_increments, **EXACT)
    pyro.set_rng_seed(3)
    at_once = filter.start(x, observed=observed)
    torch.testing.assert_close(at_once.log_weights.T, whole.log_weights, **EXACT)
    forecasts = []
    for one in (run, at_once):
        pyro.set_rng_seed(4)
        forecasts.append({"next": one.forecast(2)})
    assert_same(*forecasts)


def test_all_seen_has_the_weights_of_no_mask():
    net, x = random_net("gaussian"), random_frames("gaussian")
    found = []
    for observed in (None, torch.ones(3, dtype=torch.bool), torch.ones(3, 2, dtype=torch.bool)):
        pyro.set_rng_seed(3)
        found.append({"first": ParticleFilter(net, 5).start(3).step(x[:, 0], observed=observed).log_likelihood})
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def assert_unbiased(found, exact):
    """Assert that the mean of exp(estimates), (count, batch), is exp(exact), within three small standard errors."""
    ratio = (found - exact).exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert (error < 0.05).all(), "too few runs: the test would have no power"
    assert ((ratio.mean(0) - 1.0).abs() < 3 * error + 1e-4).all()


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_a_missing_symbol_is_summed_over(proposal, member):
    """p(x_1, x_3) is a sum over the symbols of x_2, which the recurrence reads."""
    net, x = covered("categorical", 2, **member)
    exact = []
    with torch.no_grad():
        for symbol in range(4):
            exact.append(log_evidence(net, torch.stack([torch.full((2,), symbol), x[:, 1]], 1)))
    run = ParticleFilter(net, 3).start(2 * 2000, proposal=proposal)
    run.step(torch.full((4000,), 99), observed=torch.zeros(4000, dtype=torch.bool))
    run.step(x[:, 1].repeat(2000))
    assert_unbiased(run.log_evidence.reshape(2000, 2), torch.stack(exact).logsumexp(0))


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_a_missing_element_is_summed_over(proposal, member):
    net, x = covered("bernoulli", 2, **member)
    observed = torch.stack([torch.tensor([True, False, True]).expand(2, 3), torch.ones(2, 3, dtype=torch.bool)], 1)
    with torch.no_grad():
        exact = torch.stack([log_evidence(net, x.where(observed, value)) for value in (0.0, 1.0)]).logsumexp(0)
    run = ParticleFilter(net, 3).start(
        (x.where(observed, torch.nan).repeat(2000, 1, 1)), observed=observed.repeat(2000, 1, 1), proposal=proposal
    )
    assert_unbiased(run.log_evidence.reshape(2000, 2), exact)


def test_the_likelihood_with_gaps_is_the_exact_one():
    """Whole frames and lengths, of the linear-Gaussian model."""
    net, x = LinearGaussian(), simulated(2, 6)
    observed = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1]]).bool()
    lengths = torch.tensor([5, 6])
    run = ParticleFilter(net, 20_000, proposal="prior").start(
        (x.masked_fill(~observed.unsqueeze(-1), torch.nan), lengths), observed=observed
    )
    for i, length in enumerate(lengths.tolist()):
        given = [t for t in range(length) if observed[i, t]]
        covariance = joint(6)[6:, 6:][given][:, given]
        normal = torch.distributions.MultivariateNormal(torch.zeros(len(given)).double(), covariance)
        assert run.log_evidence[i] == pytest.approx(normal.log_prob(x[i, given, 0]).item(), abs=0.05)
        mean, variance = conditional(
            length + 1, [2 * length + 1], [length + 1 + t for t in given], x[i : i + 1, given, 0]
        )
        ahead = run.forecast(1, num_samples=20_000)[:, i, 0, 0]
        assert ahead.mean() == pytest.approx(mean.item(), abs=0.06)
        assert ahead.var() == pytest.approx(variance.item(), rel=0.05)
    assert run.frames.tolist() == [5, 6]


@pytest.mark.parametrize("emission", ["mixture", "NADE", "SimplexFrames"])
def test_parts_of_frames_whose_elements_depend_on_one_another_are_refused(emission):
    net = random_net(ALL_EMISSIONS[emission])
    x = net.generate(2, 1)[:, 0]
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[1, 0] = False
    run = ParticleFilter(net, 3).start(2)
    with pytest.raises(ValueError, match=r"observed must hold whole frames for .*mark such frames as missing"):
        run.step(x, observed=observed)
    assert run.frames.tolist() == [0, 0]
    observed[1] = False
    assert run.step(x, observed=observed).log_likelihood[1].abs() < 1e-12


# Tail probabilities -------------------------------------------------------------------------------------------------


def test_the_tail_probability_is_that_of_the_forecast():
    net, x = LinearGaussian(), simulated(20, 3)
    run = ParticleFilter(net, 1000, proposal="prior").start(x[:, :2])
    mean, variance = conditional(3, [5], [3, 4], x[:, :2, 0])
    found = run.step(x[:, 2], tail_samples=500).tail_probability
    exact = torch.special.erfc((x[:, 2, 0] - mean[:, 0]).abs() / (2 * variance[0, 0]).sqrt())
    tails = exact < 0.5  # nearer to the mode densities hardly differ, and ranks are those of their errors
    assert tails.sum() > 5
    torch.testing.assert_close(found[tails], exact[tails], rtol=0, atol=0.08)
    assert (found - exact)[tails].mean().abs() < 0.03
    assert ((found * 501).round() - found * 501).abs().max() < 1e-9
    assert run.step(x[:, 2]).tail_probability is None


@every_emission
def test_tail_probabilities_of_frames_of_the_model_are_those_of_chance(emission):
    """P(tail <= a) <= a for frames of the model itself, and the mean is no less than one half."""
    net = random_net(ALL_EMISSIONS[emission], spread=0.2)
    x = net.generate(200, 2)
    run = ParticleFilter(net, 30, proposal="prior").start(200)
    for t in range(2):
        found = run.step(x[:, t], tail_samples=19).tail_probability
        error = 1 / math.sqrt(12 * 200)
        assert found.mean() > 0.5 - 4 * error
        assert (found <= 0.1).double().mean() < 0.1 + 4 * math.sqrt(0.09 / 200)


def test_tails_of_what_was_seen_leave_the_rest_out():
    net, x = random_net("gaussian"), random_frames("gaussian")
    run = ParticleFilter(net, 5, proposal="prior").start(3)
    observed = torch.tensor([[True, False], [False, False], [True, True]])
    tail = run.step(x[:, 0], observed=observed, tail_samples=9).tail_probability
    assert tail.isnan().tolist() == [False, True, False]
