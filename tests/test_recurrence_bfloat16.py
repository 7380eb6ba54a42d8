"""Products in bfloat16: those of rounded numbers, chosen by PyTorch's own switch, and close to float32 in a net."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import zf_pyro
from zf_pyro.recurrence.engine import fastest, machines, operations
from zf_pyro.recurrence.engine.buffers import Arena, Tape
from zf_pyro.recurrence.engine.fastest import multiplies_in_bfloat16
from zf_pyro.recurrence.engine.machines import CompiledMachine, PlainMachine
from zf_pyro.recurrence.engine.operations import Instruction, single

from .sanitised import network, results
from .test_recurrence_machines import check_products, outer_operands

aten = torch.ops.aten
able = pytest.mark.skipif(
    not getattr(machines._compiled, "BFLOAT16", 0), reason="this processor or compiler has no products in bfloat16"
)
SIZES = {"particles": 2, "time": 6, "batch": 9, "frame": 5, "embed": 24, "hidden": 40, "latent": 9, "mlp": 33}


@pytest.fixture
def precision():
    """Sets PyTorch's precision of float32 products, and sets it back."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def machine(dtype=torch.float32, bfloat16=True):
    return CompiledMachine(Tape(Arena(), torch.empty(0, dtype=dtype)), bfloat16=bfloat16)


def rounded(x):
    return x.bfloat16().double()


@able
@settings(max_examples=60, deadline=None)
@given(out=st.integers(1, 40), inner=st.integers(1, 450), rows=st.integers(1, 150), seed=st.integers(0, 99))
def test_a_product_is_that_of_rounded_numbers(out, inner, rows, seed):
    """Odd and even sizes below and above one block; with a bias, without, and added to the output."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (out, inner), (inner, rows), (out, 1), (out, rows)
    w, x, bias, y = (torch.randn(shape, generator=generator) for shape in shapes)
    check_products(machine(), w, x, bias, y, rounded(w) @ rounded(x), 3e-6 * inner)


@able
@settings(max_examples=60, deadline=None)
@given(
    out=st.integers(1, 40),
    inner=st.integers(1, 90),
    steps=st.integers(1, 12),
    rows=st.one_of(st.integers(1, 70), st.integers(180, 400)),
    seed=st.integers(0, 99),
)
def test_a_sum_of_outer_products_is_that_of_rounded_numbers(out, inner, steps, rows, seed):
    """Blocks of part of a step, one step and several steps."""
    total, *operands = outer_operands(out, inner, steps, rows, seed, torch.float32)
    exact = total.double() + rounded(operands[0].flatten(1)) @ rounded(operands[1].flatten(1)).t()
    machine().prepare([Instruction(operations.add_outer, tuple(map(single, (total, *operands))))])(0, 1, 1)
    torch.testing.assert_close(total.double(), exact, rtol=0, atol=3e-6 * steps * rows)


@able
def test_rows_that_are_all_the_same_memory_are_paired():
    """An expanded tensor has stride 0, which is no missing row."""
    w, x, y, bias = torch.randn(13, 5), torch.randn(1, 17).expand(5, 17), torch.randn(13, 17), torch.randn(13, 1)
    check_products(machine(), w, x, bias, y, rounded(w) @ rounded(x), 1e-5)
    total, gradients = torch.zeros(13, 5), torch.randn(13, 3, 7)
    x = torch.randn(1, 1, 5).expand(3, 7, 5).permute(2, 0, 1)
    expected = rounded(gradients.flatten(1)) @ rounded(x.flatten(1)).t()
    machine().prepare([Instruction(operations.add_outer, tuple(map(single, (total, gradients, x))))])(0, 1, 1)
    torch.testing.assert_close(total.double(), expected, rtol=0, atol=1e-5)


@able
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_values_that_are_not_ordinary_numbers_are_kept(value):
    w, x = torch.ones(13, 5), torch.ones(5, 17)
    w[2, 3] = value
    out, mine = torch.zeros(13, 17), machine()
    mine.prepare([Instruction(operations.product, (single(out), mine.weight(w), single(x)))])(0, 1, 1)
    expected = (rounded(w) @ rounded(x)).float()
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=0, equal_nan=True)


@able
def test_neither_threads_nor_other_rows_change_a_bit(monkeypatch):
    monkeypatch.setattr(machines, "WORTH_A_THREAD", 1)
    w, x, y = torch.randn(400, 301), torch.randn(301, 45), torch.randn(60, 45)
    before, found = torch.get_num_threads(), []
    for threads, columns in ((1, slice(0, 45)), (3, slice(0, 45)), (3, slice(7, 30))):
        torch.set_num_threads(threads)
        mine, total = machine(), torch.zeros(400, 60)
        seen, out = x[:, columns].contiguous(), torch.empty(400, 45)[:, columns].contiguous()
        mine.prepare([Instruction(operations.product, (single(out), mine.weight(w), single(seen)))])(0, 1, 1)
        _, fold = mine.folding(total, None, single(out), single(y[:, columns].t().contiguous().t()), 1)
        fold(0, 1)
        found.append((out, total))
    torch.set_num_threads(before)
    assert all(map(torch.equal, found[0], found[1]))
    assert torch.equal(found[0][0][:, 7:30], found[2][0])


class RoundedProducts(TorchDispatchMode):
    """Rounds the factors of every product that the engine's operations call, and multiplies in float32."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (aten.mm.out, aten.addmm.out, aten.addmm_.default):
            args = (*args[:-2], *(factor.bfloat16().float() for factor in args[-2:]))
        return function(*args, **(kwargs or {}))


