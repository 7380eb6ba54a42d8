"""The ancestral sampling loop: its prepared transition and its samples against the step functions."""

import pyro.distributions as dist
import pytest
import torch

import zf_pyro
from zf_pyro import State
from zf_pyro.emissions import most_likely
from zf_pyro.generation import ancestral
from zf_pyro.generation.strategies import drawn
from zf_pyro.networks import PlainLoopWarning

from .comparing import EXACT
from .conftest import EMISSIONS, random_frames, random_net, random_state


@pytest.mark.parametrize("embed_dim", [2, 5])
@pytest.mark.parametrize("emission", sorted(EMISSIONS))
def test_the_prepared_transition_equals_the_transition(emission, embed_dim, transition):
    net = random_net(emission, transition=transition, embed_dim=embed_dim).eval()
    u_t = random_frames(emission)[:, 0]
    state = State(*(field.expand(2, 3, -1) for field in random_state(net)))
    z_t = torch.randn(2, 3, 3, dtype=torch.float64)
    found, expected = net.loop_transition()(state, u_t, z_t), net.transition(state, u_t, z_t)
    for name in State._fields:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **EXACT)


def test_dropout_acts_within_the_prepared_transition(transition):
    net = random_net("gaussian", transition=transition, dropout=0.5).train()
    state, u_t, z_t = random_state(net), random_frames()[:, 0], torch.randn(3, 3, dtype=torch.float64)
    results = []
    for step in (net.loop_transition(), net.transition):
        torch.manual_seed(0)
        results.append(step(state, u_t, z_t).hidden)
    torch.testing.assert_close(*results, **EXACT)


@pytest.mark.parametrize("emission", sorted(EMISSIONS))
def test_both_recurrences_generate_the_same_under_one_seed(emission, transition):
    results = []
    for recurrence in ("deferred", "reference"):
        net = random_net(emission, transition=transition, recurrence=recurrence)
        torch.manual_seed(0)
        results.append(net.generate(5, 6))
    torch.testing.assert_close(*results, **EXACT)


def test_sequences_are_those_of_the_step_functions(transition):
    net = random_net("gaussian", transition=transition)
    state, first = random_state(net), random_frames()[:, 0]
    with torch.no_grad():
        for z_t, x_t in ancestral(net, state, first, 4, most_likely):
            state, first = net.transition(state, first, z_t), x_t
            torch.testing.assert_close(x_t, net.emission(state).mean, **EXACT)


class Doubled(zf_pyro.ZForcing):
    """A model whose transition doubles the latent."""

    def transition(self, state, u_t, z_t):
        return super().transition(state, u_t, 2.0 * z_t)


def test_an_overridden_transition_is_used():
    net = Doubled(EMISSIONS["gaussian"], embed_dim=5, hidden_dim=4, latent_dim=3, mlp_dim=6)
    assert net.loop_transition() == net.transition
    net = random_net("gaussian")
    net.transition = net.prior  # replaced on this instance alone
    with pytest.warns(PlainLoopWarning, match="transition was set on the instance"):
        assert net.loop_transition() == net.transition


def test_samples_of_normals_have_their_moments():
    loc, scale = torch.tensor([1.0, -2.0]), torch.tensor([0.1, 3.0])
    for normal in (dist.Normal(loc, scale), dist.Normal(loc, scale).to_event(1)):
        x = drawn(normal.expand((20_000, 2) if normal.event_dim == 0 else (20_000,)))
        assert ((x.mean(0) - loc).abs() < 4 * scale / 20_000**0.5).all()
        torch.testing.assert_close(x.std(0), scale, rtol=0.03, atol=0.0)
