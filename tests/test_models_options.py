"""What the options of single models mean: STORN's prior and recognition network, Z-Forcing's layers and inputs."""

import copy
import json
import warnings

import pytest
import torch
from torch import nn

from zf_pyro import STORN, VRNN, State, ZForcing, ZForcingELBO, emissions
from zf_pyro.networks import PlainLoopWarning
from zf_pyro.saving.nets import DESCRIPTION

from .comparing import EXACT
from .conftest import FAMILY, random_frames, random_net, random_state


def influence(value, x):
    """Whether an element (time, batch, ...) of step t depends on frame s of x (batch, time, frame); (t, s) booleans."""
    rows = [torch.autograd.grad(step.sum(), x, retain_graph=True, allow_unused=True)[0] for step in value]
    return torch.stack([torch.zeros(x.shape[1], dtype=bool) if g is None else (g != 0).any(2).any(0) for g in rows])


def states_before(net, x, z):
    """What z_1..z_T depend on; each field (time, batch, hidden)."""
    u, start = net.inputs(x).transpose(0, 1), net.initial_state((len(x),))
    states = net.scan_states(start, u, z)
    early, late = (State(*(field[part] for field in states)) for part in (slice(-1), slice(1, None)))
    return net.scan_past(early, u, late)


# STORN ---------------------------------------------------------------------------------------------------------------


def test_the_posterior_of_storn_reads_the_frames_up_to_its_own_and_no_latent():
    net, x = random_net("gaussian", model=STORN), random_frames("gaussian").requires_grad_()
    noise = torch.randn(4, 3, 3, dtype=x.dtype)
    scan = net.scan_posterior(net.initial_state((3,)), net.inputs(x).transpose(0, 1), net.backward_states(x), noise)
    assert torch.equal(influence(scan.loc, x), torch.ones(4, 4).tril().bool())
    other = net.scan_posterior(random_state(net), net.inputs(x).transpose(0, 1), net.backward_states(x), 2 * noise)
    assert torch.equal(scan.loc, other.loc)


@pytest.mark.parametrize(("settings", "kind"), [({}, nn.LSTM), ({"cell": "gru", "num_layers": 2}, nn.GRU)])
def test_the_recognition_network_of_storn_is_that_of_torch(settings, kind):
    net, x = random_net("gaussian", model=STORN, **settings), random_frames("gaussian")
    plain = kind(5, 4, settings.get("num_layers", 1)).double()
    plain.load_state_dict(net.recognition_rnn.rnn.state_dict())
    expected, _ = plain(net.embedding(x.transpose(0, 1)))
    torch.testing.assert_close(net.backward_states(x), expected, **EXACT)


def test_the_standard_prior_gives_the_divergence_from_a_standard_normal():
    net, x = random_net("gaussian", model=STORN), random_frames("gaussian")
    objective = ZForcingELBO()
    objective.loss(net.model, net.guide, x)
    loc, log_variance = net.posterior_network(net.backward_states(x)).clamp(-8, 8).chunk(2, dim=-1)
    expected = 0.5 * (loc.square() + log_variance.exp() - 1 - log_variance).sum()
    torch.testing.assert_close(objective.terms.kl.sum(), expected, **EXACT)
    assert not any(name.startswith("prior") for name, _ in net.named_parameters())


def test_a_trained_prior_of_storn_reads_what_the_state_has_read():
    net, x = random_net("gaussian", model=STORN, prior="trained"), random_frames("gaussian").requires_grad_()
    z = torch.randn(4, 3, 3, dtype=x.dtype)
    found = influence(net.scan_prior(states_before(net, x, z)).base_dist.loc, x)
    assert torch.equal(found, torch.ones(4, 4).tril(-2).bool())


@pytest.mark.parametrize("part", ["recognition_rnn", "posterior_network", "prior_network", "cell", "embedding"])
def test_hooks_on_parts_of_storn_count(part):
    """A hook that halves what a part gives, on the model with fast loops and on the one without."""
    found, x = [], random_frames("gaussian")
    for recurrence in ("deferred", "reference"):
        net = random_net("gaussian", model=STORN, prior="trained", recurrence=recurrence)
        hooked = net.cell.latent_projection if part == "cell" else getattr(net, part)
        hooked.register_forward_hook(lambda module, given, result: 0.5 * result)
        torch.manual_seed(5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlainLoopWarning)
            found.append(ZForcingELBO().differentiable_loss(net.model, net.guide, x))
    unhooked = random_net("gaussian", model=STORN, prior="trained")
    torch.manual_seed(5)
    assert not torch.isclose(found[0], ZForcingELBO().differentiable_loss(unhooked.model, unhooked.guide, x))
    torch.testing.assert_close(*found, **EXACT)


def test_the_recognition_network_of_storn_starts_at_zero_also_after_a_carried_state():
    net, x = random_net("gaussian", model=STORN), random_frames("gaussian")
    found = []
    for given in ({}, {"context": x[:, 0], "initial_state": random_state(net)}):
        torch.manual_seed(2)
        found.append(net.guide(x, **given))
    assert torch.equal(*found)


# Z-Forcing: latents that see the input, and layers -------------------------------------------------------------------


@pytest.mark.parametrize(("sees", "latest"), [(False, -2), (True, -1)])
def test_the_prior_of_z_forcing_reads_the_frame_before_where_latents_see_the_input(sees, latest):
    net, x = random_net("gaussian", latents_see_input=sees), random_frames("gaussian").requires_grad_()
    z = torch.randn(4, 3, 3, dtype=x.dtype)
    before = states_before(net, x, z)
    assert torch.equal(influence(net.scan_prior(before).base_dist.loc, x), torch.ones(4, 4).tril(latest).bool())
    b = torch.randn(4, 3, 4, dtype=x.dtype)
    assert torch.equal(influence(net.posterior(before, b).base_dist.loc, x), torch.ones(4, 4).tril(latest).bool())
    assert torch.equal(influence(net.scan_auxiliary(z, before, b), x), torch.ones(4, 4).tril(latest).bool())


