"""No program reads or writes beyond an operand, memory is given back, and a long loop answers to Ctrl-C."""

import re

import pytest
import torch

from zf_pyro.recurrence.engine import machines, operations
from zf_pyro.recurrence.engine.buffers import Arena, Tape
from zf_pyro.recurrence.engine.machines import CompiledMachine, PlainMachine
from zf_pyro.recurrence.engine.operations import Instruction, Ring, single

from .test_recurrence_machines import NUMBERS, OPERATIONS, compiled

EACH_MACHINE = [PlainMachine, pytest.param(CompiledMachine, marks=compiled)]
SIZES = {"f": 5, "g": 20, "1": 1, "n": 3, "p": 2}


# Shapes of operands ---------------------------------------------------------------------------------------------------


def machine(kind):
    return kind(Tape(Arena(), torch.empty(0)))


def right_operands(name):
    """Operands of shapes that an operation defines; rings of one entry."""
    return [torch.zeros(1, *(SIZES[size] for size in sizes)) for sizes in (OPERATIONS.get(name) or NUMBERS[name])]


def prepare(kind, name, tensors):
    number = 0.5 if name in NUMBERS else None
    return machine(kind).prepare([Instruction(getattr(operations, name), tuple(map(Ring, tensors)), number)])


@pytest.mark.parametrize("kind", EACH_MACHINE)
@pytest.mark.parametrize("name", [*OPERATIONS, *NUMBERS])
def test_every_operation_refuses_each_operand_of_another_shape(name, kind):
    """One row or feature less or more, or another rank, of any operand. A size that no other has may be any."""
    sizes = OPERATIONS.get(name) or NUMBERS[name]
    prepare(kind, name, right_operands(name))(0, 1, 1)
    for k, size in enumerate(sizes):
        for wrong in (torch.Tensor.squeeze, lambda value: value.unsqueeze(0)):
            operands = right_operands(name)
            operands[k] = wrong(operands[k])
            with pytest.raises(ValueError, match=rf"\b{name}\b"):
                prepare(kind, name, operands)
        for dim, more in ((0, 1), (0, -1), (1, 1), (1, -1)):
            operands = right_operands(name)
            shape = list(operands[k].shape)
            shape[1 + dim] += more
            operands[k] = torch.zeros(shape)
            if size[dim] in "fnp" and "".join(sizes).count(size[dim]) == 1:
                prepare(kind, name, operands)
                continue
            with pytest.raises(ValueError, match=rf"operand \d \(\w+\) of {name} must have shape"):
                prepare(kind, name, operands)


@pytest.mark.parametrize("kind", EACH_MACHINE)
@pytest.mark.parametrize(
    ("operand", "name", "shape"),
    [
        (0, "out", (8, 4)),
        (2, "x", (5, 3)),
        (2, "x", (6, 4)),
        (3, "bias", (7, 2)),
        (3, "bias", (6, 1)),
        (3, "bias", (1, 1)),
    ],
)
def test_products_refuse_operands_that_do_not_fit_the_weight(kind, operand, name, shape):
    one = machine(kind)
    operands = [torch.zeros(7, 4), None, torch.zeros(5, 4), torch.zeros(7, 1)]
    operands[operand] = torch.zeros(shape)
    weight = one.weight(torch.zeros(7, 5))
    rings = [weight if value is None else single(value) for value in operands]
    with pytest.raises(ValueError, match=r"operand \d \((out|weight|x|bias)\) of product must have shape \(ring, "):
        one.prepare([Instruction(operations.product, tuple(rings))])


@pytest.mark.parametrize("kind", EACH_MACHINE)
@pytest.mark.parametrize("out", [13, 1])
def test_products_refuse_a_weight_of_too_few_panels_or_rows(kind, out):
    one = machine(kind)
    rings = single(torch.zeros(25, 4)), one.weight(torch.zeros(out, 5)), single(torch.zeros(5, 4))
    for operation in (operations.product, operations.add_product):
        with pytest.raises(ValueError, match=rf"operand 1 \(weight\) of {operation.__name__}"):
            one.prepare([Instruction(operation, rings)])


@compiled
def test_an_unpacked_weight_is_refused_by_the_compiled_product():
    one = machine(CompiledMachine)
    rings = single(torch.zeros(25, 4)), single(torch.zeros(25, 5)), single(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"operand 1 \(weight\) of product must have shape"):
        one.prepare([Instruction(operations.product, rings)])


@compiled
def test_packing_refuses_too_little_room():
    panel, one = machines._compiled.PANELS[-1], machine(CompiledMachine)
    for shape in ((1, 5 * panel), (2, 4 * panel), (2, 5 * panel - 1), (3, 5 * panel)):
        rings = single(torch.zeros(shape)), single(torch.zeros(panel + 1, 5))
        with pytest.raises(ValueError, match=r"operand 0 \(out\) of pack must have shape \(ring, 2, "):
            one.prepare([Instruction(operations.pack, rings)])


