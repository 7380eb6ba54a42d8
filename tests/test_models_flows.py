"""The deep Markov model whose posterior is an autoregressive flow: exact values, and every use of such a posterior."""

import json
import math
from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from zf_pyro import DMM, FIVO, ImportanceWeightedELBO, ZForcingELBO, emissions, to_arviz
from zf_pyro.diagnostics import mutual_information
from zf_pyro.diagnostics.plots import plot_traversal
from zf_pyro.evaluation import active_units, bounds, step_kl
from zf_pyro.experiments import Preset
from zf_pyro.inference import AnnealedImportanceSampling, ParticleFilter, latent_mcmc, smc_filter
from zf_pyro.networks import AutoregressiveFlow, FlowLayer, base_of, sampled
from zf_pyro.objectives import GraphedELBO, SegmentedELBO
from zf_pyro.saving.nets import DESCRIPTION

from .comparing import EXACT, assert_same, gradients, parameter_grads
from .conftest import random_frames, random_net
from .exact import assert_gradient, flat, rule
from .handlers import BATCH, HANDLERS, REDRAWN, TIME
from .test_models_exact import log_weights, mean_and_error
from .test_objectives_graphed import Replay, outcome
from .test_paths_equivalence import arguments, assert_equivalent

FLOWS = {"num_flows": 2, "flow_dim": 6}
LENGTHS = torch.tensor([4, 3, 1])


def small(time, **settings):
    """A model of two latents whose posterior is a flow, smooth enough for quadrature; and two sequences."""
    settings = {"model": DMM, "latent_dim": 2, "spread": 0.2, "seed": 4, **FLOWS, **settings}
    net = random_net("gaussian", **settings)
    net.emission_hidden[1] = net.emission_hidden[3] = nn.Tanh()
    for layer in net.modules():
        if isinstance(layer, FlowLayer):
            layer.network.f = nn.Tanh()
    return net, random_frames("gaussian", 2, time, seed=5)


def twins():
    """A plain model, and one with the same weights and a flow that is the identity."""
    plain = random_net("gaussian", model=DMM, recurrence="reference")
    net = DMM(plain.emission_family, **{**plain.settings, **FLOWS}).double()
    missing, unknown = net.load_state_dict(plain.state_dict(), strict=False)
    assert all(name.startswith("flows.") for name in missing)
    assert not unknown
    return plain.eval(), net.eval()


def places(net, x, nodes, by_guide=True):
    """All combinations of a rule's points for the noise of two latents and of all steps.

    The noise is that of the guide or of the prior.

    Returns:
        log p(x, z) and the log-density of z that the noise was of, (combinations, batch); the rule's log-weights.
    """
    points, log_weights = rule(nodes)
    noise = torch.cartesian_prod(points, points)
    weight = (log_weights.unsqueeze(1) + log_weights).flatten()
    u, b = net.inputs(x), net.backward_states(x, None)
    state, totals, log_rule = net.initial_state((len(x),)), [0.0, 0.0], torch.zeros((), dtype=torch.float64)
    for t in range(x.shape[1]):
        past = net.past(state, u[:, t])
        prior = net.prior(past)
        proposal = net.posterior(past, b[t]) if by_guide else prior
        wide = noise.reshape(-1, *[1] * len(proposal.batch_shape), 2)
        z, log_q = sampled(proposal, wide.expand(-1, *proposal.batch_shape, 2))
        past = type(past)(*(field.expand(*z.shape[:-1], -1) for field in past))
        state = net.transition(past, u[:, t].expand(*z.shape[:-1], *u.shape[2:]), z)
        added = net.emission(state).log_prob(x[:, t]) + prior.log_prob(z), log_q
        totals = [total + more for total, more in zip(totals, added, strict=True)]
        log_rule = log_rule + weight.reshape(-1, *[1] * t)
    return (*(total.reshape(-1, len(x)) for total in totals), log_rule.reshape(-1, 1))


def log_evidence(net, x, nodes=24):
    """log p(x), (batch,) nats, by a rule on the noise of the prior."""
    log_joint, log_p, log_rule = places(net, x, nodes, by_guide=False)
    return (log_joint - log_p + log_rule).logsumexp(0)


def exact_elbo(net, x, nodes=24):
    """E_q[log p(x, z) - log q(z)], (batch,) nats."""
    log_joint, log_q, log_rule = places(net, x, nodes)
    return (log_rule.exp() * (log_joint - log_q)).sum(0)


