"""Schedules of the objective's weights."""

import pickle

import pytest

from zf_pyro import Constant, Linear
from zf_pyro.objectives.schedules import as_schedule


@pytest.mark.parametrize(("start", "end"), [(0.2, 1.0), (1.0, 0.0), (0.5, 0.5)])
def test_linear_goes_from_start_to_end_and_stays(start, end):
    weights = [Linear(start, end, 4)(step) for step in range(7)]
    expected = [start + (end - start) * min(step, 4) / 4 for step in range(7)]
    assert weights == pytest.approx(expected)
    assert weights[0] == start
    assert weights[4:] == [pytest.approx(end)] * 3


def test_the_papers_kl_weight_rises_by_its_step():
    weight = Linear(0.2, 1.0, 16_000)
    assert weight(1) - weight(0) == pytest.approx(5e-5)
    assert weight(16_000) == pytest.approx(1.0)


def test_one_step_is_a_jump():
    assert [Linear(0.0, 1.0, 1)(step) for step in (0, 1, 2)] == [0.0, 1.0, 1.0]


def test_epochs_are_as_many_steps_as_they_have():
    assert Linear.of_epochs(0.2, 1.0, 3, 20) == Linear(0.2, 1.0, 60)
    assert Linear.of_epochs(0.2, 1.0, 0.5, 7) == Linear(0.2, 1.0, 4)
    assert Linear.of_epochs(0.2, 1.0, 0.01, 7).num_steps == 1
    for epochs, steps in ((0.0, 7), (float("inf"), 7), (1.0, 0), (1.0, 2.5)):
        with pytest.raises(
            ValueError, match=r"num_epochs must be a positive number|steps_per_epoch must be a positive"
        ):
            Linear.of_epochs(0.2, 1.0, epochs, steps)


def test_constant_is_constant():
    assert {Constant(0.3)(step) for step in (0, 1, 10**9)} == {0.3}


@pytest.mark.parametrize("schedule", [Linear(0.2, 1.0, 4), Constant(0.3)])
def test_schedules_are_values_that_can_be_stored(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert as_schedule("kl_weight", schedule) is schedule


@pytest.mark.parametrize("weight", [0, 1, 0.5])
def test_a_number_is_a_constant_schedule(weight):
    assert as_schedule("kl_weight", weight) == Constant(float(weight))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_are_finite_and_not_negative(weight):
    for call in (Constant, lambda w: Linear(w, 1.0, 3), lambda w: Linear(1.0, w, 3), lambda w: as_schedule("a", w)):
        with pytest.raises(ValueError, match="must be a finite number of at least 0"):
            call(weight)


@pytest.mark.parametrize("weight", [True, None, "linear", [0.1]])
def test_other_types_are_refused_as_weights(weight):
    with pytest.raises(TypeError, match="aux_weight must be a number or a schedule"):
        as_schedule("aux_weight", weight)


@pytest.mark.parametrize("steps", [0, -1, 2.5, None, True])
def test_a_schedule_takes_a_positive_number_of_steps(steps):
    with pytest.raises(ValueError, match="num_steps must be a positive integer"):
        Linear(0.0, 1.0, steps)