@pytest.mark.parametrize("kind", EACH_MACHINE)
@pytest.mark.parametrize(
    ("operand", "shape"),
    [
        (0, (7, 6)),
        (0, (6, 5)),
        (1, (6, 2, 4)),
        (1, (7, 3, 4)),
        (1, (7, 2, 5)),
        (2, (4, 2, 4)),
        (2, (5, 1, 4)),
        (2, (5, 2)),
    ],
)
def test_sums_of_outer_products_refuse_windows_of_other_steps_rows_or_features(kind, operand, shape):
    shapes = [(7, 5), (7, 2, 4), (5, 2, 4)]
    shapes[operand] = shape
    rings = [single(torch.zeros(sizes)) for sizes in shapes]
    with pytest.raises(ValueError, match="add_outer must have shape"):
        machine(kind).prepare([Instruction(operations.add_outer, tuple(rings))])


@compiled
def test_operands_whose_features_must_be_contiguous_are_checked():
    one = machine(CompiledMachine)
    windows = torch.zeros(7, 2, 4), torch.zeros(5, 2, 4)  # the features of x are eight elements apart
    with pytest.raises(ValueError, match="features of operand 2 of add_outer must lie next to one another"):
        one.prepare([Instruction(operations.add_outer, tuple(map(single, (torch.zeros(7, 5), *windows))))])
    bias = torch.zeros(7, 2)[:, :1]
    rings = single(torch.zeros(7, 4)), one.weight(torch.zeros(7, 5)), single(torch.zeros(5, 4)), single(bias)
    with pytest.raises(ValueError, match="features of operand 3 of product must lie next to one another"):
        one.prepare([Instruction(operations.product, rings)])


@compiled
def test_a_packed_output_and_gradients_need_contiguous_rows():
    one = machine(CompiledMachine)
    transposed = torch.zeros(4, 2, 7).permute(2, 1, 0), torch.zeros(2, 4, 5).permute(2, 0, 1)
    with pytest.raises(ValueError, match="rows of add_outer must lie next to one another"):
        one.prepare([Instruction(operations.add_outer, tuple(map(single, (torch.zeros(7, 5), *transposed))))])
    panel = machines._compiled.PANELS[-1]
    packed, matrix = torch.zeros(1, 10 * panel)[:, ::2], torch.zeros(panel, 5)
    with pytest.raises(ValueError, match="rows of pack must lie next to one another"):
        one.prepare([Instruction(operations.pack, (single(packed), single(matrix)))])


@pytest.mark.parametrize("kind", EACH_MACHINE)
def test_an_operation_with_too_few_or_too_many_operands_is_refused(kind):
    values = [single(torch.zeros(3, 2))] * 5
    for name, count, takes in (("copy", 1, "2"), ("copy", 3, "2"), ("product", 2, "3 or 4"), ("product", 5, "3 or 4")):
        with pytest.raises(ValueError, match=rf"{name} takes {takes} operands, got {count}"):
            machine(kind).prepare([Instruction(getattr(operations, name), tuple(values[:count]))])


@compiled
def test_an_empty_ring_and_steps_before_the_first_are_refused():
    one, value = machine(CompiledMachine), single(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="operand 1 of copy must be a ring of at least one entry"):
        one.prepare([Instruction(operations.copy, (value, Ring(torch.zeros(0, 3, 2))))])
    with pytest.raises(ValueError, match="offset -1"):
        one.prepare([Instruction(operations.copy, (value, Ring(torch.zeros(4, 3, 2), -1)))])
    run = one.prepare([Instruction(operations.copy, (value, Ring(torch.zeros(4, 3, 2))))])
    for first, steps, by in ((-1, 1, 1), (2, 4, -1)):
        with pytest.raises(ValueError, match="steps count from 0"):
            run(first, steps, by)
    run(2, 3, -1)


@compiled
def test_an_operand_on_another_device_is_refused():
    operands = single(torch.zeros(3, 2)), single(torch.zeros(3, 2, device="meta"))
    with pytest.raises(
        TypeError, match=r"operands of copy must be torch.float32 as the tape, got torch.float32 on meta"
    ):
        machine(CompiledMachine).prepare([Instruction(operations.copy, operands)])


def test_the_error_names_the_operation_the_operand_its_shape_and_the_expected_one():
    rings = single(torch.zeros(4, 3)), single(torch.zeros(5, 3))
    text = "operand 1 (mask) of scale must have shape (ring, 1, 3) to fit the others, got (1, 5, 3)"
    with pytest.raises(ValueError, match=re.escape(text)):
        machine(PlainMachine).prepare([Instruction(operations.scale, rings)])
