"""The machines of fused kernels: their formulas, plans and settings, and their kernels, interpreted by Triton on a CPU.

The values of the kernels are tested in ``tests/gpu/test_fused.py``, on a CUDA device or in Triton's interpreter. The
interpreter has to be chosen before Triton is imported, so that it runs in a process of its own.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import zf_pyro
from zf_pyro import ZForcingELBO
from zf_pyro.recurrence.engine import fastest, operations
from zf_pyro.recurrence.engine.buffers import Arena, Tape
from zf_pyro.recurrence.engine.fused import plans
from zf_pyro.recurrence.engine.fused.formulas import FORMULAS, FUNCTIONS, PRODUCTS, assignments, names, parameters
from zf_pyro.recurrence.engine.fused.fused_machine import FusedMachine, installed, precision
from zf_pyro.recurrence.engine.fused.kernels import launch_kernel, loop_kernel
from zf_pyro.recurrence.engine.fused.persistent_machine import PersistentMachine
from zf_pyro.recurrence.engine.fused.phases import launches
from zf_pyro.recurrence.engine.fused.plans import fusible, plan
from zf_pyro.recurrence.engine.operations import Instruction, Ring, single

from .conftest import random_frames, random_net
from .fused_programs import programs_of

ROOT = Path(__file__).parent.parent
TRITON = pytest.mark.skipif(
    not installed(), reason="needs Triton, which comes with PyTorch for CUDA or the extra gpu-test"
)


def test_every_formula_assigns_what_its_operation_does():
    """Formulas name parameters of their operations, and the plain operation changes the operands that they assign."""
    known = {function.name for function in ast.walk(ast.parse(FUNCTIONS)) if isinstance(function, ast.FunctionDef)}
    assert known == {"sigmoid", "tanh", "leaky", "leaky_back", "bounded", "bounded_back"}
    for operation, formula in FORMULAS.items():
        given, temporary = set(parameters(operation)) | {"features", "zero"}, set()
        for left, right in assignments(formula):
            assert names(right) <= given | temporary, f"{operation.__name__}: {right}"
            temporary |= names(left)
    without = {operations.pack, operations.add_outer, operations.add_sum, operations.log_density}
    every = {value for value in vars(operations).values() if getattr(value, "__module__", "") == operations.__name__}
    instructions = {value for value in every if hasattr(value, "__code__") and not value.__name__.startswith("_")}
    assert set(FORMULAS) | set(PRODUCTS) | without == instructions - {single}


def value(features=2, rows=3, dtype=torch.float64, count=1):
    return Ring(torch.ones(count, features, rows, dtype=dtype))


NOT_FUSED = {
    "no operation": [],
    "an operation without a formula": [Instruction(operations.log_density, (value(1), value(), value(), value()))],
    "different rows": [
        Instruction(operations.fill, (value(),), 1.0),
        Instruction(operations.fill, (value(rows=4),), 1.0),
    ],
    "half precision": [Instruction(operations.fill, (value(dtype=torch.bfloat16),), 1.0)],
    "two precisions": [Instruction(operations.add, (value(), value(dtype=torch.float32)))],
    "no rows": [Instruction(operations.fill, (value(rows=0),), 1.0)],
}


@pytest.mark.parametrize("name", NOT_FUSED)
def test_a_program_without_kernels_runs_in_pytorch(name, monkeypatch):
    program = NOT_FUSED[name]
    assert not fusible(program)
    monkeypatch.setattr(plans, "launch_kernel", None)  # nothing is generated
    monkeypatch.setattr(plans, "loop_kernel", None)
    for kind in (FusedMachine, PersistentMachine):
        kind(Tape(Arena(), torch.empty(0, dtype=torch.float64))).prepare(program)(0, 1, 1)


def test_wrong_shapes_are_refused():
    machine = FusedMachine(Tape(Arena(), torch.empty(0, dtype=torch.float64)))
    with pytest.raises(ValueError, match=r"operand 1 \(x\) of copy must have shape"):
        machine.prepare([Instruction(operations.copy, (value(), value(3)))])


def test_a_text_holds_for_every_number_of_steps_and_rows():
    """Kernels are compiled once for sizes of features: steps, rows within a block and addresses are arguments."""

    def texts(time, batch):
        net = random_net()
        x = random_frames(time=time, batch=batch)
        found = programs_of(lambda: ZForcingELBO().loss_and_grads(net.model, net.guide, x))
        fit = [program for program in found if fusible(program)]
        settings = batch, torch.float64, "ieee"
        launched = [launch_kernel(one, *settings) for program in fit for one in launches(program)]
        whole = [loop_kernel(launches(program), *settings) for program in fit]
        return [kernel.text for kernel in (*launched, *whole)]

    assert texts(3, 2) == texts(6, 7)


def test_what_is_loaded_and_overwritten_waits_for_all_threads():
    """A stored value need not depend on the loaded one, and other threads may load it."""

    def text(*program):
        (launch,) = launches(program)
        return launch_kernel(launch, 3, torch.float64, "ieee").text

    x, y, z = value(), value(), value()
    move = Instruction(operations.copy, (x, y)), Instruction(operations.copy, (y, z))
    found = text(*move)
    assert found.index("tl.load(a") < found.index("tl.debug_barrier()") < found.index("tl.store(")
    assert "debug_barrier" not in text(move[0])


def test_programs_of_one_structure_are_planned_once(monkeypatch):
    """The next training step finds its kernels. Another aliasing, size or float does not."""
    monkeypatch.setattr(plans, "_plans", {})

    def found(x, y, number=1.0):
        return plan([Instruction(operations.copy, (x, y)), Instruction(operations.clamp, (x,), number)], "ieee")

    first = found(value(), value())
    assert found(value(), value()) is first
    both = Ring(torch.ones(1, 4, 3, dtype=torch.float64))
    assert [sorted(one.rings) for one in first] == [[(0, 1), (1, 0)]]
    for other in (
        found(value(), value(), 2.0),
        found(both.part(0, 2), both.part(2, 4)),
        found(value(rows=4), value(rows=4)),
        found(value(count=3), value().later(1)),
    ):
        assert other is not first
    monkeypatch.setattr(plans, "KEPT", 2)
    assert found(value(5), value(5)) is found(value(5), value(5))
    assert len(plans._plans) <= 2


def test_products_have_the_precision_of_pytorch(monkeypatch):
    """Under each of PyTorch's settings, also those of versions before 2.9."""
    own = torch.backends.cuda.matmul
    before, newer = own.allow_tf32, getattr(own, "fp32_precision", None)
    try:
        for rounded in (True, False):
            own.allow_tf32 = rounded
            assert precision() == ("tf32" if rounded else "ieee")
        for word in ("tf32", "ieee") if newer is not None else ():
            own.fp32_precision = word
            assert precision() == word
    finally:
        own.allow_tf32 = before
        if newer is not None:
            own.fp32_precision = newer
    for rounded in (True, False):
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=rounded))
        assert precision() == ("tf32" if rounded else "ieee")


