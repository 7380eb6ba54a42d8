"""The machines of fused kernels against PyTorch's: operations, random programs, and every model's loss and gradients.

On a CUDA device its kernels are compiled. With ``TRITON_INTERPRET=1`` Triton interprets them on a CPU;
``tests/test_recurrence_fused.py`` runs this file so.
"""

import multiprocessing
import os
from unittest.mock import patch

import pyro
import pytest
import torch

import zf_pyro
from zf_pyro import ZForcingELBO
from zf_pyro.objectives import GraphedELBO
from zf_pyro.recurrence.engine import fastest, operations
from zf_pyro.recurrence.engine.buffers import Arena, Tape
from zf_pyro.recurrence.engine.fused.fused_machine import FusedMachine, installed
from zf_pyro.recurrence.engine.fused.persistent_machine import PersistentMachine
from zf_pyro.recurrence.engine.machines import PlainMachine
from zf_pyro.recurrence.engine.operations import Instruction, Ring, single

from ..comparing import assert_same, parameter_grads
from ..conftest import FAMILY, FIRST, TRANSITIONS, random_frames, random_net
from ..fused_programs import (
    KNOWN,
    LOOPS,
    NUMBERED,
    PARTS,
    kinds_of,
    machines_of,
    operands_of,
    random_program,
)
from ..fused_programs import outcome as after

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
on_cuda = pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not installed(), reason="needs Triton"),
    pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device"),
]
TOLERANCE = {torch.float32: {"rtol": 2e-5, "atol": 2e-5}, torch.float64: {"rtol": 1e-11, "atol": 1e-11}}
DTYPES = [torch.float32, torch.float64]
zeros = torch.zeros
FUSED = FusedMachine, PersistentMachine
CASES = {
    "ZForcing": (zf_pyro.ZForcing, {}),
    "ZForcing, concatenate": (zf_pyro.ZForcing, {"transition": "concatenate"}),
    **{name: FAMILY[name] for name in FIRST if name != "ZForcing"},
}


class Blocked(PlainMachine):
    """PyTorch's machine with as many partial sums as the fused machine."""

    blocks = PARTS


def machine(kind, dtype):
    return kind(Tape(Arena(), torch.empty(0, dtype=dtype, device=DEVICE)))


def totals(operation, tensors):
    """Operands with partial sums as their sums: how features are cut into blocks is the machine's own."""
    pairs = zip(kinds_of(operation), tensors, strict=True)
    return {str(k): value.sum(0) if kind == "p" else value for k, (kind, value) in enumerate(pairs)}


@pytest.mark.parametrize(
    ("features", "rows", "dtype"), [(1, 1, torch.float64), (20, 37, torch.float64), (20, 37, torch.float32)]
)
@pytest.mark.parametrize("operation", KNOWN, ids=lambda operation: operation.__name__)
def test_an_operation_has_the_values_of_pytorch(operation, features, rows, dtype):
    found, spread = [], 2.0 if dtype == torch.float64 else 1.0  # 1 - tanh^2 cancels in float32
    for kind in (FusedMachine, Blocked):
        tensors = operands_of(operation, features, rows, dtype, spread=spread, device=DEVICE)
        number = 1.5 if operation in NUMBERED else None
        machine(kind, dtype).prepare([Instruction(operation, tuple(map(single, tensors)), number)])(0, 1, 1)
        found.append(totals(operation, tensors))
    assert_same(*found, **TOLERANCE[dtype])


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("operation", KNOWN, ids=lambda operation: operation.__name__)
def test_what_is_not_finite_stays_so(operation):
    """Each operand in turn has NaN and infinities, one for each row."""
    odd = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=torch.float64)
    for changed in range(len(kinds_of(operation))):
        found = []
        for machine_kind in (FusedMachine, Blocked):
            tensors = operands_of(operation, 2, 3, torch.float64, device=DEVICE)
            last = tensors[changed][-1, :3]
            last.copy_(odd[: len(last)])
            number = 1.5 if operation in NUMBERED else None
            program = [Instruction(operation, tuple(map(single, tensors)), number)]
            machine(machine_kind, torch.float64).prepare(program)(0, 1, 1)
            found.append(totals(operation, tensors))
        assert_same(*found, equal_nan=True, **TOLERANCE[torch.float64])


