"""Pyro's own inference on model and guide, against the textbook programs."""

import math

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch.distributions import kl_divergence

from zf_pyro import ZForcingELBO

from .comparing import EXACT, assert_same, gradients, parameter_grads
from .conftest import random_frames, random_net, random_state
from .textbook import Textbook

LENGTHS = torch.tensor([4, 2, 3])
SETTINGS = {
    "one particle": {},
    "three particles": {"num_particles": 3},
    "three particles at once": {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1},
}


def loss_and_gradients(net, programs, elbo, *args, **kwargs):
    pyro.set_rng_seed(5)
    loss = elbo.loss_and_grads(programs.model, programs.guide, *args, **kwargs)
    return {"loss": torch.as_tensor(loss, dtype=torch.float64), **parameter_grads(net)}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO, RenyiELBO])
def test_objectives_and_their_gradients_are_those_of_the_textbook(kind, settings, transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    settings = dict(SETTINGS[settings])
    if kind is RenyiELBO:
        settings = {"num_particles": 2, **settings, "alpha": 0.5}
    arguments = {"initial_state": random_state(net)}
    ours = loss_and_gradients(net, net, kind(**settings), x, LENGTHS, **arguments)
    theirs = loss_and_gradients(net, Textbook(net), kind(**settings), x, LENGTHS, **arguments)
    assert_same(ours, theirs)


@pytest.mark.parametrize("emission", ["categorical", "bernoulli", "mixture"])
def test_every_emission_trains_on_stock_objectives(emission):
    net, x = random_net(emission), random_frames(emission)
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        assert_same(
            loss_and_gradients(net, net, elbo, x, LENGTHS), loss_and_gradients(net, Textbook(net), elbo, x, LENGTHS)
        )


@pytest.mark.parametrize("given", ["z_1", "x_1"])
def test_objectives_of_conditioned_programs_are_those_of_the_textbook(given, transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    value = torch.full((3, 3 if given == "z_1" else 2), 0.3, dtype=torch.float64)

    class Conditioned:
        def __init__(self, programs):
            self.model = poutine.condition(programs.model, data={given: value})
            self.guide = poutine.block(programs.guide, hide=[given])

    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        ours = loss_and_gradients(net, Conditioned(net), elbo, x, LENGTHS)
        assert_same(ours, loss_and_gradients(net, Conditioned(Textbook(net)), elbo, x, LENGTHS))


@pytest.mark.parametrize("settings", SETTINGS)
def test_training_under_a_seed_is_that_of_the_textbook(settings, transition):
    def trained(textbook):
        pyro.clear_param_store()
        pyro.set_rng_seed(7)
        net = random_net("gaussian", transition=transition, name=f"net_{textbook}")
        programs = Textbook(net) if textbook else net
        loss = TraceMeanField_ELBO(**SETTINGS[settings])
        svi = SVI(programs.model, programs.guide, pyro.optim.Adam({"lr": 0.01}), loss=loss)
        x = random_frames("gaussian")
        losses = [torch.tensor(svi.step(x, LENGTHS), dtype=torch.float64) for _ in range(5)]
        return {"losses": torch.stack(losses), **{name: p.detach() for name, p in net.named_parameters()}}

    assert_same(trained(False), trained(True), rtol=1e-8, atol=1e-8)


def test_training_twice_under_a_seed_gives_the_same_losses(transition):
    def trained():
        pyro.clear_param_store()
        pyro.set_rng_seed(7)
        net = random_net("gaussian", transition=transition, name="twice")
        svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.01}), loss=Trace_ELBO())
        return [svi.step(random_frames("gaussian"), LENGTHS) for _ in range(5)]

    assert trained() == trained()


