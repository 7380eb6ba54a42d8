"""ZForcingELBO against its weighted sum by hand, in SVI and as a module."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO

import zf_pyro
from zf_pyro import ZForcingELBO

from .comparing import EXACT, assert_same, gradients, parameter_grads
from .conftest import random_frames, random_net, random_state
from .handlers import particles
from .textbook import Textbook, hand_terms

LENGTHS = torch.tensor([4, 2, 3])
WEIGHTS = {"kl_weight": 0.7, "aux_weight": 0.3, "backward_weight": 0.2}
CHOICES = [
    {},
    {"kl_weight": 0.4},
    {"aux_weight": 0.3},
    {"backward_weight": 0.2},
    WEIGHTS,
    WEIGHTS | {"free_nats": 1.5},
    {"kl_weight": 0.0, "aux_weight": 1.0},
]


def drawn(net, x, lengths=None, **given):
    """Sample latents from the textbook guide, with their gradients; (batch, time, latent)."""
    pyro.set_rng_seed(5)
    trace = poutine.trace(lambda: Textbook(net).guide(x, lengths, **given)).get_trace()
    return torch.stack([trace.nodes[f"z_{t}"]["value"] for t in range(x.shape[1])], dim=-2)


def hand_loss(terms, kl_weight=1.0, aux_weight=0.0, backward_weight=0.0, free_nats=0.0, lengths=None):
    kl = terms["kl"].clamp(min=free_nats)
    if lengths is not None:
        kl = torch.where(torch.arange(len(kl)).unsqueeze(1) < lengths, kl, 0.0)
    objective = terms["log_likelihood"] - kl_weight * kl
    return -(objective + aux_weight * terms["auxiliary"] + backward_weight * terms["backward"]).sum()


def loss_of(elbo, programs, *args, **kwargs):
    pyro.set_rng_seed(5)
    return elbo.differentiable_loss(programs.model, programs.guide, *args, **kwargs)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("settings", [{}, {"z_force": True}, {"auxiliary_l2": True}], ids=str)
def test_the_loss_is_the_weighted_sum_of_its_parts(settings, choice, transition):
    net, x = random_net("gaussian", transition=transition, **settings), random_frames("gaussian")
    terms = hand_terms(net, x, LENGTHS, drawn(net, x, LENGTHS))
    expected = hand_loss(terms, **choice, lengths=LENGTHS)
    elbo = ZForcingELBO(**choice)
    loss = loss_of(elbo, net, x, LENGTHS)
    torch.testing.assert_close(loss, expected, **EXACT)
    assert_same(gradients(net, loss), gradients(net, expected))
    for name in ("log_likelihood", "kl"):
        torch.testing.assert_close(getattr(elbo.terms, name), terms[name].sum(0), **EXACT)
    for name, weight in (("auxiliary", "aux_weight"), ("backward", "backward_weight")):
        found = getattr(elbo.terms, name)
        assert found.shape == (3,)
        if choice.get(weight):
            torch.testing.assert_close(found, terms[name].sum(0), **EXACT)
        else:
            assert found.isnan().all()
    torch.testing.assert_close(elbo.terms.elbo, (terms["log_likelihood"] - terms["kl"]).sum(0), **EXACT)
    assert not any(term.requires_grad for term in elbo.terms)


@pytest.mark.parametrize("emission", ["mixture", "bernoulli", "categorical"])
def test_every_emission_has_the_weighted_sum(emission):
    net, x = random_net(emission), random_frames(emission)
    state, context = random_state(net), random_frames(emission, 3, 1, seed=8)[:, 0]
    given = {"initial_state": state, "context": context}
    expected = hand_loss(hand_terms(net, x, LENGTHS, drawn(net, x, LENGTHS, **given), **given), **WEIGHTS)

    class Bound:
        def model(self, *args):
            return net.model(*args, **given)

        def guide(self, *args):
            return net.guide(*args, **given)

    loss = loss_of(ZForcingELBO(**WEIGHTS), Bound(), x, LENGTHS)
    torch.testing.assert_close(loss, expected, **EXACT)
    assert_same(gradients(net, loss), gradients(net, expected))


@pytest.mark.parametrize("emission", ["gaussian", "mixture", "bernoulli", "categorical"])
def test_one_frame_alone_has_no_backward_term(emission):
    net, x = random_net(emission), random_frames(emission, time=1)
    elbo = ZForcingELBO(backward_weight=0.2)
    torch.testing.assert_close(loss_of(elbo, net, x), loss_of(ZForcingELBO(), net, x), **EXACT)
    assert not elbo.terms.backward.any()


def test_the_auxiliary_sends_no_gradient_to_its_target():
    """If z does not depend on b, the backward RNN gets no gradient from the auxiliary."""
    net, x = random_net("gaussian"), random_frames("gaussian")
    with torch.no_grad():
        net.posterior_network.first.weight[:, net.hidden_dim :] = 0.0
    loss = loss_of(ZForcingELBO(kl_weight=0.0, aux_weight=5.0), net, x) - loss_of(ZForcingELBO(kl_weight=0.0), net, x)
    grads = gradients(net, loss)
    assert grads["auxiliary_network.second.weight"].abs().max() > 0
    assert all(not grad.any() for name, grad in grads.items() if name.startswith("backward_rnn"))


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO, ZForcingELBO])
def test_objectives_without_the_auxiliary_do_not_compute_it(kind, monkeypatch):
    net, x = random_net("gaussian"), random_frames("gaussian")
    monkeypatch.setattr(net, "auxiliary", lambda *_: pytest.fail("the auxiliary was computed"))
    monkeypatch.setattr(net, "backward_emission", lambda *_: pytest.fail("the backward likelihood was computed"))
    kind().loss_and_grads(net.model, net.guide, x, LENGTHS)
    idle = {name for name, p in net.named_parameters() if p.grad is None}
    assert idle == {name for name, _ in net.named_parameters() if name.startswith(("auxiliary", "backward_emission"))}


@pytest.mark.parametrize("settings", [{}, {"num_particles": 2}], ids=str)
def test_defaults_are_the_mean_field_elbo(settings, transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    losses = [loss_of(kind(**settings), net, x, LENGTHS) for kind in (ZForcingELBO, TraceMeanField_ELBO)]
    torch.testing.assert_close(*losses, **EXACT)
    assert_same(*(gradients(net, loss) for loss in losses))


@pytest.mark.parametrize("vectorize", [False, True])
def test_svi_and_the_module_have_equal_loss_and_gradients(vectorize, transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    settings = {"num_particles": 3, "vectorize_particles": vectorize, "max_plate_nesting": 1, **WEIGHTS}
    module = ZForcingELBO(**settings)(net.model, net.guide)
    pyro.set_rng_seed(5)
    loss = module(x, LENGTHS)
    loss.backward()
    grads = parameter_grads(net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    svi = SVI(net.model, net.guide, pyro.optim.SGD({"lr": 0.1}), loss=ZForcingELBO(**settings))
    pyro.set_rng_seed(5)
    assert svi.step(x, LENGTHS) == pytest.approx(loss.item(), rel=1e-12)
    after = {name: p.detach() for name, p in net.named_parameters()}
    assert_same(after, {name: before[name] - 0.1 * grad for name, grad in grads.items()})
    pyro.set_rng_seed(6)
    assert svi.evaluate_loss(x, LENGTHS) == pytest.approx(svi_loss(svi, x), rel=1e-12)


def svi_loss(svi, x):
    pyro.set_rng_seed(6)
    return svi.loss_and_grads(svi.model, svi.guide, x, LENGTHS)


def test_the_module_holds_each_parameter_once():
    net = random_net("gaussian")
    module = ZForcingELBO()(net.model, net.guide)
    held = [id(p) for p in module.parameters()]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    assert len(list(module.state_dict())) == len(net.state_dict()) + 1


def test_vectorised_particles_are_the_mean_over_their_samples(transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    pyro.set_rng_seed(5)
    z = particles(net.guide)(x, LENGTHS)
    assert z.shape == (5, 3, 4, 3)
    each = [hand_terms(net, x, LENGTHS, one) for one in z]
    elbo = ZForcingELBO(**WEIGHTS, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    loss = loss_of(elbo, net, x, LENGTHS)
    expected = torch.stack([hand_loss(terms, **WEIGHTS) for terms in each]).mean()
    torch.testing.assert_close(loss, expected, **EXACT)
    assert_same(gradients(net, loss), gradients(net, expected))
    for name in zf_pyro.Terms._fields:
        mean = torch.stack([terms[name].sum(0) for terms in each]).mean(0)
        torch.testing.assert_close(getattr(elbo.terms, name), mean, **EXACT)


def test_looped_particles_are_the_mean_over_their_runs():
    net, x = random_net("gaussian"), random_frames("gaussian")
    loss = loss_of(ZForcingELBO(**WEIGHTS, num_particles=3), net, x, LENGTHS)
    pyro.set_rng_seed(5)
    one = ZForcingELBO(**WEIGHTS)
    runs = [one.differentiable_loss(net.model, net.guide, x, LENGTHS) for _ in range(3)]
    torch.testing.assert_close(loss, sum(runs) / 3, **EXACT)


@pytest.mark.slow
def test_looped_and_vectorised_particles_agree_in_expectation():
    net, x = random_net("gaussian", spread=0.2), random_frames("gaussian")
    looped = torch.tensor([ZForcingELBO(**WEIGHTS).loss(net.model, net.guide, x) for _ in range(200)])
    many = ZForcingELBO(**WEIGHTS, num_particles=4000, vectorize_particles=True).loss(net.model, net.guide, x)
    assert abs(looped.mean() - many) < 5 * looped.std() / 200**0.5


class WithGlobal:
    """Programs whose initial state is a user's latent, one for all sequences."""

    def __init__(self, net):
        self.net = net
        self.loc = torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=torch.float64, requires_grad=True)

    def _state(self, start):
        """Return h_0 for a start (..., 1, 4) or (4,)."""
        hidden = start.expand(*start.shape[:-2], 3, 4)
        return zf_pyro.State(hidden, torch.zeros_like(hidden))

    def model(self, x, lengths):
        prior = dist.Normal(torch.zeros(4, dtype=torch.float64), 1.0).to_event(1)
        return self.net.model(x, lengths, initial_state=self._state(pyro.sample("start", prior)))

    def guide(self, x, lengths):
        posterior = dist.Normal(pyro.param("loc", self.loc), 0.5).to_event(1)
        return self.net.guide(x, lengths, initial_state=self._state(pyro.sample("start", posterior)))


@pytest.mark.parametrize("settings", [{}, {"num_particles": 3, "vectorize_particles": True}], ids=str)
def test_latents_added_by_the_user_are_scored(settings, transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    both = WithGlobal(net)
    elbos = [kind(**settings, max_plate_nesting=1) for kind in (ZForcingELBO, TraceMeanField_ELBO)]
    losses = [loss_of(elbo, both, x, LENGTHS) for elbo in elbos]
    torch.testing.assert_close(*losses, **EXACT)
    assert_same(*(gradients(net, loss) for loss in losses))
    own = [torch.autograd.grad(loss, both.loc, retain_graph=True)[0] for loss in losses]
    torch.testing.assert_close(*own, **EXACT)
    elbo = ZForcingELBO(kl_weight=0.5)
    if not settings:
        half = loss_of(elbo, both, x, LENGTHS)
        torch.testing.assert_close(losses[0] - half, 0.5 * elbo.terms.kl.sum(), **EXACT)
        assert elbo.other != 0.0
