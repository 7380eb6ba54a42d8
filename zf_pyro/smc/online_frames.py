"""Frames of one step and the mask of what was seen of them, validated."""

from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..checks import require_tensor
from ..models import StochasticRNN
from ..paths import check_frames


def require_frame(net: StochasticRNN, x_t: Any, batch_size: int, seen: Tensor | None = None) -> Tensor:
    """One frame of each sequence, (batch, *frame), with the model's start frame where an element was not seen.

    Args:
        net: the model.
        x_t: (batch, *frame) floats, or (batch,) integers.
        batch_size: number of sequences.
        seen: True where seen, (batch, *frame); all if None.

    Raises:
        TypeError, ValueError: another type, shape, dtype, device or (under Pyro's validation) value.
    """
    family = net.emission_family
    expected = (batch_size, *family.event_shape)
    if require_tensor("x_t", x_t).shape != expected:
        raise ValueError(
            f"x_t must be one frame of each sequence, of shape {expected} for {family}, got {tuple(x_t.shape)}"
        )
    check_frames(x_t.unsqueeze(1), family, net.emission_layer.weight, "x_t")
    x_t = x_t.long() if family.integer else x_t
    if seen is not None:
        return torch.where(seen, x_t, family.start(x_t))
    if is_validation_enabled():
        _refuse(net, x_t, ~family.valid(x_t))
    return x_t


def require_seen_values(net: StochasticRNN, x_t: Tensor, sample: Tensor) -> None:
    """Refuse seen elements without a density, by a frame that has sampled ones elsewhere; both (batch, *frame).

    A sample itself may lie at the edge of the support, by rounding.
    """
    valid = net.emission_family.valid
    _refuse(net, x_t, ~valid(x_t) & valid(sample))


def require_observed(net: StochasticRNN, observed: Any, x: Tensor) -> Tensor | None:
    """The mask of what was seen of sequences, (batch, time) or (batch, time, *frame); None where all was.

    Args:
        net: the model.
        observed: True where seen; None if all was.
        x: (batch, time, *frame).

    Raises:
        TypeError: no tensor of bools.
        ValueError: another shape or device.
    """
    if observed is None:
        return None
    require_bools(observed)
    if observed.shape not in (x.shape[:2], x.shape):
        raise ValueError(
            f"observed must have shape {tuple(x.shape[:2])}, one value a frame, or {tuple(x.shape)}, one an element, "
            f"got {tuple(observed.shape)}"
        )
    if observed.device != x.device:
        raise ValueError(f"observed must be on {x.device}, where x is, got {observed.device}")
    return None if bool(observed.all()) else observed


def require_bools(observed: Any) -> None:
    """Refuse what is no tensor of bools, of any shape.

    Raises:
        TypeError: it is none.
    """
    if require_tensor("observed", observed).dtype != torch.bool:
        raise TypeError(
            f"observed must hold bools, True where seen, got {observed.dtype}: convert it with observed.bool()"
        )


def _refuse(net: StochasticRNN, x_t: Tensor, wrong: Tensor) -> None:
    if bool(wrong.any()):
        i, family = int(wrong.nonzero()[0]), net.emission_family
        raise ValueError(
            f"x_t must hold {family.values} for {family}, got {x_t[i].tolist()} at sequence {i}: mark what is missing "
            "by observed="
        )


def require_seen(net: StochasticRNN, observed: Any, batch_size: int) -> tuple[Tensor | None, Tensor | None]:
    """What was seen of a frame: of each element, (batch, *frame), and whether the whole frame was, (batch,).

    Both are None where all was seen.

    Args:
        net: the model.
        observed: True where seen, (batch,) or (batch, *frame); None if all was.
        batch_size: number of sequences.

    Raises:
        TypeError: no tensor of bools.
        ValueError: another shape or device.
    """
    if observed is None:
        return None, None
    frame, device = net.emission_family.event_shape, net.emission_layer.weight.device
    require_bools(observed)
    if observed.shape not in ((batch_size,), (batch_size, *frame)):
        whole = f"({batch_size},)"
        raise ValueError(
            f"observed must have shape {whole}, one value a frame, or {(batch_size, *frame)}, one an element, got "
            f"{tuple(observed.shape)}"
        )
    if observed.device != device:
        raise ValueError(f"observed must be on {device}, where the net's parameters are, got {observed.device}")
    if bool(observed.all()):
        return None, None
    if observed.shape != (batch_size, *frame):
        observed = observed.reshape(batch_size, *[1] * len(frame)).expand(batch_size, *frame)
    return observed, observed.reshape(batch_size, -1).all(-1)
