"""FIVO: its value and its two gradients against exact expectations, in SVI and as a module."""

import functools
import math

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI

import zf_pyro.inference
from zf_pyro import FIVO, ImportanceWeightedELBO, Linear
from zf_pyro.objectives import FIVO as SAME

from .comparing import assert_same, gradients, parameter_grads
from .conftest import random_frames, random_net, random_state
from .exact import assert_gradient, fivo_bound, flat, importance_weighted_bound, log_evidence, small

LENGTHS = torch.tensor([4, 2, 3])


def loss_of(elbo, net, *args, **kwargs):
    pyro.set_rng_seed(5)
    return elbo.differentiable_loss(net.model, net.guide, *args, **kwargs)


def copies(x, count):
    return x.repeat(count, *[1] * (x.dim() - 1))


def sampled_gradients(net, elbo, x, runs=40, count=1500):
    """Estimate gradients of the objective for x, each over ``count`` copies of it; (runs, parameters)."""
    many, found = copies(x, count), []
    for _ in range(runs):
        elbo.differentiable_loss(net.model, net.guide, many).backward()
        found.append(-flat(parameter_grads(net)) / count)
    return torch.stack(found)


def test_fivo_is_exported_by_objectives_and_by_inference():
    assert zf_pyro.inference.FIVO is SAME is FIVO


@pytest.mark.parametrize("resampling", ["multinomial", "systematic", "stratified"])
@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_the_objective_of_two_particles_is_its_exact_expectation(emission, resampling):
    net, x = small(emission, "concatenate", 2)
    elbo = FIVO(2, threshold=1.0, resampling=resampling)
    with torch.no_grad():
        exact = fivo_bound(net, x, scheme=resampling)
        elbo.loss(net.model, net.guide, copies(x, 20_000))
    bound = elbo.bound.reshape(-1, 2)
    assert ((bound.mean(0) - exact).abs() < 3 * bound.std(0) / math.sqrt(len(bound)) + 1e-4).all()


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_the_objective_lies_below_the_evidence(emission, proposal, transition):
    net, x = small(emission, transition, 3)
    elbo = FIVO(4, proposal=proposal)
    with torch.no_grad():
        exact = log_evidence(net, x)
        elbo.loss(net.model, net.guide, copies(x, 3000))
    bound = elbo.bound.reshape(-1, 2)
    assert (bound.mean(0) < exact + 3 * bound.std(0) / math.sqrt(3000)).all()
    if proposal == "posterior":
        assert (bound.mean(0) < exact - 3 * bound.std(0) / math.sqrt(3000)).all()


@pytest.mark.slow
@pytest.mark.parametrize("resampling_gradient", [False, True])
def test_gradients_are_those_of_the_exact_expectation(resampling_gradient):
    """Without the resampling gradient, the expectation is differentiated with resampling probabilities held fixed."""
    net = random_net("categorical", transition="concatenate", latent_dim=1, spread=0.6, seed=4)
    x = random_frames("categorical", 2, 2, seed=5)
    exact = {
        choice: flat(gradients(net, fivo_bound(net, x, 20, resampling_gradient=choice).sum()))
        for choice in (False, True)
    }
    elbo = FIVO(2, threshold=1.0, resampling="multinomial", resampling_gradient=resampling_gradient)
    found = sampled_gradients(net, elbo, x)
    assert_gradient(found, exact[resampling_gradient], apart_from=exact[not resampling_gradient])


def test_without_resampling_the_gradient_is_that_of_importance_weighting():
    net, x = small("gaussian", "concatenate", 2)
    exact = flat(gradients(net, importance_weighted_bound(net, x, beta=0.6).sum()))
    assert_gradient(sampled_gradients(net, FIVO(2, threshold=0.0, kl_weight=0.6), x, 30), exact)


@pytest.mark.parametrize("emission", ["gaussian", "mixture"])
def test_one_particle_has_the_loss_and_the_gradient_of_importance_weighting(emission, transition):
    net, x = random_net(emission, transition=transition), random_frames(emission)
    ours = loss_of(FIVO(1), net, copies(x, 2000), LENGTHS.repeat(2000))
    theirs = loss_of(ImportanceWeightedELBO(1, max_plate_nesting=1), net, copies(x, 2000), LENGTHS.repeat(2000))
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.0)
    mine, other = (flat(gradients(net, loss)) for loss in (ours, theirs))
    assert (mine - other).norm() < 0.1 * other.norm()
    # a posterior almost without noise, so that both objectives see nearly the same latents
    with torch.no_grad():
        net.posterior_network.second.bias[net.latent_dim :] = -8.0
        net.posterior_network.second.weight[net.latent_dim :] = 0.0
        net.prior_network.second.bias[net.latent_dim :] = 2.0
    pairs = [loss_of(elbo, net, x, LENGTHS) for elbo in (FIVO(1), ImportanceWeightedELBO(1, max_plate_nesting=1))]
    torch.testing.assert_close(*pairs, rtol=0.05, atol=0.0)


