"""Model and guide against log p(x) by Gauss-Hermite quadrature, for one latent dimension and few steps."""

import math

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Importance, Trace_ELBO, TraceMeanField_ELBO

import zf_pyro

from .comparing import densities, gradients, parameter_grads
from .exact import NODES, log_evidence, posterior_moments, small


def log_weights(net, x, particles, lengths=None):
    """Compute log p(x, z) - log q(z | x) for samples from the guide; (particles, batch)."""

    def many(program):
        def run(*args):
            with pyro.plate("particles", particles, dim=-2):
                return program(*args)

        return run

    with torch.no_grad():
        guide = poutine.trace(many(net.guide)).get_trace(x, lengths)
        model = poutine.trace(poutine.replay(many(net.model), trace=guide)).get_trace(x, lengths)
        model.compute_log_prob()
        guide.compute_log_prob()
        total = 0.0
        for trace, sign in ((model, 1.0), (guide, -1.0)):
            for name, site in trace.nodes.items():
                if site["type"] == "sample" and name[:2] in ("x_", "z_"):
                    total = total + sign * site["log_prob"]
    return total


def mean_and_error(log_weights):
    """Compute the log of the mean weight and its relative standard error, each (batch,)."""
    log_mean = log_weights.logsumexp(0) - math.log(log_weights.shape[0])
    error = (log_weights - log_mean).exp().std(0) / math.sqrt(log_weights.shape[0])
    return log_mean, error


CASES = [("gaussian", 1), ("gaussian", 2), ("gaussian", 3), ("categorical", 2), ("categorical", 3)]


@pytest.mark.parametrize(("emission", "time"), CASES)
def test_importance_estimates_agree_with_the_evidence(emission, time, transition):
    net, x = small(emission, transition, time)
    with torch.no_grad():
        exact, coarse = log_evidence(net, x), log_evidence(net, x, NODES - 12)
    torch.testing.assert_close(exact, coarse, rtol=0, atol=2e-3)
    estimate, error = mean_and_error(log_weights(net, x, 20_000))
    assert (error < 0.1).all(), "the guide is too poor: the test would have no power"
    assert ((estimate.exp() - exact.exp()).abs() < 4 * error * estimate.exp() + 4e-3 * exact.exp()).all()


@pytest.mark.parametrize(("emission", "time"), [("gaussian", 2), ("categorical", 3)])
def test_bounds_lie_in_their_order_below_the_evidence(emission, time, transition):
    net, x = small(emission, transition, time)
    with torch.no_grad():
        exact = log_evidence(net, x)
    weights = log_weights(net, x, 20_000)
    elbo, tight = weights.mean(0), weights.reshape(200, 100, -1).logsumexp(0).sub(math.log(200)).mean(0)
    few = weights.reshape(4, 5000, -1).logsumexp(0).sub(math.log(4)).mean(0)
    assert (elbo < few).all()
    assert (few < tight).all()
    assert (few < exact).all()
    assert (tight < exact + 0.02).all()
    for loss in (Trace_ELBO, TraceMeanField_ELBO, zf_pyro.ZForcingELBO):
        loss = loss(num_particles=2000, vectorize_particles=True, max_plate_nesting=1)
        bound = -loss.loss(net.model, net.guide, x)
        assert bound < exact.sum()
        assert bound == pytest.approx(elbo.sum().item(), abs=0.3)


def test_weighted_samples_have_the_moments_of_the_posterior(transition):
    net, x = small("gaussian", transition, 2)
    with torch.no_grad():
        mean, variance = posterior_moments(net, x)
        with pyro.plate("particles", 40_000, dim=-2):
            guide = poutine.trace(net.guide).get_trace(x)
            model = poutine.trace(poutine.replay(net.model, trace=guide)).get_trace(x)
        log_weight = sum(log_prob for name, log_prob in densities(model).items() if name[2:4] in ("x_", "z_"))
        log_weight = log_weight - sum(log_prob for name, log_prob in densities(guide).items() if name[2:4] == "z_")
    z = torch.stack([guide.nodes[f"z_{t}"]["value"][..., 0] for t in range(2)], dim=-1)
    weights = log_weight.softmax(0).unsqueeze(-1)
    for values, exact in ((z, mean), ((z - mean).square(), variance)):
        estimate = (weights * values).sum(0)
        error = (weights * (values - estimate)).square().sum(0).sqrt()
        assert ((estimate - exact).abs() < 4 * error + 1e-3).all()


@pytest.mark.slow
def test_pyros_importance_agrees_with_the_evidence():
    net, x = small("gaussian", "conditional_layer_norm", 2)
    x = x[:1]
    with torch.no_grad():
        exact = log_evidence(net, x)[0]
        posterior = Importance(net.model, net.guide, num_samples=800).run(x)
        weights = torch.stack([torch.as_tensor(w) for w in posterior.log_weights]).unsqueeze(1)
    estimate, error = mean_and_error(weights)
    assert posterior.get_log_normalizer().item() == pytest.approx(estimate.item(), abs=1e-6)
    assert abs(estimate.exp() - exact.exp()) < 4 * error * estimate.exp()


def test_shorter_sequences_have_the_evidence_of_their_own_frames(transition):
    net, x = small("gaussian", transition, 3)
    with torch.no_grad():
        exact = torch.cat([log_evidence(net, x[:1]), log_evidence(net, x[1:, :2])])
    estimate, error = mean_and_error(log_weights(net, x, 20_000, torch.tensor([3, 2])))
    assert ((estimate - exact).exp() - 1.0).abs().le(4 * error + 4e-3).all()


def test_the_gradient_of_a_tight_bound_is_that_of_the_evidence():
    net, x = small("gaussian", "concatenate", 1)
    exact = gradients(net, log_evidence(net, x).sum())
    loss = pyro.infer.RenyiELBO(alpha=0, num_particles=1000, vectorize_particles=True, max_plate_nesting=1)
    runs = []
    for _ in range(16):
        loss.loss_and_grads(net.model, net.guide, x)
        runs.append(parameter_grads(net))
    for name in exact:
        if name.startswith(("emission_layer", "prior_network")):
            found = torch.stack([-run[name] for run in runs])
            error = found.std(0) / math.sqrt(len(runs))
            assert ((found.mean(0) - exact[name]).abs() < 5 * error + 1e-3).all(), name