@able
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("transition", ["conditional_layer_norm", "concatenate"])
def test_values_and_gradients_of_all_loops_are_those_of_rounded_products(transition, seed, precision, monkeypatch):
    """The plain machine with rounded factors is the reference.

    Sums in another order differ by 1e-7, which now and then rounds a factor the other way, by 2^-8 of it.
    """
    net = network(SIZES, transition, False, torch.float32, seed)
    exact = results(net, SIZES, seed)
    precision("medium")
    found = results(net, SIZES, seed)
    monkeypatch.setattr(fastest, "CompiledMachine", lambda tape, bfloat16: PlainMachine(tape))
    with RoundedProducts():
        expected = results(net, SIZES, seed)
    assert found.keys() == expected.keys()
    away = {name: float((found[name] - value).norm() / value.norm()) for name, value in expected.items()}
    assert max(away.values()) < 2e-3
    away = {name: float((found[name] - value).norm() / value.norm()) for name, value in exact.items()}
    assert 1e-3 < away["gradient of embedding.0.weight"] < 0.05


@able
def test_float64_keeps_every_bit(precision):
    net = network(SIZES, "concatenate", False, torch.float64, 0)
    exact = results(net, SIZES, 0)
    precision("medium")
    found = results(net, SIZES, 0)
    assert all(torch.equal(found[name], value) for name, value in exact.items())


@pytest.mark.parametrize("build", [None, SimpleNamespace(), SimpleNamespace(BFLOAT16=0)])
def test_other_processors_and_builds_multiply_in_float32(build, precision, monkeypatch):
    """No C loops, those of older sources, and those of a processor without such products."""
    monkeypatch.setattr(machines, "_compiled", build)
    precision("medium")
    assert not multiplies_in_bfloat16()


@able
@pytest.mark.parametrize(("setting", "products"), [("highest", "float32"), ("high", "float32"), ("medium", "bfloat16")])
def test_the_switch_is_that_of_pytorch_and_the_configuration_says_so(setting, products, precision):
    precision(setting)
    assert multiplies_in_bfloat16() == (products == "bfloat16")
    assert zf_pyro.show_config("dict")["products"] == products


@able
def test_a_kind_that_a_level_lacks_is_refused():
    with pytest.raises(ValueError, match="kind must be 0, 1, or 2 where there are products in bfloat16, got 2"):
        machines._compiled.run(b"", 0, 1, 1, 2, 1, 0)
    with pytest.raises(ValueError, match="kind must be 0, 1, or 2 where there are products in bfloat16, got 3"):
        machines._compiled.run(b"", 0, 1, 1, 3, 1, 0)
