"""What holds for all models with latents, written once, over models and their options."""

import copy
import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive

from zf_pyro import FIVO, ImportanceWeightedELBO, ZForcingELBO, to_arviz
from zf_pyro.diagnostics import calibrate, latent_use, leave_future_out, mutual_information
from zf_pyro.evaluation import bounds, particle_bound, step_kl
from zf_pyro.inference import ParticleFilter
from zf_pyro.objectives import SegmentedELBO

from .comparing import EXACT, assert_same, gradients, parameter_grads, weighted_sum
from .conftest import FAMILY, random_frames, random_net, random_state
from .exact import log_evidence, posterior_moments, small_of
from .handlers import BATCH, HANDLERS, REDRAWN, TIME
from .test_models_exact import log_weights, mean_and_error
from .test_paths_equivalence import arguments, assert_equivalent
from .test_paths_padding import spoiled
from .test_streaming import density, last
from .textbook import hand_terms

LENGTHS = torch.tensor([4, 3, 1])


# Densities and gradients against the textbook program ---------------------------------------------------------------


@pytest.mark.parametrize("handler", HANDLERS)
def test_every_handler_sees_the_textbook_program(handler, member):
    net, x = random_net("gaussian", **member), random_frames("gaussian", BATCH, TIME)
    assert_equivalent(net, HANDLERS[handler], x, arguments("all", net, "gaussian"), REDRAWN.get(handler, TIME))


@pytest.mark.parametrize("emission", ["mixture", "bernoulli", "categorical"])
def test_every_emission_sees_the_textbook_program(emission, member):
    net, x = random_net(emission, **member), random_frames(emission, BATCH, TIME)
    for handler in ("replay", "particles", "another value for z_2", "generation"):
        assert_equivalent(net, HANDLERS[handler], x, arguments("whole", net, emission), REDRAWN.get(handler, TIME))


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_fast_scans_equal_the_plain_loops_in_values_and_gradients(shape, member):
    net, plain = (random_net("gaussian", spread=0.8, recurrence=kind, **member) for kind in ("deferred", "reference"))
    x = random_frames("gaussian", 3, 5)
    noise = torch.randn(5, *shape, net.latent_dim, dtype=torch.float64)
    found = []
    for one in (net, plain):
        start = type(random_state(one))(*(f.expand(*shape, -1).clone().requires_grad_() for f in random_state(one)))
        noise, z = noise.detach().requires_grad_(), noise.detach().clone().requires_grad_()
        u, b = one.inputs(x).transpose(0, 1), one.backward_states(x)
        scan, states = one.scan_posterior(start, u, b, noise), one.scan_states(start, u, z)
        values = {"b": b, "z": scan.z, "loc": scan.loc, "scale": scan.scale, "h": states.hidden, "c": states.cell}
        for name in ("states", "before", "after"):
            values |= {f"{name} {field}": value for field, value in getattr(scan, name)._asdict().items()}
        loss = weighted_sum(values)
        inputs = [*start, noise, z]
        found_grads = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        pairs = enumerate(zip(found_grads, inputs, strict=True))
        inputs = {f"input {i}": torch.zeros_like(value) if g is None else g for i, (g, value) in pairs}
        found.append({**values, **inputs, **gradients(one, loss)})
    assert_same(*found)


@pytest.mark.parametrize("step", ["past", "prior", "posterior", "transition"])
def test_a_step_function_of_the_users_own_counts_everywhere(step, member):
    model = member["model"]

    def changed(self, state, *rest):
        return getattr(model, step)(self, state._replace(hidden=0.5 * state.hidden), *rest)

    own = type(f"Own{model.__name__}", (model,), {step: changed})
    net, x = random_net("gaussian", **{**member, "model": own}), random_frames("gaussian", BATCH, TIME)
    for handler in ("replay", "particles", "another value for z_2"):
        assert_equivalent(net, HANDLERS[handler], x, {}, REDRAWN.get(handler, TIME))


def test_terms_of_the_objective_equal_its_equations(member):
    net, x = random_net("gaussian", **member), random_frames("gaussian")
    weight = 0.3 if net.has_auxiliary else 0.0
    objective = ZForcingELBO(0.7, weight, weight)
    pyro.set_rng_seed(3)
    loss = objective.differentiable_loss(net.model, net.guide, x, LENGTHS)
    pyro.set_rng_seed(3)
    z = net.guide(x, LENGTHS)
    if net.has_auxiliary:
        terms = hand_terms(net, x, LENGTHS, z)
    else:
        with pytest.raises(TypeError, match="no backward RNN"):
            net.auxiliary(z, net.initial_state((3,)))
        terms = hand_terms(net, x, LENGTHS, z, auxiliary=False)
    expected = terms["log_likelihood"] - 0.7 * terms["kl"]
    if net.has_auxiliary:
        expected = expected + 0.3 * terms["auxiliary"] + 0.3 * terms["backward"]
    torch.testing.assert_close(loss, -expected.sum(), **EXACT)
    assert_same(gradients(net, loss), gradients(net, -expected.sum()))


