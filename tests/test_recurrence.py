"""The fast loops against the plain loops: values, every gradient, and errors."""

import copy

import pyro
import pytest
import torch

import zf_pyro
from zf_pyro import State
from zf_pyro.networks import Drive, fused_drive
from zf_pyro.recurrence.engine.buffers import Arena
from zf_pyro.recurrence.fast import auxiliary_scan, backward_scan, posterior_scan, prior_scan, state_scan
from zf_pyro.recurrence.reference import reference_posterior_scan, reference_state_scan

from .comparing import assert_same, gradients, weighted_sum
from .conftest import random_frames, random_net, random_state

pytestmark = pytest.mark.usefixtures("each_machine")


SHAPES = {"batch": (3,), "particles": (2, 3), "two dimensions more": (2, 1, 3), "one sequence": (1,)}


def scan_arguments(net, shape, time=4, seed=6):
    """Sample h_0, u, b and noise for a batch shape; u and b have no dimensions of particles, as in a path."""
    generator = torch.Generator().manual_seed(seed)
    dtype = net.emission_layer.weight.dtype

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    state = State(normal(*shape, net.hidden_dim).tanh(), normal(*shape, net.hidden_dim))
    u, b = normal(time, shape[-1], 2), normal(time, shape[-1], net.hidden_dim).tanh()
    return state, u, b, normal(time, *shape, net.latent_dim)


def gate_inputs(net, u):
    return fused_drive(net.embedding, u, net.cell.input_weights.weight, net.cell.input_weights.bias)


def fast_posterior(net, state, u, b, noise):
    contexts = net.posterior_network.rest(b)
    return posterior_scan(net.posterior_network, net.cell, state, gate_inputs(net, u), contexts, noise, Arena())


def plain_posterior(net, state, u, b, noise):
    return reference_posterior_scan(net.past, net.posterior, net.transition, state, u, b, noise)


def fast_states(net, state, u, z):
    return state_scan(net.cell, state, gate_inputs(net, u), net.cell.modulation(z).transpose(-1, -2), Arena())


def plain_states(net, state, u, z):
    return reference_state_scan(net.past, net.transition, state, u, z)


def parts(scan):
    return {"z": scan.z, **scan.states._asdict(), "loc": scan.loc, "scale": scan.scale}


def widened(sequence, shape):
    """Expand a sequence (time, batch, features) to (time, *shape, features), as the plain loop broadcasts it."""
    return sequence[(slice(None), *[None] * (len(shape) - 1))].expand(-1, *shape, -1)


@pytest.mark.parametrize("shape", SHAPES)
def test_posterior_scan_equals_the_plain_loop(shape, transition):
    net = random_net("gaussian", transition=transition, spread=0.8)
    state, u, b, noise = scan_arguments(net, SHAPES[shape])
    leaves = {"hidden": state.hidden, "cell": state.cell, "u": u, "b": b, "noise": noise}
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    scans = []
    for loop in (fast_posterior, plain_posterior):
        found = parts(loop(net, state, u, b, noise))
        loss = weighted_sum(found)
        inputs = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), retain_graph=True), strict=True))
        scans.append((found, inputs, gradients(net, loss)))
    for fast, plain in zip(*scans, strict=True):
        assert_same(fast, plain)


@pytest.mark.parametrize("shape", SHAPES)
def test_state_scan_equals_the_plain_loop(shape, transition):
    net = random_net("gaussian", transition=transition, spread=0.8)
    state, u, _b, z = scan_arguments(net, SHAPES[shape])
    leaves = {"hidden": state.hidden, "cell": state.cell, "u": u, "z": z}
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    scans = []
    for loop in (fast_states, plain_states):
        found = loop(net, state, u, z)._asdict()
        loss = weighted_sum(found)
        inputs = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), retain_graph=True), strict=True))
        scans.append((found, inputs, gradients(net, loss)))
    for fast, plain in zip(*scans, strict=True):
        assert_same(fast, plain)