def exact_pair_bound(net, x, nodes=28):
    """E[log (w_1 + w_2) / 2], (batch,) nats."""
    log_joint, log_q, log_rule = places(net, x, nodes)
    log_w, log_rule = log_joint - log_q, log_rule.squeeze(1)
    pairs = (log_rule.unsqueeze(1) + log_rule).exp().unsqueeze(-1)
    return (pairs * (torch.logaddexp(log_w.unsqueeze(1), log_w) - math.log(2))).sum((0, 1))


# Exact values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bounds_have_their_exact_values_and_lie_below_the_evidence(time):
    net, x = small(time)
    with torch.no_grad():
        evidence, elbo = log_evidence(net, x), exact_elbo(net, x)
        torch.testing.assert_close(evidence, log_evidence(net, x, 18), rtol=0, atol=1e-3)
        torch.testing.assert_close(elbo, exact_elbo(net, x, 18), rtol=0, atol=1e-2)
        weights = log_weights(net, x, 20_000)
    error = weights.std(0) / math.sqrt(len(weights))
    assert ((weights.mean(0) - elbo).abs() < 4 * error + 1e-2).all()
    assert (elbo < evidence).all()
    estimate, error = mean_and_error(weights)
    assert (error < 0.1).all(), "the guide is too poor: the test would have no power"
    assert ((estimate.exp() - evidence.exp()).abs() < 4 * error * estimate.exp() + 1e-3 * evidence.exp()).all()
    found = bounds(net, x.repeat(300, 1, 1), num_particles=8).elbo.reshape(300, 2)
    assert ((found.mean(0) - elbo).abs() < 4 * found.std(0) / math.sqrt(300) + 1e-2).all()


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_filters_agree_with_the_evidence(proposal):
    net, x = small(2)
    with torch.no_grad():
        exact = log_evidence(net, x)
    found = ParticleFilter(net, 20_000, proposal=proposal).run(x).log_evidence
    torch.testing.assert_close(found, exact, rtol=0, atol=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_annealing_agrees_with_the_evidence(start):
    net, x = small(2)
    with torch.no_grad():
        exact = log_evidence(net, x)
    found = AnnealedImportanceSampling(net, 400, num_temperatures=30, start=start).run(x)
    estimate, error = mean_and_error(found.log_weights)
    assert (error < 0.1).all()
    assert ((estimate.exp() - exact.exp()).abs() < 4 * error * estimate.exp()).all()
    assert found.acceptance.mean() > 0.5


@pytest.mark.parametrize(
    "objective",
    [*(pytest.param(kind, marks=pytest.mark.slow) for kind in (Trace_ELBO, TraceMeanField_ELBO)), ZForcingELBO],
)
def test_gradients_of_elbos_are_exact_in_the_mean(objective):
    net, x = small(1)
    exact = flat(gradients(net, -exact_elbo(net, x).sum()))
    found = []
    for _ in range(40):
        loss = objective(num_particles=200, vectorize_particles=True, max_plate_nesting=1)
        loss.loss_and_grads(net.model, net.guide, x)
        found.append(flat(parameter_grads(net)))
    assert_gradient(torch.stack(found), exact)


@pytest.mark.slow
@pytest.mark.parametrize("doubly_reparameterised", [False, True])
def test_gradients_of_the_bound_of_two_particles_are_exact_in_the_mean(doubly_reparameterised):
    net, x = small(1)
    exact = flat(gradients(net, -exact_pair_bound(net, x).sum()))
    objective = ImportanceWeightedELBO(2, doubly_reparameterised=doubly_reparameterised)
    found = []
    for _ in range(60):
        objective.loss_and_grads(net.model, net.guide, x.repeat(150, 1, 1))
        found.append(flat(parameter_grads(net)) / 150)
    assert_gradient(torch.stack(found), exact)


def test_objectives_of_one_sample_are_one_number_under_a_flow():
    net, x = random_net("gaussian", model=DMM, **FLOWS), random_frames("gaussian")
    found = []
    for objective in (Trace_ELBO(), TraceMeanField_ELBO(), ZForcingELBO(), ImportanceWeightedELBO(1)):
        pyro.set_rng_seed(2)
        loss = torch.tensor(objective.loss_and_grads(net.model, net.guide, x, LENGTHS))
        found.append({"loss": loss, **parameter_grads(net)})
    for other in found[1:]:
        assert_same(found[0], other)


@pytest.mark.slow
def test_a_flow_fits_a_bent_posterior_better_than_a_normal():
    """p(z | x) lies along a parabola. Guides alone are trained, and judged by the exact bound."""

    class Bent(DMM):
        def prior(self, past):
            loc = past.hidden * 0.0
            return dist.Normal(loc, 1.0 + loc).to_event(1)

        def emission(self, state):
            first, second = state.hidden.unbind(-1)
            return dist.Normal((second - first.square()).unsqueeze(-1), 0.3).to_event(1)

    x, found = torch.zeros(1, 1, 1, dtype=torch.float64), {}
    for num_flows in (0, 2):
        pyro.clear_param_store()
        torch.manual_seed(0)
        sizes = {"embed_dim": 4, "hidden_dim": 4, "latent_dim": 2, "mlp_dim": 8, "flow_dim": 16}
        net = Bent(emissions.Gaussian(1), num_flows=num_flows, **sizes).double()
        svi = SVI(
            net.model,
            net.guide,
            pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.995}),
            ZForcingELBO(num_particles=64, vectorize_particles=True, max_plate_nesting=1),
        )
        for _ in range(400):
            svi.step(x)
        with torch.no_grad():
            found[num_flows] = exact_elbo(net, x, 48).item()
    with torch.no_grad():
        points = torch.linspace(-6.0, 6.0, 800, dtype=torch.float64)
        z = torch.cartesian_prod(points, points)
        frame = dist.Normal(z[:, 1] - z[:, 0].square(), 0.3).log_prob(x[0, 0])
        log_joint = dist.Normal(0.0, 1.0).log_prob(z).sum(1) + frame
        evidence = (log_joint.logsumexp(0) + 2 * (points[1] - points[0]).log()).item()
    assert found[0] < found[2] < evidence
    assert evidence - found[2] < 0.1 * (evidence - found[0])


