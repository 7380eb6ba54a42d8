"""Lifetime of paths: nothing outlives its trace, runs never mix, and states are reused only for equal inputs."""

import gc
import threading
import weakref

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger

from zf_pyro import ZForcingELBO
from zf_pyro.recurrence.engine.buffers import Tape

from .comparing import assert_same, densities, gradients, weighted_sum
from .conftest import random_frames, random_net
from .handlers import traced
from .test_recurrence import fast_posterior, parts, scan_arguments
from .textbook import Textbook

LENGTHS = torch.tensor([4, 2, 3])


def live_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("loss", [ZForcingELBO, TraceMeanField_ELBO])
def test_a_thousand_steps_leave_no_growing_set_of_tensors(loss):
    net, x = random_net("gaussian"), random_frames("gaussian", batch=2, time=2)
    settings = {"aux_weight": 0.1} if loss is ZForcingELBO else {}
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), loss=loss(**settings))
    counts = {}
    for step in range(1, 1001):
        svi.step(x, torch.tensor([2, 1]))
        if step in (200, 1000):
            counts[step] = live_tensors()
    assert counts[1000] <= counts[200]


def tapes_left(step):
    """Count the loops that still hold their memory after a step without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        step()
        return sum(type(thing) is Tape for thing in gc.get_objects())
    finally:
        gc.enable()


@pytest.mark.parametrize("loss", [ZForcingELBO(aux_weight=0.1), TraceMeanField_ELBO()], ids=["own", "stock"])
def test_a_step_frees_its_memory_without_the_garbage_collector(loss, transition, each_machine):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), loss=loss)
    assert tapes_left(lambda: svi.step(x, LENGTHS)) == 0


@pytest.mark.slow
def test_a_scan_of_given_latents_frees_its_memory_without_the_garbage_collector(transition, each_machine):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    z = torch.randn(*x.shape[:2], net.latent_dim, dtype=x.dtype, requires_grad=True)
    assert tapes_left(lambda: net.states(x, z).hidden.square().sum().backward()) == 0
    held = []
    assert tapes_left(lambda: held.append(net.states(x, z))) > 0, "no loop was counted: the test would have no power"


@pytest.mark.parametrize("scored", [False, True])
def test_paths_are_freed_with_their_traces(scored):
    net, x = random_net("gaussian"), random_frames("gaussian")
    guide = traced(net.guide, x, LENGTHS)
    model = traced(poutine.replay(net.model, trace=guide), x, LENGTHS)
    if scored:
        weighted_sum(densities(model, guide)).backward()
    paths = [weakref.ref(trace.nodes["z_0"]["fn"].path) for trace in (model, guide)]
    values = weakref.ref(guide.nodes["z_0"]["value"])
    del guide, model
    gc.collect()
    assert [path() for path in paths] == [None, None]
    assert values() is None


def test_a_model_keeps_its_densities_when_the_guides_trace_is_gone(transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    guide = traced(net.guide, x)
    model = traced(poutine.replay(net.model, trace=guide), x)
    expected = densities(traced(poutine.replay(Textbook(net).model, trace=guide), x))
    del guide
    gc.collect()
    assert_same(densities(model), expected)


def test_two_networks_side_by_side_never_mix_paths(transition):
    first, second = (random_net("gaussian", transition=transition, seed=seed) for seed in (1, 2))
    x = random_frames("gaussian")
    guide, textbook = traced(first.guide, x, LENGTHS), traced(Textbook(first).guide, x, LENGTHS)
    ours = traced(poutine.replay(second.model, trace=guide), x, LENGTHS)
    theirs = traced(poutine.replay(Textbook(second).model, trace=textbook), x, LENGTHS)
    assert_same(densities(ours), densities(theirs))
    loss, expected = weighted_sum(densities(ours)), weighted_sum(densities(theirs))
    for net in (first, second):
        assert_same(gradients(net, loss), gradients(net, expected))


def test_two_runs_of_one_network_never_mix_paths():
    net, x, y = random_net("gaussian"), random_frames("gaussian"), random_frames("gaussian", seed=7)
    guides = [traced(net.guide, frames) for frames in (x, y)]
    for guide, frames in ((guides[0], y), (guides[1], x), (guides[0], x)):
        ours, theirs = (traced(poutine.replay(p.model, trace=guide), frames) for p in (net, Textbook(net)))
        assert_same(densities(ours), densities(theirs))


class Interrupt(Messenger):
    """Calls a function in the middle of a run, before the site of a name."""

    def __init__(self, name, run):
        super().__init__()
        self.name, self.run, self.calls = name, run, 0

    def _pyro_sample(self, msg):
        if msg["name"] == self.name:
            self.calls += 1
            name, self.name = self.name, None
            with poutine.block():
                self.run()
            self.name = name


@pytest.mark.parametrize("site", ["sequences", "z_0", "z_2", "x_1"])
def test_a_run_inside_another_does_not_change_it(site, transition):
    """Whole runs start before the plate, which Pyro allows once at a time; scoring and scans start in a run."""
    net, x, y = random_net("gaussian", transition=transition), random_frames("gaussian"), random_frames(seed=7)
    expected = traced(Textbook(net).guide, x)
    expected = densities(expected, traced(poutine.replay(Textbook(net).model, trace=expected), x))

    def run():
        guide = traced(net.guide, y)
        return guide, traced(poutine.replay(net.model, trace=guide), y)

    waiting = [run() for _ in range(2)]

    def inner():
        with torch.random.fork_rng():
            densities(*(run() if site == "sequences" else waiting.pop()))
            net.states(y, torch.randn(3, 4, 3, dtype=torch.float64))

    with Interrupt(site, inner) as interrupt:
        guide = traced(net.guide, x)
        model = traced(poutine.replay(net.model, trace=guide), x)
    assert interrupt.calls == (1 if site == "x_1" else 2)
    ours = densities(guide, model)
    assert_same(ours, expected)
    assert_same(gradients(net, weighted_sum(ours)), gradients(net, weighted_sum(expected)))


def test_scans_in_threads_do_not_mix():
    nets = [random_net("gaussian", transition=name, seed=seed) for seed, name in enumerate(["concatenate"] * 2)]
    arguments = [scan_arguments(net, (2, 3), time=20, seed=seed) for seed, net in enumerate(nets)]

    def run(i):
        found = parts(fast_posterior(nets[i], *arguments[i]))
        return gradients(nets[i], weighted_sum(found))

    alone = [run(i) for i in range(2)]
    together = [[], []]
    gate = threading.Barrier(2)

    def work(i):
        gate.wait()
        together[i] += [run(i) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(together[i]) == 10
        for grads in together[i]:
            assert_same(grads, alone[i], rtol=0, atol=0)


@pytest.mark.parametrize("program", ["model", "guide"])
def test_a_density_of_changed_parameters_is_refused(program):
    net, x = random_net("gaussian"), random_frames("gaussian")
    guide = traced(net.guide, x)
    trace = guide if program == "guide" else traced(poutine.replay(net.model, trace=guide), x)
    with torch.no_grad():
        net.prior_network.second.bias.add_(1.0)
    with pytest.raises(RuntimeError, match="parameters changed after this trace was made"):
        trace.compute_log_prob()


@pytest.fixture
def scans(monkeypatch):
    """A model, and the list of its state scans."""
    net, calls = random_net("gaussian"), []
    plain = net.scan_states

    def spy(*arguments):
        calls.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(net, "scan_states", spy)
    return net, calls


@pytest.mark.parametrize("loss", [ZForcingELBO, TraceMeanField_ELBO, pyro.infer.Trace_ELBO])
def test_a_replayed_model_reuses_the_guides_states(loss, scans):
    net, calls = scans
    for settings in ({}, {"num_particles": 2}, {"num_particles": 2, "vectorize_particles": True}):
        loss(max_plate_nesting=1, **settings).loss_and_grads(net.model, net.guide, random_frames(), LENGTHS)
    assert calls == []


def plain_guide(net, x):
    return traced(net.guide, x, LENGTHS)


def guide_without_gradients(net, x):
    with torch.no_grad():
        return traced(net.guide, x, LENGTHS)


def detached_guide(net, x):
    trace = traced(net.guide, x, LENGTHS)
    trace.detach_()
    return trace


CHANGES = {
    "other lengths": (plain_guide, lambda x: (x, LENGTHS.clamp(max=2))),
    "other lengths, no lengths": (plain_guide, lambda x: (x, None)),
    "x changed in place": (plain_guide, lambda x: (x.add_(1.0), LENGTHS)),
    "another x": (plain_guide, lambda x: (x + 1.0, LENGTHS)),
    "a copy of x with a gradient": (plain_guide, lambda x: (x.clone().requires_grad_(), LENGTHS)),
    "a guide without gradients": (guide_without_gradients, lambda x: (x, LENGTHS)),
    "detached replay": (detached_guide, lambda x: (x, LENGTHS)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_states_are_recomputed_where_any_input_differs(change, scans):
    net, calls = scans
    guide_of, arguments = CHANGES[change]
    x = random_frames()
    guide = guide_of(net, x)
    given = arguments(x)
    ours = traced(poutine.replay(net.model, trace=guide), *given)
    mine = densities(ours)
    assert len(calls) == 1
    theirs = densities(traced(poutine.replay(Textbook(net).model, trace=guide), *given))
    assert_same(mine, theirs)
    assert_same(gradients(net, weighted_sum(mine)), gradients(net, weighted_sum(theirs)))


@pytest.mark.parametrize("given", [lambda x: (x.clone(), LENGTHS), lambda x: (x, LENGTHS.clone())])
def test_states_are_reused_for_equal_copies_as_a_subsampling_plate_makes_them(given, scans):
    net, calls = scans
    x = random_frames()
    guide = plain_guide(net, x)
    mine = densities(traced(poutine.replay(net.model, trace=guide), *given(x)))
    assert calls == []
    theirs = densities(traced(poutine.replay(Textbook(net).model, trace=guide), *given(x)))
    assert_same(mine, theirs)


def test_parameters_changed_between_guide_and_model_are_noticed():
    """An update between the two runs: the model is scored under the new parameters."""
    net, x = random_net("gaussian"), random_frames()
    with torch.no_grad():
        guide = traced(net.guide, x)
        net.cell.hidden_weights.weight.mul_(1.1)
        ours, theirs = (traced(poutine.replay(p.model, trace=guide), x) for p in (net, Textbook(net)))
        assert_same(densities(ours), densities(theirs))
