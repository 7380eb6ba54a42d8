"""GraphedELBO: a replay equals the objective under the weights, data and random numbers of its step."""

import gc
import threading

import pyro
import pytest
import torch

from zf_pyro import Linear, ZForcingELBO
from zf_pyro.objectives import GraphedELBO

from ..comparing import assert_same
from ..conftest import EMISSIONS, random_frames, random_net, random_state
from .common import NEEDS_CUDA, on, outcome

pytestmark = NEEDS_CUDA
WEIGHTS = 0.7, 0.3, 0.2


def batch(num_steps, emission="gaussian", seed=0, dtype=torch.float64):
    return on(
        "cuda", (random_frames(emission, time=num_steps, dtype=dtype, seed=seed), torch.tensor([num_steps, 2, 1]))
    )


@pytest.mark.parametrize("emission", EMISSIONS)
def test_replays_over_all_lengths_equal_the_objective(emission, transition):
    net = random_net(emission, transition=transition).cuda()
    elbo, plain = GraphedELBO(ZForcingELBO(*WEIGHTS), bucket=4), ZForcingELBO(*WEIGHTS)
    for seed, num_steps in enumerate((8, 7, 5, 3, 8, 2, 9, 6)):
        given = batch(num_steps, emission, seed)
        assert_same(outcome(net, elbo, *given, seed=seed), outcome(net, plain, *given, seed=seed))
    assert elbo.num_graphs == 3


def test_context_and_initial_state_are_those_of_the_step():
    net, elbo = random_net().cuda(), GraphedELBO(ZForcingELBO(*WEIGHTS))
    for seed in range(3):
        context = random_frames(time=1, seed=seed + 5)[:, 0]
        state = random_state(random_net(), seed=seed)
        given = *batch(16, seed=seed), *on("cuda", (context, state))
        assert_same(outcome(net, elbo, *given), outcome(net, ZForcingELBO(*WEIGHTS), *given))
    assert elbo.num_graphs == 1


def test_weights_of_the_step_are_used_and_old_graphs_make_room():
    """With a capacity of one graph, while weights become positive or zero."""
    schedules = Linear(0.0, 1.0, 3), Linear(0.4, 0.0, 2)
    net, elbo, plain = random_net().cuda(), GraphedELBO(ZForcingELBO(*schedules), capacity=1), ZForcingELBO(*schedules)
    for seed in range(6):
        given = batch(16, seed=seed)
        assert_same(outcome(net, elbo, *given, seed=seed), outcome(net, plain, *given, seed=seed))
        assert elbo.num_graphs == 1


def test_replays_under_dropout_sample_the_masks_of_the_objective():
    net, found = random_net(dropout=0.5).cuda(), []
    for elbo in (GraphedELBO(ZForcingELBO(*WEIGHTS)), ZForcingELBO(*WEIGHTS)):
        found.append([outcome(net, elbo, *batch(16), seed=seed) for seed in (0, 1)])
    for ours, theirs in zip(*found, strict=True):
        assert_same(ours, theirs)
    net.eval()
    assert_same(
        outcome(net, GraphedELBO(ZForcingELBO(*WEIGHTS)), *batch(16)), outcome(net, ZForcingELBO(*WEIGHTS), *batch(16))
    )


def test_each_replay_draws_new_random_numbers():
    net, elbo = random_net().cuda(), GraphedELBO(ZForcingELBO())
    losses = {elbo.loss_and_grads(net.model, net.guide, *batch(8)) for _ in range(5)}
    assert len(losses) == 5


def test_a_capture_leaves_the_random_state_of_the_objective():
    net, found = random_net().cuda(), []
    for elbo in (GraphedELBO(ZForcingELBO(), bucket=1), ZForcingELBO()):
        pyro.set_rng_seed(3)
        losses = [elbo.loss_and_grads(net.model, net.guide, *batch(8)) for _ in range(3)]
        found.append([*losses, torch.rand(1, device="cuda").item(), torch.rand(1).item()])
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_svi_trains_by_replays_as_by_the_objective():
    found = []
    for elbo in (GraphedELBO(ZForcingELBO(*WEIGHTS), bucket=1), ZForcingELBO(*WEIGHTS)):
        pyro.clear_param_store()
        net = random_net().cuda()
        svi = pyro.infer.SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.05}), elbo)
        pyro.set_rng_seed(0)
        found.append([svi.step(*batch(8)) for _ in range(6)])
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0][-1] < found[0][0] - 1, "nothing was learned"


def moved(net):
    for parameter in net.parameters():
        parameter.data = parameter.data.clone()


def frozen(net):
    net.emission_layer.bias.requires_grad_(False)


@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk")
@pytest.mark.parametrize("change", [moved, frozen])
def test_a_changed_network_is_captured_again(change):
    net, elbo, plain = random_net().cuda(), GraphedELBO(ZForcingELBO(*WEIGHTS)), ZForcingELBO(*WEIGHTS)
    outcome(net, elbo, *batch(16))
    net.zero_grad(set_to_none=True)
    change(net)
    with torch.no_grad():
        net.cell.hidden_weights.weight.mul_(1.1)
    assert_same(outcome(net, elbo, *batch(16)), outcome(net, plain, *batch(16)))
    assert elbo.num_graphs == 2


