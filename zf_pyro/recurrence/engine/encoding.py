"""Instructions as the C code reads them: a struct with sizes and addresses, checked before anything runs."""

import functools
import struct
from collections.abc import Callable
from typing import NamedTuple

import torch

from .operations import (
    Instruction,
    add,
    add_outer,
    add_product,
    add_sum,
    copy,
    log_density,
    modulate,
    modulate_back,
    normalise_back,
    pack,
    product,
    sum_squares,
)
from .shapes import check_shapes

FOR_A_NUMBER = 16
"""Cost of one output element of operations other than products, in multiply-adds: an estimate, to choose threads."""
_OPERANDS = 6
"""Most operands of an operation: the size of ``operand`` in the ``Instruction`` of c/machine.c."""
INSTRUCTION = struct.Struct(f"5qd{7 * _OPERANDS}q")
"""The struct ``Instruction`` of c/machine.c."""
_ANY_ROWS = {copy: (0, 1), add: (0, 1), pack: (1,), add_outer: (2,)}
"""Operands, by index, whose rows may have any stride. All others need the rows of a feature next to one another."""
_CONTIGUOUS_FEATURES = {product: 3, add_outer: 2}
"""Operands, by index, that need their features next to one another."""


class _Kind(NamedTuple):
    """What the encoding of an instruction owes to its operation and to the shapes of its operands alone."""

    sizes: tuple[int, int, int, int]
    """Features and rows of the output, and the sizes that the output does not have: of summed dimensions or blocks,
    and of steps."""
    cost: int
    """Estimated cost of one step, in multiply-adds of products."""
    any_rows: tuple[int, ...]
    """Operands whose rows may have any stride."""
    contiguous: int
    """The operand that needs its features next to one another; -1 for none."""


@functools.lru_cache(maxsize=4096)  # a training step encodes some 150 instructions, of the same shapes at every step
def _kind(operation: Callable[..., None], shapes: tuple[tuple[int, ...], ...], panel: int) -> _Kind:
    """Check the shapes of an instruction's operands, and read its sizes off them.

    Raises:
        ValueError: the operation would read or write beyond an operand.
    """
    check_shapes(operation, shapes, panel)
    _, features, rows = shapes[0]
    inner = steps = 0  # of the sizes that only some operations have
    cost = features * rows * FOR_A_NUMBER
    if operation in (product, add_product):
        inner = shapes[2][1]
        cost = features * rows * inner
    elif operation in (pack, log_density, sum_squares, modulate_back, normalise_back):
        inner = shapes[1][1]
    elif operation is modulate:
        inner = shapes[3][1]
    elif operation is add_sum:
        inner = shapes[1][2]
    elif operation is add_outer:
        _, _, steps, inner = shapes[1]
        cost = features * rows * steps * inner
    return _Kind(
        (features, rows, inner, steps), cost, _ANY_ROWS.get(operation, ()), _CONTIGUOUS_FEATURES.get(operation, -1)
    )


def encode(instruction: Instruction, code: int, dtype: torch.dtype, panel: int) -> tuple[bytes, int]:
    """Encode an instruction as the struct ``Instruction`` of c/machine.c: sizes, the float, then each ``Operand``.

    Args:
        instruction: the instruction.
        code: the number of its operation in C.
        dtype: that of its operands.
        panel: rows of a panel of packed weights.

    Returns:
        The code, and the estimated cost of one step in multiply-adds of products.

    Raises:
        TypeError, ValueError: the operation would read or write beyond an operand, or in another dtype.
    """
    operation, operands, number = instruction
    shapes = tuple([tuple(tensor.shape) for tensor, _ in operands])
    sizes, cost, any_rows, contiguous = _kind(operation, shapes, panel)
    numbers: list[int] = []
    for k, (tensor, offset) in enumerate(operands):
        ring, *_, last = shapes[k]
        if not ring or offset < 0:
            raise ValueError(
                f"operand {k} of {operation.__name__} must be a ring of at least one entry, read no steps behind, got "
                f"{ring} entries and offset {offset}"
            )
        step, feature, *part, row = tensor.stride()  # part: from step to step within an entry, for add_outer alone
        if tensor.dtype != dtype or not tensor.is_cpu:
            raise TypeError(
                f"operands of {operation.__name__} must be {dtype} as the tape, got {tensor.dtype} on {tensor.device}"
            )
        if row != 1 and last > 1 and k not in any_rows:
            raise ValueError(
                f"the rows of {operation.__name__} must lie next to one another, got strides {tensor.stride()}"
            )
        if k == contiguous and feature != 1 and shapes[k][1] > 1:
            raise ValueError(
                f"the features of operand {k} of {operation.__name__} must lie next to one another, "
                f"got strides {tensor.stride()}"
            )
        numbers += (tensor.data_ptr(), ring, offset, step, feature, row, *(part or (0,)))
    numbers += (0,) * (7 * (_OPERANDS - len(operands)))
    return INSTRUCTION.pack(code, *sizes, number or 0.0, *numbers), cost
