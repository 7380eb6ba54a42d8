"""AnnealedImportanceSampling: unbiased for any transitions, with lower variance for more of them."""

import math

import pyro
import pytest
import torch

from zf_pyro.inference import AnnealedImportanceSampling

from .comparing import EXACT, assert_same
from .conftest import random_frames, random_net, random_state
from .exact import log_evidence, posterior_moments, small

LENGTHS = torch.tensor([4, 2, 3])


def assert_unbiased(log_weights, exact):
    """The mean of weights (chains, batch) is the evidence within three standard errors, which are small enough."""
    ratio = (log_weights - exact).exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert (error < 0.05).all(), "too few chains for the test to mean anything"
    assert ((ratio.mean(0) - 1.0).abs() < 3 * error + 1e-3).all()


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_the_evidence_estimate_is_unbiased(emission, start, transition):
    net, x = small(emission, transition, 3)
    with torch.no_grad():
        exact = log_evidence(net, x)
    result = AnnealedImportanceSampling(net, 1500, num_temperatures=6, leapfrog_steps=3, start=start).run(x)
    assert_unbiased(result.log_weights, exact)
    torch.testing.assert_close(result.log_evidence, result.log_weights.logsumexp(0) - math.log(1500))


def test_sequences_of_all_lengths_have_the_evidence_of_their_own_frames(transition):
    net, x = small("gaussian", transition, 3)
    with torch.no_grad():
        exact = torch.cat([log_evidence(net, x[:1, :2]), log_evidence(net, x[1:, :1])])
    result = AnnealedImportanceSampling(net, 4000, num_temperatures=4, leapfrog_steps=3).run(x, torch.tensor([2, 1]))
    assert_unbiased(result.log_weights, exact)
    assert result.z.shape == (4000, 2, 3, 1)
    assert not result.z[:, 0, 2:].any()
    assert not result.z[:, 1, 1:].any()


@pytest.mark.slow
def test_more_temperatures_make_weights_more_alike():
    net, x = small("gaussian", "concatenate", 3)
    spread = [
        AnnealedImportanceSampling(net, 200, num_temperatures=count).run(x).log_weights.std(0) for count in (1, 40)
    ]
    assert (spread[1] < 0.5 * spread[0]).all()


@pytest.mark.slow
def test_chains_end_in_the_posterior(transition):
    net, x = small("categorical", transition, 2)
    with torch.no_grad():
        mean, variance = posterior_moments(net, x)
    result = AnnealedImportanceSampling(net, 1000, num_temperatures=15).run(x)
    weights = result.log_weights.softmax(0)[..., None]
    z = result.z[..., 0]
    for values, exact in ((z, mean), ((z - mean).square(), variance)):
        estimate = (weights * values).sum(0)
        error = (weights * (values - estimate)).square().sum(0).sqrt()
        assert (error < 0.15).all()
        assert ((estimate - exact).abs() < 4 * error).all()


@pytest.mark.slow
def test_step_sizes_are_found_for_each_sequence():
    net, x = random_net("gaussian"), random_frames("gaussian")
    x[0] *= 20.0  # an outlier, with a narrow posterior
    result = AnnealedImportanceSampling(net, 64, num_temperatures=30, target_acceptance=0.7).run(x, LENGTHS)
    assert result.step_sizes.shape == result.acceptance.shape == (29, 3)
    late = slice(15, None)
    assert (result.step_sizes[late, 0] < 0.5 * result.step_sizes[late, 1:].min(1)[0]).all()
    assert ((result.acceptance[late].mean(0) - 0.7).abs() < 0.25).all()


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_padding_never_changes_an_estimate(start):
    net, x = random_net("gaussian"), random_frames("gaussian")
    padding = (torch.arange(6) >= LENGTHS.unsqueeze(1)).unsqueeze(-1)
    longer = torch.cat([x, x[:, :2]], dim=1)
    found = []
    for frames in (x, torch.where(padding, float("nan"), longer)):
        pyro.set_rng_seed(3)
        sampler = AnnealedImportanceSampling(net, 5, num_temperatures=4, start=start)
        result = sampler.run(frames, LENGTHS, frames[:, 0], random_state(net))
        found.append({"weights": result.log_weights, "steps": result.step_sizes, "z": result.z[:, :, :4]})
    assert result.z.shape == (5, 3, 6, 3)
    assert_same(*found)


