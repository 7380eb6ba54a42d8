"""A guide refined for given sequences: moves towards the exact posterior, and stands wherever a guide stands."""

import copy
import math

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Predictive

import zf_pyro
from zf_pyro import State, ZForcingELBO, emissions, to_arviz
from zf_pyro.evaluation import bounds, evaluate, particle_bound
from zf_pyro.inference import (
    ALGORITHMS,
    AnnealedImportanceSampling,
    BoundGain,
    Corrections,
    ParticleFilter,
    RefinedGuide,
    Twist,
    log_weights,
    refine,
    stack_latents,
)
from zf_pyro.models import RefinedNetwork
from zf_pyro.objectives import replayed_traces

from .comparing import EXACT, parameter_grads
from .conftest import EMISSIONS, random_frames, random_net, random_state
from .exact import log_evidence, posterior_moments, small
from .linear_gaussian import LinearGaussian, exact_evidence, exact_moments, simulated
from .own_emissions import OWN, own_frames

LENGTHS = torch.tensor([4, 2, 3])


def corrected(net, x, lengths=None, seed=7, spread=0.5):
    """A refined guide with random corrections, or with those given as a pair."""
    generator = torch.Generator().manual_seed(seed)
    dtype, shape = net.emission_layer.weight.dtype, (x.shape[1], len(x), net.latent_dim)
    found = [spread * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]
    zeros = torch.zeros(len(x), dtype=dtype)
    network = RefinedNetwork(net, x, lengths, Corrections(*found))
    return RefinedGuide(network, None, None, BoundGain(zeros, zeros, zeros, zeros, 1, 1), 1)


def repaired(net, x, shift):
    """The refined guide of a linear-Gaussian net, with the correction that makes it exact."""
    guide = corrected(net, x)
    guide.corrections.shift.fill_(shift)
    guide.corrections.log_scale.zero_()
    return guide


def made_wrong(net, mean=2.0, log_variance=-1.5):
    """Move the posterior's means and variances."""
    with torch.no_grad():
        net.posterior_network.second.bias[0] += mean
        net.posterior_network.second.bias[1] += log_variance
    return net


# Towards the exact posterior ----------------------------------------------------------------------------------------


def divergence(net, guide, x, exact, num_particles=1000):
    """KL of a guide from the exact posterior of each sequence, in nats; (batch,)."""
    return exact - log_weights(net.model, guide, x, num_particles=num_particles).mean(0)


@pytest.mark.parametrize(
    ("emission", "time", "transition"),
    [
        pytest.param("gaussian", 3, "conditional_layer_norm", marks=pytest.mark.slow),
        pytest.param("gaussian", 3, "concatenate", marks=pytest.mark.slow),
        pytest.param("gaussian", 2, "concatenate", marks=pytest.mark.slow),
        ("categorical", 2, "conditional_layer_norm"),
    ],
)
def test_a_wrong_guide_moves_to_the_posterior_of_quadrature(emission, time, transition):
    net, x = small(emission, transition, time)
    made_wrong(net).requires_grad_(False)
    exact, (mean, variance) = log_evidence(net, x, 40), posterior_moments(net, x, 40)
    guide = refine(net, x, steps=50)
    before, after = (divergence(net, g, x, exact) for g in (net.guide, guide))
    assert (before > 0.5).all()
    assert (after < 0.3 * before).all()
    assert (after > -0.02).all()
    found = bounds(net, x, num_particles=1000, guide=guide, chunk_particles=1000).importance_weighted
    assert ((found - exact).abs() < 0.03).all()
    with pyro.plate("particles", 2000, dim=-2):
        old, new = (((g(x)[..., 0].mean(0) - mean).square() / variance).sum(-1).sqrt() for g in (net.guide, guide))
    assert new.sum() < 0.6 * old.sum()


