"""SegmentedELBO: recomputation against the plain objective, truncation against its definition, and memory."""

import resource

import pyro
import pytest
import torch

from zf_pyro import Linear, State, ZForcing, ZForcingELBO, emissions
from zf_pyro.objectives import SegmentedELBO

from .comparing import assert_same, parameter_grads
from .conftest import EMISSIONS, random_frames, random_net, random_state

WEIGHTS = (0.7, 0.3, 0.2)
LENGTHS = torch.tensor([11, 4, 5])


def outcome(net, elbo, *arguments):
    """Return loss, terms and gradients under one seed."""
    pyro.set_rng_seed(0)
    loss = elbo.loss_and_grads(net.model, net.guide, *arguments)
    return {"loss": torch.tensor(loss), **elbo.terms._asdict(), **parameter_grads(net)}


@pytest.mark.parametrize("segment", [1, 4, 11, 20])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_recomputation_equals_the_plain_objective(segment, lengths, transition):
    net, x = random_net("gaussian", transition=transition), random_frames(time=11)
    plain, ours = (cls(*WEIGHTS, **more) for cls, more in ((ZForcingELBO, {}), (SegmentedELBO, {"segment": segment})))
    assert_same(outcome(net, ours, x, lengths), outcome(net, plain, x, lengths))


@pytest.mark.parametrize("emission", EMISSIONS)
def test_recomputation_supports_every_family_context_and_initial_state(emission):
    net, x = random_net(emission), random_frames(emission, time=11)
    arguments = x, LENGTHS, random_frames(emission, time=1, seed=5)[:, 0], random_state(net)
    plain, ours = ZForcingELBO(*WEIGHTS, free_nats=0.1), SegmentedELBO(*WEIGHTS, free_nats=0.1, segment=4)
    assert_same(outcome(net, ours, *arguments), outcome(net, plain, *arguments))


def test_recomputation_without_gradients_and_as_a_module():
    net, x = random_net(), random_frames(time=7)
    elbo = SegmentedELBO(*WEIGHTS, segment=3)
    module = elbo(net.model, net.guide)
    losses = []
    for function in (module, lambda x: ZForcingELBO(*WEIGHTS).differentiable_loss(net.model, net.guide, x)):
        pyro.set_rng_seed(0)
        losses.append(function(x).detach())
    with torch.no_grad():
        pyro.set_rng_seed(0)
        losses.append(torch.tensor(elbo.loss(net.model, net.guide, x), dtype=torch.float64))
    assert torch.allclose(torch.stack(losses), losses[1], rtol=1e-9)
    assert elbo.step == 1


def by_definition(net, elbo, x, lengths, segment):
    """Run truncated back-propagation segment by segment, with states carried by ``net.states``."""
    state, context, total = None, None, 0.0
    for start in range(0, x.shape[1], segment):
        chunk = x[:, start : start + segment]
        given = None if lengths is None else (lengths - start).clamp(0, chunk.shape[1])
        with pyro.validation_enabled(False):  # sequences that have ended have length 0
            rng = torch.get_rng_state()
            elbo.differentiable_loss(net.model, net.guide, chunk, given, context, state).backward()
            after = torch.get_rng_state()
            total += elbo.terms.elbo.sum()
            torch.set_rng_state(rng)
            with torch.no_grad():
                states = net.states(chunk, net.guide(chunk, given, context, state), context, state)
            torch.set_rng_state(after)
        state, context = State(*(field[-1] for field in states)), chunk[:, -1]
    return {"elbo": total, **parameter_grads(net)}


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("segment", [3, 11])
def test_truncation_equals_its_definition(segment, lengths):
    net = random_net()
    x = random_frames(time=11)
    if lengths is not None:
        x = torch.where((torch.arange(11) < lengths.unsqueeze(1)).unsqueeze(-1), x, 0.0)
    pyro.set_rng_seed(0)
    expected = by_definition(net, ZForcingELBO(*WEIGHTS), x, lengths, segment)
    elbo = SegmentedELBO(*WEIGHTS, segment=segment, truncate=True)
    found = outcome(net, elbo, x, lengths)
    found["elbo"] = elbo.terms.elbo.sum()
    assert_same({name: found[name] for name in expected}, expected)


def test_truncation_in_one_segment_equals_the_plain_objective():
    net, x = random_net(), random_frames(time=11)
    ours = SegmentedELBO(*WEIGHTS, segment=11, truncate=True)
    assert_same(outcome(net, ours, x, LENGTHS), outcome(net, ZForcingELBO(*WEIGHTS), x, LENGTHS))


def test_schedules_follow_the_objectives_steps():
    net, x = random_net(), random_frames(time=5)
    elbo = SegmentedELBO(Linear(0.0, 1.0, 4), segment=2)
    for step in range(3):
        assert elbo.kl_weight == step / 4
        elbo.loss_and_grads(net.model, net.guide, x)
    assert elbo.state_dict() == {"step": 3}


def test_input_that_cannot_be_segmented_is_refused():
    net, x = random_net(), random_frames()
    with pytest.raises(ValueError, match="segment must be a positive integer, got 0"):
        SegmentedELBO(segment=0)
    with pytest.raises(ValueError, match="num_particles must be 1 in segments, got 2"):
        SegmentedELBO(segment=2, num_particles=2)
    with pytest.raises(TypeError, match=r"net\.model and net\.guide of one network"):
        SegmentedELBO(segment=2).loss_and_grads(net.model, random_net(seed=4).guide, x)
    with pytest.raises(ValueError, match=r"lengths must be between 1 and 4 .* got 5 at sequence 0"):
        SegmentedELBO(segment=2).loss_and_grads(net.model, net.guide, x, torch.tensor([5, 1, 1]))


def peak(elbo, num_steps):
    """Return the megabytes by which one training step raises the peak memory of this process."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "hidden_dim": 64, "latent_dim": 16, "mlp_dim": 32}
    net = ZForcing(emissions.Gaussian(1), **sizes)
    with pyro.validation_enabled(False):
        elbo.loss_and_grads(net.model, net.guide, torch.randn(2, 64, 1))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        elbo.loss_and_grads(net.model, net.guide, torch.randn(2, num_steps, 1))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


@pytest.mark.slow
def test_memory_is_bounded_at_sixteen_thousand_steps():
    """Each case has its own process, since the peak memory of a process never falls."""
    from .training_runs import PROCESSES

    arguments = [
        (ZForcingELBO(), 4_000),
        (SegmentedELBO(segment=500), 16_000),
        (SegmentedELBO(segment=500, truncate=True), 16_000),
        (SegmentedELBO(segment=500, truncate=True), 4_000),
    ]
    with PROCESSES.Pool(1, maxtasksperchild=1) as pool:
        plain, recomputed, truncated, shorter = pool.starmap(peak, arguments, chunksize=1)
    assert recomputed < 0.5 * plain, "four times the steps in half of the memory"
    assert truncated < 0.5 * plain
    assert truncated < 1.5 * shorter + 4