@pytest.mark.parametrize("cache", [True, False])
def test_replays_under_autocast_use_the_weights_of_their_step(cache):
    """Autocast caches the weights that it has cast until its region ends, which here is the step."""
    net, found = random_net(dtype=torch.float32).cuda(), []
    for elbo in (GraphedELBO(ZForcingELBO(*WEIGHTS)), ZForcingELBO(*WEIGHTS)):
        own, losses = random_net(dtype=torch.float32).cuda(), []
        optimiser = torch.optim.SGD(own.parameters(), lr=1e-3)
        for seed in range(5):
            pyro.set_rng_seed(seed)
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=cache):
                losses.append(elbo.loss_and_grads(own.model, own.guide, *batch(16, dtype=torch.float32)))
            optimiser.step()
            own.zero_grad()
        found.append(losses)
        del own
    assert found[0] == pytest.approx(found[1], rel=1e-2)
    assert found[0][0] != outcome(net, ZForcingELBO(*WEIGHTS), *batch(16, dtype=torch.float32))["loss"].item()
    assert abs(found[0][4] - found[0][0]) > 0.05 * abs(found[0][0]), "the weights hardly changed"


@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk")
def test_each_precision_has_its_own_graph():
    precision = pytest.importorskip("zf_pyro.training.precision")
    net, elbo, found = random_net(dtype=torch.float32).cuda(), GraphedELBO(ZForcingELBO(*WEIGHTS)), []
    precisions = (
        torch.autocast("cuda", torch.bfloat16),
        precision.BFloat16Products(),
        torch.autocast("cuda", enabled=False),
    )
    for _ in range(2):
        for each in precisions:
            with each:
                found.append(outcome(net, elbo, *batch(16, dtype=torch.float32))["loss"].item())
    assert found[:3] == pytest.approx(found[3:], rel=1e-5)
    assert len({round(loss, 4) for loss in found[:3]}) == 3
    assert elbo.num_graphs == 3


def test_captures_succeed_while_other_threads_use_the_device():
    """Like a loader that pins memory, the thread allocates and frees throughout."""
    net, elbo, done, pinned = random_net().cuda(), GraphedELBO(ZForcingELBO(), bucket=1), threading.Event(), []

    def pin():
        size = 1
        while not done.is_set():
            size = size % 64 + 1
            block = torch.ones(size << 14).pin_memory()
            pinned.append(block.cuda(non_blocking=True).sum().item())

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        for num_steps in range(4, 9):
            outcome(net, elbo, *batch(num_steps))
    finally:
        done.set()
        thread.join()
    assert elbo.num_graphs == 5
    assert pinned


def test_captures_succeed_beside_a_process_group(tmp_path):
    """NCCL's own thread queries events of pending collectives. The group has one process, for one GPU."""
    torch.distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1, device_id=torch.device("cuda", 0)
    )
    try:
        net, elbo = random_net().cuda(), GraphedELBO(ZForcingELBO(), bucket=1)
        for num_steps in (4, 5, 6, 4, 5, 6):
            found = outcome(net, elbo, *batch(num_steps))
            work = [torch.distributed.all_reduce(torch.ones(1 << 20, device="cuda"), async_op=True) for _ in range(8)]
            assert_same(found, outcome(net, ZForcingELBO(), *batch(num_steps)))
        for each in work:
            each.wait()
        assert elbo.num_graphs == 3
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("graphs", [False, True])
def test_memory_does_not_grow_over_steps(graphs):
    net, elbo = random_net(hidden_dim=64, dtype=torch.float32).cuda(), ZForcingELBO(*WEIGHTS)
    elbo = GraphedELBO(elbo, bucket=4, capacity=2) if graphs else elbo
    optimiser = torch.optim.Adam(net.parameters(), fused=True)
    held = []
    for step in range(60):
        elbo.loss_and_grads(net.model, net.guide, *batch((8, 5, 12)[step % 3], seed=step, dtype=torch.float32))
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)
        if step in (9, 59):
            gc.collect()
            held.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert held[1] == held[0]


def test_dropped_graphs_free_their_memory():
    held = []
    for _ in range(3):  # in the first pass, libraries allocate memory of their own
        net, elbo = random_net(hidden_dim=64).cuda(), GraphedELBO(ZForcingELBO(*WEIGHTS), bucket=1)
        for num_steps in (4, 8):
            outcome(net, elbo, *batch(num_steps))
        assert elbo.num_graphs == 2
        del net, elbo
        pyro.clear_param_store()
        gc.collect()
        held.append(torch.cuda.memory_allocated())
    assert held[2] <= held[0] + 2**16


def test_garbage_with_graphs_does_not_spoil_captures():
    """Garbage is collected before a capture, not during one."""

    def collect(*_):
        gc.collect()

    for num_steps in range(4, 8):
        net, elbo = random_net().cuda(), GraphedELBO(ZForcingELBO(), bucket=1)
        elbo.itself = elbo
        net.emission_layer.register_forward_hook(collect)
        outcome(net, elbo, *batch(num_steps))
        assert elbo.num_graphs == 1
