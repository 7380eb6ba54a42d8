"""Memory of the loops' outputs: reused once no tensor refers to it, and never before."""

import copy
import pickle

import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from zf_pyro import ZForcingELBO
from zf_pyro.recurrence.engine import buffers
from zf_pyro.recurrence.engine.buffers import Arena, Pool

from .comparing import assert_same, parameter_grads
from .conftest import random_frames, random_net

LIKE = torch.empty(0)


@pytest.fixture
def everything_is_large(monkeypatch):
    """Let pools serve tensors of every size."""
    monkeypatch.setattr(buffers, "LARGE", 0)


def test_memory_is_reused_when_no_tensor_refers_to_it(everything_is_large):
    pool = Pool()
    first = pool.empty(LIKE, 3, 4)
    start, view = first.data_ptr(), first[1:].t()
    del first
    held = pool.empty(LIKE, 3, 4)
    assert held.data_ptr() != start, "a view still refers to it"
    del view
    assert pool.empty(LIKE, 2, 5).data_ptr() == start, "the block serves smaller tensors too"


def test_another_dtype_or_a_larger_tensor_gets_new_memory(everything_is_large):
    pool = Pool()
    pool.empty(LIKE, 3, 4).fill_(1.0)
    double = pool.empty(LIKE.double(), 3, 4)
    assert double.dtype == torch.float64
    assert double.shape == (3, 4)
    del double
    larger = pool.empty(LIKE.double(), 50)
    assert larger.untyped_storage().nbytes() == 50 * 8


def test_small_tensors_are_not_pooled():
    pool = Pool()
    assert pool.empty(LIKE, 8).untyped_storage().resizable()
    large = pool.empty(LIKE, buffers.LARGE // 4)
    assert not large.untyped_storage().resizable()
    assert large.is_contiguous()


def test_a_pool_keeps_few_blocks_of_many_outputs(everything_is_large):
    pool = Pool()
    collected = [pool.empty(LIKE, 5) for _ in range(3 * buffers.KEPT)]
    assert len({tensor.data_ptr() for tensor in collected}) == len(collected)
    collected.clear()
    assert len(pool._blocks) == buffers.KEPT


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copied_arenas_share_a_new_pool(duplicate):
    pool = Pool()
    one, other = duplicate([Arena(pool), Arena(pool)])
    assert one.pool is other.pool
    assert one.pool is not pool


@pytest.mark.parametrize("objective", [ZForcingELBO, TraceMeanField_ELBO])
def test_reused_memory_changes_no_bit_of_a_step(objective, transition, each_machine, everything_is_large):
    weights = {"aux_weight": 0.3, "backward_weight": 0.2} if objective is ZForcingELBO else {}
    net, x, elbo = random_net(transition=transition), random_frames(), objective(**weights)

    def outcome():
        pyro.set_rng_seed(0)
        net.zero_grad()
        return {"loss": torch.tensor(elbo.loss_and_grads(net.model, net.guide, x)), **parameter_grads(net)}

    expected = outcome()
    with torch.inference_mode():
        states = net.states(x, net.guide(x))
    held = net.states(x, net.guide(x))
    kept = [field.clone() for field in (*states, *held)]
    for _ in range(3):
        assert_same(outcome(), expected, rtol=0.0, atol=0.0)
    assert all(torch.equal(*pair) for pair in zip((*states, *held), kept, strict=True)), "held outputs must not change"


def test_training_continues_in_memory_left_by_inference_mode(each_machine, everything_is_large):
    nets, x, found = [random_net(), random_net()], random_frames(), []
    with torch.inference_mode():
        nets[0].states(x, nets[0].guide(x))
    for net in nets:
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        loss = ZForcingELBO(aux_weight=0.3).loss_and_grads(net.model, net.guide, x)
        found.append({"loss": torch.tensor(loss), **parameter_grads(net)})
    assert_same(*found, rtol=0.0, atol=0.0)


def test_a_replayed_model_reuses_the_guides_states_before_and_after_each_step():
    net, x = random_net(), random_frames()
    trace = pyro.poutine.trace(net.guide).get_trace(x)
    replayed = pyro.poutine.trace(pyro.poutine.replay(net.model, trace)).get_trace(x)
    guide, model = (found.nodes["z_0"]["fn"].path for found in (trace, replayed))
    assert all(ours is theirs for ours, theirs in zip(model.neighbours(), guide.neighbours(), strict=True))