# A flow that is the identity -----------------------------------------------------------------------------------------


USES = {
    "importance weights": lambda net, x: ImportanceWeightedELBO(5).loss(net.model, net.guide, x, LENGTHS),
    "FIVO": lambda net, x: FIVO(5).loss(net.model, net.guide, x, LENGTHS),
    "filter": lambda net, x: ParticleFilter(net, 6).run(x, LENGTHS),
    "bootstrap filter": lambda net, x: ParticleFilter(net, 6, proposal="prior").run(x, LENGTHS),
    "annealing": lambda net, x: AnnealedImportanceSampling(net, 3, num_temperatures=4).run(x, LENGTHS),
    "Pyro's filter": lambda net, x: smc_filter(net, x, num_particles=4).get_empirical()["z"].log_weights,
    "generation": lambda net, x: net.generate(3, 4, prompt=(x, LENGTHS), prompt_particles=4),
    "reconstruction": lambda net, x: net.reconstruct(x, LENGTHS),
    "interpolation": lambda net, x: net.interpolate(x, x.flip(0), 3),
    "bound": lambda net, x: bounds(net, x, LENGTHS, num_particles=5).importance_weighted,
    "traversal": lambda net, x: [line.get_ydata().sum() for line in plot_traversal(net, x[:1], 1).lines],
    "MCMC": lambda net, x: latent_mcmc(net, x[:, :2], num_samples=3, warmup_steps=3).get_samples()["z_1"],
    "Predictive": lambda net, x: pyro.infer.Predictive(net.model, guide=net.guide, num_samples=3)(x)["z_2"],
}
"""Uses whose result is the same under a normal, and a flow that is the identity."""


def numbers(result):
    """All numbers in a result, flat."""
    parts = result if isinstance(result, tuple | list) else [result]
    return torch.cat([torch.as_tensor(part, dtype=torch.float64).flatten() for part in parts])


@pytest.mark.parametrize("use", USES)
def test_the_identity_as_a_flow_changes_nothing(use):
    x, found = random_frames("gaussian"), []
    for net in twins():
        torch.manual_seed(6)
        found.append(numbers(USES[use](net, x)))
    assert found[0].isfinite().all()
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "posterior", ["guide", *(pytest.param(name, marks=pytest.mark.slow) for name in ("importance", "smoother"))]
)
def test_draws_for_arviz_carry_the_densities_of_the_flow(posterior):
    """At one step all draws have one past, so the mean of their KL is the analytic one of the normal."""
    x, data = random_frames("gaussian", time=1), []
    for net in twins():
        torch.manual_seed(1)
        data.append(to_arviz(net, x, posterior=posterior, num_samples=500))
    plain, flow = (each["sample_stats"] for each in data)
    assert plain.attrs["kl"] == "analytic"
    assert "a flow has no analytic one" in flow.attrs["kl"]
    if posterior == "guide":
        for name in ("log_p", "log_q", "log_weight"):
            assert torch.allclose(*(torch.as_tensor(each[name].values) for each in (plain, flow)), rtol=1e-7)
    exact = torch.as_tensor(plain["kl"].values)[0, 0]
    kl = torch.as_tensor(flow["kl"].values)[0]
    assert ((kl.mean(0) - exact).abs() < 4 * kl.std(0) / math.sqrt(len(kl))).all()


