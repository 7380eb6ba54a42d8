"""The guide of a network trained alone: it moves towards the exact posterior, and the model stays."""

import math

import pyro
import pytest
import torch

import zf_pyro
from zf_pyro import FIVO, emissions
from zf_pyro.inference import ParticleFilter, fit_guide, log_weights, refine
from zf_pyro.inference.guide_parameters import guide_parameters
from zf_pyro.objectives import WakePhi

from .comparing import gradients
from .conftest import FAMILY, FIRST, random_frames, random_net
from .exact import assert_gradient, flat, guide_grid, log_evidence, posterior_moments, rule, small

OWN = {
    "ZForcing": {"backward_rnn", "posterior_network"},
    "STORN": {"recognition_rnn", "posterior_network"},
    "VRNN": {"posterior_network"},
    "SRNN": {"backward_rnn", "posterior_network"},
    "DMM": {"embedding", "backward_rnn", "posterior_network"},
}
"""Parts that only the guide reads."""
OBJECTIVES = ["importance_weighted", "elbo", "wake_phi"]
"""Objectives whose best guide is the posterior. That of FIVO is a filter's proposal, which need not look ahead."""
LENGTHS = torch.tensor([4, 2, 3])


def divergence(net, x, exact):
    """KL of the guide from the exact posterior, in nats; (batch,)."""
    with torch.no_grad():
        return exact - log_weights(net.model, net.guide, x, num_particles=2000).mean(0)


@pytest.mark.parametrize(
    "objective", [name if name == "elbo" else pytest.param(name, marks=pytest.mark.slow) for name in OBJECTIVES]
)
def test_a_wrong_guide_moves_to_the_posterior_of_quadrature(objective):
    net, x = small("gaussian", "concatenate", 2)
    exact, (mean, variance) = log_evidence(net, x).detach(), (v.detach() for v in posterior_moments(net, x))
    with torch.no_grad():
        net.posterior_network.second.bias[0] += 1.0
    before = divergence(net, x, exact)
    pyro.set_rng_seed(1)
    found = fit_guide(net, x, objective=objective, steps=60, num_particles=8, learning_rate=0.03)
    after = divergence(net, x, exact)
    assert torch.equal(log_evidence(net, x).detach(), exact)  # the model is the same
    assert (before > 0.2).all()
    assert after.sum() < 0.35 * before.sum()
    assert found.after == pytest.approx(float(exact.mean()), abs=0.1)
    assert found.steps == 60
    assert found.num_sequences == 2
    with pyro.plate("particles", 2000, dim=-2), torch.no_grad():
        z = net.guide(x)[..., 0]
    assert ((z.mean(0) - mean).square() / variance).mean() < 0.1


@pytest.mark.slow
def test_a_guide_fitted_by_fivo_makes_a_better_filter():
    net, x = small("gaussian", "concatenate", 2)
    exact = log_evidence(net, x).detach()
    with torch.no_grad():
        net.posterior_network.second.bias[0] += 1.0

    def filtered():
        pyro.set_rng_seed(4)
        many = x.repeat_interleave(2000, 0)
        return ParticleFilter(net, 2).run(many).log_evidence.view(len(x), -1).mean(1).detach()

    before, kl = filtered(), divergence(net, x, exact)
    pyro.set_rng_seed(1)
    fit_guide(net, x, objective="fivo", steps=60, num_particles=2, learning_rate=0.03)
    after = filtered()
    assert (before < after).all()
    assert ((exact - after) < 0.5 * (exact - before)).all()
    assert (divergence(net, x, exact) < kl).all()


@pytest.mark.parametrize("name", FIRST)
def test_parameters_of_the_guide_alone_are_trained(name):
    model, settings = FAMILY[name]
    net, x = random_net(model=model, **settings), random_frames()
    before = {key: value.detach().clone() for key, value in net.named_parameters()}
    found = fit_guide(net, (x, LENGTHS), steps=2, num_particles=2)
    changed = {key for key, value in net.named_parameters() if not torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in found.parameters} == OWN[name]
    assert changed == set(found.parameters)
    assert all(key in found.parameters for key in before if key.split(".")[0] in OWN[name])


def test_weights_that_the_user_fixed_stay_fixed():
    net, x = random_net(), random_frames()
    net.backward_rnn.requires_grad_(False)
    found = fit_guide(net, x, steps=1)
    assert {name.split(".")[0] for name in found.parameters} == {"posterior_network"}


class Broken(zf_pyro.ZForcing):
    """A model whose emission fails after some calls."""

    calls = 0

    def emission(self, state):
        type(self).calls += 1
        if type(self).calls > 5:
            raise RuntimeError("out of order")
        return super().emission(state)


@pytest.mark.parametrize("model", [zf_pyro.ZForcing, Broken])
def test_flags_gradients_and_modes_are_restored(model):
    Broken.calls = 0
    net, x = random_net(model=model, dropout=0.3), random_frames()
    net.prior_network.eval()
    net.emission_layer.requires_grad_(False)
    net.posterior_network.first.bias.grad = torch.ones_like(net.posterior_network.first.bias)
    before = [(p.requires_grad, p.grad) for p in net.parameters()], [m.training for m in net.modules()]
    with torch.no_grad():
        if model is Broken:
            with pytest.raises(RuntimeError, match="out of order"):
                fit_guide(net, x, steps=5)
        else:
            fit_guide(net, x, steps=2)
    after = [(p.requires_grad, p.grad) for p in net.parameters()], [m.training for m in net.modules()]
    assert all(a[0] == b[0] and a[1] is b[1] for a, b in zip(before[0], after[0], strict=True))
    assert before[1] == after[1]