@pytest.mark.parametrize("steps", [0, 3])
def test_an_autonormal_guide_trains_the_model_as_the_textbook(steps, transition):
    x = random_frames("gaussian")

    def trained(textbook):
        pyro.clear_param_store()
        pyro.set_rng_seed(7)
        net = random_net("gaussian", transition=transition, name=f"net_{textbook}")
        model = Textbook(net).model if textbook else net.model
        guide = AutoNormal(model)
        pyro.set_rng_seed(8)
        guide(x, LENGTHS)
        guide = guide.double()
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss=Trace_ELBO())
        losses = [torch.tensor(svi.step(x, LENGTHS), dtype=torch.float64) for _ in range(steps)]
        pyro.set_rng_seed(9)
        losses.append(torch.tensor(svi.evaluate_loss(x, LENGTHS), dtype=torch.float64))
        own = {name: p.detach() for name, p in (*net.named_parameters(), *guide.named_parameters())}
        return {"losses": torch.stack(losses), **own}

    assert_same(trained(False), trained(True), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_prior_predictive_samples_are_those_of_the_textbook(emission, parallel, transition):
    net = random_net(emission, transition=transition)

    def drawn(model):
        pyro.set_rng_seed(3)
        predictive = Predictive(model, num_samples=4, parallel=parallel)
        with torch.no_grad():
            return predictive(None, num_steps=3, batch_shape=(2,))

    ours, theirs = drawn(net.model), drawn(Textbook(net).model)
    assert set(ours) >= {f"{kind}_{t}" for kind in "zx" for t in range(3)}
    assert_same(ours, theirs)


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_from_posterior_samples_is_that_of_the_textbook(parallel, transition):
    net = random_net("gaussian", transition=transition)
    samples = {f"z_{t}": torch.randn(5, 3, 3, dtype=torch.float64) for t in range(4)}

    def drawn(model):
        pyro.set_rng_seed(3)
        predictive = Predictive(model, posterior_samples=dict(samples), parallel=parallel, return_sites=("x_0", "x_3"))
        with torch.no_grad():
            return predictive(None, LENGTHS, num_steps=4, batch_shape=(3,))

    assert_same(drawn(net.model), drawn(Textbook(net).model))


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_with_the_guide_has_the_latents_of_the_textbook(parallel, transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")

    def drawn(programs):
        pyro.set_rng_seed(3)
        predictive = Predictive(programs.model, guide=programs.guide, num_samples=4, parallel=parallel)
        with torch.no_grad():
            samples = predictive(x, LENGTHS)
        return {name: value for name, value in samples.items() if name[0] == "z"}

    ours, theirs = drawn(net), drawn(Textbook(net))
    for t in range(4):
        real = t < LENGTHS
        torch.testing.assert_close(ours[f"z_{t}"][..., real, :], theirs[f"z_{t}"][..., real, :], **EXACT)


def test_weighed_predictive_weights_are_those_of_the_textbook():
    net, x = random_net("gaussian"), random_frames("gaussian")

    def weights(programs):
        pyro.set_rng_seed(3)
        predictive = pyro.infer.WeighedPredictive(programs.model, guide=programs.guide, num_samples=4, parallel=True)
        with torch.no_grad():
            return {"log_weights": predictive(x, LENGTHS).log_weights}

    assert_same(weights(net), weights(Textbook(net)))


def traces(net, x):
    guide = poutine.trace(net.guide).get_trace(x)
    return poutine.trace(poutine.replay(net.model, trace=guide)).get_trace(x), guide


@pytest.mark.parametrize("t", [0, 2])
def test_a_step_is_a_distribution_like_any_other(t, transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    pyro.set_rng_seed(1)
    ours = traces(net, x)
    pyro.set_rng_seed(1)
    theirs = traces(Textbook(net), x)
    for mine, other, name in zip(ours, theirs, (f"z_{t}", f"z_{t}"), strict=True):
        mine, other = mine.nodes[name]["fn"], other.nodes[name]["fn"]
        assert mine.has_rsample
        assert (mine.batch_shape, mine.event_shape) == (other.batch_shape, other.event_shape)
        for what in ("mean", "variance", "mode"):
            torch.testing.assert_close(getattr(mine, what), getattr(other, what), **EXACT)
        torch.testing.assert_close(mine.entropy(), other.entropy(), **EXACT)
        value = torch.randn(5, 3, 3, dtype=torch.float64)
        torch.testing.assert_close(mine.log_prob(value), other.log_prob(value), **EXACT)
        wide = mine.expand((7, 3))
        assert wide.batch_shape == (7, 3)
        assert wide.log_prob(value[0]).shape == (7, 3)
        torch.testing.assert_close(wide.log_prob(value[0])[4], other.log_prob(value[0]), **EXACT)
        for draw, source in ((mine.sample, other.sample), (mine.rsample, other.rsample)):
            pyro.set_rng_seed(2)
            drawn = draw((6, 2))
            pyro.set_rng_seed(2)
            torch.testing.assert_close(drawn, source((6, 2)), **EXACT)
        assert not mine.sample((6,)).requires_grad
        assert mine.rsample((6,)).requires_grad
    frame, other = ours[0].nodes[f"x_{t}"]["fn"], theirs[0].nodes[f"x_{t}"]["fn"]
    assert frame.has_rsample
    assert frame.event_shape == other.event_shape
    torch.testing.assert_close(frame.mean, other.mean, **EXACT)


def test_samples_of_an_expanded_step_are_independent():
    net, x = random_net("gaussian"), random_frames("gaussian")
    model, _guide = traces(net, x)
    drawn = model.nodes["z_1"]["fn"].expand((1000, 3)).sample()
    assert drawn.shape == (1000, 3, 3)
    assert len(drawn.flatten(0, 1).unique(dim=0)) == 3000


@pytest.mark.parametrize("emission", ["gaussian", "mixture", "bernoulli", "categorical"])
def test_frames_are_reparameterised_only_where_the_emission_is(emission):
    net = random_net(emission)
    step = poutine.trace(net.model).get_trace(random_frames(emission)).nodes["x_1"]["fn"]
    assert step.has_rsample == (emission == "gaussian")
    assert step.sample((2,)).shape == (2, 3, *net.emission_family.event_shape)
    if emission == "categorical":
        assert step.has_enumerate_support
        assert step.enumerate_support().shape == (4, 3)


def test_kl_of_two_steps_is_that_of_torch_distributions(transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    pyro.set_rng_seed(1)
    model, guide = traces(net, x)
    pyro.set_rng_seed(1)
    model_textbook, guide_textbook = traces(Textbook(net), x)
    for t, s in ((0, 0), (3, 3), (1, 2)):
        p, q = (model.nodes[f"z_{t}"]["fn"], guide.nodes[f"z_{s}"]["fn"])
        p_textbook, q_textbook = (model_textbook.nodes[f"z_{t}"]["fn"], guide_textbook.nodes[f"z_{s}"]["fn"])
        expected = kl_divergence(q_textbook, p_textbook)
        for kl in (kl_divergence(q, p), kl_divergence(q, p_textbook), kl_divergence(q_textbook, p)):
            torch.testing.assert_close(kl, expected, **EXACT)
        backward = kl_divergence(q, p).sum()
        assert_same(gradients(net, backward), gradients(net, expected.sum()))
        torch.testing.assert_close(kl_divergence(p, q), kl_divergence(p_textbook, q_textbook), **EXACT)


def test_a_kl_between_two_runs_is_not_that_of_one_of_them():
    net, x = random_net("gaussian"), random_frames("gaussian")
    model, guide = traces(net, x)
    first = kl_divergence(guide.nodes["z_2"]["fn"], model.nodes["z_2"]["fn"])
    other, _guide = traces(net, x)
    again = kl_divergence(guide.nodes["z_2"]["fn"], other.nodes["z_2"]["fn"])
    q, p = guide.nodes["z_2"]["fn"].distribution, other.nodes["z_2"]["fn"].distribution
    torch.testing.assert_close(again, kl_divergence(q, p), **EXACT)
    assert not torch.allclose(first, again)


def test_a_context_frame_passes_through_pyros_handlers_by_position_and_through_ours_by_name():
    x = random_frames("gaussian")
    context = x[:, 0] + 1.0
    losses = []
    for loss in (
        TraceMeanField_ELBO(),
        ZForcingELBO(),
        ZForcingELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    ):
        net = random_net("gaussian")
        svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.01}), loss=loss)
        pyro.set_rng_seed(0)
        by_name = isinstance(loss, ZForcingELBO)
        losses.append(svi.step(x, LENGTHS, context=context) if by_name else svi.step(x, LENGTHS, context))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[2] == pytest.approx(losses[1], rel=0.2)


def test_dropout_acts_in_training_mode_alone():
    net, x = random_net("gaussian", dropout=0.5), random_frames("gaussian")
    loss = TraceMeanField_ELBO().loss_and_grads(net.model, net.guide, x, LENGTHS)
    assert math.isfinite(loss)
    assert not torch.equal(net.backward_states(x), net.backward_states(x))
    net.eval()
    net.zero_grad()
    assert_same(loss_and_gradients(net, net, Trace_ELBO(), x), loss_and_gradients(net, Textbook(net), Trace_ELBO(), x))


def test_extra_sites_beside_the_program_keep_their_densities():
    net, x = random_net("gaussian"), random_frames("gaussian")

    def wrapped(program):
        def run(x):
            pyro.sample("offset", dist.Normal(torch.tensor(0.0, dtype=x.dtype), 1.0))
            return program(x)

        return run

    class Wrapped:
        def __init__(self, programs):
            self.model, self.guide = wrapped(programs.model), wrapped(programs.guide)

    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        assert_same(
            loss_and_gradients(net, Wrapped(net), elbo, x), loss_and_gradients(net, Wrapped(Textbook(net)), elbo, x)
        )
