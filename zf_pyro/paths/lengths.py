"""Lengths of padded sequences: their check, the mask of real frames, and what stands beyond a length."""

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor


def check_lengths(lengths: Tensor, batch_size: int, num_steps: int, device: torch.device) -> None:
    """Refuse lengths that are not one integer in 1..num_steps per sequence, (batch,).

    The range is checked only under Pyro's validation, since that reads the data back from the device.
    """
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        got = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        raise TypeError(f"lengths must be a tensor of integers, got {got}")
    if lengths.shape != (batch_size,):
        raise ValueError(
            f"lengths must have shape ({batch_size},), one length a sequence of x, got {tuple(lengths.shape)}"
        )
    if lengths.device != device:
        raise ValueError(f"lengths must be on {device}, where the net's parameters are, got {lengths.device}")
    if is_validation_enabled():
        wrong = (lengths < 1) | (lengths > num_steps)
        if wrong.any():
            i = int(wrong.nonzero()[0])
            raise ValueError(
                f"lengths must be between 1 and {num_steps} (the time size of x), got {int(lengths[i])} at sequence {i}"
            )


def real_frames(lengths: Tensor, num_steps: int) -> Tensor:
    """The mask of real frames, t < length.

    Args:
        lengths: (batch,).
        num_steps: T.

    Returns:
        (time, batch), True on real frames.
    """
    return torch.arange(num_steps, device=lengths.device).unsqueeze(1) < lengths


def with_last_repeated(x: Tensor, lengths: Tensor) -> Tensor:
    """Frames with the last real one repeated beyond each length, whatever was there.

    The last real frame has a density under every emission, and zeros may have none. Frames beyond a length are masked,
    and a mask hides a density, but not the NaN gradient of a density that does not exist.

    Args:
        x: (time, batch, *frame).
        lengths: real frames of each sequence; (batch,). A sequence of length 0 repeats its first frame.
    """
    last = (lengths - 1).clamp(0, len(x) - 1)
    steps = torch.arange(len(x), device=x.device).unsqueeze(1).minimum(last)
    return x[steps, torch.arange(x.shape[1], device=x.device)]


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """Frames with zeros where the mask is False, whatever was there.

    Args:
        x: (time, batch, *frame).
        mask: (time, batch).
    """
    return torch.where(mask.view(*mask.shape, *[1] * (x.dim() - 2)), x, torch.zeros((), dtype=x.dtype, device=x.device))
