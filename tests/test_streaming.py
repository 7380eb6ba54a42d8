"""State carried over chunks of time, and statistics of generated sequences."""

import pyro
import pyro.poutine as poutine
import pytest
import torch

from zf_pyro import State

from .comparing import EXACT, assert_same, gradients
from .conftest import random_frames, random_net, random_state
from .textbook import Textbook


def density(net, x, z, **given):
    """Compute log p(x, z) for latents z (batch, time, latent); (batch,)."""
    values = {f"z_{t}": z_t for t, z_t in enumerate(z.unbind(1))}
    trace = poutine.trace(poutine.condition(lambda: net.model(x, **given), data=values)).get_trace()
    trace.compute_log_prob()
    return sum(site["log_prob"] for name, site in trace.nodes.items() if name[:2] in ("x_", "z_"))


def last(states):
    return State(*(field[-1] for field in states))


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_two_chunks_have_the_density_of_the_whole(cut, emission, transition):
    net, x = random_net(emission, transition=transition), random_frames(emission, time=6)
    z = torch.randn(3, 6, 3, dtype=torch.float64)
    whole = density(net, x, z)
    carried = last(net.states(x[:, :cut], z[:, :cut]))
    first = density(net, x[:, :cut], z[:, :cut])
    second = density(net, x[:, cut:], z[:, cut:], context=x[:, cut - 1], initial_state=carried)
    torch.testing.assert_close(first + second, whole, **EXACT)
    assert_same(gradients(net, (first + second).sum()), gradients(net, whole.sum()))


def test_frame_by_frame_has_the_density_of_the_whole(transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    z, state, total, context = torch.randn(3, 4, 3, dtype=torch.float64), None, 0.0, None
    for t in range(4):
        now = slice(t, t + 1)
        total = total + density(net, x[:, now], z[:, now], context=context, initial_state=state)
        state = last(net.states(x[:, now], z[:, now], context=context, initial_state=state))
        context = x[:, t]
    torch.testing.assert_close(total, density(net, x, z), **EXACT)


def test_carried_states_and_lengths_go_together(transition):
    """The second chunk may be padded."""
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian", time=6)
    z, lengths = torch.randn(3, 6, 3, dtype=torch.float64), torch.tensor([6, 5, 4])
    carried = last(net.states(x[:, :3], z[:, :3]))
    first = density(net, x[:, :3], z[:, :3])
    given = {"lengths": lengths - 3, "context": x[:, 2], "initial_state": carried}
    second = density(net, x[:, 3:], z[:, 3:], **given)
    torch.testing.assert_close(first + second, density(net, x, z, lengths=lengths), **EXACT)


def test_generation_continues_from_a_carried_state(transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    state = random_state(net)
    trace = poutine.trace(lambda: net.model(None, context=x[:, 0], initial_state=state, num_steps=1, batch_shape=(3,)))
    trace = trace.get_trace()
    torch.testing.assert_close(trace.nodes["z_0"]["fn"].mean, net.prior(state).mean, **EXACT)
    after = net.transition(state, x[:, 0], trace.nodes["z_0"]["value"])
    torch.testing.assert_close(trace.nodes["x_0"]["fn"].mean, net.emission(after).mean, **EXACT)


MANY = 20_000


def moments(frames):
    """Compute first and second moments of sequences (batch, elements), with their squared standard errors."""
    pairs = (frames.unsqueeze(-1) * frames.unsqueeze(-2)).flatten(1)
    statistics = torch.cat([frames, pairs], dim=1)
    return statistics.mean(0), statistics.var(0) / len(frames)


@pytest.mark.parametrize("emission", ["gaussian", "mixture", "bernoulli", "categorical"])
def test_generated_frames_have_the_moments_of_ancestral_sampling(emission, transition):
    net = random_net(emission, transition=transition)
    sizes = {"num_steps": 3, "batch_shape": (MANY,)}
    with torch.no_grad():
        ours = net.model(None, **sizes)
        pyro.set_rng_seed(99)
        theirs = Textbook(net).model(None, **sizes)
    assert ours.shape == theirs.shape
    if emission == "categorical":
        ours, theirs = (torch.nn.functional.one_hot(frames, 4)[..., 1:] for frames in (ours, theirs))
    (mean, error), (expected, other) = moments(ours.double().flatten(1)), moments(theirs.double().flatten(1))
    assert ((mean - expected).abs() < 5 * (error + other).sqrt() + 1e-12).all()
    assert error.max() > 0


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_generation_has_the_requested_shapes(emission):
    net = random_net(emission)
    frame = net.emission_family.event_shape
    assert net.model(num_steps=3, batch_shape=(2,)).shape == (2, 3, *frame)
    assert net.model(num_steps=3, batch_shape=2).shape == (2, 3, *frame)
    assert net.model(num_steps=1, batch_shape=(4, 2)).shape == (4, 2, 1, *frame)
    with pyro.plate("particles", 5, dim=-2):
        assert net.model(num_steps=3, batch_shape=(2,)).shape == (5, 2, 3, *frame)


def test_generation_with_lengths_masks_the_padding():
    net, lengths = random_net("gaussian"), torch.tensor([3, 1])
    trace = poutine.trace(net.model).get_trace(None, lengths, num_steps=3, batch_shape=(2,))
    trace.compute_log_prob()
    for t in range(3):
        for kind in "zx":
            assert (trace.nodes[f"{kind}_{t}"]["log_prob"] != 0).tolist() == (t < lengths).tolist()


def test_imputed_frames_follow_from_those_before():
    """Missing frames are sampled from the emission and are inputs of the next step."""
    net, x = random_net("gaussian"), random_frames("gaussian")
    known = {f"x_{t}": x[:, t] for t in (0, 1, 3)}
    trace = poutine.trace(poutine.condition(net.model, data=known)).get_trace(None, num_steps=4, batch_shape=(3,))
    frames, sites = trace.nodes["_RETURN"]["value"], trace.nodes
    for t in (0, 1, 3):
        torch.testing.assert_close(frames[:, t], x[:, t], rtol=0, atol=0)
    assert not torch.allclose(frames[:, 2], x[:, 2])
    trace.compute_log_prob()
    found = sum(sites[f"{kind}_{t}"]["log_prob"] for kind in "xz" for t in range(4))
    z = torch.stack([sites[f"z_{t}"]["value"] for t in range(4)], dim=1)
    torch.testing.assert_close(found, density(net, frames, z), **EXACT)