def test_loaders_lists_and_batches_are_taken():
    net, x = random_net(), random_frames(batch=5)
    lengths = torch.tensor([4, 2, 3, 4, 1])
    loader = torch.utils.data.DataLoader(list(zip(x, lengths, strict=True)), batch_size=2)
    for data, given in (
        (x, None),
        (x, lengths),
        ((x, lengths), None),
        ([(x[:2], lengths[:2]), (x[2:], lengths[2:])], None),
        (loader, None),
    ):
        found = fit_guide(net, data, given, steps=4, num_particles=2, batch_size=3)
        assert found.num_sequences == 5
        assert math.isfinite(found.after)


def test_runs_are_the_same_under_one_seed():
    found = []
    for _ in range(2):
        pyro.clear_param_store()
        net, x = random_net(name="one"), random_frames()
        pyro.set_rng_seed(2)
        found.append((fit_guide(net, x, LENGTHS, steps=3), net.posterior_network.second.bias.detach()))
        del net
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("emission", ["bernoulli", "categorical", emissions.NADE(2, 3)], ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_takes_frames_of_every_kind(objective, emission):
    dtype = torch.float32
    net = random_net(emission, dtype=dtype)
    x = (
        random_frames("bernoulli", dtype=dtype)[..., :2]
        if isinstance(emission, emissions.NADE)
        else random_frames(emission, dtype=dtype)
    )
    assert math.isfinite(fit_guide(net, x, LENGTHS, objective=objective, steps=2, num_particles=2).after)


def test_an_objective_of_the_package_may_be_given():
    net, x = random_net(), random_frames()
    objective = FIVO(3, resampling="stratified")
    fit_guide(net, x, LENGTHS, objective=objective, steps=2)
    assert objective.step == 2


def test_a_fitted_guide_can_be_refined():
    net, x = random_net(), random_frames()
    fit_guide(net, x, LENGTHS, steps=2)
    guide = refine(net, x, LENGTHS, steps=4)
    assert ParticleFilter(net.eval(), 4, guide=guide).run(x, LENGTHS).log_evidence.isfinite().all()


def test_wake_phi_has_the_expected_gradient_of_two_samples():
    """E[-sum_k v_k d log q(z_k)] by quadrature over both samples, at fixed samples, one step."""
    net, x = small("gaussian", "concatenate", 1)
    x = x[:1]
    nodes = 30
    frames, prior, posterior, log_rule = guide_grid(net, x, nodes)
    log_w = (frames + prior - posterior).detach().squeeze(-1)
    past = net.past(net.initial_state((1,)), net.inputs(x)[:, 0])
    q = net.posterior(past, net.backward_states(x)[0]).base_dist
    z = (q.loc + q.scale * rule(nodes).points.view(nodes, 1, 1)).detach()
    log_q = q.log_prob(z).sum(-1).squeeze(-1)
    share = torch.stack(torch.broadcast_tensors(log_w.unsqueeze(1), log_w)).softmax(0)
    pairs = (log_rule.unsqueeze(1) + log_rule).exp()
    exact = flat(gradients(net, -(pairs * (share[0] * log_q.unsqueeze(1) + share[1] * log_q)).sum()))
    many, runs = x.expand(2000, -1, -1).contiguous(), []
    for _ in range(20):
        objective = WakePhi(2, max_plate_nesting=1)
        runs.append(flat(gradients(net, objective.differentiable_loss(net.model, net.guide, many))) / 2000)
    assert_gradient(torch.stack(runs), exact, precision=0.05)


def untrained():
    net = random_net()
    net.requires_grad_(False)
    return fit_guide(net, random_frames())


def refined():
    net, x = random_net(), random_frames()
    return fit_guide(refine(net, x, steps=0).network, x)


def fitted(*data, **settings):
    return lambda: fit_guide(random_net(), *(data or (random_frames(),)), **settings)


BAD = [
    ("no net", lambda: fit_guide(None, random_frames()), TypeError, "net must be a model of zf_pyro.models, got NoneT"),
    ("a refined net", refined, TypeError, "net must be the network itself, got one refined"),
    ("nothing to train", untrained, ValueError, "parameters that its guide has for itself.*requires_grad_"),
    ("an unknown objective", fitted(objective="iwae"), ValueError, "objective must be one of .*'wake_phi'.*got 'iwae'"),
    ("a class", fitted(objective=FIVO), TypeError, "objective must be one of .*got the class FIVO"),
    ("no steps", fitted(steps=0), ValueError, "steps must be a positive integer, got 0"),
    ("no particles", fitted(num_particles=0), ValueError, "num_particles must be a positive integer, got 0"),
    ("one particle for wake_phi", fitted(objective="wake_phi", num_particles=1), ValueError, "integer of at least 2"),
    ("a rate of 0", fitted(learning_rate=0.0), ValueError, "learning_rate must be a positive number, got 0.0"),
    ("no batches", fitted([]), ValueError, "data must hold at least one sequence, got no batches"),
    ("an iterator", fitted(iter([(random_frames(), None)])), ValueError, "data must be read again and again"),
    ("a text", fitted("frames"), TypeError, "data must be x, a batch, or a loader"),
    ("frames of another size", fitted(torch.zeros(2, 3, 7).double()), ValueError, "x must have shape"),
    ("a length too long", fitted(random_frames(), LENGTHS + 3), ValueError, "lengths must be between 1 and 4"),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_gets_a_clear_error(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_parameters_are_found_without_a_trace_left():
    net, x = random_net(), random_frames()
    state = torch.get_rng_state()
    found = guide_parameters(net, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert net.training
    assert "emission_layer.weight" not in found