@pytest.mark.parametrize("part", ["z", "hidden", "cell", "loc", "scale"])
def test_gradients_of_each_output_alone_equal_the_plain_loop(part, transition):
    net = random_net("gaussian", transition=transition)
    arguments = scan_arguments(net, (2, 3))
    fast, plain = (
        weighted_sum({part: parts(loop(net, *arguments))[part]}) for loop in (fast_posterior, plain_posterior)
    )
    assert_same(gradients(net, fast), gradients(net, plain))


@pytest.mark.parametrize("t", [0, 1, 4])
def test_gradients_of_one_state_equal_the_plain_loop(t, transition):
    net = random_net("gaussian", transition=transition)
    state, u, _b, z = scan_arguments(net, (3,))
    for field in ("hidden", "cell"):
        state_t = getattr(fast_states(net, state, u, z.requires_grad_()), field)[t].sum()
        expected = getattr(plain_states(net, state, u, z), field)[t].sum()
        if t == 0:
            assert state_t == expected
            continue
        fast, plain = (torch.autograd.grad(value, z, retain_graph=True)[0] for value in (state_t, expected))
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_posterior_scan_passes_gradcheck(transition):
    net = random_net("gaussian", transition=transition, spread=0.3)
    state, u, b, noise = scan_arguments(net, (2,), time=3)
    drive, contexts = gate_inputs(net, u), net.posterior_network.rest(b)

    def scan(hidden, cell, v, weight, bias, contexts, *_weights):
        given = Drive(v, weight, bias), contexts, noise, Arena()
        return tuple(parts(posterior_scan(net.posterior_network, net.cell, State(hidden, cell), *given)).values())

    leaves = [leaf.detach().requires_grad_() for leaf in (*state, *drive, contexts)]
    before_the_loop = {id(net.posterior_network.first.bias)}
    before_the_loop |= {id(p) for p in net.cell.input_weights.parameters()}
    weights = [p for p in (*net.posterior_network.parameters(), *net.cell.parameters()) if id(p) not in before_the_loop]
    assert torch.autograd.gradcheck(scan, (*leaves, *weights))


@pytest.mark.slow
def test_state_scan_passes_gradcheck(transition):
    net = random_net("gaussian", transition=transition, spread=0.3)
    state, u, _b, z = scan_arguments(net, (2,), time=3)
    drive, modulation = gate_inputs(net, u), net.cell.modulation(z).transpose(-1, -2)

    def scan(hidden, cell, v, weight, bias, modulation, _weight):
        return tuple(state_scan(net.cell, State(hidden, cell), Drive(v, weight, bias), modulation, Arena()))

    leaves = [leaf.detach().requires_grad_() for leaf in (*state, *drive, modulation)]
    assert torch.autograd.gradcheck(scan, (*leaves, net.cell.hidden_weights.weight))


def heads(net, state, u, b, noise):
    """Return hidden states and latents, then prior and auxiliary on them: fast, and by the step functions."""
    hidden, z = u.new_zeros(()) + torch.tanh(noise @ torch.ones(net.latent_dim, net.hidden_dim).to(noise)), noise
    hidden = (hidden * state.hidden).detach().requires_grad_()
    z, b = z.detach().requires_grad_(), widened(b, state.hidden.shape[:-1])
    loc, scale = prior_scan(net.prior_network, hidden, Arena())
    density = auxiliary_scan(net.auxiliary_network, z, hidden, b, Arena())
    fast = {"loc": loc, "scale": scale, "density": density}
    prior, before = net.prior(State(hidden, hidden)).base_dist, State(hidden, hidden)
    plain = {"loc": prior.loc, "scale": prior.scale, "density": net.auxiliary(z, before).log_prob(b)}
    return (hidden, z), fast, plain


