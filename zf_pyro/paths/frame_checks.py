"""Checks of frames that a caller gives."""

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..checks import require_tensor
from ..emissions import Emission


def check_frames(x: Tensor, emission: Emission, like: Tensor, name: str = "x") -> None:
    """Refuse frames that the emission cannot have produced.

    Args:
        x: (batch, time, *frame) floats or integers.
        emission: the family of frames.
        like: a parameter of the model of any shape, for its dtype and device.
        name: the argument's name, for errors.

    Raises:
        TypeError: x is no tensor, or of a wrong dtype.
        ValueError: wrong rank or frame size, no sequences, no steps, or another device.
    """
    require_tensor(name, x)
    if emission.integer:
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise TypeError(f"{name} must hold integers for {emission}, got {x.dtype}; convert it with {name}.long()")
    elif x.dtype != like.dtype:
        raise TypeError(
            f"{name} must be {like.dtype}, the dtype of the net's parameters, got {x.dtype}; "
            f"convert it with {name}.to({like.dtype}), or the net with net.to({x.dtype})"
        )
    frame = emission.event_shape
    if x.dim() != 2 + len(frame) or x.shape[2:] != frame:
        expected = f"({', '.join(['batch', 'time', *map(str, frame)])})"
        raise ValueError(f"{name} must have shape {expected} for {emission}, got {tuple(x.shape)}")
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"{name} must hold at least one sequence and one step, got shape {tuple(x.shape)}")
    if x.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, where the net's parameters are, got {x.device}")


def check_values(x: Tensor, mask: Tensor | None, emission: Emission, name: str = "x") -> None:
    """Refuse real frames without a density. Reads the data back from the device.

    Args:
        x: frames; (time, batch, *frame).
        mask: True on real frames, (time, batch); None if all are.
        emission: the family of frames.
        name: the argument's name, for errors.
    """
    wrong = ~emission.valid(x)
    if mask is not None:
        wrong = wrong & mask
    if wrong.any():
        t, i = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name} must hold {emission.values} for {emission}, got {x[t, i].tolist()} at sequence {i}, step {t}"
        )


def check_context(context: Tensor, batch_size: int, emission: Emission, like: Tensor, *, values: bool = True) -> None:
    """Refuse a ``context`` that is not one frame per sequence, (batch, *frame), of valid ``values`` if asked."""
    expected = (batch_size, *emission.event_shape)
    if not isinstance(context, Tensor) or context.shape != expected:
        got = tuple(context.shape) if isinstance(context, Tensor) else type(context).__name__
        raise ValueError(f"context must be one frame a sequence, of shape {expected}, got {got}")
    check_frames(context.unsqueeze(1), emission, like, "context")
    if values and is_validation_enabled() and not emission.valid(context).all():
        raise ValueError(f"context must hold {emission.values} for {emission}")