def test_svi_and_the_module_have_equal_loss_and_gradients(transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    given = LENGTHS, random_frames("gaussian", 3, 1, seed=8)[:, 0], random_state(net)
    settings = {"threshold": 0.9, "kl_weight": Linear(0.5, 1.0, 10), "resampling_gradient": True}
    module = FIVO(4, **settings)(net.model, net.guide)
    assert sorted(map(id, module.parameters())) == sorted(map(id, net.parameters()))
    pyro.set_rng_seed(5)
    loss = module(x, *given)
    loss.backward()
    grads = parameter_grads(net)
    assert all(grads[name].any() for name in grads if not name.startswith(("auxiliary", "backward_emission")))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    elbo = FIVO(4, **settings)
    svi = SVI(net.model, net.guide, pyro.optim.SGD({"lr": 0.1}), loss=elbo)
    pyro.set_rng_seed(5)
    assert svi.step(x, *given) == pytest.approx(loss.item(), rel=1e-12)
    after = {name: p.detach() for name, p in net.named_parameters()}
    assert_same(after, {name: before[name] - 0.1 * grad for name, grad in grads.items()})
    assert elbo.step == module.elbo.step == 1
    assert elbo.bound.shape == (3,)
    assert svi.evaluate_loss(x, *given) == pytest.approx(-elbo.bound.sum().item())


@pytest.mark.slow
def test_training_with_fivo_raises_the_bound():
    net, x = random_net("gaussian", dtype=torch.float32), random_frames("gaussian", 8, 6, dtype=torch.float32)
    elbo = FIVO(8)
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.01}), loss=elbo)
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.parametrize("resampling_gradient", [False, True])
def test_padding_never_changes_loss_or_gradient(resampling_gradient, transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    longer = torch.cat([x, x[:, :2]], dim=1)
    padding = (torch.arange(6) >= LENGTHS.unsqueeze(1)).unsqueeze(-1)
    found = []
    for frames in (x, torch.where(padding, float("nan"), longer)):
        elbo = FIVO(4, threshold=1.0, resampling_gradient=resampling_gradient)
        loss = loss_of(elbo, net, frames, LENGTHS)
        found.append({"bound": elbo.bound, **gradients(net, loss)})
    assert_same(*found)


def test_particles_are_weighed_step_by_step(monkeypatch):
    net, x = random_net("gaussian"), random_frames("gaussian")
    calls, plain = [], net.emission
    monkeypatch.setattr(net, "emission", lambda state: calls.append(state.hidden.shape) or plain(state))
    FIVO(5).loss_and_grads(net.model, net.guide, x)
    assert calls == [(3, 5, 4)] * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_particles": 0}, "num_particles must be a positive integer, got 0"),
        ({"threshold": 2.0}, "threshold must be a share of the particles"),
        ({"resampling": "best"}, "resampling must be one of"),
        ({"proposal": "best"}, "proposal must be one of"),
        ({"resampling": "systematic", "resampling_gradient": True}, "resampling must be 'multinomial' with"),
        ({"kl_weight": -1.0}, "kl_weight must be a finite number"),
        ({"free_nats": 1.0}, "free_nats must be 0 for FIVO"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FIVO(**settings)


def test_programs_that_a_filter_cannot_run_are_refused():
    net, other, x = random_net("gaussian"), random_net("gaussian"), random_frames("gaussian")
    elbo = FIVO(2)
    handled = poutine.condition(net.model, data={"x_1": x[:, 0]})
    for programs in ((handled, net.guide), (net.model, other.guide), (net.guide, net.guide), (print, print)):
        with pytest.raises(TypeError, match=r"model and guide must be net.model and net.guide of one"):
            elbo.loss(*programs, x)
    with pytest.raises(TypeError, match="got functools"):
        elbo.loss(functools.partial(net.model, context=None), net.guide, x)
    with pytest.raises(MemoryError, match="num_particles must be at most"):
        FIVO(10**12).loss(net.model, net.guide, x)
