"""The compiled operations against the plain ones, for every vector instruction set, size and number of threads."""

import math
import os
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zf_pyro.recurrence.engine import machines, operations
from zf_pyro.recurrence.engine.buffers import Arena, Tape
from zf_pyro.recurrence.engine.fastest import machine_for
from zf_pyro.recurrence.engine.machines import CompiledMachine, PlainMachine
from zf_pyro.recurrence.engine.operations import Instruction, Ring, single

compiled = pytest.mark.skipif(machines._compiled is None, reason="no C compiler when zf_pyro was installed")
LEVELS = range(1 if machines._compiled is None else len(machines._compiled.PANELS))
DTYPES = {"float32": torch.float32, "float64": torch.float64}

# Operand sizes of each operation, outputs first: f features, g gates (4 f), n rows, p partial sums.
# Rows are sequences x particles.
OPERATIONS = {
    "copy": ("fn", "fn"),
    "add": ("fn", "fn"),
    "add_sum": ("f1", "fn"),
    "scale": ("fn", "1n"),
    "activate": ("fn",),
    "activate_back": ("fn", "fn", "fn"),
    "draw": ("fn", "fn", "fn", "fn"),
    "draw_back": ("fn", "fn", "fn", "fn", "fn"),
    "sum_squares": ("pn", "fn"),
    "normalise_back": ("fn", "pn", "fn", "fn", "fn", "1n"),
    "log_density": ("1n", "fn", "fn", "fn"),
    "log_density_back": ("fn", "fn", "1n", "fn", "fn", "fn"),
    "modulate": ("fn", "fn", "1n", "pn", "fn", "fn"),
    "modulate_back": ("fn", "pn", "fn", "fn", "fn"),
    "lstm": ("fn", "fn", "fn", "gn", "fn"),
    "lstm_back": ("fn", "gn", "fn", "gn", "fn", "fn"),
}
# The same for operations that also take a scalar.
NUMBERS = {"fill": ("fn",), "clamp": ("fn",), "clamp_back": ("fn", "fn", "fn")}


def machine(kind, dtype, *level):
    return kind(Tape(Arena(), torch.empty(0, dtype=dtype)), *level)


def values(sizes, features, rows, dtype, spread=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    count = {"f": features, "g": 4 * features, "1": 1, "n": rows, "p": 3}
    shapes = [tuple(count[letter] for letter in size) for size in sizes]
    return [(spread * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype) for shape in shapes]


def after(machine, operation, tensors, number=None):
    """Run one instruction on copies of the tensors, and return the copies."""
    copies = [tensor.clone() for tensor in tensors]
    instruction = Instruction(operation, tuple(map(single, copies)), number)
    machine.prepare([instruction])(0, 1, 1)
    return copies


def check_products(mine, w, x, bias, y, exact, tolerance):
    """A product with a bias, without, and added to y, on a machine, against W x in float64."""
    found, more, alone = torch.empty_like(y), y.clone(), torch.empty_like(y)
    weight = mine.weight(w)
    program = [
        Instruction(operations.product, (single(found), weight, single(x), single(bias))),
        Instruction(operations.product, (single(alone), weight, single(x))),
        Instruction(operations.add_product, (single(more), weight, single(x))),
    ]
    mine.prepare(program)(0, 1, 1)
    for a, b in ((found, exact + bias), (alone, exact), (more, exact + y)):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance)