def test_a_clamp_without_a_limit_and_one_in_place():
    found, limit = [], float("inf")
    for kind in (FusedMachine, Blocked):
        x, y = operands_of(operations.copy, 3, 4, torch.float64, spread=5.0, device=DEVICE)
        program = [
            Instruction(operations.clamp, (single(x),), limit),
            Instruction(operations.clamp_back, (single(x), single(x), single(y)), 2.0),
        ]
        machine(kind, torch.float64).prepare(program)(0, 1, 1)
        found.append({"x": x, "y": y})
    assert_same(*found)


def same_program(seed, features, rows, dtype):
    """Compare a random program on both machines, forwards and backwards in time."""
    program, memory = random_program(seed, features, rows, dtype, device=DEVICE)
    partial = {k for k, value in memory.items() if value.shape[1] == PARTS}
    runs = [machine(kind, dtype).prepare(program) for kind in (*FUSED, Blocked)]
    for steps in ((0, 2, 1), (4, 2, -1)):
        found = [after(run, memory, *steps) for run in runs]
        found = [{k: v.sum(1) if k in partial else v for k, v in values.items()} for values in found]
        for kind in found[:-1]:
            assert_same(kind, found[-1], rtol=1e-7, atol=1e-7, equal_nan=True)


@pytest.mark.skipif(not INTERPRETED, reason="on a device programs run side by side in every test")
@pytest.mark.parametrize("programs", [2, 3])
def test_the_programs_of_a_whole_loop_wait_for_one_another(programs):
    """Processes that share the memory are its programs. Alone, none of them has all blocks."""
    program, memory = random_program(4, 40, 3, torch.float64, length=9)
    for value in memory.values():
        value.share_memory_()
    alone = after(machine(PersistentMachine, torch.float64).prepare(program), memory, 0, 5, 1)
    with patch.object(torch, "zeros", lambda *args, **kwargs: zeros(*args, **kwargs).share_memory_()):
        run = machine(PersistentMachine, torch.float64).prepare(program)

    def together(*steps):
        fork = multiprocessing.get_context("fork")
        started = [fork.Process(target=as_program, args=(k, programs, run, *steps)) for k in range(programs)]
        for process in started:
            process.start()
        for process in started:
            process.join(120)
            assert process.exitcode == 0

    assert_same(after(together, memory, 0, 5, 1), alone)
    assert_same(after(together, memory, 0, 5, 1), alone)  # the counter goes on from where it is


def as_program(number, programs, run, *steps):
    """Run a kernel in the interpreter as one of several programs."""
    from triton.runtime.interpreter import interpreter_builder as builder

    place, size = builder.set_grid_idx, builder.set_grid_dim
    with (
        patch.object(builder, "set_grid_idx", lambda *_: place(number, 0, 0)),
        patch.object(builder, "set_grid_dim", lambda *_: size(programs, 1, 1)),
    ):
        run(*steps)