@pytest.mark.parametrize("name", fastest.FUSED)
def test_it_is_chosen_by_the_setting_alone(name, monkeypatch):
    """On a CPU without the interpreter the settings say nothing. Without Triton they are refused on CUDA."""
    tape = Tape(Arena(), torch.empty(0))
    monkeypatch.delenv("ZF_PYRO_MACHINE", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cuda = torch.device("cuda")
    assert not fastest.fuses(cuda)
    fields = zf_pyro.show_config("dict")
    assert fields["gpu"] == "pytorch"
    reason = "fused kernels were not measured on a GPU yet; ZF_PYRO_MACHINE=fused or persistent chooses them"
    assert fields["gpu_reason"] == reason
    before = type(fastest.machine_for(tape, 8, 2))
    monkeypatch.setenv("ZF_PYRO_MACHINE", name)
    monkeypatch.setattr(fastest, "installed", lambda: True)
    assert fastest.fuses(cuda)
    assert not fastest.fuses(torch.device("mps"))
    assert type(fastest.machine_for(tape, 8, 2)) is before
    fields = zf_pyro.show_config("dict")
    assert (fields["gpu"], fields["gpu_reason"]) == (name, f"ZF_PYRO_MACHINE is {name}")
    monkeypatch.setattr(fastest, "installed", lambda: False)
    assert type(fastest.machine_for(tape, 8, 2)) is before
    net = random_net()
    ZForcingELBO().loss_and_grads(net.model, net.guide, random_frames())
    refusal = f"ZF_PYRO_MACHINE={name} needs Triton, .*: pip install triton, or unset ZF_PYRO_MACHINE"
    with pytest.raises(RuntimeError, match=refusal):
        fastest.fuses(cuda)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match=refusal):
        fastest.machine_for(tape, 8, 2)


def interpreted(*options):
    """Run the tests of the kernels in Triton's interpreter; returns the summary."""
    given = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *options,
        str(ROOT / "tests/gpu/test_fused.py"),
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(given, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    return run.stdout.splitlines()[-1]


@TRITON
def test_the_kernels_have_the_values_and_gradients_of_pytorch():
    summary = interpreted()
    assert " passed" in summary
    assert "6 skipped" in summary, "those that need a CUDA device, and no others"


@TRITON
@pytest.mark.slow
def test_the_kernels_of_every_member_have_the_gradients_of_pytorch():
    summary = interpreted("-m", "slow")
    assert " passed" in summary
    assert "skipped" not in summary


@TRITON
@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu():
    """Triton compiles every kernel of Z-Forcing to machine code for an H100, for which it needs no GPU."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.fused_kernels"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.splitlines()[-1] == "11 kernels"