def test_active_units_are_counted_from_two_samples():
    plain, net = twins()
    x = random_frames("gaussian", 1500, 2)
    with torch.no_grad():
        trace = poutine.trace(plain.guide).get_trace(x)
    mean = base_of(trace.nodes["z_0"]["fn"].path.group()).loc
    low, middle, high = mean.flatten(0, 1).var(0, correction=0).sort().values.tolist()
    for threshold, expected in ((low / 2, 3), ((middle + high) / 2, 1), (2 * high, 0)):
        assert active_units(net, x, threshold=threshold, batch_size=1500) == expected


def test_the_kl_of_a_step_has_the_analytic_one_as_its_mean():
    plain, net = twins()
    x = random_frames("gaussian", time=1)
    exact = step_kl(plain, x)
    found = step_kl(net, x.repeat(500, 1, 1), batch_size=1500).reshape(500, 3, 1)
    assert ((found.mean(0) - exact).abs() < 4 * found.std(0) / math.sqrt(500)).all()


# What has no closed form ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
def test_free_nats_are_refused(whole):
    net, x = random_net("gaussian", model=DMM, **FLOWS), random_frames("gaussian")
    model = net.model if whole else poutine.mask(net.model, mask=torch.tensor([True, False, True]))
    with pytest.raises(TypeError, match=r"free_nats needs the analytic KL.*use kl_weight"):
        ZForcingELBO(free_nats=0.5).loss(model, net.guide, x)


def test_a_captured_objective_equals_the_plain_one():
    net, found = random_net("gaussian", model=DMM, **FLOWS), []
    for elbo in (ZForcingELBO(0.7, 0.3), GraphedELBO(ZForcingELBO(0.7, 0.3), bucket=4, capture=Replay())):
        for seed in range(2):
            found.append(outcome(net, elbo, random_frames("gaussian", seed=seed), LENGTHS, seed=seed))
    for plain, captured in zip(found[:2], found[2:], strict=True):
        assert_same(plain, captured)


@pytest.mark.parametrize("objective", [ZForcingELBO(0.5, 0.3, 0.3), SegmentedELBO(0.5, 0.3, 0.3, segment=2)])
def test_weights_of_the_objective_apply_to_a_flow(objective):
    net, x = random_net("gaussian", model=DMM, **FLOWS), random_frames("gaussian")
    pyro.set_rng_seed(1)
    loss = objective.loss(net.model, net.guide, x)
    terms = objective.terms
    expected = terms.log_likelihood - 0.5 * terms.kl + 0.3 * terms.auxiliary + 0.3 * terms.backward
    assert loss == pytest.approx(-expected.sum().item(), rel=1e-9)


def test_information_and_samples_of_a_flow_are_finite():
    net, x = random_net("gaussian", model=DMM, **FLOWS).eval(), random_frames("gaussian", 6)
    found = mutual_information(net, x)
    assert all(map(math.isfinite, found))
    assert found.estimate <= found.ceiling == pytest.approx(math.log(6))
    trace = poutine.trace(net.guide).get_trace(x)
    with pytest.raises(NotImplementedError, match="no mean in closed form"):
        _ = trace.nodes["z_1"]["fn"].mean


# A prior that is a flow ----------------------------------------------------------------------------------------------