def outer_operands(out, inner, steps, rows, seed, dtype):
    """A sum, gradients and x of all steps; the first entries of the rings of the last two are left out."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (steps + 2, out, rows), (steps + 1, rows, inner), (out, inner)
    gradients, x, total = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return total, gradients[2:].transpose(0, 1), x[1:].permute(2, 0, 1)


def assert_close(found, expected, dtype):
    tolerance = 2e-5 if dtype == torch.float32 else 1e-13
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@compiled
def test_both_machines_know_the_same_operations():
    listed = set(OPERATIONS) | set(NUMBERS) | {"pack", "product", "add_product", "add_outer"}
    assert set(machines._compiled.OPERATIONS) == listed
    assert all(callable(getattr(operations, name)) for name in listed)


@compiled
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*OPERATIONS, *NUMBERS])
def test_a_compiled_operation_equals_the_plain_one(name, dtype, level):
    dtype, number = DTYPES[dtype], 0.7 if name in NUMBERS else None
    operation = getattr(operations, name)
    for features, rows, spread in ((1, 1, 2.0), (5, 3, 2.0), (7, 16, 2.0), (12, 33, 2.0), (37, 50, 1.0)):
        tensors = values(OPERATIONS.get(name) or NUMBERS[name], features, rows, dtype, spread)
        if name == "modulate":  # sums of squares
            tensors[3].abs_()
        found = after(machine(CompiledMachine, dtype, level), operation, tensors, number)
        expected = after(machine(PlainMachine, dtype), operation, tensors, number)
        assert_close(found, expected, dtype)


@compiled
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["copy", "add"])
@settings(max_examples=25, deadline=None)
@given(features=st.integers(1, 70), rows=st.integers(1, 70), transposed=st.sampled_from([(0,), (1,), (0, 1)]))
def test_operands_may_be_row_major_or_column_major(name, level, dtype, features, rows, transposed):
    """The output, the input or both are row-major. Memory beside the output stays unchanged."""
    dtype = DTYPES[dtype]
    tensors = [torch.randn(features + 3, rows, dtype=dtype) for _ in range(2)]
    for k in transposed:
        tensors[k] = tensors[k].t().contiguous().t()
    expected = [tensor.clone() for tensor in tensors]
    getattr(operations, name)(expected[0][:features], expected[1][:features])
    program = [Instruction(getattr(operations, name), tuple(single(tensor[:features]) for tensor in tensors))]
    machine(CompiledMachine, dtype, level).prepare(program)(0, 1, 1)
    assert all(map(torch.equal, tensors, expected))


@compiled
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(out=st.integers(1, 40), inner=st.integers(1, 450), rows=st.integers(1, 150), seed=st.integers(0, 99))
def test_a_compiled_product_equals_the_plain_one(level, dtype, out, inner, rows, seed):
    """Sizes below and above one block of the product; with a bias, without, and added to the output."""
    dtype = DTYPES[dtype]
    w, x, bias, y = (torch.randn(*s, dtype=dtype) for s in ((out, inner), (inner, rows), (out, 1), (out, rows)))
    tolerance = (3e-6 if dtype == torch.float32 else 1e-14) * inner
    check_products(machine(CompiledMachine, dtype, level), w, x, bias, y, w.double() @ x.double(), tolerance)


@compiled
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(
    out=st.integers(1, 40),
    inner=st.integers(1, 90),
    steps=st.integers(1, 12),
    rows=st.one_of(st.integers(1, 70), st.integers(180, 400)),
    seed=st.integers(0, 99),
)
def test_a_compiled_sum_of_outer_products_equals_the_plain_one(level, dtype, out, inner, steps, rows, seed):
    """Blocks of part of a step, one step and several steps."""
    dtype = DTYPES[dtype]
    total, *operands = outer_operands(out, inner, steps, rows, seed, dtype)
    exact = torch.addmm(total.double(), operands[0].flatten(1).double(), operands[1].flatten(1).double().t())
    for one in (machine(CompiledMachine, dtype, level), machine(PlainMachine, dtype)):
        found = total.clone()
        one.prepare([Instruction(operations.add_outer, tuple(map(single, (found, *operands))))])(0, 1, 1)
        tolerance = (3e-6 if dtype == torch.float32 else 1e-14) * steps * rows
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=tolerance)


@compiled
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_and_of_other_rows_changes_no_bit(threads, monkeypatch):
    monkeypatch.setattr(machines, "WORTH_A_THREAD", 1)
    w, x, y = torch.randn(400, 300), torch.randn(300, 45), torch.randn(60, 45)
    before = torch.get_num_threads()
    results = []
    for count, columns in ((1, slice(0, 45)), (threads, slice(0, 45)), (threads, slice(7, 30))):
        torch.set_num_threads(count)
        mine = machine(CompiledMachine, torch.float32)
        out, inverse = torch.empty(400, 45)[:, columns].contiguous(), torch.empty(1, 45)[:, columns].contiguous()
        parts, more = inverse.new_empty(mine.blocks, out.shape[1]), [torch.zeros_like(out) for _ in range(3)]
        program = [
            Instruction(operations.product, (single(out), mine.weight(w), single(x[:, columns].contiguous()))),
            Instruction(operations.sum_squares, (single(parts), single(out))),
            Instruction(operations.modulate, tuple(map(single, (more[0], out, inverse, parts, *more[1:])))),
            Instruction(operations.activate, (single(out),)),
        ]
        mine.prepare(program)(0, 1, 1)
        total = torch.zeros(400, 60)
        noting, fold = mine.folding(total, None, single(out), single(y[:, columns].contiguous()), 1)
        mine.prepare(noting)(0, 1, 1)
        fold(0, 1)
        results.append((out, total))
    torch.set_num_threads(before)
    assert all(map(torch.equal, results[0], results[1]))
    assert torch.equal(results[0][0][:, 7:30], results[2][0])


@pytest.mark.slow
@compiled
def test_more_threads_than_processors_wait_for_one_another(monkeypatch):
    """Each step shifts the features by one, so threads read what others have written in the step before.

    A waiting thread must yield its processor, or thousands of barriers would take minutes.
    """
    monkeypatch.setattr(machines, "WORTH_A_THREAD", 1)
    before, steps = torch.get_num_threads(), 3000
    torch.set_num_threads(4 * (os.cpu_count() or 1))
    values, mine = torch.zeros(steps + 1, 64, 16), machine(CompiledMachine, torch.float32)
    values[0] = torch.randn(64, 16)
    shift = mine.weight(torch.eye(64).roll(1, 0))
    start = time.perf_counter()
    mine.prepare([Instruction(operations.product, (Ring(values, 1), shift, Ring(values)))])(0, steps, 1)
    seconds = time.perf_counter() - start
    torch.set_num_threads(before)
    assert torch.equal(values[steps], values[0].roll(steps, 0))
    assert seconds < 20.0


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_nonlinearities_are_accurate_to_the_last_bits_over_their_whole_range(dtype):
    """Sigmoid and tanh are within 4 units in the last place of float64, near zero and far from it."""
    dtype = DTYPES[dtype]
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.logspace(-8, 1, 500), -torch.logspace(-8, 1, 500)]).to(dtype)
    gates = x.repeat(4, 1)
    state = [torch.zeros(1, len(x), dtype=dtype) for _ in range(4)]
    found = after(machine(CompiledMachine, dtype), operations.lstm, [*state[:3], gates, state[3]])[3]
    unit = torch.finfo(dtype).eps
    for row, exact in ((0, x.double().sigmoid()), (3, x.double().tanh())):
        assert ((found[row].double() - exact).abs() <= 4 * unit * exact.abs() + 1e-30).all()


@compiled
def test_nan_stays_nan_and_infinities_saturate():
    for name in ("activate", "clamp", "lstm"):
        sizes = OPERATIONS.get(name) or NUMBERS[name]
        tensors = values(sizes, 2, 3, torch.float32)
        source = 3 if name == "lstm" else 0
        tensors[source][:] = torch.tensor([math.nan, math.inf, -math.inf])
        found = after(machine(CompiledMachine, torch.float32), getattr(operations, name), tensors, 0.5)
        assert found[source][:, 0].isnan().all()
        assert found[source][:, 1:].isfinite().all()


@pytest.mark.parametrize("kind", [PlainMachine, pytest.param(CompiledMachine, marks=compiled)])
def test_a_run_goes_through_its_rings_in_either_direction(kind):
    """A running sum, forwards from x_0 and backwards from x_4, in a ring of one more entry."""
    x = torch.arange(1.0, 6.0).view(5, 1, 1)
    for first, by, early in ((0, 1, 0), (4, -1, 1)):
        sums = torch.zeros(6, 1, 1)
        program = [
            Instruction(operations.copy, (Ring(sums, 1 - early), Ring(sums, early))),
            Instruction(operations.add, (Ring(sums, 1 - early), Ring(x))),
        ]
        machine(kind, torch.float32).prepare(program)(first, 5, by)
        expected = x.cumsum(0) if by == 1 else x.flip(0).cumsum(0).flip(0)
        assert torch.equal(sums[1:] if by == 1 else sums[:-1], expected)


@pytest.mark.parametrize("kind", [PlainMachine, pytest.param(CompiledMachine, marks=compiled)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_fold_sums_over_the_steps(kind, transposed):
    gradients = torch.randn(4, 7, 3, dtype=torch.float64)
    x = torch.randn(9, 3, 5, dtype=torch.float64).transpose(1, 2) if transposed else torch.randn(9, 5, 3).double()
    one, bias = machine(kind, torch.float64), torch.zeros(7, dtype=torch.float64)
    total = torch.zeros(7, 5, dtype=torch.float64)
    noting, fold = one.folding(total, bias, Ring(gradients), Ring(x, 1), 6)
    for first, steps in ((4, 2), (0, 4)):
        one.prepare(noting)(first, steps, 1)
        fold(first, steps)
    exact = torch.einsum("tor,tir->oi", gradients, x[1:5]) + torch.einsum("tor,tir->oi", gradients[:2], x[5:7])
    torch.testing.assert_close(total, exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bias, gradients.sum((0, 2)) + gradients[:2].sum((0, 2)), rtol=1e-12, atol=1e-12)


@compiled
def test_operands_that_must_be_contiguous_are_checked():
    apart = torch.zeros(1, 3, 2).transpose(1, 2)
    with pytest.raises(ValueError, match="rows of activate must lie next to one another"):
        machine(CompiledMachine, torch.float32).prepare([Instruction(operations.activate, (Ring(apart),))])


@compiled
def test_operands_of_another_dtype_are_refused():
    """Otherwise memory would be read beyond its end."""
    operands = single(torch.zeros(3, 2)), single(torch.zeros(3, 2, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match=r"copy must be torch.float32 as the tape, got torch.bfloat16 on cpu"):
        machine(CompiledMachine, torch.float32).prepare([Instruction(operations.copy, operands)])


@compiled
def test_a_program_of_another_size_or_level_is_refused():
    with pytest.raises(ValueError, match="whole instructions"):
        machines._compiled.run(b"123", 0, 1, 1, 0, 1, 0)
    with pytest.raises(ValueError, match="level below"):
        machines._compiled.run(b"", 0, 1, 1, 0, 1, len(machines._compiled.PANELS))


def test_the_plain_machine_serves_where_nothing_was_compiled(monkeypatch):
    monkeypatch.setattr(machines, "_compiled", None)
    assert isinstance(machine_for(Tape(Arena(), torch.empty(0)), 8, 2), PlainMachine)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_plain_machine_serves_other_dtypes(dtype):
    assert isinstance(machine_for(Tape(Arena(), torch.empty(0, dtype=dtype)), 8, 2), PlainMachine)
