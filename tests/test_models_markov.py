"""Models whose latents follow one another without a recurrence between them: SRNN and DMM, after their papers."""

import importlib.util
from pathlib import Path

import pyro
import pytest
import torch
import torch.nn.functional as F

from zf_pyro import DMM, SRNN, STORN, VRNN, State, ZForcingELBO
from zf_pyro.networks import PlainLoopWarning, Recurrence
from zf_pyro.recurrence.engine.gru import GRULoop

from .comparing import EXACT, assert_same
from .conftest import random_frames, random_net, random_state

STATE_OF_PARTICLES = (2, 3)


def posterior_at(net, x, t, seed=4):
    """Mean and deviation of q(z_t) at a random state before the step."""
    past = net.past(random_state(net, seed=seed), net.inputs(x)[:, t])
    q = net.posterior(past, net.backward_states(x)[t]).base_dist
    return torch.stack([q.loc, q.scale])


def changed(x, t):
    """The frames, with that of step t changed."""
    x = x.clone()
    x[:, t] += 1.0
    return x


# What distributions see ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filtering", [False, True])
def test_the_posterior_of_srnn_sees_later_frames_unless_it_filters(filtering):
    net, x = random_net("gaussian", model=SRNN, filtering=filtering), random_frames("gaussian")
    assert torch.equal(posterior_at(net, x, 1), posterior_at(net, changed(x, 3), 1)) == filtering
    assert not torch.equal(posterior_at(net, x, 1), posterior_at(net, changed(x, 1), 1))
    assert not torch.equal(posterior_at(net, x, 1), posterior_at(net, changed(x, 0), 1))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_posterior_of_dmm_sees_earlier_frames_only_with_both_directions(bidirectional):
    net, x = random_net("gaussian", model=DMM, bidirectional=bidirectional), random_frames("gaussian")
    assert torch.equal(posterior_at(net, x, 2), posterior_at(net, changed(x, 0), 2)) != bidirectional
    assert not torch.equal(posterior_at(net, x, 2), posterior_at(net, changed(x, 3), 2))


def test_frames_of_dmm_depend_on_latents_alone():
    net, x, z = random_net("gaussian", model=DMM), random_frames("gaussian"), torch.randn(3, 4, 3, dtype=torch.float64)
    assert_same(net.states(x, z)._asdict(), net.states(changed(x, 0), z)._asdict(), rtol=0.0, atol=0.0)


def test_the_deterministic_states_of_srnn_do_not_depend_on_latents():
    net, x, z = random_net("gaussian", model=SRNN), random_frames("gaussian"), torch.randn(3, 4, 3, dtype=torch.float64)
    found = [net.states(x, latents).hidden[..., 3:] for latents in (z, z + 1.0)]
    torch.testing.assert_close(*found, rtol=0, atol=0)
    expected = net.forward_rnn.layers[0](net.embedding(net.inputs(x).transpose(0, 1)))[0]
    torch.testing.assert_close(found[0], expected, **EXACT)


# Their equations ----------------------------------------------------------------------------------------------------


def test_the_residual_posterior_adds_to_the_mean_of_the_prior():
    net, x = random_net("gaussian", model=SRNN), random_frames("gaussian")
    state, b = random_state(net), net.backward_states(x)[1]
    q, p = net.posterior(state, b).base_dist, net.prior(state).base_dist
    torch.nn.init.zeros_(net.prior_network.second.weight)
    torch.nn.init.zeros_(net.prior_network.second.bias)
    alone = net.posterior(state, b).base_dist
    torch.testing.assert_close(q.loc, p.loc + alone.loc, **EXACT)
    torch.testing.assert_close(q.scale, alone.scale, **EXACT)


def test_the_gated_transition_is_that_of_the_paper():
    net, z = random_net("gaussian", model=DMM), random_state(random_net("gaussian", model=DMM)).hidden
    part, found = net.prior_network, net.prior(State(z, z[..., :0])).base_dist
    gate, proposed = part.gate(z).sigmoid(), part.proposal(z)
    scale = F.softplus(part.deviation(F.leaky_relu(proposed, 1 / 3).clamp(-3.0, 3.0)))
    torch.testing.assert_close(found.loc, (1 - gate) * part.linear(z) + gate * proposed, **EXACT)
    torch.testing.assert_close(found.scale, scale, **EXACT)
    fresh = random_net("gaussian", model=DMM, spread=0.0).prior_network
    torch.testing.assert_close(fresh.linear(z), z, **EXACT)


def test_the_average_combiner_is_that_of_the_paper():
    net, x = random_net("gaussian", model=DMM, combiner="average", bidirectional=True), random_frames("gaussian")
    z, b, part = random_state(net).hidden, net.backward_states(x)[1], net.posterior_network
    left, right = b.chunk(2, dim=-1)
    loc, scale = part.second((part.first(z).tanh() + left + right) / 3.0).chunk(2, dim=-1)
    q = net.posterior(State(z, z[..., :0]), b).base_dist
    torch.testing.assert_close(q.loc, loc, **EXACT)
    torch.testing.assert_close(q.scale, F.softplus(scale), **EXACT)


