"""The fast loops on a GPU against the plain ones there, and both against a CPU."""

import copy

import pyro
import pytest
import torch

from zf_pyro import ZForcingELBO

from ..comparing import assert_same, gradients, weighted_sum
from ..conftest import EMISSIONS, random_frames, random_net, random_state
from ..test_recurrence import (
    SHAPES,
    _double,
    _error,
    fast_posterior,
    fast_states,
    parts,
    plain_posterior,
    plain_states,
    scan_arguments,
)
from .common import NEEDS_CUDA, Noiseless, on, outcome, twins

pytestmark = NEEDS_CUDA
LENGTHS = torch.tensor([7, 2, 5])
WEIGHTS = 0.7, 0.3, 0.2


def arguments(emission, device):
    """Return x, lengths, context and initial state on a device."""
    x, context = random_frames(emission, time=7), random_frames(emission, time=1, seed=5)
    return on(device, (x, LENGTHS, context[:, 0], random_state(random_net(emission))))


@pytest.mark.parametrize("emission", EMISSIONS)
def test_the_objective_over_the_fast_loops_equals_that_over_the_plain_ones(emission, transition):
    found = []
    for recurrence in ("deferred", "reference"):
        net = random_net(emission, transition=transition, recurrence=recurrence).cuda()
        found.append(outcome(net, ZForcingELBO(*WEIGHTS), *arguments(emission, "cuda")))
    assert_same(*found)


@pytest.mark.parametrize("emission", EMISSIONS)
def test_the_objective_equals_that_of_a_cpu(emission, transition):
    found = [
        outcome(net, ZForcingELBO(*WEIGHTS), *arguments(emission, device))
        for device, net in twins(emission, transition=transition).items()
    ]
    assert_same(*found)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_loops_equal_the_plain_ones_in_values_and_every_gradient(shape, transition):
    net = random_net(transition=transition, spread=0.8).cuda()
    state, u, b, noise = on("cuda", scan_arguments(net, SHAPES[shape]))
    leaves = [leaf.requires_grad_() for leaf in (*state, u, b)]
    found = []
    for posterior, states in ((fast_posterior, fast_states), (plain_posterior, plain_states)):
        scan = posterior(net, state, u, b, noise)
        values = parts(scan) | {f"again {k}": v for k, v in states(net, state, u, scan.z)._asdict().items()}
        loss = weighted_sum(on("cpu", values))
        into = torch.autograd.grad(loss, leaves, retain_graph=True)
        found.append(values | dict(enumerate(into)) | gradients(net, loss))
    assert_same(*found)


def test_float32_costs_the_fast_loop_no_more_accuracy_than_the_plain_one(transition):
    """The error of float32 against float64 is at most twice that of the plain loop."""
    errors = {fast_posterior: torch.zeros(2, dtype=torch.float64), plain_posterior: torch.zeros(2, dtype=torch.float64)}
    for seed in range(5):
        sizes = {"hidden_dim": 32, "latent_dim": 8, "mlp_dim": 24}
        exact = random_net(transition=transition, spread=0.05, seed=seed, **sizes)
        rough = copy.deepcopy(exact).float()
        exact.load_state_dict(rough.state_dict())
        exact, rough = exact.cuda(), rough.cuda()
        given = on("cuda", scan_arguments(rough, (16,), time=20))
        truth = parts(plain_posterior(exact, *_double(given)))
        truth_gradients = gradients(exact, weighted_sum(on("cpu", truth)))
        for loop, total in errors.items():
            found = parts(loop(rough, *given))
            grads = gradients(rough, weighted_sum(on("cpu", found)))
            total += torch.stack([_error(found, truth), _error(grads, truth_gradients)]).cpu()
    assert errors[plain_posterior].max() < 1e-3, "the network is chaotic: the test would have no power"
    assert (errors[fast_posterior] <= 2 * errors[plain_posterior]).all()


def test_the_objective_in_float32_is_as_accurate_as_over_the_plain_loops(transition):
    x, lengths = random_frames(time=7, dtype=torch.float32).cuda(), LENGTHS.cuda()
    errors = {}
    for recurrence in ("deferred", "reference"):
        total = 0.0
        for seed in range(5):
            net = random_net(transition=transition, recurrence=recurrence, dtype=torch.float32, spread=0.05, seed=seed)
            found = []
            for each in (net.cuda(), copy.deepcopy(net).double().cuda()):
                pyro.clear_param_store()
                each.__class__ = Noiseless
                values = outcome(each, ZForcingELBO(*WEIGHTS), x.to(each.emission_layer.weight.dtype), lengths)
                found.append({name: value for name, value in values.items() if "." in name})
            total += _error(*found).item()
        errors[recurrence] = total
    assert errors["deferred"] <= 2 * errors["reference"]


def test_padding_never_changes_a_sequence(transition):
    net, found = random_net(transition=transition).cuda(), []
    x, lengths = random_frames(time=7).cuda(), LENGTHS.cuda()
    for filling in (0.0, 1e6, float("nan")):
        padded = x.clone()
        padded[torch.arange(7, device="cuda") >= lengths.unsqueeze(1)] = filling
        pyro.set_rng_seed(0)
        found.append(outcome(net, ZForcingELBO(*WEIGHTS), padded, lengths))
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])
