"""GraphedELBO: choice of graphs, losses and gradients, with a stand-in for CUDA graphs that runs on any device.

Tests that need a GPU are in tests/gpu.
"""

import pyro
import pyro.poutine as poutine
import pytest
import torch

from zf_pyro import Linear, ZForcingELBO
from zf_pyro.objectives import GraphedELBO

from .comparing import assert_same, parameter_grads
from .conftest import random_frames, random_net, random_state

WEIGHTS = Linear(0.2, 1.0, 5), Linear(0.1, 0.0, 3), 0.2


class Replay:
    """A stand-in for CUDA graph capture on a CPU.

    A replay reads the capture's inputs and writes its outputs in place. Python code around the function does not run.
    """

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, function):
        self.captures += 1
        with torch.random.fork_rng():
            kept = function()

        def replay():
            self.replays += 1
            with poutine.block():  # a replay runs no sample statements, so no handler sees any
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


def test_a_graphed_objective_equals_the_plain_one(graphed, transition):
    """For several lengths, while the weights change from step to step and one becomes zero."""
    elbo, capture = graphed
    net, plain = random_net("gaussian", transition=transition), ZForcingELBO(*WEIGHTS)
    for seed, num_steps in enumerate((5, 7, 8, 3, 9, 12, 2, 6, 11)):
        x, lengths = random_frames(time=num_steps, seed=seed), torch.tensor([num_steps, 2, 1])
        assert_same(outcome(net, elbo, x, lengths, seed=seed), outcome(net, plain, x, lengths, seed=seed))
    assert elbo.step == plain.step == 9
    assert (capture.captures, elbo.num_graphs) == (4, 3)


def test_lengths_of_a_bucket_share_a_graph_and_the_number_of_graphs_is_bounded(graphed):
    elbo, capture = graphed
    net = random_net()
    elbo.step = 10  # from here on the weights are constant
    counts = []
    for num_steps in (1, 2, 4, 5, 8, 12, 16, 13, 3):
        outcome(net, elbo, random_frames(time=num_steps))
        counts.append((capture.captures, capture.replays))
    assert counts == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (3, 6), (3, 6), (3, 6), (3, 7)]


def test_other_shapes_and_arguments_get_their_own_graphs(graphed):
    elbo, capture = graphed
    elbo.step, net = 10, random_net()
    plain = ZForcingELBO(*WEIGHTS)
    plain.step = 10
    x = random_frames()
    more = (x, None, random_frames(time=1)[:, 0], random_state(net))
    for arguments, captures in (((x,), 1), ((x[:2],), 2), (more, 3), ((x[:1],), 3), ((x,), 3)):
        assert_same(outcome(net, elbo, *arguments), outcome(net, plain, *arguments))
        assert capture.captures == captures, "beyond the capacity, the objective runs without a graph"


def frozen(net):
    net.emission_layer.bias.requires_grad_(False)


def moved(net):
    for parameter in net.parameters():
        parameter.data = parameter.data.clone()


@pytest.mark.parametrize("change", [frozen, moved, torch.nn.Module.eval])
def test_a_changed_network_is_captured_again(graphed, change):
    """A parameter is frozen, memory moves or dropout ends: the old graph would compute the earlier objective."""
    elbo, capture = graphed
    elbo.step, x = 10, random_frames()
    found = []
    for objective in (elbo, ZForcingELBO(*WEIGHTS)):
        objective.step, net = 10, random_net(dropout=0.5)
        before = outcome(net, objective, x)
        net.zero_grad(set_to_none=True)
        change(net)
        with torch.no_grad():
            net.cell.hidden_weights.weight.mul_(1.1)
        found += [before, outcome(net, objective, x)]
    for ours, theirs in zip(found[:2], found[2:], strict=True):
        assert_same(ours, theirs)
    assert capture.captures == 2


def test_a_graph_of_a_new_configuration_replaces_the_oldest_of_another(graphed):
    """A weight becomes zero, for example. The old graphs are not used again and would take up the capacity."""
    elbo, capture = graphed
    net, x = random_net(), random_frames(time=12)
    for step, num_steps, captures in ((0, 12, 1), (0, 8, 2), (0, 4, 3), (5, 12, 4), (5, 8, 5), (0, 4, 5), (5, 12, 5)):
        elbo.step = step
        outcome(net, elbo, x[:, :num_steps])
        assert (capture.captures, elbo.num_graphs) == (captures, min(captures, 3))
    elbo.step = 5
    outcome(net, elbo, x[:, :4])
    elbo.step = 5
    outcome(net, elbo, x[:2])
    assert (capture.captures, elbo.num_graphs) == (6, 3), "all three graphs are of this configuration"