@pytest.mark.parametrize("weight", ["aux_weight", "backward_weight"])
def test_weights_of_terms_that_a_model_lacks_are_refused(weight, member):
    net, x = random_net("gaussian", **member), random_frames("gaussian")
    objective = ZForcingELBO(**{weight: 0.1})
    if net.has_auxiliary:
        assert math.isfinite(objective.loss(net.model, net.guide, x))
    else:
        with pytest.raises(TypeError, match=rf"no backward RNN.*set {weight}=0"):
            objective.loss(net.model, net.guide, x)


# Exact answers ------------------------------------------------------------------------------------------------------


def covered(emission, time, **member):
    """Build a small model whose latents are nearly standard normal, so that the guide covers the posterior."""
    net, x = small_of(emission, time, 0.1, **member)
    return shrunk(net), x


def shrunk(net):
    """Bring the latents of prior and posterior near standard normal ones."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            prior = name.startswith(("prior_network.second", "prior_network.linear", "prior_network.deviation"))
            if prior or name.startswith(("posterior_network.second", "flows")):
                parameter *= 0.2
    return net


@pytest.mark.parametrize(
    ("emission", "time"),
    [("gaussian", 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in [("gaussian", 3), ("categorical", 2)])],
)
def test_importance_estimates_and_filters_agree_with_the_evidence(emission, time, member):
    net, x = covered(emission, time, **member)
    with torch.no_grad():
        exact = log_evidence(net, x)
    estimate, error = mean_and_error(log_weights(net, x, 20_000))
    assert (error < 0.1).all(), "the guide is too poor: the test would have no power"
    assert ((estimate.exp() - exact.exp()).abs() < 4 * error * estimate.exp() + 4e-3 * exact.exp()).all()
    torch.testing.assert_close(ParticleFilter(net, 20_000).run(x).log_evidence, exact, rtol=0, atol=0.05)


def test_smoothed_particles_have_the_moments_of_the_posterior(member):
    net, x = covered("gaussian", 3, **member)
    with torch.no_grad():
        mean, variance = posterior_moments(net, x)
    z = ParticleFilter(net, 20_000).run(x).smoothed(20_000)[..., 0]
    torch.testing.assert_close(z.mean(0), mean, rtol=0, atol=0.06)
    torch.testing.assert_close(z.var(0), variance, rtol=0.08, atol=0.02)


@pytest.mark.slow
def test_bounds_lie_in_their_order_below_the_evidence(member):
    net, x = covered("gaussian", 3, **member)
    with torch.no_grad():
        exact = log_evidence(net, x).sum()
    found = bounds(net, x.repeat(400, 1, 1), num_particles=32)
    elbo, tight = found.elbo.mean() * 2, found.importance_weighted.mean() * 2
    assert elbo < tight < exact + 0.01
    assert particle_bound(net, x.repeat(400, 1, 1), num_particles=32).mean() * 2 < exact + 0.01


# Padding, carried state, generation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["nan", "huge"])
def test_padding_changes_no_density_and_no_gradient(how, member):
    net, x = random_net("gaussian", **member), random_frames("gaussian")
    found = []
    for frames in (x, spoiled(x, LENGTHS, how)):
        pyro.set_rng_seed(5)
        loss = ZForcingELBO().differentiable_loss(net.model, net.guide, frames, LENGTHS)
        found.append({"loss": loss, **gradients(net, loss)})
    assert_same(*found)


def test_two_chunks_have_the_density_of_the_whole(member):
    net, x = random_net("gaussian", **member), random_frames("gaussian", time=6)
    z = torch.randn(3, 6, 3, dtype=torch.float64)
    carried = last(net.states(x[:, :2], z[:, :2]))
    first = density(net, x[:, :2], z[:, :2])
    second = density(net, x[:, 2:], z[:, 2:], context=x[:, 1], initial_state=carried)
    torch.testing.assert_close(first + second, density(net, x, z), **EXACT)


def test_segments_give_the_loss_and_gradients_of_the_whole(member):
    net, x, found = random_net("gaussian", **member), random_frames("gaussian", time=6), []
    for objective in (ZForcingELBO(0.8), SegmentedELBO(0.8, segment=2)):
        pyro.set_rng_seed(7)
        loss = objective.loss_and_grads(net.model, net.guide, x, torch.tensor([6, 5, 2]))
        found.append({"loss": torch.tensor(loss), **parameter_grads(net)})
    assert_same(*found)


@pytest.mark.slow
def test_generated_frames_have_the_moments_of_the_model(member):
    net = random_net("gaussian", spread=0.3, **member)
    with torch.no_grad():
        ours = net.generate(40_000, 3)
        frames = net.model(num_steps=3, batch_shape=40_000)
    error = 5 * ours.std(0) * math.sqrt(2 / 40_000)
    assert ((ours.mean(0) - frames.mean(0)).abs() < error).all()
    torch.testing.assert_close(ours.var(0), frames.var(0), rtol=0.1, atol=0)


def test_generation_continues_reconstructs_and_interpolates(member):
    net, x = random_net("gaussian", **member), random_frames("gaussian")
    more = net.generate(3, 5, prompt=(x, LENGTHS), prompt_particles=4)
    assert more.shape == (3, 5, 2)
    assert more.isfinite().all()
    free = net.reconstruct(x, LENGTHS, teacher_forcing=False)
    ends = net.interpolate(x, x.flip(0), 3, lengths_a=LENGTHS, lengths_b=LENGTHS.flip(0))
    torch.testing.assert_close(ends.x[0], free, **EXACT)


# Training, files, diagnostics ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", [ZForcingELBO(), ImportanceWeightedELBO(3), FIVO(3)], ids=lambda o: type(o).__name__
)
def test_svi_lowers_the_loss(objective, member):
    net, x = random_net("gaussian", spread=0.1, **member), random_frames("gaussian", 8, 6)
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.02}), copy.deepcopy(objective))
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_a_saved_network_has_the_same_densities(member, tmp_path):
    net, x = random_net("gaussian", **member), random_frames("gaussian")
    net.save(tmp_path)
    again = type(net).load(tmp_path)
    found = []
    for one in (net.eval(), again):
        pyro.set_rng_seed(1)
        found.append(ZForcingELBO().loss(one.model, one.guide, x, LENGTHS))
    assert found[0] == found[1]


def test_an_unpickled_copy_trains_alone(member):
    net, x = random_net("gaussian", **member), random_frames("gaussian")
    twin = copy.deepcopy(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    svi = SVI(twin.model, twin.guide, pyro.optim.Adam({"lr": 0.1}), ZForcingELBO())
    svi.step(x)
    assert_same(net.state_dict(), before, rtol=0.0, atol=0.0)
    assert any(not torch.equal(value, before[name]) for name, value in twin.state_dict().items())


def test_samples_of_predictive_and_arviz_have_their_shapes(member):
    net, x = random_net("gaussian", **member).eval(), random_frames("gaussian")
    samples = Predictive(net.model, guide=net.guide, num_samples=4)(x)
    assert samples["z_3"].reshape(4, 3, 3).isfinite().all()
    data = to_arviz(net, x, LENGTHS, num_samples=5)
    assert data.posterior["z"].shape == (1, 5, 3, 4, 3)


@pytest.mark.slow
def test_diagnostics_agree_with_bounds_on_every_model(member):
    net, x = shrunk(random_net("gaussian", spread=0.1, **member)).eval(), random_frames("gaussian", 64, 4)
    found = bounds(net, x, num_particles=64)
    if "num_flows" in member:
        with pytest.raises(NotImplementedError, match=r"KL of a flow is no sum over latents.*use evaluation\.bounds"):
            latent_use(net, x)
        many = step_kl(net, x.repeat(100, 1, 1)).sum(1)
        assert many.mean().item() == pytest.approx(found.kl.mean().item(), abs=0.3)
    else:
        use = latent_use(net, x)
        assert use.elbo == pytest.approx(found.elbo.mean().item(), abs=0.3)
        assert use.total_kl == pytest.approx(found.kl.mean().item(), abs=0.1)
        assert math.isnan(use.auxiliary_r2) != net.has_auxiliary
    # Each frame predicted from those before it: together they are the evidence, less that of the first frame.
    ahead = leave_future_out(net, x[:8], first=1, num_particles=2000)
    whole = ParticleFilter(net, 2000).run(x[:8])
    torch.testing.assert_close(ahead.densities.sum(1), whole.log_increments[1:].sum(0), rtol=0, atol=0.1)
    information = mutual_information(net, x, num_steps=4)
    assert information.estimate <= information.ceiling
    error = 4 * step_kl(net, x).sum(1).std().item() / 8 if "num_flows" in member else 0.1  # of one sample, of a flow
    assert information.rate == pytest.approx(found.kl.mean().item(), abs=error)
    assert calibrate(net, 40, 3, 15).ranks.max() <= 15


def test_untrained_networks_start_at_the_marginals(member):
    """The start sets biases, so frames of a network whose states are near zero have the data's mean."""
    net = random_net("gaussian", spread=0.0, **member)
    x = 3.0 + 2.0 * random_frames("gaussian", 200, 6)
    assert net.initialise(x) == 1200
    with torch.no_grad():
        net.emission_layer.weight.zero_()
        state = net.initial_state((1,))
        found = net.emission(net.transition(net.past(state, x[:1, 0]), x[:1, 0], torch.zeros(1, 3, dtype=x.dtype)))
    torch.testing.assert_close(found.mean[0], x.flatten(0, 1).mean(0))
    torch.testing.assert_close(found.variance[0], x.flatten(0, 1).var(0, correction=0))


@pytest.mark.parametrize("name", FAMILY)
def test_bad_options_are_refused_by_name(name):
    model, settings = FAMILY[name]
    for argument, value in {"hidden_dim": 0, "latent_dim": 1.5, "dropout": 1.0, "recurrence": "fast"}.items():
        with pytest.raises((TypeError, ValueError), match=f"^{argument} must be"):
            random_net("gaussian", model=model, **{**settings, argument: value})
