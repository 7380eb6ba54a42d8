"""ZForcingELBO scored site by site, as after handlers changed some sites, and the schedules of its weights."""

import math

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.contrib.autoname import scope
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import kl_divergence

from zf_pyro import Constant, Linear, ZForcingELBO

from .comparing import EXACT, assert_same, gradients
from .conftest import random_frames, random_net
from .test_objectives_elbo import LENGTHS, WEIGHTS, loss_of
from .textbook import Textbook


class Handled:
    """Both programs under handlers."""

    def __init__(self, net, on_model, on_guide):
        self.model, self.guide = on_model(net.model), on_guide(net.guide)


def same(program):
    return program


def given(name, value):
    return lambda program: poutine.condition(program, data={name: value})


def hidden(name):
    return lambda program: poutine.block(program, hide=[name])


def masked(mask):
    return lambda program: poutine.mask(program, mask=torch.tensor(mask))


def scaled(scale):
    return lambda program: poutine.scale(program, scale=scale)


Z = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(3, 3)
X = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
HANDLERS = {
    "z_1 given to both": (given("z_1", Z), lambda guide: hidden("z_1")(given("z_1", Z)(guide))),
    "z_1 given to the model, hidden in the guide": (given("z_1", Z), hidden("z_1")),
    "x_2 replaced": (given("x_2", X), same),
    "sequences masked": (masked([True, False, True]), masked([True, False, True])),
    "both scaled": (scaled(2.5), scaled(2.5)),
}