@pytest.mark.parametrize("z_force", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_prior_and_auxiliary_of_whole_sequences_equal_the_step_functions(shape, z_force):
    net = random_net("gaussian", z_force=z_force, spread=0.8)
    inputs, *both = heads(net, *scan_arguments(net, SHAPES[shape]))
    found = []
    for parts_of_it in both:
        loss = weighted_sum(parts_of_it)
        into = torch.autograd.grad(loss, inputs, retain_graph=True)
        found.append((parts_of_it, dict(enumerate(into)), gradients(net, loss)))
    for fast, plain in zip(*found, strict=True):
        assert_same(fast, plain)


@pytest.mark.parametrize("z_force", [False, True])
def test_prior_and_auxiliary_pass_gradcheck(z_force):
    net = random_net("gaussian", z_force=z_force, spread=0.3)
    _state, _u, b, noise = scan_arguments(net, (2,), time=3)
    hidden, z = b.detach().flip(0).requires_grad_(), noise.requires_grad_()

    def scan(hidden, z, *_weights):
        density = auxiliary_scan(net.auxiliary_network, z, hidden, b, Arena())
        return (*prior_scan(net.prior_network, hidden, Arena()), density)

    weights = (*net.prior_network.parameters(), *net.auxiliary_network.parameters())
    assert torch.autograd.gradcheck(scan, (hidden, z, *weights))


@pytest.mark.parametrize("z_force", [False, True])
def test_prior_and_auxiliary_have_second_derivatives(z_force):
    net = random_net("gaussian", z_force=z_force, spread=0.3)
    (hidden, z), *both = heads(net, *scan_arguments(net, (2,), time=3))
    found = []
    for each in both:
        wanted = (hidden, z, *net.prior_network.parameters(), *net.auxiliary_network.parameters())
        first = torch.autograd.grad(weighted_sum(each), wanted, create_graph=True)
        second = torch.autograd.grad(weighted_sum(dict(enumerate(first))), wanted)
        found.append(dict(enumerate(second)))
    assert_same(*found)


def test_weights_of_prior_and_auxiliary_changed_before_the_backward_pass_are_noticed():
    net = random_net("gaussian")
    _, fast, _ = heads(net, *scan_arguments(net, (3,)))
    with torch.no_grad():
        net.prior_network.second.weight.mul_(1.1)
        net.auxiliary_network.second.weight.mul_(1.1)
    for name in ("loc", "density"):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            fast[name].sum().backward()


class Prior(zf_pyro.ZForcing):
    """A model that overrides prior and auxiliary."""

    def prior(self, state):
        return super().prior(State(2.0 * state.hidden, state.cell))

    def auxiliary(self, z_t, state):
        return super().auxiliary(2.0 * z_t, state)


def test_an_overridden_prior_and_auxiliary_are_used():
    net, twin, x = random_net("gaussian"), random_net("gaussian"), random_frames("gaussian")
    net.__class__ = Prior
    found = []
    for each in (net, twin):
        pyro.set_rng_seed(3)
        elbo = zf_pyro.ZForcingELBO(aux_weight=0.5)
        elbo.differentiable_loss(each.model, each.guide, x)
        found.append(elbo.terms)
    assert torch.equal(found[0].log_likelihood, found[1].log_likelihood)
    assert (found[0].kl != found[1].kl).all()
    assert (found[0].auxiliary != found[1].auxiliary).all()


LENGTHS = {"all real": None, "padded": torch.tensor([4, 1, 3])}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_the_backward_loop_equals_pytorchs_lstm(emission, lengths):
    """Values and gradients of weights and frames, for frames smaller than their embedding and for symbols."""
    lengths, x = LENGTHS[lengths], random_frames(emission)
    real = torch.ones(3, 4, dtype=torch.bool) if lengths is None else torch.arange(4) < lengths.unsqueeze(1)
    found = []
    for recurrence in ("deferred", "reference"):
        net = random_net(emission, recurrence=recurrence)
        frames = x.clone().requires_grad_() if x.is_floating_point() else x
        b = net.backward_states(frames, lengths).transpose(0, 1)[real]
        loss = weighted_sum({"b": b})
        into = torch.autograd.grad(loss, frames, retain_graph=True) if x.is_floating_point() else ()
        found.append({"b": b, **dict(enumerate(into)), **gradients(net, loss)})
    assert_same(*found)


def test_backward_scan_passes_gradcheck():
    net, x = random_net("gaussian", spread=0.3), random_frames("gaussian", 2, 3).transpose(0, 1)
    drive, mask = net.backward_rnn.drive(net.embedding, x), torch.tensor([[True, True], [True, True], [True, False]])

    def scan(v, weight, bias, _weight):
        return backward_scan(net.backward_rnn, Drive(v, weight, bias), mask, Arena())

    leaves = [leaf.detach().requires_grad_() for leaf in drive]
    assert torch.autograd.gradcheck(scan, (*leaves, net.backward_rnn.lstm.weight_hh_l0))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("embed_dim", [2, 5])
def test_two_consecutive_linear_maps_are_fused_unless_dropout_is_between(embed_dim, dropout):
    net = random_net("gaussian", embed_dim=embed_dim, dropout=dropout)
    u = random_frames("gaussian").transpose(0, 1)
    torch.manual_seed(0)
    v, weight, bias = gate_inputs(net, u)
    torch.manual_seed(0)
    expected = net.cell.input_weights(net.embedding(u))
    found = torch.nn.functional.linear(v, weight, bias)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert (v is u) == (embed_dim > 2 and dropout == 0.0)


def loss_of(net, x):
    pyro.set_rng_seed(3)
    return pyro.infer.TraceMeanField_ELBO().differentiable_loss(net.model, net.guide, x)


def test_second_derivatives_are_refused_by_name(transition):
    net = random_net("gaussian", transition=transition)
    parameter = net.cell.hidden_weights.weight
    with pytest.raises(RuntimeError, match=r"no second derivatives.*recurrence='reference'"):
        torch.autograd.grad(loss_of(net, random_frames("gaussian")), parameter, create_graph=True)
    state, u, _b, z = scan_arguments(net, (3,))
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(fast_states(net, state, u, z).hidden.sum(), parameter, create_graph=True)


def test_the_reference_recurrence_has_second_derivatives(transition):
    net = random_net("gaussian", transition=transition, recurrence="reference")
    parameter = net.cell.hidden_weights.weight
    (first,) = torch.autograd.grad(loss_of(net, random_frames("gaussian")), parameter, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), parameter)
    assert second.abs().max() > 0