@pytest.mark.parametrize("seed", range(6))
def test_a_random_program_has_the_values_of_pytorch(seed):
    same_program(seed, 3, 3, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
def test_many_random_programs_have_the_values_of_pytorch(seed):
    same_program(seed, 18 if seed % 9 == 0 else 2, 17 if seed % 5 == 0 else 5, torch.float64)


def evaluated(kind, net, x, lengths, modules):
    """Loss and gradients of a model on a machine, which runs the loops of some modules."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with machines_of(kind, modules):
        weight = 0.3 if isinstance(net, zf_pyro.ZForcing) else 0.0
        loss = ZForcingELBO(0.7, weight).loss_and_grads(net.model, net.guide, x, lengths)
    return {"loss": torch.tensor(loss, dtype=torch.float64)} | parameter_grads(net)


def same_model(model, settings, dtype, batch=5, time=3, modules=LOOPS, **sizes):
    net = random_net(model=model, dtype=dtype, **settings, **sizes).to(DEVICE)
    x = random_frames(batch=batch, time=time, dtype=dtype).to(DEVICE)
    lengths = (torch.arange(batch) % time + 1).to(DEVICE)
    found = [evaluated(kind, net, x, lengths, modules) for kind in (*FUSED, Blocked)]
    scale = max(value.abs().max().item() for value in found[-1].values())
    assert scale > 1.0, "no gradients"
    tolerance = 3e-5 if dtype == torch.float32 else 1e-11
    for kind in found[:-1]:
        assert_same(kind, found[-1], rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name", CASES)
def test_a_model_has_the_loss_and_gradients_of_pytorch(name):
    if name == "ZForcing":
        same_model(*CASES[name], torch.float64)
    else:  # the loops that run on GPUs; all have equal programs in the heads and the backward RNN
        same_model(*CASES[name], torch.float64, time=2, modules=LOOPS[:2])


def test_float32_has_the_loss_and_gradients_of_pytorch():
    same_model(*CASES["ZForcing"], torch.float32, time=2, modules=LOOPS[:2])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_every_member_has_the_loss_and_gradients_of_pytorch(name):
    same_model(*FAMILY[name], torch.float64, batch=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_model_has_the_loss_and_gradients_of_pytorch_in_float32(name):
    same_model(*CASES[name], torch.float32, batch=3, time=2, modules=LOOPS[:2])


@pytest.mark.slow
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_sizes_beyond_a_block_have_the_gradients_of_pytorch(transition):
    sizes = {"embed_dim": 19, "hidden_dim": 37, "latent_dim": 18, "mlp_dim": 33, "spread": 0.1}
    same_model(
        zf_pyro.ZForcing, {"transition": transition}, torch.float64, batch=70, time=2, modules=LOOPS[:2], **sizes
    )


@pytest.mark.parametrize("name", fastest.FUSED)
def test_the_setting_chooses_it(name, monkeypatch):
    tape, others = (Tape(Arena(), torch.empty(0, dtype=dtype, device=DEVICE)) for dtype in (torch.float32, torch.half))
    monkeypatch.setenv("ZF_PYRO_MACHINE", name)
    assert type(fastest.machine_for(tape, 8, 2)) is fastest.FUSED[name]
    assert type(fastest.machine_for(others, 8, 2)) is PlainMachine
    assert zf_pyro.show_config("dict")["gpu"] == name
    for setting in ("", "pytorch"):
        monkeypatch.setenv("ZF_PYRO_MACHINE", setting)
        assert not isinstance(fastest.machine_for(tape, 8, 2), FusedMachine)


@on_cuda
@pytest.mark.parametrize("name", fastest.FUSED)
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_a_graph_replays_the_kernels(transition, name, monkeypatch):
    """Captured with fused kernels, the objective has the values of one evaluated in PyTorch, at each replay."""
    net = random_net(transition=transition).to(DEVICE)
    x = random_frames(time=6).to(DEVICE)
    pytorch = ZForcingELBO(0.7, 0.3)
    monkeypatch.setenv("ZF_PYRO_MACHINE", name)
    graphed = GraphedELBO(ZForcingELBO(0.7, 0.3), bucket=1)
    for seed in range(3):
        found = []
        for elbo, setting in ((graphed, name), (pytorch, "pytorch")):
            monkeypatch.setenv("ZF_PYRO_MACHINE", setting)
            pyro.set_rng_seed(seed)
            loss = elbo.loss_and_grads(net.model, net.guide, x)
            found.append({"loss": torch.tensor(loss, dtype=torch.float64)} | parameter_grads(net))
        assert_same(*found)


@on_cuda
@pytest.mark.parametrize("kind", FUSED)
def test_a_run_allocates_nothing_and_waits_for_nothing(kind):
    program, _ = random_program(0, device=DEVICE)
    run = machine(kind, torch.float64).prepare(program)
    run(0, 2, 1)
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(0, 20, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_a_program_with_another_operation_runs_in_pytorch():
    found = []
    for kind in (*FUSED, Blocked):
        out = torch.zeros(1, 3, device=DEVICE, dtype=torch.float64)
        given = operands_of(operations.activate_back, 4, 3, torch.float64, device=DEVICE)
        program = [Instruction(operations.log_density, (Ring(out.unsqueeze(0)), *map(single, given)))]
        machine(kind, torch.float64).prepare(program)(0, 1, 1)
        found.append(out)
    assert all(torch.equal(out, found[-1]) for out in found)
    assert found[0].abs().min() > 0.0
