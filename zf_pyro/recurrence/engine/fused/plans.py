"""The kernels of a program, kept for programs of the same structure: every training step prepares the same ones."""

from collections.abc import Hashable
from typing import NamedTuple

from ..machines import DTYPES
from ..operations import Instructions, Ring
from ..shapes import check_shapes
from .formulas import FORMULAS, PRODUCTS
from .kernels import Kernel, launch_kernel, loop_kernel
from .phases import launches

MOST_ELEMENTS = 2**31
"""Elements of an entry up to which kernels count in 32 bits."""
KEPT = 512
"""Structures whose kernels are kept. Each number of steps and each number of rows is a structure of its own."""


class Planned(NamedTuple):
    """A kernel, and the operands of a program that are its rings."""

    kernel: Kernel
    rings: tuple[tuple[int, int], ...]
    """Instruction and operand of each ring, by index."""


_plans: dict[Hashable, list[Planned] | None] = {}


def plan(program: Instructions, precision: str, whole: bool = False) -> list[Planned] | None:
    """Return the kernels of a step in their order; None if the program is not :func:`fusible`.

    Args:
        program: the instructions.
        precision: that of products; see :func:`.kernels.launch_kernel`.
        whole: one kernel for the whole loop.

    Raises:
        ValueError: operands of wrong shapes.
    """
    key = precision, whole, _structure(program)
    if key not in _plans:
        if len(_plans) >= KEPT:
            _plans.clear()
        _plans[key] = _planned(program, precision, whole) if fusible(program) else None
    return _plans[key]


def fusible(program: Instructions) -> bool:
    """Tell whether a program can be fused: its operations, types and sizes have kernels."""
    if len({instruction.operands[0].tensor.shape[2] for instruction in program}) != 1:  # rows, or no instructions
        return False
    first = program[0].operands[0].tensor
    for operation, operands, _ in program:
        if operation not in FORMULAS and operation not in PRODUCTS:
            return False
        for tensor, offset in operands:
            extent = sum(
                (size - 1) * stride for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True)
            )
            if tensor.dtype not in DTYPES or tensor.dtype != first.dtype or tensor.device != first.device:
                return False
            if extent >= MOST_ELEMENTS or offset < 0 or 0 in tensor.shape:
                return False
    return True


def _planned(program: Instructions, precision: str, whole: bool) -> list[Planned]:
    """Generate the kernels of a program."""
    places: dict[int, tuple[int, int]] = {}
    for i, (operation, operands, _) in enumerate(program):
        check_shapes(operation, [tuple(ring.tensor.shape) for ring in operands], 1)
        places.update((id(ring), (i, k)) for k, ring in enumerate(operands))
    tensor = program[0].operands[0].tensor
    settings = tensor.shape[2], tensor.dtype, precision
    if whole:
        kernels = [loop_kernel(launches(program), *settings)]
    else:
        kernels = [launch_kernel(launch, *settings) for launch in launches(program)]
    return [Planned(found._replace(rings=()), tuple(places[id(ring)] for ring in found.rings)) for found in kernels]


def _structure(program: Instructions) -> Hashable:
    """All that kernels depend on: operations, floats, types, shapes, strides, and which operands share memory where.

    Tensors share memory only if they share a storage.
    """
    storages: dict[int, tuple[int, int]] = {}

    def described(ring: Ring) -> Hashable:
        tensor, offset = ring
        start, storage = int(tensor.storage_offset()), tensor.untyped_storage().data_ptr()
        index, origin = storages.setdefault(storage, (len(storages), start))
        return index, start - origin, tensor.shape, tensor.stride(), offset, tensor.dtype, tensor.device

    return tuple((operation, number, *map(described, operands)) for operation, operands, number in program)