class FlowPrior(DMM):
    """A model whose prior is a flow, too."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.prior_flow = FlowLayer(self.latent_dim, 6)

    def prior(self, past):
        normal = base_of(super().prior(past))
        return AutoregressiveFlow(normal.loc, normal.scale, [self.prior_flow])


@pytest.mark.parametrize("num_flows", [0, 2])
@pytest.mark.parametrize("handler", ["generation", "replay", "particles", "another value for z_2", "condition on x_1"])
def test_a_prior_may_be_a_flow(handler, num_flows):
    net = random_net("gaussian", model=FlowPrior, num_flows=num_flows, flow_dim=6)
    x = random_frames("gaussian", BATCH, TIME)
    assert_equivalent(net, HANDLERS[handler], x, arguments("all", net, "gaussian"), REDRAWN.get(handler, TIME))


@pytest.mark.slow
@pytest.mark.parametrize(("num_flows", "proposal"), list(product([0, 2], ["posterior", "prior"])))
def test_filters_with_a_flow_as_prior_agree_with_the_evidence(num_flows, proposal):
    net, x = small(2, model=FlowPrior, num_flows=num_flows)
    with torch.no_grad():
        exact = log_evidence(net, x)
    found = ParticleFilter(net, 20_000, proposal=proposal).run(x).log_evidence
    torch.testing.assert_close(found, exact, rtol=0, atol=0.06)


def test_a_temperature_of_latents_is_refused_for_a_prior_with_a_flow():
    net = random_net("gaussian", model=FlowPrior)
    assert net.generate(2, 3).isfinite().all()
    with pytest.raises(ValueError, match=r"latent_temperature must be 1 for a prior with a flow.*leave it out"):
        net.generate(2, 3, latent_temperature=0.5)


def test_layers_that_differ_between_steps_are_refused():
    net, x = random_net("gaussian", model=DMM, **FLOWS), random_frames("gaussian")
    plain, calls = net.posterior, []

    def posterior(past, b_t):
        q = plain(past, b_t)
        calls.append(q)
        return q if len(calls) == 1 else AutoregressiveFlow(q.base.loc, q.base.scale, q.flows[:1])

    net.posterior = posterior
    with pytest.raises(TypeError, match=r"posterior must return.*same layers.*got 2 layers and then 1 at step 1"):
        net.guide(x)


# Options and files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_flows": -1}, "num_flows must be an integer of at least 0, got -1"),
        ({"num_flows": 1.5}, "num_flows must be"),
        ({"num_flows": True}, "num_flows must be"),
        ({"flow_dim": 0}, "flow_dim must be a positive integer"),
        ({"num_flows": 1, "flow_dim": 2}, "flow_dim must be at least latent_dim, 3, got 2"),
    ],
)
def test_bad_options_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        random_net("gaussian", model=DMM, **settings)


def test_without_flows_the_model_is_the_one_of_before(tmp_path):
    net = random_net("gaussian", model=DMM)
    assert not any(name.startswith("flows") for name in net.state_dict())
    net.save(tmp_path)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    for argument in ("num_flows", "flow_dim"):
        del description["arguments"][argument]
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    assert_same(DMM.load(tmp_path).state_dict(), net.state_dict(), rtol=0.0, atol=0.0)


def test_layers_that_are_added_later_count_everywhere():
    plain, x, found = random_net("gaussian", model=DMM), random_frames("gaussian"), []
    layer = random_net("gaussian", model=DMM, **FLOWS).flows[0]
    for recurrence in ("deferred", "reference"):
        net = random_net("gaussian", model=DMM, recurrence=recurrence)
        net.flows.append(layer)
        pyro.set_rng_seed(1)
        found.append([ImportanceWeightedELBO(3).loss(net.model, net.guide, x), FIVO(3).loss(net.model, net.guide, x)])
    torch.testing.assert_close(*map(torch.tensor, found), **EXACT)
    pyro.set_rng_seed(1)
    assert abs(ImportanceWeightedELBO(3).loss(plain.model, plain.guide, x) - found[0][0]) > 1e-3


def test_loading_takes_no_random_numbers(tmp_path):
    net = random_net("gaussian", model=DMM, **FLOWS)
    net.save(tmp_path)
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    again = DMM.load(tmp_path)
    assert torch.equal(torch.rand(()), expected)
    assert_same(again.state_dict(), net.state_dict(), rtol=0.0, atol=0.0)


def test_scripts_reach_the_flow_by_their_options():
    preset = Preset(
        embed_dim=4,
        hidden_dim=4,
        latent_dim=3,
        mlp_dim=4,
        batch_size=2,
        learning_rate=0.1,
        max_steps=1,
        annealing_steps=1,
        aux_weight=(0.0, 0.0),
        options=FLOWS,
    )
    net = preset.network("dmm", emissions.Bernoulli(3))
    assert len(net.flows) == 2
    with pytest.raises(ValueError, match="num_flows is no option of VRNN"):
        preset.network("vrnn", emissions.Bernoulli(3))


def test_a_flow_in_float32_is_close_to_that_in_float64():
    x, found = random_frames("gaussian"), []
    for dtype in (torch.float32, torch.float64):
        net = random_net("gaussian", model=DMM, spread=0.2, dtype=dtype, **FLOWS)
        data = {f"z_{t}": torch.linspace(-1.0, 1.0, 9, dtype=dtype).reshape(3, 3) for t in range(4)}
        trace = poutine.trace(poutine.condition(net.guide, data=data)).get_trace(x.to(dtype))
        found.append(trace.log_prob_sum().double())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[0].isfinite(), torch.tensor(True), **EXACT)