@pytest.mark.parametrize("recurrence", ["deferred", "reference"])
def test_dropout_gives_the_latents_and_the_gates_the_same_input(recurrence, transition):
    net = random_net("gaussian", latents_see_input=True, dropout=0.5, transition=transition, recurrence=recurrence)
    x, start = random_frames("gaussian"), net.initial_state((3,))
    noise = torch.randn(4, 3, 3, dtype=x.dtype)
    scan = net.scan_posterior(start, net.inputs(x).transpose(0, 1), net.backward_states(x), noise)
    h, read = scan.before.hidden.split([4, 5], dim=-1)
    assert (read == 0).any()
    after = net.cell.advance(State(h, scan.before.cell), net.cell.inputs(read), net.cell.modulation(scan.z))
    torch.testing.assert_close(after.hidden, scan.after.hidden, **EXACT)


def test_layers_of_the_backward_rnn_read_the_layer_below():
    net, x = random_net("gaussian", num_layers=2), random_frames("gaussian")
    embedded = net.embedding(x.transpose(0, 1)).flip(0)
    for layer in range(2):
        one = nn.LSTM(embedded.shape[-1], 4).double()
        one.load_state_dict(
            {n[:-1] + "0": v for n, v in net.backward_rnn.lstm.named_parameters() if n[-1] == str(layer)}
        )
        embedded = one(embedded)[0]
    torch.testing.assert_close(net.backward_states(x), embedded.flip(0), **EXACT)


def test_layers_of_the_recurrence_read_the_layer_below(transition):
    net, x = random_net("gaussian", num_layers=2, transition=transition), random_frames("gaussian")
    z, start = torch.randn(3, 3, dtype=x.dtype), random_state(net)
    low, high = (State(*(field.chunk(2, dim=-1)[layer] for field in start)) for layer in range(2))
    low = net.cell.first.advance(low, net.cell.inputs(net.embedding(x[:, 0])), net.cell.modulation(z))
    cell = nn.LSTMCell(4, 4).double()
    cell.load_state_dict({n.removesuffix("_l0"): v for n, v in net.cell.upper.layers[0].named_parameters()})
    hidden, kept = cell(low.hidden, tuple(high))
    found = net.transition(start, x[:, 0], z)
    torch.testing.assert_close(found.hidden, torch.cat([low.hidden, hidden], -1), **EXACT)
    torch.testing.assert_close(found.cell, torch.cat([low.cell, kept], -1), **EXACT)
    expected = net.emission_family.distribution(net.emission_layer(hidden))
    torch.testing.assert_close(net.emission(found).mean, expected.mean, **EXACT)


def test_without_its_options_a_network_is_the_one_of_before():
    """The parts, their names and the random numbers that they take; so old folders and seeds still hold."""
    net = random_net("gaussian", spread=0.0)
    assert isinstance(net.backward_rnn.lstm, nn.LSTM)
    assert "cell.first.input_weights.weight" not in net.state_dict()
    assert net.prior_network.in_dims == (4,)
    assert net.posterior_network.in_dims == (4, 4)
    assert net.auxiliary_network.in_dims == (3, 4)
    state = random_state(net)
    assert net.past(state, random_frames("gaussian")[:, 0]) is state


def test_folders_saved_without_the_options_still_load(tmp_path):
    net, x = random_net("gaussian").eval(), random_frames("gaussian")
    net.save(tmp_path)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    for argument in ("num_layers", "latents_see_input"):
        del description["arguments"][argument]
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    found = []
    for one in (net, ZForcing.load(tmp_path)):
        torch.manual_seed(3)
        found.append(one.guide(x))
    assert torch.equal(*found)


# All of them ---------------------------------------------------------------------------------------------------------


def test_copies_have_memory_of_their_own_and_give_it_back(member):
    net = random_net("gaussian", **member)
    ZForcingELBO().loss(net.model, net.guide, random_frames("gaussian"))
    for twin in (copy.copy(net), copy.deepcopy(net)):
        assert twin.loop_memory is not net.loop_memory
        twin.release_memory()
    net.release_memory()


@pytest.mark.parametrize(
    ("model", "settings", "error", "told"),
    [
        (STORN, {"prior": "normal"}, ValueError, "^prior must be.*standard.*trained.*got 'normal'"),
        (STORN, {"cell": "tanh"}, ValueError, "^cell must be"),
        (STORN, {"num_layers": 0}, ValueError, "^num_layers must be"),
        (ZForcing, {"num_layers": 1.5}, ValueError, "^num_layers must be"),
        (ZForcing, {"latents_see_input": 1}, TypeError, "^latents_see_input must be"),
        (STORN, {"z_force": True}, TypeError, "unexpected keyword argument 'z_force'"),
        (VRNN, {"transition": "concatenate"}, TypeError, "unexpected keyword argument 'transition'"),
        (ZForcing, {"feature_networks": True}, TypeError, "unexpected keyword argument 'feature_networks'"),
    ],
)
def test_options_out_of_range_and_of_another_model_are_refused(model, settings, error, told):
    with pytest.raises(error, match=told):
        model(emissions.Gaussian(2), **settings)


@pytest.mark.parametrize("argument", ["prior", "latents_see_input", "num_layers", "cell"])
def test_saved_settings_hold_the_options(argument):
    for model, settings in FAMILY.values():
        if argument in settings:
            net = random_net("gaussian", model=model, **settings)
            assert net.settings[argument] == settings[argument]