def test_gradients_accumulate_over_replays(graphed):
    elbo, _ = graphed
    elbo.step, net, x = 10, random_net(), random_frames()
    single = outcome(net, elbo, x)
    for _ in range(2):
        pyro.set_rng_seed(0)
        elbo.loss_and_grads(net.model, net.guide, x)
    twice = parameter_grads(net)
    assert_same(twice, {name: 2 * single[name] for name in twice})


def test_each_replay_draws_new_random_numbers(graphed):
    elbo, _ = graphed
    net, x = random_net(), random_frames()
    losses = {elbo.loss(net.model, net.guide, x) for _ in range(2)}
    losses |= {elbo.loss_and_grads(net.model, net.guide, x) for _ in range(3)}
    assert len(losses) == 5


def test_an_optimisers_steps_are_seen_by_the_graph(graphed):
    """Parameters change in place, in the memory that a replay reads."""
    elbo, _ = graphed
    found = []
    for objective in (elbo, ZForcingELBO(*WEIGHTS)):
        pyro.clear_param_store()
        net = random_net()
        svi = pyro.infer.SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.1}), objective)
        pyro.set_rng_seed(0)
        found.append([svi.step(random_frames()) for _ in range(4)])
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[0][3] < found[0][0] - 1, "nothing was learned"


def test_under_handlers_and_for_other_programs_the_objective_runs_without_graphs(graphed):
    elbo, capture = graphed
    net, x, plain = random_net(), random_frames(), ZForcingELBO(*WEIGHTS)
    for objective in (elbo, plain):
        objective.step = 10
    whole = outcome(net, elbo, x)["loss"]
    with poutine.scale(scale=0.5):
        assert_same(outcome(net, elbo, x), outcome(net, plain, x))
    torch.manual_seed(0)
    scaled = poutine.scale(net.model, scale=0.5), poutine.scale(net.guide, scale=0.5)
    assert elbo.loss_and_grads(*scaled, x) == pytest.approx(whole.item() / 2, rel=1e-6)
    assert (capture.captures, capture.replays) == (1, 1)


def under_autocast(net, elbo, steps, cache=True):
    """Return the outcomes of steps that each change a weight, within one region of autocast."""
    found = []
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache):
        for seed in range(steps):
            found.append(outcome(net, elbo, random_frames(dtype=torch.float32), seed=seed))
            with torch.no_grad():
                net.emission_layer.weight.mul_(1.5)
        assert torch.is_autocast_cache_enabled() == cache
    return found


def test_under_autocast_a_replay_uses_the_weights_of_its_step(graphed):
    """Autocast caches the weights that it has cast until its region ends; a graph must not read that cache."""
    elbo, capture = graphed
    plain = ZForcingELBO(*WEIGHTS)
    elbo.step = plain.step = 10
    nets = [random_net(dtype=torch.float32) for _ in range(2)]
    both = under_autocast(nets[0], elbo, 3), under_autocast(nets[1], plain, 3, cache=False)
    for ours, theirs in zip(*both, strict=True):
        assert_same(ours, theirs, rtol=1e-5, atol=1e-5)
    assert (capture.captures, capture.replays) == (1, 3)


def test_each_precision_has_its_own_graph(graphed):
    training = pytest.importorskip("zf_pyro.training.precision")
    elbo, capture = graphed
    net, x, found = random_net(dtype=torch.float32), random_frames(dtype=torch.float32), []
    precisions = (
        torch.autocast("cpu", torch.bfloat16),
        training.BFloat16Products(),
        torch.autocast("cpu", enabled=False),
    )
    for _ in range(2):
        for precision in precisions:
            elbo.step = 10
            with precision:
                found.append(outcome(net, elbo, x)["loss"].item())
    assert found[:3] == found[3:]
    assert len(set(found)) == 3
    assert (capture.captures, capture.replays) == (3, 6)


def test_without_cuda_the_objective_runs_without_graphs():
    elbo, net, x = GraphedELBO(ZForcingELBO(*WEIGHTS)), random_net(), random_frames()
    assert_same(outcome(net, elbo, x), outcome(net, ZForcingELBO(*WEIGHTS), x))
    assert elbo.num_graphs == 0


def test_the_state_is_that_of_the_wrapped_objective():
    inner = ZForcingELBO(*WEIGHTS)
    inner.step = 2
    elbo = GraphedELBO(inner)
    assert elbo.state_dict() == {"step": 2}
    assert elbo.kl_weight == inner.kl_weight


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"bucket": 0}, "bucket must be a positive integer"), ({"capacity": -1}, "capacity must be an integer")],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GraphedELBO(ZForcingELBO(), **settings)
    with pytest.raises(ValueError, match="num_particles must be 1 to be captured, got 2"):
        GraphedELBO(ZForcingELBO(num_particles=2))
