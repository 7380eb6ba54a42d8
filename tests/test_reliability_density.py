"""One density: whatever a user changes under a model, fast and plain forms give the same values and gradients."""

import copy
import warnings

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from zf_pyro import FIVO, ImportanceWeightedELBO, ZForcing, ZForcingELBO, to_arviz
from zf_pyro.inference import ParticleFilter
from zf_pyro.networks import MLP, PlainLoopWarning
from zf_pyro.objectives import SegmentedELBO

from .conftest import random_frames, random_net

EXACT = {"rtol": 1e-9, "atol": 1e-9}


class Doubling(nn.Linear):
    """A linear layer with a forward of its own."""

    def forward(self, x):
        return 2.0 * super().forward(x)


class Shifted(MLP):
    """A network with a forward of its own."""

    def forward(self, *inputs):
        return super().forward(*inputs) + 0.1


def become(module, kind):
    """Give a module another class, as LoRA wrappers do; a parametrized one keeps its parametrizations.

    A module of another type, which another change has put there, cannot become one.
    """
    if not isinstance(module, kind.__bases__[0]):
        raise AttributeError(f"a {type(module).__name__} is no {kind.__bases__[0].__name__}")
    parametrized = parametrize.is_parametrized(module)
    module.__class__ = type(kind.__name__, (kind, type(module)), {}) if parametrized else kind


def shifted_normal(function):
    """A step function of a normal, with its mean shifted."""

    def call(*args):
        normal = function(*args).base_dist
        return pyro.distributions.Normal(normal.loc + 0.1, normal.scale).to_event(1)

    return call


def hook(net, name):
    net.get_submodule(name).register_forward_hook(lambda module, args, out: 1.1 * out)


def pre_hook(net, name):
    net.get_submodule(name).register_forward_pre_hook(lambda module, args: tuple(1.1 * x for x in args))


def advance_twice_as_far(net):
    kind = type(net.cell)

    class Far(kind):
        def advance(self, state, inputs, modulation):
            return super().advance(state, 1.5 * inputs, modulation)

    become(net.cell, Far)


def shift_transition(net):
    plain = net.transition

    def transition(state, u_t, z_t):
        hidden, cell = plain(state, u_t, z_t)
        return type(state)(0.9 * hidden, cell)

    net.transition = transition


def replace_network(net, name, *sizes):
    network = MLP(*sizes).to(torch.float64)
    setattr(net, name, network)


def set_attribute(net, name, value):
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, value)


def wrap_forward(net, name):
    module = net.get_submodule(name)
    plain = module.forward
    module.forward = lambda *args: 1.1 * plain(*args)


def tie(net):
    net.prior_network.second.weight = net.posterior_network.second.weight


CHANGES = {
    "posterior set on the instance": lambda net: set_attribute(net, "posterior", shifted_normal(net.posterior)),
    "prior set on the instance": lambda net: set_attribute(net, "prior", shifted_normal(net.prior)),
    "transition set on the instance": shift_transition,
    "auxiliary set on the instance": lambda net: set_attribute(net, "auxiliary", shifted_normal(net.auxiliary)),
    "a subclass as prior network": lambda net: become(net.prior_network, Shifted),
    "a subclass as posterior network": lambda net: become(net.posterior_network, Shifted),
    "a subclass as auxiliary network": lambda net: become(net.auxiliary_network, Shifted),
    "a subclass of the cell": advance_twice_as_far,
    "a linear layer with its own forward, first of the posterior": lambda net: become(
        net.posterior_network.first, Doubling
    ),
    "a linear layer with its own forward, second of the posterior": lambda net: become(
        net.posterior_network.second, Doubling
    ),
    "a linear layer with its own forward in the prior": lambda net: become(net.prior_network.first, Doubling),
    "a linear layer with its own forward in the auxiliary": lambda net: become(net.auxiliary_network.first, Doubling),
    "a linear layer with its own forward in the cell": lambda net: become(net.cell.hidden_weights, Doubling),
    "a linear layer with its own forward as embedding": lambda net: become(net.embedding[0], Doubling),
    "a hook on the prior network": lambda net: hook(net, "prior_network"),
    "a hook inside the posterior network": lambda net: hook(net, "posterior_network.second"),
    "a hook on the first layer of the posterior": lambda net: hook(net, "posterior_network.first"),
    "a hook on the auxiliary network": lambda net: hook(net, "auxiliary_network"),
    "a hook on the embedding": lambda net: hook(net, "embedding"),
    "a hook inside the embedding": lambda net: hook(net, "embedding.0"),
    "a hook on the cell's input": lambda net: hook(net, "cell.input_weights"),
    "a hook before the cell's hidden weights": lambda net: pre_hook(net, "cell.hidden_weights"),
    "a hook before the backward layer": lambda net: pre_hook(net, "embedding.0"),
    "an activation in place of dropout": lambda net: set_attribute(net, "embedding.1", nn.Tanh()),
    "a longer embedding": lambda net: net.embedding.append(nn.Tanh()),
    "a forward set on a network": lambda net: wrap_forward(net, "prior_network"),
    "a forward set on a layer": lambda net: wrap_forward(net, "posterior_network.second"),
    "a forward set on the embedding": lambda net: wrap_forward(net, "embedding.0"),
    "a wider prior network": lambda net: replace_network(net, "prior_network", (4,), 9, 6),
    "a prior of another type": lambda net: set_attribute(
        net, "prior_network", nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6)).double()
    ),
    "a bias where the cell has none": lambda net: set_attribute(
        net, "cell.hidden_weights", nn.Linear(4, 16, bias=True).double()
    ),
    "pruned posterior": lambda net: prune.l1_unstructured(net.posterior_network.first, "weight", 0.4),
    "pruned cell": lambda net: prune.l1_unstructured(net.cell.hidden_weights, "weight", 0.4),
    "weight norm by parametrization": lambda net: parametrizations.weight_norm(net.prior_network.first),
    "spectral norm by parametrization": lambda net: parametrizations.spectral_norm(net.cell.hidden_weights).eval(),
    "frozen posterior": lambda net: net.posterior_network.requires_grad_(False),
    "shared weights": tie,
    "nothing": lambda net: None,
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
FULL = {"aux_weight": 0.3, "backward_weight": 0.2}
LENGTHS = torch.tensor([4, 2, 3])