def test_two_backward_passes_give_the_same_gradients(transition):
    net = random_net("gaussian", transition=transition)
    loss = weighted_sum(parts(fast_posterior(net, *scan_arguments(net, (2, 3)))))
    assert_same(gradients(net, loss), gradients(net, loss), rtol=0, atol=0)
    state, u, _b, z = scan_arguments(net, (2, 3))
    loss = weighted_sum(fast_states(net, state, u, z)._asdict())
    assert_same(gradients(net, loss), gradients(net, loss), rtol=0, atol=0)


class Doubled(zf_pyro.ZForcing):
    """A model that overrides the transition."""

    def transition(self, state, u_t, z_t):
        return super().transition(state, u_t, 2.0 * z_t)


def test_an_overridden_transition_is_used(transition):
    pyro.set_rng_seed(1)
    sizes = {"embed_dim": 5, "hidden_dim": 4, "latent_dim": 3, "mlp_dim": 6}
    net = Doubled(zf_pyro.emissions.Gaussian(2), transition=transition, **sizes).double()
    twin = random_net("gaussian", transition=transition)
    twin.load_state_dict(net.state_dict())
    x, z = random_frames("gaussian"), torch.randn(3, 4, 3, dtype=torch.float64)
    assert_same(net.states(x, z)._asdict(), twin.states(x, 2.0 * z)._asdict())
    assert loss_of(net, x) != loss_of(twin, x)
    state = net.initial_state((3,))
    for t, u_t in enumerate(net.inputs(x).unbind(1)):
        state = net.transition(state, u_t, z[:, t])
    torch.testing.assert_close(net.states(x, z).hidden[-1], state.hidden, rtol=1e-9, atol=1e-9)


