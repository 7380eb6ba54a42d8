"""Pyro's algorithms against quadrature: evidence, posterior moments, bounds and expected gradients."""

import math

import pyro
import pyro.infer
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.ops.stats import effective_sample_size as autocorrelation_ess

from zf_pyro import ZForcingELBO
from zf_pyro.inference import (
    ALGORITHMS,
    effective_sample_size,
    latent_mcmc,
    log_weights,
    smc_filter,
    stack_latents,
    with_padding_prior,
)

from .comparing import gradients, parameter_grads
from .conftest import random_frames, random_net
from .exact import log_evidence, posterior_moments, rule, small

CASES = [("gaussian", 3), ("categorical", 2)]


CHAINS = [
    pytest.param("gaussian", 2, "nuts", 300, marks=pytest.mark.slow),
    ("categorical", 1, "hmc", 300),
    pytest.param("gaussian", 3, "nuts", 1000, marks=pytest.mark.slow),
    pytest.param("categorical", 3, "hmc", 1000, marks=pytest.mark.slow),
]


def effective(draws):
    """Effective sample size of a chain (draws, ...), at most the number of draws.

    Pyro divides the number of draws by the sum of their autocorrelations. Its estimate is negative for anticorrelated
    draws, which are worth more than independent ones.
    """
    worth = autocorrelation_ess(draws.unsqueeze(0), chain_dim=0, sample_dim=1)
    return torch.where(worth > 0, worth, len(draws)).clamp(max=len(draws))


@pytest.mark.slow
@pytest.mark.parametrize(("emission", "time", "kernel", "num_samples"), CHAINS)
def test_chains_have_the_exact_moments(emission, time, kernel, num_samples):
    net, x = small(emission, "conditional_layer_norm", time)
    mean, variance = posterior_moments(net, x)
    pyro.set_rng_seed(0)
    settings = {"nuts": {"max_tree_depth": 4}, "hmc": {"trajectory_length": 2.5}}[kernel]
    mcmc = latent_mcmc(net, x, kernel=kernel, num_samples=num_samples, warmup_steps=80, **settings)
    draws = stack_latents(mcmc.get_samples())[..., 0]
    worth = effective(draws)
    assert (worth > num_samples / 6).all(), "the chain mixes too slowly for the test to mean anything"
    assert ((draws.mean(0) - mean).abs() < 4 * (variance / worth).sqrt()).all()
    squares = (draws - mean).square()
    worth = effective(squares)
    assert ((squares.mean(0) - variance).abs() < 4 * squares.std(0) / worth.sqrt()).all()


@pytest.mark.parametrize(
    ("emission", "time", "transition"),
    [
        ("gaussian", 3, "conditional_layer_norm"),
        ("categorical", 2, "concatenate"),
    ],
)
@pytest.mark.slow
def test_importance_resampling_has_the_exact_moments(emission, time, transition):
    net, x = small(emission, transition, time)
    mean, variance = posterior_moments(net, x)
    pyro.set_rng_seed(1)
    x = x[:1]  # Pyro's Importance has one weight for the whole batch
    posterior = ALGORITHMS["Importance"].build(net, num_samples=300).run(x)
    weights = torch.stack([torch.as_tensor(w) for w in posterior.log_weights]).softmax(0).detach()
    steps = [[trace.nodes[f"z_{t}"]["value"] for t in range(time)] for trace in posterior.exec_traces]
    draws = torch.stack([torch.cat(trace, -1).squeeze(0) for trace in steps]).detach()
    assert 50 < posterior.get_ESS() <= 300
    for power, exact in ((draws, mean[0]), ((draws - mean[0]).square(), variance[0])):
        estimate = (weights.unsqueeze(-1) * power).sum(0)
        error = (weights.unsqueeze(-1) * (power - estimate)).square().sum(0).sqrt()
        assert ((estimate - exact).abs() < 4 * error).all()


@pytest.mark.slow
@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_pyros_filter_has_the_exact_moments_of_the_last_latent(proposal, transition):
    net, x = small("gaussian", transition, 3)
    mean, variance = posterior_moments(net, x)
    pyro.set_rng_seed(2)
    last = [smc_filter(net, x[:1], num_particles=4000, proposal=proposal).get_empirical()["z"] for _ in range(8)]
    means = torch.stack([empirical.mean.squeeze() for empirical in last])
    variances = torch.stack([empirical.variance.squeeze() for empirical in last])
    for estimates, exact in ((means, mean[0, -1]), (variances, variance[0, -1])):
        assert abs(estimates.mean() - exact) < 5 * estimates.std() / math.sqrt(8) + 2e-3


