"""Scans and densities of whole sequences keep the precision of the weights under ``torch.autocast``."""

import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from zf_pyro import ZForcingELBO

from .comparing import assert_same, parameter_grads
from .conftest import random_frames, random_net

pytestmark = pytest.mark.usefixtures("each_machine")

BFLOAT16 = torch.autocast("cpu", torch.bfloat16)


def scans(net, x):
    """Run everything that is evaluated over whole sequences; tensors by name."""
    b = net.backward_states(x, torch.tensor([4, 2, 1]))
    state, u = net.initial_state((3,)), net.inputs(x).transpose(0, 1)
    noise = torch.randn(4, 3, net.latent_dim, generator=torch.Generator().manual_seed(0))
    scan = net.scan_posterior(state, u, b.detach(), noise)
    states, before = net.scan_states(state, u, scan.z), scan.before
    prior = net.scan_prior(before)
    density = net.scan_auxiliary(scan.z, before, b)
    return {"b": b, "z": scan.z, "h": states.hidden, "prior": prior.mean, "auxiliary": density}


@pytest.mark.parametrize("recurrence", ["deferred", "reference"])
def test_autocast_does_not_change_loops_and_densities_of_whole_sequences(transition, recurrence):
    net = random_net(dtype=torch.float32, transition=transition, recurrence=recurrence)
    x, found = random_frames(dtype=torch.float32), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(scans(net, x))
    assert_same(*found, rtol=0, atol=0)


@pytest.mark.parametrize("objective", [ZForcingELBO(1.0, 0.1, 0.1), TraceMeanField_ELBO()], ids=["own", "pyros"])
def test_objectives_under_autocast_are_right_to_the_precision_of_bfloat16(transition, objective):
    net, x = random_net(dtype=torch.float32, transition=transition), random_frames(time=40, dtype=torch.float32)
    found = []
    for enabled in (False, True):
        pyro.set_rng_seed(0)
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = objective.loss_and_grads(net.model, net.guide, x)
        found.append((loss, torch.cat([gradient.flatten() for gradient in parameter_grads(net).values()])))
    assert found[0][0] != found[1][0]
    assert found[0][0] == pytest.approx(found[1][0], rel=0.01)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0.05, atol=0.05 * found[0][1].abs().max().item())


def test_backward_states_of_lower_precision_are_cast_under_autocast(transition):
    """A user's backward RNN may return them. Without a cast, the fast loops would read beyond their memory."""
    net, x = random_net(dtype=torch.float32, transition=transition), random_frames(dtype=torch.float32)
    b, found = net.backward_states(x).bfloat16(), []
    with BFLOAT16:
        for states in (b, b.float()):
            pyro.set_rng_seed(0)
            found.append(net.guide(x, b=states))
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(*found, rtol=0, atol=0)
