"""The memory that an instruction reads and writes, and the order that two instructions need because of it."""

from typing import NamedTuple

from torch import Tensor

from ..operations import Instruction, Ring
from .formulas import FORMULAS, PRODUCTS, assignments, names, parameters

UNALIGNED = -1
"""Relation of rings that overlap, but not as parts of one entry."""


class Access(NamedTuple):
    """An operand as an instruction uses it."""

    ring: Ring
    writes: bool
    reads: bool
    whole: bool
    """True if a block of features needs all of it, such as the factor of a product. Otherwise each block of features
    reads and writes its own elements."""


def accesses(instruction: Instruction) -> list[Access]:
    """The operands of an instruction with a formula, or of a product."""
    operation, operands, _ = instruction
    if operation in PRODUCTS:
        out, *factors = operands
        return [Access(out, True, PRODUCTS[operation], False), *(Access(ring, False, True, True) for ring in factors)]
    formula = FORMULAS[operation]
    writes, reads = set[str](), set[str]()
    for left, right in assignments(formula):
        reads |= names(right)
        writes |= names(left)
    shared = {*formula.vectors, formula.parts}
    named = zip(parameters(operation), operands, strict=False)
    return [Access(ring, name in writes, name in reads, name in shared) for name, ring in named]


def tiles(instruction: Instruction) -> list[Ring]:
    """The operands that each block of features reads or writes at its own place."""
    return [access.ring for access in accesses(instruction) if not access.whole]


def conflicts(first: Instruction, second: Instruction) -> list[int]:
    """Reasons for which ``first`` must come before ``second``; empty if their order does not matter.

    Each is the number of features by which two operands that share elements are shifted: blocks of features of that
    size, or of a divisor, keep the order by themselves. :data:`UNALIGNED` if no blocks do.
    """
    found = []
    for one in accesses(first):
        for other in accesses(second):
            if one.writes or other.writes:
                shift = _overlap(one.ring, other.ring)
                if shift is not None:
                    found.append(UNALIGNED if one.whole or other.whole else shift)
    return found


def _overlap(a: Ring, b: Ring) -> int | None:
    """None if the entries of one step share no element, else their shift in features, or :data:`UNALIGNED`."""
    shift = _shift(a.tensor, b.tensor)
    if shift is not None:
        if (a.offset - b.offset) % len(a.tensor):
            return None
        apart = shift >= a.tensor.shape[1] if shift >= 0 else -shift >= b.tensor.shape[1]
        return None if apart else abs(shift)
    (first, last), (start, end) = _range(a.tensor), _range(b.tensor)
    return None if last < start or end < first else UNALIGNED


def _shift(a: Tensor, b: Tensor) -> int | None:
    """Features from the start of ``a`` to that of ``b``, if both are parts of the same ring; else None."""
    ring, features, row = a.stride()
    distance = b.data_ptr() - a.data_ptr()
    size = features * a.element_size()
    same = a.shape[0] == b.shape[0] and a.shape[2] == b.shape[2] and a.stride() == b.stride()
    if not same or size == 0 or distance % size:
        return None
    shift = distance // size
    span = features * (max(a.shape[1], shift + b.shape[1]) - min(0, shift))
    for count, stride in ((a.shape[0], ring), (a.shape[2], row)):
        if count > 1 and not (span <= stride or count * stride <= features):
            return None
    return shift


def _range(tensor: Tensor) -> tuple[int, int]:
    """The addresses of a tensor's first and last elements."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + last * tensor.element_size()