def changed_net(change, **sizes):
    """A small net with a change, with an embedding larger than a frame and one smaller."""
    net = random_net("gaussian", **sizes)
    change(net)
    return net


def both(net):
    """The net itself, and its plain form: the same modules in loops over the step functions."""
    for form in ("deferred", "reference"):
        net.recurrence = form
        pyro.clear_param_store()
        pyro.set_rng_seed(7)
        net.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlainLoopWarning)
            yield net


def gradients(net):
    return {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] is None) == (value is None), name
        if value is not None:
            torch.testing.assert_close(found[name], value, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


def loss_and_gradients(net, objective, x):
    loss = objective.loss_and_grads(net.model, net.guide, x, LENGTHS)
    return {"loss": torch.tensor(loss, dtype=torch.float64), **gradients(net)}


@every_change
def test_loss_and_gradients_are_those_of_the_plain_form(change, transition):
    net, x = changed_net(change, transition=transition), random_frames("gaussian")
    fast, plain = (loss_and_gradients(net, ZForcingELBO(**FULL), x) for net in both(net))
    assert_equal(fast, plain)


@pytest.mark.slow
@every_change
def test_filter_and_fivo_are_those_of_the_plain_form(change):
    net, x = changed_net(change), random_frames("gaussian")
    fast, plain = (loss_and_gradients(net, FIVO(3), x) for net in both(net))
    assert_equal(fast, plain)
    fast, plain = (ParticleFilter(net, 4).run(x, LENGTHS)._asdict() for net in both(net))
    assert_equal(fast, plain)


@every_change
def test_generated_sequences_are_those_of_the_plain_form(change):
    net = changed_net(change).eval()
    fast, plain = (net.generate(3, 5) for net in both(net))
    torch.testing.assert_close(fast, plain, **EXACT)
    x = random_frames("gaussian")
    fast, plain = (net.reconstruct(x, LENGTHS) for net in both(net))
    torch.testing.assert_close(fast, plain, **EXACT)


@every_change
def test_states_are_those_of_the_plain_form(change):
    net, x = changed_net(change), random_frames("gaussian")
    z = torch.randn(3, 4, 3, dtype=torch.float64)
    fast, plain = (net.states(x, z)._asdict() for net in both(net))
    assert_equal(fast, plain)


@pytest.mark.parametrize(
    "name", ["a subclass of the cell", "a hook on the prior network", "posterior set on the instance"]
)
def test_arviz_data_are_those_of_the_plain_form(name):
    net, x = changed_net(CHANGES[name]).eval(), random_frames("gaussian")
    fast, plain = (to_arviz(net, x, LENGTHS, num_samples=4).sample_stats["log_p"].values for net in both(net))
    torch.testing.assert_close(torch.as_tensor(fast), torch.as_tensor(plain), **EXACT)


@pytest.mark.parametrize(
    "name", ["a hook on the embedding", "a hook inside the embedding", "an activation in place of dropout"]
)
def test_a_changed_embedding_reaches_the_backward_states(name):
    net, x = changed_net(CHANGES[name]), random_frames("gaussian")
    fast, plain = (net.backward_states(x, LENGTHS) for net in both(net))
    real = (torch.arange(4).unsqueeze(1) < LENGTHS).unsqueeze(-1)
    torch.testing.assert_close(fast.where(real, 0.0), plain.where(real, 0.0), **EXACT)


def test_a_changed_backward_network_is_honoured_also_in_segments():
    net, x = random_net("gaussian"), random_frames("gaussian")
    net.backward_rnn.register_forward_hook(lambda module, args, b: 0.5 * b)
    whole, parts = ZForcingELBO(**FULL), SegmentedELBO(**FULL, segment=2)
    with pytest.warns(PlainLoopWarning, match="backward_rnn has hooks"):
        whole.loss(net.model, net.guide, x)
    found = []
    for objective in (whole, parts):
        pyro.set_rng_seed(3)
        net.zero_grad()
        found.append(loss_and_gradients(net, objective, x))
    assert_equal(*found)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3, unique=True),
    transition=st.sampled_from(["conditional_layer_norm", "concatenate"]),
    objective=st.sampled_from(["zforcing", "importance", "fivo"]),
    seed=st.integers(0, 1000),
)
def test_any_changes_together_keep_one_density(names, transition, objective, seed):
    net, x = random_net("gaussian", transition=transition, seed=seed), random_frames("gaussian", seed=seed)
    for name in names:
        try:
            CHANGES[name](net)
        except (AttributeError, KeyError, RuntimeError):  # the part is gone, by another change
            return
    made = {
        "zforcing": lambda: ZForcingELBO(**FULL),
        "importance": lambda: ImportanceWeightedELBO(3, max_plate_nesting=1),
        "fivo": lambda: FIVO(3),
    }[objective]
    fast, plain = (loss_and_gradients(net, made(), x) for net in both(net))
    assert_equal(fast, plain)