def test_the_first_latent_of_dmm_is_learned():
    net, x = random_net("gaussian", model=DMM), random_frames("gaussian")
    ZForcingELBO().loss_and_grads(net.model, net.guide, x)
    assert (net.z_0.grad != 0.0).all()


# Loops --------------------------------------------------------------------------------------------------------------


def test_the_gru_loop_has_the_values_and_gradients_of_torch():
    layer = torch.nn.GRU(5, 4).double()
    v, h = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 3, 5), (1, 3, 4)))
    found = []
    for one in (
        layer(v, h)[0],
        GRULoop.apply(h[0], F.linear(v, layer.weight_ih_l0, layer.bias_ih_l0), layer.weight_hh_l0, layer.bias_hh_l0),
    ):
        weights = torch.linspace(-1.0, 1.0, one.numel(), dtype=torch.float64).view_as(one)
        gradients = torch.autograd.grad((one * weights).sum(), [v, h, *layer.parameters()])
        found.append({"h": one, **{str(i): gradient for i, gradient in enumerate(gradients)}})
    assert_same(*found)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_particles_that_share_a_state_have_the_values_and_gradients_of_copies(cell):
    net, x = random_net("gaussian", model=SRNN, cell=cell), random_frames("gaussian")
    u, b, found = net.inputs(x).transpose(0, 1), net.backward_states(x), []
    noise = torch.randn(4, *STATE_OF_PARTICLES, 3, dtype=torch.float64)
    for copy in (lambda field: field, torch.clone):
        start = State(*(field.requires_grad_() for field in random_state(net)))
        given = State(*(copy(field.expand(*STATE_OF_PARTICLES, -1)) for field in start))
        scan = net.scan_posterior(given, u, b, noise)
        loss = (scan.after.hidden.sin().sum() + scan.before.cell.sum()) * scan.loc.mean()
        gradient = torch.autograd.grad(loss, [start.hidden, *net.forward_rnn.parameters()])
        found.append({"z": scan.z, **{str(i): value for i, value in enumerate(gradient)}})
    assert_same(*found)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_hooked_recurrence_runs_step_by_step(cell):
    net, x = random_net("gaussian", model=SRNN, cell=cell), random_frames("gaussian")
    z = torch.randn(3, 4, 3, dtype=torch.float64)
    net.forward_rnn.layers[0].register_forward_hook(lambda layer, given, result: (0.5 * result[0], result[1]))
    with pytest.warns(PlainLoopWarning, match=r"forward_rnn.layers.0 has hooks"):
        found = net.states(x, z)
    state, u = net.initial_state((3,)), net.inputs(x).unbind(1)
    for t in range(4):
        state = net.transition(net.past(state, u[t]), u[t], z[:, t])
    torch.testing.assert_close(found.hidden[-1], state.hidden, **EXACT)


def test_a_recurrence_of_several_layers_steps_as_it_scans():
    network = Recurrence("lstm", 3, 4, 2).double()
    v = torch.randn(5, 2, 3, dtype=torch.float64)
    state = State(*(torch.zeros(2, size, dtype=torch.float64) for size in network.sizes))
    for v_t in v:
        state = network.step(state, v_t)
    torch.testing.assert_close(network.top(state.hidden), network(v)[-1], **EXACT)


@pytest.mark.parametrize("model", [VRNN, SRNN, STORN, DMM])
def test_the_loops_written_by_hand_compute_the_same_bound(model):
    place = Path(__file__).parent.parent / "benchmarks" / "hand_written.py"
    spec = importlib.util.spec_from_file_location("hand_written", place)
    by_hand = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(by_hand)
    net, x = random_net("gaussian", model=model), random_frames("gaussian")
    pyro.set_rng_seed(2)
    noise = torch.stack([torch.empty(3, 3, dtype=torch.float64).normal_() for _ in range(4)])
    pyro.set_rng_seed(2)
    loss = ZForcingELBO(aux_weight=0.0).loss(net.model, net.guide, x)
    assert by_hand.LOSSES[model.__name__](net, x, noise).item() == pytest.approx(loss, rel=1e-12)


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "settings", "text"),
    [
        (SRNN, {"filtering": True, "z_force": True}, "z_force must be False with filtering=True"),
        (SRNN, {"filtering": True, "auxiliary_l2": True}, "auxiliary_l2 must be False with filtering=True"),
        (SRNN, {"cell": "rnn"}, "cell must be"),
        (SRNN, {"residual": 1}, "residual must be"),
        (SRNN, {"num_layers": 0}, "num_layers must be"),
        (DMM, {"combiner": "sum"}, "combiner must be"),
        (DMM, {"gated": "yes"}, "gated must be"),
        (DMM, {"bidirectional": None}, "bidirectional must be"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(model, settings, text):
    with pytest.raises((TypeError, ValueError), match=text):
        random_net("gaussian", model=model, **settings)