@pytest.mark.slow
def test_the_rest_of_a_batch_never_changes_a_sequences_law():
    """Outliers in the batch do not change the estimate of a sequence, within Monte Carlo error."""
    net, x = small("gaussian", "concatenate", 2)
    found = []
    for other in (x[1:], 30.0 + x[1:]):
        result = AnnealedImportanceSampling(net, 2000, num_temperatures=5).run(torch.cat([x[:1], other]))
        found.append(result.log_weights[:, 0].exp())
    error = math.sqrt(sum(weights.var().item() / 2000 for weights in found))
    assert abs(found[0].mean() - found[1].mean()) < 4 * error


def test_paths_are_scored_as_a_batch(monkeypatch):
    """One call of prior and emission per gradient, for any number of steps, chains and sequences."""
    net, x = random_net("gaussian"), random_frames("gaussian", 3, 9)
    calls = dict.fromkeys(("prior", "emission", "transition", "posterior"), 0)
    for name in ("prior", "emission"):
        plain = getattr(net, name)

        def counted(*args, name=name, plain=plain):
            calls[name] += 1
            return plain(*args)

        monkeypatch.setattr(net, name, counted)
    AnnealedImportanceSampling(net, 4, num_temperatures=3, leapfrog_steps=2).run(x)
    # Pilot and run: a start, and two transitions of two steps each. Then the final paths.
    assert calls == {"prior": 11, "emission": 11, "transition": 0, "posterior": 0}


def test_nothing_is_left_behind():
    net, x = random_net("gaussian"), random_frames("gaussian")
    result = AnnealedImportanceSampling(net, 3, num_temperatures=3).run(x)
    assert not any(field.requires_grad for field in result)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert len(pyro.get_param_store()) == 0


def test_one_temperature_is_importance_sampling():
    net, x = random_net("gaussian"), random_frames("gaussian")
    result = AnnealedImportanceSampling(net, 4, num_temperatures=1).run(x)
    with torch.no_grad():
        state, u, b, total = net.initial_state((4, 3)), net.inputs(x), net.backward_states(x, None), 0.0
        for t in range(4):
            z_t = result.z[:, :, t]
            total = total + net.prior(state).log_prob(z_t) - net.posterior(state, b[t]).log_prob(z_t)
            state = net.transition(state, u[:, t], z_t)
            total = total + net.emission(state).log_prob(x[:, t])
    torch.testing.assert_close(result.log_weights, total, **EXACT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_chains": 0}, "num_chains must be a positive integer, got 0"),
        ({"num_temperatures": 0}, "num_temperatures must be a positive integer"),
        ({"leapfrog_steps": 1.5}, "leapfrog_steps must be a positive integer"),
        ({"start": "guide"}, "start must be one of"),
        ({"target_acceptance": 1.0}, r"target_acceptance must be a probability in \(0, 1\)"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AnnealedImportanceSampling(random_net("gaussian"), **settings)


def test_bad_input_is_refused_as_by_the_guide():
    net, x = random_net("gaussian"), random_frames("gaussian")
    with pytest.raises(TypeError, match=r"net must be a model of zf_pyro\.models, got method"):
        AnnealedImportanceSampling(net.model)
    with pytest.raises(ValueError, match="lengths must be between 1 and 4"):
        AnnealedImportanceSampling(net).run(x, torch.tensor([4, 5, 1]))
    with pytest.raises(MemoryError, match="num_chains must be at most"):
        AnnealedImportanceSampling(net, 10**12).run(x)


def test_chains_of_the_fast_loops_are_those_of_the_plain_loop(member):
    """Leapfrog steps follow the gradient in the noise of the start, which the fast loops give as well."""
    found = []
    for recurrence in ("deferred", "reference"):
        net, x = random_net(recurrence=recurrence, **member).eval(), random_frames()
        pyro.set_rng_seed(3)
        annealing = AnnealedImportanceSampling(net, 3, num_temperatures=4, leapfrog_steps=2)
        found.append(annealing.run(x, torch.tensor([4, 2, 3])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