WRONG = [
    pytest.param({"shift": 1.5}, marks=pytest.mark.slow),
    pytest.param({"narrow": 0.05}, marks=pytest.mark.slow),
    {"narrow": 0.2, "shift": -2.0},
    pytest.param({"narrow": 6.0}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_guide_made_wrong_is_repaired_on_the_linear_gaussian_net(wrong):
    """A shift of the mean in deviations, and a factor of the variance, are undone by corrections that are constant."""
    net, x = LinearGaussian(**wrong), simulated(3, 5)
    exact = exact_evidence(x)
    guide = refine(net, x, steps=150, num_particles=1)
    shift, log_scale = guide.corrections
    assert (shift + wrong.get("shift", 0.0)).abs().max() < 0.5
    assert (log_scale + 0.5 * math.log(wrong.get("narrow", 1.0))).abs().max() < 0.2
    before, after = (divergence(net, g, x, exact) for g in (net.guide, guide))
    assert (before > 1.0).all()
    assert (after < 0.1).all()
    assert (guide.bounds.after <= exact + 0.1).all()
    assert (guide.bounds.after > guide.bounds.before).all()


def test_a_guide_that_ignores_the_frames_comes_closer():
    net, x = LinearGaussian(blind=True), simulated(4, 6)
    exact, (mean, _) = exact_evidence(x), exact_moments(x)
    guide = refine(net, x, steps=100)
    before, after = (divergence(net, g, x, exact) for g in (net.guide, guide))
    assert (after < 0.25 * before).all()
    with pyro.plate("particles", 1000, dim=-2):
        old, new = ((g(x)[..., 0].mean(0) - mean).square().sum() for g in (net.guide, guide))
    assert new < 0.05 * old


def test_no_sequence_ends_worse_than_it_began():
    """Steps far too long leave every sequence where it was."""
    net, x = small("gaussian", "concatenate", 3)
    guide = refine(net, x, steps=8, learning_rate=1e9)
    assert not any(part.any() for part in guide.corrections)
    assert torch.equal(guide.bounds.after, guide.bounds.before)


def test_the_reported_bounds_are_those_of_fresh_samples():
    net, x = made_wrong(small("gaussian", "concatenate", 3)[0]), random_frames(batch=5, time=3, seed=9)
    found = (guide := refine(net, x, steps=30)).bounds
    assert (found.num_particles, found.num_samples) == (4, 64)
    for g, reported, weighted in ((net.guide, *found[:4:2]), (guide, *found[1:4:2])):
        again = log_weights(net.model, g, x, num_particles=4000).view(1000, 4, 5)
        groups = again.logsumexp(1) - math.log(4)
        assert ((reported - groups.mean(0)).abs() < 4 * groups.std(0) / math.sqrt(16)).all()
        assert (weighted - reported > -0.1).all()
    assert (found.after > found.before).all()


# The same program, with other numbers -------------------------------------------------------------------------------


@pytest.fixture
def refinable(member):
    """Each model of the family with normal posteriors; those with flows are refused, by the test below."""
    if member.get("num_flows"):
        pytest.skip("a flow has no mean and deviation to correct, and is refused")
    return member


def test_flows_are_refused():
    net, x = random_net(model=zf_pyro.DMM, num_flows=2).eval(), random_frames()
    with pytest.raises(TypeError, match="net must have a diagonal normal as posterior to be refined, and DMM"):
        refine(net, x, LENGTHS, steps=0)
    guide = corrected(net, x, LENGTHS)
    with pytest.raises(TypeError, match="net must have a diagonal normal as posterior to be refined, and DMM"):
        guide.network.posterior(net.initial_state((3,)), guide.network.backward_states(x, LENGTHS)[0])


def test_without_steps_the_numbers_are_those_of_the_guide(refinable):
    net, x = random_net(**refinable).eval(), random_frames()
    guide, found = refine(net, x, LENGTHS, steps=0), []
    assert torch.equal(guide.bounds.before, guide.bounds.after)
    for program in (net.guide, guide):
        pyro.set_rng_seed(3)
        found.append([program(x, LENGTHS), log_weights(net.model, program, x, LENGTHS, num_particles=5)])
        found[-1] += ParticleFilter(net, 5, guide=program).run(x, LENGTHS)
        found[-1] += bounds(net, x, LENGTHS, 3, guide=program)
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_densities_are_those_of_the_step_functions(refinable):
    """Beside the loop: m + s exp(r) d and s exp(r), with m and s of the network at the sampled past."""
    net, x = random_net(**refinable).eval(), random_frames()
    guide, state = corrected(net, x, LENGTHS), random_state(net)
    b, u = net.backward_states(x, LENGTHS), net.inputs(x)
    for start in (None, state):
        network = guide.network
        with pyro.plate("particles", 2, dim=-2):
            trace = poutine.trace(network.guide).get_trace(x, LENGTHS, None, start)
        trace.compute_log_prob()
        h = net.initial_state((3,)) if start is None else start
        for t in range(4):
            past = net.past(h, u[:, t])
            q = net.posterior(past, b[t]).base_dist
            shift, log_scale = (part[t] for part in guide.corrections)
            scale = q.scale * log_scale.exp()
            z = trace.nodes[f"z_{t}"]["value"]
            expected = torch.distributions.Normal(q.loc + scale * shift, scale).log_prob(z).sum(-1)
            real = t < LENGTHS
            ours = trace.nodes[f"z_{t}"]["log_prob"]
            torch.testing.assert_close(ours, torch.where(real, expected, 0.0), **EXACT)
            past = State(*(field.expand(*z.shape[:-1], -1) for field in past))
            h = net.transition(past, u[:, t], z)


def test_refining_raises_the_bound_of_every_model(refinable):
    net, x = random_net(**refinable).eval(), random_frames(batch=4, time=5)
    guide = refine(net, x, torch.tensor([5, 1, 3, 5]), steps=20)
    assert (guide.bounds.after - guide.bounds.before).median() > 0.02
    assert not any(part[3:, 2].any() or part[1:, 1].any() for part in guide.corrections)  # beyond a length


@pytest.mark.parametrize("name", [*EMISSIONS, "nade", "LogNormalFrames", "MatrixFrames", "SymbolPairs"])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str)
def test_frames_of_every_kind_are_taken(name, dtype):
    if name in EMISSIONS:
        family, x = EMISSIONS[name], random_frames(name, dtype=dtype)
    elif name == "nade":
        family, x = emissions.NADE(3, 4), random_frames("bernoulli", dtype=dtype)
    else:
        family, x = OWN[name], own_frames(name, time=4)
    net = random_net(family, dtype=dtype)
    if x.is_floating_point():
        x = x.to(dtype)
        x[1, 2:] = math.nan  # padding
    guide = refine(net, x, LENGTHS, steps=6)
    assert guide(x, LENGTHS).dtype == guide.bounds.after.dtype == dtype
    assert guide.bounds.after.isfinite().all()


def test_padding_does_not_matter():
    net, x = random_net(), random_frames()
    found = []
    for filling in (math.nan, 7.0):
        pyro.set_rng_seed(4)
        filled = x.clone()
        filled[1, 2:], filled[2, 3:] = filling, filling
        found.append(refine(net, filled, LENGTHS, steps=6))
    for ours, theirs in zip(found[0].corrections, found[1].corrections, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(found[0].network.rows(x.transpose(0, 1), LENGTHS), torch.arange(3))


def test_context_and_carried_state_are_those_of_the_guide():
    net, x = random_net().eval(), random_frames(time=6)
    head, tail = x[:, :3], x[:, 3:]
    states = net.states(head, net.guide(head).detach())
    state, context = State(*(field[-1].detach() for field in states)), head[:, -1]
    guide = refine(net, tail, None, context, state, steps=25)
    before, after = (
        log_weights(net.model, g, tail, None, context, state, num_particles=600).mean(0) for g in (net.guide, guide)
    )
    assert (after > before + 0.05).all()
    assert ParticleFilter(net, 8, guide=guide).run(tail, None, context, state).log_evidence.isfinite().all()


def test_runs_are_the_same_under_one_seed():
    net, x = random_net(), random_frames()
    found = []
    for _ in range(2):
        pyro.set_rng_seed(6)
        guide = refine(net, x, LENGTHS, steps=5, batch_size=2)
        found.append([*guide.corrections, *guide.bounds[:4], guide(x, LENGTHS)])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_sequences_are_recognised_in_any_order_and_part():
    net, x = random_net().eval(), random_frames()
    guide = corrected(net, x, LENGTHS)
    whole = guide.network.backward_states(x, LENGTHS)
    rows = torch.tensor([2, 1, 2])
    part = guide.network.backward_states(x[rows, :3], LENGTHS[rows])
    torch.testing.assert_close(part[:2], whole[:2, rows], **EXACT)
    longer = torch.cat([x, x], dim=1)
    assert torch.equal(guide.network.backward_states(longer, LENGTHS)[:4], whole)
    assert guide(longer, LENGTHS).shape == (3, 8, 3)


def test_equal_sequences_keep_corrections_of_their_own():
    net, x = random_net().eval(), random_frames().clone()
    x[1] = x[0]
    guide = corrected(net, x)
    assert torch.equal(guide.network.rows(x.transpose(0, 1), None), torch.arange(3))
    assert torch.equal(guide.network.rows(x[[1, 1, 0]].transpose(0, 1), None), torch.tensor([0, 1, 0]))


def test_backward_states_may_be_given():
    net, x = random_net().eval(), random_frames()
    guide = corrected(net, x, LENGTHS)
    found = []
    for b in (None, net.backward_states(x, LENGTHS)):
        pyro.set_rng_seed(8)
        found.append(guide(x, LENGTHS, b=b))
    assert torch.equal(*found)


# Nothing else changes -----------------------------------------------------------------------------------------------


def state_of(net):
    """Weights, flags, gradients and modes."""
    return [
        *((name, p.detach().clone(), p.requires_grad, p.grad) for name, p in net.named_parameters()),
        *((name, module.training) for name, module in net.named_modules()),
    ]


def same_state(ours, theirs):
    return all(
        all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b or a == b for a, b in zip(*pair, strict=True))
        for pair in zip(ours, theirs, strict=True)
    )


class Broken(zf_pyro.ZForcing):
    """A model whose emission fails after a few calls."""

    calls = 0

    def emission(self, state):
        type(self).calls += 1
        if type(self).calls > 3:
            raise RuntimeError("out of order")
        return super().emission(state)


@pytest.mark.parametrize("model", [zf_pyro.ZForcing, zf_pyro.DMM, Broken])
def test_weights_flags_gradients_and_modes_stay(model):
    Broken.calls = 0
    net, x = random_net(model=model, dropout=0.3), random_frames()
    net.prior_network.eval()
    next(net.backward_rnn.parameters()).requires_grad_(False)
    net.emission_layer.bias.grad = torch.ones_like(net.emission_layer.bias)
    before = state_of(net)
    with pyro.validation_enabled(True), torch.no_grad():
        if model is Broken:
            with pytest.raises(RuntimeError, match="out of order"):
                refine(net, x, LENGTHS, steps=5)
        else:
            guide = refine(net, x, LENGTHS, steps=5)
            assert not any(part.requires_grad for part in guide.corrections)
        assert pyro.infer.util.is_validation_enabled()
        assert not torch.is_grad_enabled()
    assert same_state(before, state_of(net))
    assert net.training
    assert not list(pyro.get_param_store().keys())


def test_the_guide_follows_the_mode_and_weights_of_its_net():
    net, x = random_net(), random_frames()
    guide = corrected(net, x)
    assert guide.network.training
    net.eval()
    assert not guide.network.training
    guide.network.train()
    assert net.training
    assert [*map(id, guide.network.parameters())] == [*map(id, net.parameters())]
    copied = copy.deepcopy(guide)
    assert copied.net is not net
    assert torch.equal(copied.corrections.shift, guide.corrections.shift)


def test_training_with_a_refined_guide_gives_the_model_its_gradients():
    """At fixed latents, the model's gradients are those under any guide."""
    net, x = random_net(), random_frames()
    guide = corrected(net, x, LENGTHS)
    elbo = ZForcingELBO(kl_weight=0.7, aux_weight=0.3)
    elbo.loss_and_grads(net.model, guide, x, LENGTHS)
    found = parameter_grads(net)
    assert all(gradient.isfinite().all() for gradient in found.values())
    for name in ("emission_layer.weight", "prior_network.second.weight", "auxiliary_network.second.weight"):
        assert found[name].abs().max() > 1e-6


# Wherever a guide stands --------------------------------------------------------------------------------------------

GUIDED = [name for name, row in ALGORITHMS.items() if row.needs_guide and name != "ReweightedWakeSleep-sleep"]
COMPILED = pytest.mark.filterwarnings("ignore:.*torch.jit")
BOUNDS = [
    name
    for name in GUIDED
    if ALGORITHMS[name].evidence == "bound"
    and name not in ("ZForcingELBO", "TraceMeanField_ELBO", "JitTraceMeanField_ELBO")
]


@pytest.mark.parametrize("name", [pytest.param(n, marks=COMPILED if n.startswith("Jit") else ()) for n in BOUNDS])
def test_bounds_are_the_exact_evidence_with_the_exact_guide(name):
    """With corrections that make the guide exact all weights are equal, so no bound has an error."""
    net, x = LinearGaussian(shift=0.8), simulated(2, 4)
    exact, svi = exact_evidence(x), ALGORITHMS[name].build(net, guide=repaired(net, x, -0.8))
    assert (exact - bounds(net, x, num_particles=4).elbo).sum() > 0.5  # without corrections
    loss = svi.evaluate_loss(x)
    assert -float(loss[0] if isinstance(loss, tuple) else loss) == pytest.approx(float(exact.sum()), abs=1e-6)


@pytest.mark.parametrize("name", ["ZForcingELBO", pytest.param("TraceMeanField_ELBO", marks=pytest.mark.slow)])
def test_bounds_with_the_analytic_divergence_are_the_evidence_within_their_error(name):
    net, x = LinearGaussian(shift=0.8), simulated(2, 4)
    exact, svi = exact_evidence(x).sum(), ALGORITHMS[name].build(net, guide=repaired(net, x, -0.8))
    many = torch.tensor([-float(svi.evaluate_loss(x)) for _ in range(25)])
    assert abs(many.mean() - exact) < 4 * many.std() / math.sqrt(25)


@pytest.mark.parametrize("name", ["ParticleFilter", "AnnealedImportanceSampling"])
def test_estimates_are_the_exact_evidence_with_the_exact_guide(name):
    net, x = LinearGaussian(shift=0.8), simulated(2, 4)
    settings = {"num_particles": 4} if name == "ParticleFilter" else {"num_chains": 4, "num_temperatures": 3}
    found = ALGORITHMS[name].build(net, guide=repaired(net, x, -0.8), **settings).run(x)
    torch.testing.assert_close(found.log_evidence, exact_evidence(x), **EXACT)


def test_samples_of_pyros_algorithms_are_those_of_the_exact_guide():
    net, x = LinearGaussian(shift=0.8), simulated(2, 4)
    guide, exact = repaired(net, x, -0.8), exact_evidence(x)
    mean, variance = exact_moments(x)
    found = ALGORITHMS["Importance"].build(net, guide=guide, num_samples=4).run(x)
    assert float(found.get_log_normalizer()) == pytest.approx(float(exact.sum()), abs=1e-6)
    z = stack_latents(ALGORITHMS["Predictive"].build(net, guide=guide, num_samples=800)(x))[..., 0]
    assert ((z.mean(0) - mean).abs() < 4 * (variance / 800).sqrt()).all()
    smc = ALGORITHMS["SMCFilter"].build(net, guide=guide, num_particles=800)(x[:1]).get_empirical()["z"]
    assert abs(smc.mean.squeeze() - mean[0, -1]) < 5 * (variance[-1] / 800).sqrt()


@pytest.mark.parametrize("name", [name for name in GUIDED if ALGORITHMS[name].trains and not name.startswith("Jit")])
def test_training_rows_take_a_step_with_a_refined_guide(name):
    net, x = random_net(), random_frames()
    guide = corrected(net, x, LENGTHS, spread=0.1)
    shift = guide.corrections.shift.clone()
    ALGORITHMS[name].build(net, guide=guide).step(x, LENGTHS)
    assert torch.equal(guide.corrections.shift, shift)


@pytest.mark.parametrize("num_particles", [1, 6])
@pytest.mark.parametrize("settings", [{}, {"transition": "concatenate"}, {"model": zf_pyro.VRNN}], ids=str)
def test_fast_and_plain_filters_agree(settings, num_particles):
    """Each form of the filter's step has the corrected proposal."""
    found = []
    for recurrence in ("deferred", "reference"):
        net, x = random_net(recurrence=recurrence, **settings).eval(), random_frames()
        pyro.set_rng_seed(9)
        found.append(ParticleFilter(net, num_particles, guide=corrected(net, x, LENGTHS)).run(x, LENGTHS))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


COPIES = 400


def test_estimates_stay_unbiased_under_any_corrections(transition):
    net, x = small("gaussian", transition, 2)
    exact, many = log_evidence(net, x), x.repeat(COPIES, 1, 1)
    guide = corrected(net, many, spread=0.4)
    for build in (
        lambda: ParticleFilter(net, 3, guide=guide, threshold=1.0),
        lambda: AnnealedImportanceSampling(net, 3, num_temperatures=3, guide=guide),
    ):
        found = build().run(many).log_evidence.view(COPIES, 2)
        ratio = (found - exact).exp()
        assert ((ratio.mean(0) - 1.0).abs() < 4 * ratio.std(0) / math.sqrt(COPIES)).all()


def test_a_twist_of_the_net_goes_with_a_refined_guide():
    net, x = random_net().eval(), random_frames()
    guide, twist = corrected(net, x, LENGTHS), Twist(net)
    pyro.set_rng_seed(1)
    plain = ParticleFilter(net, 4, guide=guide).run(x, LENGTHS)
    pyro.set_rng_seed(1)
    twisted = ParticleFilter(net, 4, guide=guide, twist=twist).run(x, LENGTHS)
    assert torch.equal(plain.log_evidence, twisted.log_evidence)  # a new twist is 0
    ALGORITHMS["SIXO"].build(net, guide=guide, twist=twist).step(x, LENGTHS)


def test_evaluation_takes_a_refined_guide():
    net, x = LinearGaussian(shift=1.0), simulated(5, 4)
    guide, exact = repaired(net, x, -1.0), exact_evidence(x)
    lengths = torch.full((5,), 4)
    torch.testing.assert_close(bounds(net, x, lengths, 4, guide=guide, batch_size=2).importance_weighted, exact)
    torch.testing.assert_close(particle_bound(net, x, lengths, 4, guide=guide, batch_size=2), exact)
    found = evaluate(net, x, lengths, num_particles=4, filter_particles=4, guide=guide, batch_size=2)
    for name in ("importance_weighted", "particle"):
        assert found.bounds[name].nats_per_sequence.value == pytest.approx(float(exact.mean()), abs=1e-9)
    assert evaluate(net, (x, lengths), num_particles=4).bounds["elbo"].nats_per_sequence.value < exact.mean() - 0.5


def test_to_arviz_takes_a_refined_guide():
    net, x = LinearGaussian(shift=1.0), simulated(5, 4)
    guide = repaired(net, x, -1.0)
    data = to_arviz(net, x, posterior=guide, num_samples=30, batch_size=2, groups=("posterior", "sample_stats"))
    weights = data["sample_stats"]["log_weight"]
    assert float(weights.std("draw").max()) < 1e-9
    assert data["posterior"].attrs["guide"] == "refined"
    assert data["posterior"].attrs["posterior"] == "guide"


def test_the_model_replayed_with_its_samples_has_the_densities_of_the_net():
    net, x = random_net().eval(), random_frames()
    guide = corrected(net, x, LENGTHS)
    net.requires_grad_(False)
    model, drawn = replayed_traces(net.model, guide, x, LENGTHS)
    again = poutine.trace(poutine.condition(net.model, {f"z_{t}": drawn.nodes[f"z_{t}"]["value"] for t in range(4)}))
    assert model.log_prob_sum() == pytest.approx(float(again.get_trace(x, LENGTHS).log_prob_sum()), abs=1e-9)
    assert Predictive(net.model, guide=guide, num_samples=3)(x, LENGTHS)["z_0"].shape == (3, 3, 3)


# What cannot work ---------------------------------------------------------------------------------------------------


class OwnGuide(zf_pyro.ZForcing):
    """A network with a guide of its own."""

    def guide(self, *arguments, **settings):
        return super().guide(*arguments, **settings)


class Cauchy(zf_pyro.ZForcing):
    """A network with another posterior."""

    def posterior(self, past, b_t):
        normal = super().posterior(past, b_t).base_dist
        return torch.distributions.Independent(torch.distributions.Cauchy(normal.loc, normal.scale), 1)


def refining(*arguments, model=zf_pyro.ZForcing, **settings):
    return lambda: refine(random_net(model=model), *(arguments or (random_frames(),)), **settings)


def asked(x, *arguments, **named):
    """Call of a guide that was refined for three sequences."""
    return lambda: corrected(random_net(), random_frames(), LENGTHS)(x, *arguments, **named)


def with_context():
    net, x = random_net(), random_frames()
    return refine(net, x, None, x[:, 0], steps=0)


def of_another_net():
    net, other = random_net(), random_net()
    return ParticleFilter(net, 2, guide=corrected(other, random_frames()))


def filtered_elsewhere():
    net = random_net().eval()
    return ParticleFilter(net, 2, guide=corrected(net, random_frames())).run(random_frames(seed=9))


def my_guide(*arguments):
    return None


OTHERS = r"x and lengths must hold sequences that the guide was refined for, 3 of at most 4 frames; got 3 sequences, "
STATES = State(*(torch.zeros(2, 3, 4, dtype=torch.float64) for _ in range(2)))
BAD = [
    ("no net", lambda: refine(None, random_frames()), TypeError, "net must be a model of zf_pyro.models, got NoneType"),
    ("steps below 0", refining(steps=-1), ValueError, "steps must be an integer of at least 0, got -1"),
    ("no particles", refining(num_particles=0), ValueError, "num_particles must be a positive integer, got 0"),
    ("a rate of 0", refining(learning_rate=0), ValueError, "learning_rate must be a positive number, got 0"),
    ("no sequences at once", refining(batch_size=0), ValueError, "batch_size must be a positive integer, got 0"),
    ("no x", refining(None), TypeError, "x must be a torch.Tensor, got NoneType"),
    ("frames of another size", refining(torch.zeros(2, 3, 7).double()), ValueError, "x must have shape"),
    ("NaN frames", refining(torch.full((2, 3, 2), math.nan).double()), ValueError, "x must hold finite"),
    ("a length too long", refining(random_frames(), LENGTHS + 2), ValueError, "lengths must be between 1 and 4"),
    ("states of particles", refining(random_frames(), None, None, STATES), ValueError, "initial_state must be one sta"),
    ("a guide of its own", refining(model=OwnGuide), TypeError, "OwnGuide has a guide of its own"),
    ("another posterior", refining(model=Cauchy), TypeError, r"posterior must return dist\.Normal.*got Cauchy"),
    ("other sequences", asked(random_frames(seed=8), LENGTHS), ValueError, OTHERS + "3 of them others, the first at i"),
    ("other lengths", asked(random_frames(), LENGTHS - 1), ValueError, OTHERS + "3 of them others.*index 0 with 3 fra"),
    ("no lengths", asked(random_frames()), ValueError, OTHERS + "2 of them others, the first at index 1 with 4 frames"),
    ("a context", asked(random_frames(), LENGTHS, random_frames()[:, 0]), ValueError, "context must be left out, as"),
    ("x of another kind", asked([1.0], LENGTHS), TypeError, "x must be a torch.Tensor"),
    ("b of another size", asked(random_frames(), LENGTHS, b=torch.zeros(4, 3, 9)), ValueError, "b must have shape"),
    (
        "no context",
        lambda: with_context()(random_frames()),
        ValueError,
        "context must be given, as where the guide was",
    ),
    ("another context", lambda: with_context()(random_frames(), None, random_frames()[:, 1]), ValueError, "got others"),
    ("a guide of another net", of_another_net, ValueError, "guide must be refined for this net"),
    ("a filter of other sequences", filtered_elsewhere, ValueError, OTHERS + "3 of them others"),
    (
        "a guide of the user's",
        lambda: ParticleFilter(random_net(), 2, guide=my_guide),
        TypeError,
        "net.guide or the re",
    ),
    (
        "a guide for dreams",
        lambda: ALGORITHMS["ReweightedWakeSleep-sleep"].build(random_net(), guide=my_guide),
        TypeError,
        "guide must be left out for ReweightedWakeSleep-sleep",
    ),
    ("a file", lambda: corrected(random_net(), random_frames()).network.save("x"), TypeError, "save net, and refine"),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_gets_a_clear_error(call, error, message):
    with pytest.raises(error, match=message):
        call()