@pytest.mark.parametrize(("emission", "time"), CASES)
def test_renyis_bound_of_order_zero_is_the_evidence(emission, time, transition):
    net, x = small(emission, transition, time)
    exact = log_evidence(net, x).sum()
    svi = ALGORITHMS["RenyiELBO"].build(net, num_particles=4000)
    estimates = torch.tensor([-svi.evaluate_loss(x) for _ in range(8)], dtype=torch.float64)
    assert abs(estimates.mean() - exact) < 3 * estimates.std() / math.sqrt(8) + 1e-3


def test_weights_of_any_guide_estimate_the_evidence(transition):
    net, x = small("gaussian", transition, 2)
    lengths = torch.tensor([2, 1])
    exact = torch.cat([log_evidence(net, x[:1]), log_evidence(net, x[1:, :1])])
    guide = pyro.infer.autoguide.AutoNormal(with_padding_prior(net.model), init_scale=0.9)
    for model, proposal in ((net.model, net.guide), (with_padding_prior(net.model), guide)):
        weights = log_weights(model, proposal, x, lengths, num_particles=20_000)
        estimate = weights.logsumexp(0) - math.log(20_000)
        error = (weights - estimate).exp().std(0) / math.sqrt(20_000)
        assert ((estimate - exact).exp() - 1.0).abs().le(4 * error + 4e-3).all()
        assert (effective_sample_size(weights) > 500).all()


def test_bounds_are_ordered_by_their_order(transition):
    """Renyi's bound falls with alpha: 2, then the ELBO at 1, then 0.5, then the evidence at 0 (Li and Turner 2016)."""
    net, x = small("gaussian", transition, 2)
    pyro.set_rng_seed(4)
    found = []
    for name in ("RenyiELBO-2", "Trace_ELBO", "RenyiELBO-0.5"):
        particles = {"num_particles": 4000, "vectorize_particles": True, "max_plate_nesting": 1}
        found.append(-ALGORITHMS[name].build(net, **particles).evaluate_loss(x))
    assert found == sorted(found)
    assert found[-1] < log_evidence(net, x).sum()


