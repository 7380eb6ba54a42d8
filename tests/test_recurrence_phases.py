"""Grouping of a program's operations into launches of fused kernels: how many, in which order, on which memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zf_pyro
from zf_pyro import ZForcingELBO
from zf_pyro.recurrence.engine import operations
from zf_pyro.recurrence.engine.buffers import Arena, Tape
from zf_pyro.recurrence.engine.fused.accesses import UNALIGNED, conflicts
from zf_pyro.recurrence.engine.fused.phases import launches
from zf_pyro.recurrence.engine.machines import PlainMachine
from zf_pyro.recurrence.engine.operations import Instruction, Ring, single

from .conftest import FAMILY, random_frames, random_net
from .fused_programs import outcome, programs_of, random_program


def plain():
    return PlainMachine(Tape(Arena(), torch.empty(0, dtype=torch.float64)))


def counts(model, settings, time=4):
    """Instructions and launches of a training step's loops over latents, forward and backward.

    On a GPU the heads and the backward RNN run in PyTorch and cuDNN, over all steps at once.
    """
    net = random_net(model=model, **settings)
    elbo = ZForcingELBO(0.7, 0.0)
    programs = programs_of(lambda: elbo.loss_and_grads(net.model, net.guide, random_frames(time=time)))
    loops = [
        program for program in programs if any(i.operation in (operations.draw, operations.draw_back) for i in program)
    ]
    return [(len(program), len(launches(program))) for program in loops]


# Instructions of a step, and launches, forward and backward.
LAUNCHES = {
    "ZForcing": (zf_pyro.ZForcing, {}, [(19, 4), (20, 5)]),
    "ZForcing, concatenate": (zf_pyro.ZForcing, {"transition": "concatenate"}, [(15, 3), (14, 4)]),
    "VRNN": (*FAMILY["VRNN"], [(18, 4), (17, 5)]),
    "SRNN": (*FAMILY["SRNN"], [(16, 3), (15, 3)]),
    "DMM": (*FAMILY["DMM"], [(9, 2), (9, 3)]),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_step_takes_about_ten_launches_forward_and_backward(name):
    model, settings, expected = LAUNCHES[name]
    assert counts(model, settings) == expected


def reordered(program, backwards):
    """The instructions by launch, with the phases of each launch in reverse if ``backwards``."""
    found = []
    for launch in launches(program):
        for phase in launch[::-1] if backwards else launch:
            found += phase.instructions
    return found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), features=st.integers(1, 3), length=st.integers(1, 12))
def test_launches_keep_the_order_that_values_need(seed, features, length):
    """A program in the order of its launches has the same bits, in whichever order the phases of a launch run."""
    program, memory = random_program(seed, features, 2, length=length)
    expected = outcome(plain().prepare(program), memory, 0, 3, 1)
    for backwards in (False, True):
        order = reordered(program, backwards)
        assert sorted(map(id, order)) == sorted(map(id, program))
        found = outcome(plain().prepare(order), memory, 0, 3, 1)
        for k, value in expected.items():
            assert torch.equal(found[k].nan_to_num(nan=7.0), value.nan_to_num(nan=7.0))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 12))
def test_blocks_of_features_do_not_wait_for_one_another(seed, length):
    """Within a phase no instruction needs another block's values, and the phases of a launch share none."""
    program, _ = random_program(seed, 2, 2, length=length)
    for launch in launches(program):
        for phase in launch:
            for i, first in enumerate(phase.instructions):
                for second in phase.instructions[i + 1 :]:
                    assert all(k != UNALIGNED and k % phase.features == 0 for k in conflicts(first, second))
        for i, phase in enumerate(launch):
            others = [instruction for other in launch[i + 1 :] for instruction in other.instructions]
            assert not any(
                conflicts(*pair) for one in phase.instructions for pair in ((one, other) for other in others)
            )


def test_rings_of_one_memory_are_told_apart():
    """Entries of one step: the same, parts of one, other ones, turned views, and windows that overlap."""
    ring, base = Ring(torch.zeros(3, 8, 5)), torch.zeros(60)

    def relation(a, b):
        found = conflicts(
            Instruction(operations.copy, (a, single(torch.zeros(4, 5)))), Instruction(operations.activate, (b,))
        )
        return found[0] if found else None

    assert relation(ring.part(0, 4), ring.part(0, 4)) == 0
    assert relation(ring.part(0, 4), ring) == 0
    assert relation(ring.part(0, 4), ring.part(2, 6)) == 2
    assert relation(ring.part(0, 4), ring.part(4, 8)) is None
    assert relation(ring, ring.part(4, 8)) == 4
    assert relation(ring.part(4, 8), ring) == 4
    assert relation(ring, ring.later(1)) is None
    assert relation(ring, ring.later(3)) == 0
    assert relation(ring, single(ring.tensor[0])) == UNALIGNED
    assert relation(ring, Ring(torch.zeros(3, 8, 5))) is None
    turned = Ring(torch.zeros(3, 5, 8).transpose(1, 2))
    assert relation(turned.part(0, 4), turned.part(4, 8)) is None
    assert relation(turned.part(0, 4), turned.part(0, 4)) == 0
    windows = (Ring(base.as_strided((1, 4, 5), (0, 5, 1), start)) for start in (0, 7))
    assert relation(*windows) == UNALIGNED
    near = (Ring(base.as_strided((3, 4, 1), (2, 1, 1), start)) for start in (0, 2))
    assert relation(*near) == UNALIGNED
