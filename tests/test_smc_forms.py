"""Steps of a filter in another form: they have the values and gradients of the step functions, or do not run."""

import pytest
import torch
from torch import nn

from zf_pyro import FIVO, STORN, VRNN, ZForcing
from zf_pyro.inference import ParticleFilter, Twist
from zf_pyro.networks import PlainLoopWarning
from zf_pyro.objectives import fivo
from zf_pyro.paths.inputs import prepare_inputs
from zf_pyro.smc.forms import steps_of
from zf_pyro.smc.steps import FilterSteps, PreparedSteps
from zf_pyro.smc.vrnn_steps import VRNNSteps

from .comparing import assert_same, gradients
from .conftest import EMISSIONS, random_frames, random_net, random_state

FORMS = {
    "VRNN": (VRNN, {}, VRNNSteps),
    "VRNN, linear features": (VRNN, {"feature_networks": False}, VRNNSteps),
    "ZForcing that sees the input": (ZForcing, {"latents_see_input": True}, PreparedSteps),
}


def form(net, x):
    given = prepare_inputs(net, x, None, None, None)
    return type(steps_of(net, given.u, net.backward_states(x), given.x))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("proposal", ["posterior", "prior"])
@pytest.mark.parametrize("emission", sorted(EMISSIONS))
def test_the_bound_and_its_gradients_are_those_of_the_step_functions(emission, proposal, name, monkeypatch):
    """Every step resamples, so that states are those of ancestors; the first continues from another state."""
    model, settings, expected = FORMS[name]
    net, x = random_net(emission, model=model, **settings), random_frames(emission, time=5)
    assert form(net, x) is expected
    found = []
    for steps in (steps_of, FilterSteps):
        monkeypatch.setattr(fivo, "steps_of", steps)
        torch.manual_seed(4)
        start = type(random_state(net))(*(field.requires_grad_() for field in random_state(net)))
        objective = FIVO(5, proposal=proposal, threshold=1.0)
        loss = objective.differentiable_loss(net.model, net.guide, x, torch.tensor([5, 4, 2]), x[:, 1], start)
        inputs = torch.autograd.grad(loss, start, retain_graph=True)
        found.append({"loss": loss, "h": inputs[0], "c": inputs[1], **gradients(net, loss)})
    assert_same(*found)


@pytest.mark.parametrize("twisted", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_an_evaluation_has_the_weights_of_the_step_functions(name, twisted, monkeypatch):
    model, settings, _ = FORMS[name]
    net, x = random_net("gaussian", model=model, **settings), random_frames("gaussian")
    twist = Twist(net) if twisted else None
    if twist is not None:
        nn.init.normal_(twist.network.second.weight)
    found = []
    for steps in (steps_of, FilterSteps):
        monkeypatch.setattr("zf_pyro.smc.filter.steps_of", steps)
        torch.manual_seed(1)
        result = ParticleFilter(net, 6, twist=twist).run(x)
        found.append({"evidence": result.log_evidence, "z": result.smoothed(4)})
    assert_same(*found)


class Doubled(VRNN):
    """A model with an emission of its own."""

    def emission(self, state):
        return super().emission(state._replace(hidden=2.0 * state.hidden))


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (STORN, {}),
        (VRNN, {"recurrence": "reference"}),
        (VRNN, {"num_layers": 2}),
        (VRNN, {"cell": "gru"}),
        (Doubled, {}),
        (ZForcing, {"num_layers": 2}),
        (ZForcing, {"latents_see_input": True, "recurrence": "reference"}),
    ],
)
def test_other_models_run_their_step_functions(model, settings):
    assert form(random_net("gaussian", model=model, **settings), random_frames("gaussian")) is FilterSteps


@pytest.mark.parametrize("part", ["emission_hidden", "emission_latent", "prior_network", "posterior_network", "cell"])
def test_a_changed_part_is_called(part):
    net, x = random_net("gaussian", model=VRNN), random_frames("gaussian")
    getattr(net, part).register_forward_hook(lambda *_: None)
    with pytest.warns(PlainLoopWarning, match=f"{part} has hooks"):
        assert form(net, x) is FilterSteps


def test_the_steps_of_vrnn_run_under_autocast():
    net = random_net("gaussian", model=VRNN, dtype=torch.float32)
    x = random_frames("gaussian", dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert ParticleFilter(net, 3).run(x).log_evidence.isfinite().all()
        loss = FIVO(3).differentiable_loss(net.model, net.guide, x)
    assert loss.isfinite()
    assert all(value.isfinite().all() for value in gradients(net, loss).values())


def test_dropout_of_an_embedding_zeroes_elements_anew_at_each_step():
    net, x = random_net("gaussian", model=VRNN, dropout=0.5, dtype=torch.float32), torch.zeros(3, 40, 2)
    nn.init.ones_(net.embedding[0].bias)
    given = prepare_inputs(net, x, None, None, None)
    steps = VRNNSteps(net, given.u, None, given.x)
    assert len(torch.stack(steps.drives)[:, 0, 0].unique(dim=0)) > 20
