"""What loops hand out: its memory is used again when nothing sees it any more, and never before."""

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
    """Pools serve tensors of every size."""
    monkeypatch.setattr(buffers, "LARGE", 0)


def test_memory_comes_back_when_no_tensor_sees_it_any_more(everything_is_large):
    pool = Pool()
    first = pool.empty(LIKE, 3, 4)
    start, view = first.data_ptr(), first[1:].t()
    del first
    held = pool.empty(LIKE, 3, 4)
    assert held.data_ptr() != start, "a view still sees it"
    del view
    assert pool.empty(LIKE, 2, 5).data_ptr() == start, "and a smaller tensor takes it as well"


def test_another_dtype_or_a_larger_tensor_gets_new_memory(everything_is_large):
    pool = Pool()
    pool.empty(LIKE, 3, 4).fill_(1.0)
    double = pool.empty(LIKE.double(), 3, 4)
    assert double.dtype == torch.float64
    assert double.shape == (3, 4)
    del double
    larger = pool.empty(LIKE.double(), 50)
    assert larger.untyped_storage().nbytes() == 50 * 8


def test_small_tensors_are_the_c_librarys():
    pool = Pool()
    assert pool.empty(LIKE, 8).untyped_storage().resizable()
    large = pool.empty(LIKE, buffers.LARGE // 4)
    assert not large.untyped_storage().resizable()
    assert large.is_contiguous()


def test_whoever_collects_outputs_does_not_fill_a_pool(everything_is_large):
    pool = Pool()
    collected = [pool.empty(LIKE, 5) for _ in range(3 * buffers.KEPT)]
    assert len({tensor.data_ptr() for tensor in collected}) == len(collected)
    collected.clear()
    assert len(pool._blocks) == buffers.KEPT


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_arenas_of_a_copied_net_share_a_pool_of_their_own(duplicate):
    pool = Pool()
    one, other = duplicate([Arena(pool), Arena(pool)])
    assert one.pool is other.pool
    assert one.pool is not pool


@pytest.mark.parametrize("objective", [ZForcingELBO, TraceMeanField_ELBO])
def test_steps_in_used_memory_change_no_digit(objective, transition, each_machine, everything_is_large):
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
    assert all(torch.equal(*pair) for pair in zip((*states, *held), kept, strict=True)), "held outputs stay as they are"


def test_training_goes_on_in_memory_that_inference_mode_has_left(each_machine):
    net, x = random_net(), random_frames()
    with torch.inference_mode():
        net.states(x, net.guide(x))
    assert ZForcingELBO(aux_weight=0.3).loss_and_grads(net.model, net.guide, x) > 0.0


def test_a_replayed_model_takes_over_the_guides_states_before_and_after_each_step():
    net, x = random_net(), random_frames()
    trace = pyro.poutine.trace(net.guide).get_trace(x)
    replayed = pyro.poutine.trace(pyro.poutine.replay(net.model, trace)).get_trace(x)
    guide, model = (found.nodes["z_0"]["fn"].path for found in (trace, replayed))
    assert all(map(lambda ours, theirs: ours is theirs, model.neighbours(), guide.neighbours()))