def test_both_recurrences_have_equal_loss_and_gradients(transition):
    x, lengths = random_frames("gaussian"), torch.tensor([4, 2, 3])
    losses = {}
    for recurrence in ("deferred", "reference"):
        net = random_net("gaussian", transition=transition, recurrence=recurrence)
        pyro.set_rng_seed(4)
        elbo = zf_pyro.ZForcingELBO(aux_weight=0.3, backward_weight=0.2)
        loss = elbo.differentiable_loss(net.model, net.guide, x, lengths)
        losses[recurrence] = {"loss": loss.detach(), **gradients(net, loss)}
    assert_same(*losses.values())


def test_float32_costs_the_fast_loop_no_more_accuracy_than_the_plain_one(transition):
    """The error of float32 against float64 is at most twice that of the plain loop."""
    errors = {fast_posterior: torch.zeros(2, dtype=torch.float64), plain_posterior: torch.zeros(2, dtype=torch.float64)}
    for seed in range(5):
        sizes = {"hidden_dim": 32, "latent_dim": 8, "mlp_dim": 24}
        exact = random_net("gaussian", transition=transition, spread=0.05, seed=seed, **sizes)
        rough = copy.deepcopy(exact).float()
        exact.load_state_dict(rough.state_dict())
        arguments = scan_arguments(rough, (16,), time=20)
        truth = parts(plain_posterior(exact, *_double(arguments)))
        truth_gradients = gradients(exact, weighted_sum(truth))
        for loop, total in errors.items():
            found = parts(loop(rough, *arguments))
            total += torch.stack([_error(found, truth), _error(gradients(rough, weighted_sum(found)), truth_gradients)])
    assert errors[plain_posterior].max() < 1e-3, "the network is chaotic: the test would have no power"
    assert (errors[fast_posterior] <= 2 * errors[plain_posterior]).all()


def _error(found, truth):
    """Compute the relative error, averaged over tensors; a scalar."""
    pairs = [(found[name].detach().double(), value.detach()) for name, value in truth.items() if value.norm() > 0]
    return torch.stack([(a - b).norm() / b.norm() for a, b in pairs]).mean()


def _double(arguments):
    state, *rest = arguments
    return State(*(field.double() for field in state)), *(tensor.double() for tensor in rest)


def test_the_gradient_of_one_parameter_can_be_taken_alone(transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    every = gradients(net, loss_of(net, x))
    for name, parameter in net.named_parameters():
        (alone,) = torch.autograd.grad(loss_of(net, x), parameter, allow_unused=True)
        if alone is None:
            assert name.startswith(("auxiliary", "backward_emission"))
        else:
            torch.testing.assert_close(alone, every[name], rtol=1e-9, atol=1e-9)


def test_frozen_parameters_get_no_gradient_and_change_no_other(transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    every = gradients(net, loss_of(net, x))
    for parameter in (*net.cell.parameters(), *net.posterior_network.parameters()):
        parameter.requires_grad_(False)
    loss_of(net, x).backward()
    assert all(p.grad is None for p in net.cell.parameters())
    torch.testing.assert_close(net.emission_layer.weight.grad, every["emission_layer.weight"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(net.embedding[0].weight.grad, every["embedding.0.weight"], rtol=1e-9, atol=1e-9)


def test_a_weight_changed_before_the_backward_pass_is_noticed(transition):
    net = random_net("gaussian", transition=transition)
    scan = fast_posterior(net, *scan_arguments(net, (3,)))
    with torch.no_grad():
        net.cell.hidden_weights.weight.mul_(1.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        scan.z.sum().backward()


def test_states_with_more_batch_dimensions_are_those_of_each_batch(transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    z = torch.randn(2, 3, 4, 3, dtype=torch.float64)
    start = random_state(net)
    states = net.states(x, z, context=x[:, 1], initial_state=start)
    assert states.hidden.shape == (4, 2, 3, 4)
    for i in range(2):
        alone = net.states(x, z[i], context=x[:, 1], initial_state=start)
        torch.testing.assert_close(states.hidden[:, i], alone.hidden, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(states.cell[:, i], alone.cell, rtol=1e-9, atol=1e-9)