AUTOGUIDES = [
    "AutoNormal",
    pytest.param("AutoDiagonalNormal", marks=pytest.mark.slow),
    pytest.param("AutoMultivariateNormal", marks=pytest.mark.slow),
    pytest.param("AutoLowRankMultivariateNormal", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", AUTOGUIDES)
def test_fitted_autoguides_bound_the_evidence_of_padded_sequences(name):
    net, x = small("gaussian", "conditional_layer_norm", 2)
    lengths = torch.tensor([2, 1])
    exact = (log_evidence(net, x[:1]) + log_evidence(net, x[1:, :1])).item()
    net.requires_grad_(False)
    net.eval()
    pyro.set_rng_seed(0)
    rank = {"rank": 1} if "LowRank" in name else {}
    svi = ALGORITHMS[name].build(net, pyro.optim.Adam({"lr": 0.03}), **rank)
    for _ in range(200):
        svi.step(x, lengths)
    losses = torch.tensor([svi.evaluate_loss(x, lengths) for _ in range(150)], dtype=torch.float64)
    bound, error = -losses.mean().item(), losses.std().item() / math.sqrt(150)
    assert exact - 0.5 < bound < exact + 3 * error


@pytest.mark.slow
def test_laplace_of_padded_sequences_has_the_curvature_at_the_mode():
    net, x = small("gaussian", "conditional_layer_norm", 2)
    lengths = torch.tensor([2, 1])
    net.eval().requires_grad_(False)
    svi = ALGORITHMS["AutoLaplaceApproximation"].build(net, pyro.optim.Adam({"lr": 0.05}))
    for _ in range(300):
        svi.step(x, lengths)
    posterior = svi.guide.laplace_approximation(x, lengths).get_posterior()

    def log_joint(z):  # z_0 of both sequences, then z_1
        values = {"z_0": z[:2, None], "z_1": z[2:, None]}
        trace = poutine.trace(poutine.condition(reference.model, values)).get_trace(x, lengths)
        return trace.log_prob_sum() - 0.5 * z[3] ** 2

    reference = random_net(
        transition="conditional_layer_norm", latent_dim=1, spread=0.3, seed=4, recurrence="reference"
    )
    hessian = torch.autograd.functional.hessian(log_joint, posterior.mean)
    torch.testing.assert_close(posterior.precision_matrix, -hessian, rtol=1e-6, atol=1e-6)
    assert posterior.variance[3] == pytest.approx(1.0, rel=1e-6)


# Expected gradients -------------------------------------------------------------------------------------------------

NODES = 40


def expected(net, x, particles, objective):
    """E[objective] over the noise of ``particles`` samples of z_1 for one sequence of one step, by quadrature.

    ``objective(densities, q, z)`` maps samples z (points, particles, latent) to (points,). ``densities(z)`` is
    log p(x, z), (points, particles), and ``q`` the guide's distribution.
    """
    points, log_weights = rule(NODES)
    noise = torch.cartesian_prod(*[points] * particles).reshape(-1, particles)
    weight = torch.cartesian_prod(*[log_weights] * particles).reshape(-1, particles).sum(-1).exp()
    state = net.initial_state((1,))
    q = net.posterior(state, net.backward_states(x)[0]).base_dist

    def densities(z):
        after = net.transition(state, net.inputs(x)[:, 0].expand(*z.shape[:-1], -1), z)
        return net.prior(state).log_prob(z) + net.emission(after).log_prob(x[:, 0])

    z = q.loc + q.scale * noise.unsqueeze(-1)
    return (weight * objective(densities, q, z)).sum()


def renyi(alpha):
    def objective(densities, q, z):
        log_w = densities(z) - q.log_prob(z).sum(-1)
        return -((1 - alpha) * log_w).exp().mean(-1).log() / (1 - alpha)

    return objective


def minus_elbo(densities, q, z):
    return -(densities(z) - q.log_prob(z).sum(-1)).mean(-1)


def wake(densities, q, z):
    """Losses of model and guide at samples without gradients."""
    z = z.detach()
    log_q = q.log_prob(z).sum(-1)
    log_w = densities(z) - log_q.detach()
    theta = -(log_w.logsumexp(-1) - math.log(z.shape[1]))
    return theta - (log_w.detach().softmax(-1) * log_q).sum(-1)


PAIR = {"num_particles": 2, "vectorize_particles": True, "max_plate_nesting": 1}
OBJECTIVES = {
    "Trace_ELBO": (lambda: Trace_ELBO(), 1, minus_elbo),
    "TraceMeanField_ELBO": (lambda: TraceMeanField_ELBO(), 1, minus_elbo),
    "TraceGraph_ELBO": (lambda: TraceGraph_ELBO(), 1, minus_elbo),
    "ZForcingELBO": (lambda: ZForcingELBO(), 1, minus_elbo),
    "RenyiELBO": (lambda: RenyiELBO(alpha=0, **PAIR), 2, renyi(0)),
    "RenyiELBO-0.5": (lambda: RenyiELBO(alpha=0.5, **PAIR), 2, renyi(0.5)),
    "RenyiELBO-2": (lambda: RenyiELBO(alpha=2, **PAIR), 2, renyi(2)),
    "ReweightedWakeSleep": (lambda: ReweightedWakeSleep(**PAIR), 2, wake),
}
RUNS = 30


SLOW_OBJECTIVES = ("ReweightedWakeSleep", "RenyiELBO-0.5", "RenyiELBO-2")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW_OBJECTIVES else n for n in OBJECTIVES]
)
def test_expected_gradients_are_those_of_the_exact_expectation(name):
    build, particles, objective = OBJECTIVES[name]
    net = random_net(transition="concatenate", latent_dim=1, spread=0.3, seed=4)  # smooth in z, for quadrature
    x = random_frames(batch=1, time=1, seed=5)
    loss = expected(net, x, particles, objective)
    exact = gradients(net, loss)
    pyro.set_rng_seed(6)
    copies = 1 if name == "ReweightedWakeSleep" else 400  # one weight for the whole batch
    runs, many = [], x.expand(copies, -1, -1).contiguous()
    elbo = build()
    for _ in range(RUNS):
        for _ in range(1 if copies > 1 else 20):
            elbo.loss_and_grads(net.model, net.guide, many)
        runs.append(parameter_grads(net))
    draws = copies if copies > 1 else 20
    told = 0
    for parameter, gradient in exact.items():
        found = torch.stack([run[parameter] for run in runs]) / draws
        error = found.std(0) / math.sqrt(RUNS)
        assert ((found.mean(0) - gradient).abs() < 5 * error + 1e-5).all(), parameter
        told += int((gradient.abs() > 10 * error + 1e-5).sum())
    assert told > 50, "too noisy for the test to mean anything"