def test_a_class_that_is_patched_is_honoured(monkeypatch):
    net, x = random_net("gaussian"), random_frames("gaussian")
    plain = MLP.forward
    before = ZForcingELBO().loss(net.model, net.guide, x)
    monkeypatch.setattr(MLP, "forward", lambda self, *inputs: 1.1 * plain(self, *inputs))
    fast, reference = (loss_and_gradients(net, ZForcingELBO(**FULL), x) for net in both(net))
    assert_equal(fast, reference)
    assert fast["loss"] != before


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda net: hook(net, "prior_network"), "prior_network has hooks"),
        (lambda net: become(net.posterior_network.first, Doubling), "posterior_network.first is a tests"),
        (
            lambda net: set_attribute(net, "posterior", shifted_normal(net.posterior)),
            "posterior was set on the instance",
        ),
        (lambda net: wrap_forward(net, "cell.hidden_weights"), "cell.hidden_weights.forward was set on the instance"),
        (lambda net: prune.l1_unstructured(net.cell.hidden_weights, "weight", 0.4), "cell.hidden_weights has hooks"),
    ],
)
def test_a_warning_names_the_changed_part_once(change, part):
    net, x = changed_net(change), random_frames("gaussian")
    with pytest.warns(PlainLoopWarning, match=part):
        ZForcingELBO(**FULL).loss_and_grads(net.model, net.guide, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ZForcingELBO(**FULL).loss_and_grads(net.model, net.guide, x)


@pytest.mark.parametrize("name", ["pruned posterior", "pruned cell", "weight norm by parametrization", "nothing"])
def test_a_changed_net_trains_for_several_steps(name):
    net, x = changed_net(CHANGES[name]), random_frames("gaussian")
    svi = pyro.infer.SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-2}), loss=ZForcingELBO())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlainLoopWarning)
        losses = [svi.step(x) for _ in range(30)]
    assert min(losses[-5:]) < losses[0]


def test_removing_a_change_brings_the_fast_form_back():
    net, x = random_net("gaussian"), random_frames("gaussian")
    pyro.set_rng_seed(0)
    before = ZForcingELBO().loss(net.model, net.guide, x)
    handle = net.prior_network.register_forward_hook(lambda module, args, out: 1.1 * out)
    with pytest.warns(PlainLoopWarning):
        ZForcingELBO().loss(net.model, net.guide, x)
    handle.remove()
    pyro.set_rng_seed(0)
    assert ZForcingELBO().loss(net.model, net.guide, x) == before


def test_a_copy_of_a_changed_net_keeps_its_change():
    net, x = random_net("gaussian"), random_frames("gaussian")
    become(net.prior_network, Shifted)
    copied = copy.deepcopy(net)
    pyro.clear_param_store()
    assert isinstance(copied, ZForcing)
    fast, plain = (loss_and_gradients(copied, ZForcingELBO(**FULL), x) for copied in both(copied))
    assert_equal(fast, plain)


def test_priors_on_weights_are_refused_since_they_would_be_sampled_at_each_access():
    net, x = random_net("gaussian"), random_frames("gaussian")
    to_pyro_module_(net)
    net.prior_network.first.weight = PyroSample(pyro.distributions.Normal(0.0, 1.0).expand([6, 4]).to_event(2))
    for program in (net.model, net.guide):
        with pytest.raises(TypeError, match="must not be a PyroModule"):
            program(x)