@pytest.mark.parametrize("handlers", HANDLERS)
def test_handled_sites_are_scored_as_in_the_mean_field_elbo(handlers, transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    both = Handled(net, *HANDLERS[handlers])
    losses = [loss_of(kind(), both, x, LENGTHS) for kind in (ZForcingELBO, TraceMeanField_ELBO)]
    torch.testing.assert_close(*losses, **EXACT)
    assert_same(*(gradients(net, loss) for loss in losses))


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_a_latent_left_to_the_prior_is_scored_as_in_the_textbook_program(transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    losses = [loss_of(ZForcingELBO(), Handled(p, same, hidden("z_2")), x, LENGTHS) for p in (net, Textbook(net))]
    torch.testing.assert_close(*losses, **EXACT)
    assert_same(*(gradients(net, loss) for loss in losses))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("weights", [WEIGHTS, WEIGHTS | {"free_nats": 1.5}], ids=["weights", "free nats"])
def test_scoring_site_by_site_equals_scoring_whole_sequences(weights, lengths, transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    whole = loss_of(ZForcingELBO(**weights), net, x, lengths)
    real = masked([True, True, True])
    elbo = ZForcingELBO(**weights)
    apart = loss_of(elbo, Handled(net, real, real), x, lengths)
    torch.testing.assert_close(apart, whole, **EXACT)
    assert_same(gradients(net, apart), gradients(net, whole))


def test_scaling_both_programs_scales_every_term():
    net, x = random_net("gaussian"), random_frames("gaussian")
    whole = loss_of(ZForcingELBO(**WEIGHTS), net, x, LENGTHS)
    twice = loss_of(ZForcingELBO(**WEIGHTS), Handled(net, scaled(2.0), scaled(2.0)), x, LENGTHS)
    torch.testing.assert_close(twice, 2 * whole, **EXACT)


def test_masking_a_sequence_removes_its_terms():
    net, x = random_net("gaussian"), random_frames("gaussian")
    elbo = ZForcingELBO(**WEIGHTS)
    whole = loss_of(elbo, net, x, LENGTHS)
    terms = [-elbo.terms.log_likelihood, WEIGHTS["kl_weight"] * elbo.terms.kl]
    terms += [-WEIGHTS["aux_weight"] * elbo.terms.auxiliary, -WEIGHTS["backward_weight"] * elbo.terms.backward]
    mask = masked([True, False, True])
    left = loss_of(ZForcingELBO(**WEIGHTS), Handled(net, mask, mask), x, LENGTHS)
    torch.testing.assert_close(whole - left, sum(term[1] for term in terms), **EXACT)


def test_a_latent_without_an_analytic_kl_is_scored_by_its_sample():
    net, x = random_net("gaussian"), random_frames("gaussian")
    zero = torch.zeros((), dtype=torch.float64)
    loc = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    drawn = []

    class Global:
        def model(self, x, lengths=None):
            drawn.append(pyro.sample("level", dist.Cauchy(zero, zero + 2.0)))
            net.model(x, lengths)

        def guide(self, x, lengths=None):
            net.guide(x, lengths)  # first, so that z gets the same random numbers as without the level
            pyro.sample("level", dist.Normal(loc, zero + 0.5))

    with pytest.raises(NotImplementedError, match="No KL"):
        kl_divergence(dist.Normal(loc, zero + 0.5), dist.Cauchy(zero, zero + 2.0))
    whole = loss_of(ZForcingELBO(**WEIGHTS), net, x, LENGTHS)
    both = loss_of(ZForcingELBO(**WEIGHTS), Global(), x, LENGTHS)
    away = (drawn[-1] - loc) / 0.5
    normal = -0.5 * away**2 - math.log(0.5 * math.sqrt(2 * math.pi))
    cauchy = -torch.log(2.0 * math.pi * (1.0 + (drawn[-1] / 2.0) ** 2))
    torch.testing.assert_close(both - whole, normal - cauchy, **EXACT)
    (found,) = torch.autograd.grad(both, loc, retain_graph=True)
    # The sample is loc + noise: its density under the guide does not depend on loc, that under the prior does.
    torch.testing.assert_close(found, (2.0 * drawn[-1] / (4.0 + drawn[-1] ** 2)).detach(), **EXACT)


def test_two_runs_in_one_program_are_both_counted():
    first, second = random_net("gaussian", seed=1), random_net("gaussian", seed=2)
    x = random_frames("gaussian")

    class Pair:
        def model(self, x):
            scope(first.model, prefix="a")(x)
            scope(second.model, prefix="b")(x)

        def guide(self, x):
            scope(first.guide, prefix="a")(x)
            scope(second.guide, prefix="b")(x)

    losses = [loss_of(kind(), Pair(), x) for kind in (ZForcingELBO, TraceMeanField_ELBO)]
    torch.testing.assert_close(*losses, **EXACT)
    for net in (first, second):
        assert_same(*(gradients(net, loss) for loss in losses))


def steps_taken(elbo, net, x, count, way):
    module = elbo(net.model, net.guide)
    weights = []
    for _ in range(count):
        weights.append((elbo.kl_weight, elbo.aux_weight, elbo.backward_weight))
        if way == "module":
            module(x).backward()
        else:
            elbo.loss_and_grads(net.model, net.guide, x)
    return weights


@pytest.mark.parametrize("way", ["module", "SVI"])
def test_weights_follow_their_schedules_up_down_and_level(way):
    net, x = random_net("gaussian"), random_frames("gaussian")
    elbo = ZForcingELBO(Linear(0.2, 1.0, 4), Linear(0.5, 0.0, 2), Constant(0.3))
    weights = steps_taken(elbo, net, x, 6, way)
    expected = [(0.2, 0.5, 0.3), (0.4, 0.25, 0.3), (0.6, 0.0, 0.3), (0.8, 0.0, 0.3), (1.0, 0.0, 0.3), (1.0, 0.0, 0.3)]
    assert weights == [pytest.approx(w) for w in expected]


def test_evaluating_the_loss_takes_no_step():
    net, x = random_net("gaussian"), random_frames("gaussian")
    elbo = ZForcingELBO(Linear(0.2, 1.0, 4))
    module = elbo(net.model, net.guide)

    def without_gradients():
        with torch.no_grad():
            return module(x).item()

    for evaluate in (
        lambda: elbo.loss(net.model, net.guide, x),
        without_gradients,
        lambda: module.eval()(x).item(),
        lambda: elbo.loss(net.model, net.guide, x),
    ):
        loss = evaluate()
        assert loss == pytest.approx(-(elbo.terms.log_likelihood - 0.2 * elbo.terms.kl).sum().item())
        assert elbo.step == 0


def test_the_state_of_the_schedules_is_saved_and_restored():
    net, x = random_net("gaussian"), random_frames("gaussian")
    elbo = ZForcingELBO(Linear(0.2, 1.0, 4))
    module = elbo(net.model, net.guide)
    for _ in range(3):
        module(x)
    again = ZForcingELBO(Linear(0.2, 1.0, 4))
    again.load_state_dict(elbo.state_dict())
    assert again.kl_weight == pytest.approx(0.8)
    third = ZForcingELBO(Linear(0.2, 1.0, 4))
    third(net.model, net.guide).load_state_dict(module.state_dict())
    assert third.kl_weight == pytest.approx(0.8)


def test_a_user_schedule_is_any_function_of_the_step():
    net, x = random_net("gaussian"), random_frames("gaussian")
    elbo = ZForcingELBO(kl_weight=lambda step: 0.1 * step)
    elbo.loss_and_grads(net.model, net.guide, x)
    assert elbo.kl_weight == pytest.approx(0.1)
