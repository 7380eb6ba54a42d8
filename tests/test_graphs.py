"""Captured objectives: which graph is used when, and the numbers they give, with a capture that any device has.

What only a GPU can show is in tests/gpu.
"""

import pyro
import pytest
import torch

from zf_pyro import Linear, ZForcingELBO
from zf_pyro.graphs import GraphedELBO

from .comparing import assert_same, parameter_grads
from .conftest import random_frames, random_net, random_state

WEIGHTS = Linear(0.2, 1.0, 5), Linear(0.1, 0.0, 3), 0.2


class Replay:
    """Captures as a CUDA graph does, as far as a CPU can show it: a replay runs on the memory of the capture's inputs,
    writes into the memory of its outputs, and does not run the Python around the function again."""

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, function):
        self.captures += 1
        with torch.random.fork_rng():
            kept = function()

        def replay():
            self.replays += 1
            new = function()
            pairs = zip((kept.loss, *kept.terms, *kept.gradients), (new.loss, *new.terms, *new.gradients), strict=True)
            for old, value in pairs:
                if old is not None:
                    old.copy_(value)
            return kept

        return replay


def outcome(net, elbo, x, lengths=None, *more, seed=0):
    pyro.set_rng_seed(seed)
    loss = elbo.loss_and_grads(net.model, net.guide, x, lengths, *more)
    terms = {name: term.nan_to_num(nan=-1.0) for name, term in elbo.terms._asdict().items()}  # NaN: not computed
    return {"loss": torch.tensor(loss), **terms, **parameter_grads(net)}


@pytest.fixture
def graphed():
    capture = Replay()
    return GraphedELBO(ZForcingELBO(*WEIGHTS), bucket=4, capacity=3, capture=capture), capture


def test_a_graphed_objective_gives_the_same_numbers(graphed, transition):
    """Over all lengths, and while the weights change from step to step, one of them to zero."""
    elbo, capture = graphed
    net, plain = random_net("gaussian", transition=transition), ZForcingELBO(*WEIGHTS)
    for seed, num_steps in enumerate((5, 7, 8, 3, 9, 12, 2, 6, 11)):
        x, lengths = random_frames(time=num_steps, seed=seed), torch.tensor([num_steps, 2, 1])
        assert_same(outcome(net, elbo, x, lengths, seed=seed), outcome(net, plain, x, lengths, seed=seed))
    assert elbo.step == plain.step == 9
    assert capture.captures == elbo.num_graphs == 3


def test_lengths_of_a_bucket_share_a_graph_and_the_number_is_bounded(graphed):
    elbo, capture = graphed
    net = random_net()
    elbo.step = 10  # where the weights change no more
    counts = []
    for num_steps in (1, 2, 4, 5, 8, 12, 16, 13, 3):
        outcome(net, elbo, random_frames(time=num_steps))
        counts.append((capture.captures, capture.replays))
    assert counts == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (3, 6), (3, 6), (3, 6), (3, 7)]


def test_other_shapes_and_arguments_get_graphs_of_their_own(graphed):
    elbo, capture = graphed
    elbo.step, net, other = 10, random_net(), random_net(seed=7)
    plain = ZForcingELBO(*WEIGHTS)
    plain.step = 10
    x = random_frames()
    for arguments in ((x,), (x[:2],), (x, None, random_frames(time=1)[:, 0], random_state(net))):
        assert_same(outcome(net, elbo, *arguments), outcome(net, plain, *arguments))
    assert capture.captures == 3
    assert_same(outcome(other, elbo, x), outcome(other, plain, x))
    assert capture.captures == 3, "beyond the capacity the objective runs as it is"


def test_gradients_add_up_over_replays(graphed):
    elbo, _ = graphed
    elbo.step, net, x = 10, random_net(), random_frames()
    single = outcome(net, elbo, x)
    for _ in range(2):
        pyro.set_rng_seed(0)
        elbo.loss_and_grads(net.model, net.guide, x)
    twice = parameter_grads(net)
    assert_same(twice, {name: 2 * single[name] for name in twice})


def test_random_numbers_are_fresh_in_each_replay(graphed):
    elbo, _ = graphed
    net, x = random_net(), random_frames()
    losses = {elbo.loss(net.model, net.guide, x) for _ in range(2)}
    losses |= {elbo.loss_and_grads(net.model, net.guide, x) for _ in range(3)}
    assert len(losses) == 5


def test_an_optimisers_steps_are_seen_by_the_graph(graphed):
    """Parameters change in place, which a replay reads."""
    elbo, _ = graphed
    found = []
    for objective in (elbo, ZForcingELBO(*WEIGHTS)):
        pyro.clear_param_store()
        net = random_net()
        svi = pyro.infer.SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.1}), objective)
        pyro.set_rng_seed(0)
        found.append([svi.step(random_frames()) for _ in range(4)])
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_without_cuda_the_objective_runs_as_it_is():
    elbo, net, x = GraphedELBO(ZForcingELBO(*WEIGHTS)), random_net(), random_frames()
    assert_same(outcome(net, elbo, x), outcome(net, ZForcingELBO(*WEIGHTS), x))
    assert elbo.num_graphs == 0


def test_the_state_continues_that_of_the_objective():
    inner = ZForcingELBO(*WEIGHTS)
    inner.step = 2
    elbo = GraphedELBO(inner)
    assert elbo.state_dict() == {"step": 2}
    assert elbo.kl_weight == inner.kl_weight


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"bucket": 0}, "bucket must be an integer of at least 1"), ({"capacity": -1}, "capacity must be an integer")],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GraphedELBO(ZForcingELBO(), **settings)
    with pytest.raises(ValueError, match="num_particles must be 1 to be captured, got 2"):
        GraphedELBO(ZForcingELBO(num_particles=2))
