"""Frames hidden from the recurrence in training: which, by what, and in every model that has the option."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI

from zf_pyro import DMM, SRNN, STORN, VRNN, ZForcing, ZForcingELBO
from zf_pyro.objectives import FIVO, ImportanceWeightedELBO, SegmentedELBO
from zf_pyro.saving import load_net, save_net

from .comparing import EXACT
from .conftest import EMISSIONS, random_frames, random_net

MODELS = [ZForcing, VRNN, SRNN, STORN]
ALL = 1.0 - 1e-12
"""A probability at which no frame is left; 1 is refused."""


def log_probs(net, x, latents, **given):
    """log p(x, z) and log q(z | x) in nats at given latents, {"z_1": (batch, latent), ...}."""
    programs = (poutine.condition(program, latents) for program in (net.model, net.guide))
    return [poutine.trace(program).get_trace(x, **given).log_prob_sum() for program in programs]


def some_latents(net, x, **given):
    trace = poutine.trace(net.eval().guide).get_trace(x, **given)
    return {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}


@pytest.mark.parametrize("emission", EMISSIONS)
def test_each_frame_before_is_replaced_by_the_start_frame_at_the_given_rate(emission):
    net, x = random_net(emission, frame_dropout=0.3), random_frames(emission, batch=200, time=51)
    before, start = x[:, :-1].reshape(200, 50, -1), net.emission_family.start(x)[:, 1:].reshape(200, 50, -1)
    first, read = net.inputs(x).reshape(200, 51, -1).split([1, 50], dim=1)
    assert torch.equal(first, start[:, :1])
    hidden, kept = (read == start).all(-1), (read == before).all(-1)
    assert (hidden | kept).all()
    differs = (before != start).any(-1)
    assert hidden[differs].double().mean() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(net.eval().inputs(x)[:, 1:], x[:, :-1])


@pytest.mark.parametrize("recurrence", ["deferred", "reference"])
@pytest.mark.parametrize("model", MODELS)
def test_the_recurrence_alone_does_not_see_hidden_frames(model, recurrence, monkeypatch):
    """Targets and what the posterior reads of the frames stay: the reference reads start frames through `inputs`."""
    net, x = random_net(model=model, frame_dropout=ALL, recurrence=recurrence), random_frames()
    latents = some_latents(net, x)
    found = log_probs(net.train(), x, latents)
    seen = log_probs(net.eval(), x, latents)
    monkeypatch.setattr(model, "inputs", lambda self, x, *_: self.emission_family.start(x))
    expected = log_probs(net, x, latents)
    torch.testing.assert_close(found, expected, **EXACT)
    assert abs(found[0] - seen[0]) > 1e-3
    if model is not STORN:  # whose posterior reads the frames alone
        assert abs(found[1] - seen[1]) > 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_covariates_are_not_hidden_with_frames(model):
    net, x = random_net(model=model, frame_dropout=ALL, covariate_dim=2, missing="fill"), random_frames()
    covariates, observed = torch.randn(3, 4, 2, dtype=x.dtype), torch.rand(3, 4) < 0.7
    given = {"covariates": covariates, "observed": observed}
    latents = some_latents(net, x, **given)
    found = log_probs(net.train(), x, latents, **given)
    other = log_probs(net, x, latents, covariates=covariates + 1, observed=observed)
    assert abs(other[0] - found[0]) > 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_the_model_reads_the_frames_that_the_guide_has_read(model):
    net, x = random_net(model=model, frame_dropout=0.5), random_frames(batch=8, time=9)
    guide = poutine.trace(net.guide).get_trace(x)
    replayed = poutine.trace(poutine.replay(net.model, guide)).get_trace(x)
    states = [trace.nodes["z_1"]["fn"].path.stacked() for trace in (guide, replayed)]
    assert torch.equal(states[0].hidden, states[1].hidden)


@pytest.mark.parametrize("model", MODELS)
def test_training_runs_and_evaluation_sees_all_frames(model):
    net, x = random_net(model=model, frame_dropout=0.5), random_frames()
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), ZForcingELBO())
    assert all(svi.step(x) != svi.evaluate_loss(x) for _ in range(3))
    latents = some_latents(net, x)
    assert torch.equal(torch.stack(log_probs(net, x, latents)), torch.stack(log_probs(net, x, latents)))


@pytest.mark.parametrize("objective", [SegmentedELBO(segment=3), FIVO(3), ImportanceWeightedELBO(3)])
@pytest.mark.parametrize("model", MODELS)
def test_segments_particles_and_samples_train_with_hidden_frames(model, objective):
    net, x = random_net(model=model, frame_dropout=0.5), random_frames(time=8)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    assert SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), objective).step(x) > 0
    assert not all(map(torch.equal, before, net.parameters()))


@pytest.mark.parametrize("model", MODELS)
def test_a_saved_network_keeps_the_probability(model, tmp_path):
    save_net(random_net(model=model, frame_dropout=0.25), tmp_path / "net")
    assert load_net(model, tmp_path / "net").frame_dropout == 0.25


def test_bad_probabilities_and_models_that_read_no_frame_before_are_refused():
    for value in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="frame_dropout must be a probability in "):
            random_net(frame_dropout=value)
    with pytest.raises(TypeError, match="frame_dropout"):
        random_net(model=DMM, frame_dropout=0.5)
