"""Covariates and gaps of given sequences: their checks, and what networks read and score of them."""

from typing import NamedTuple

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..checks import require_tensor
from ..emissions import Emission
from ..networks import ReadingNetwork, joined
from .lengths import with_last_repeated


class KnownSteps(NamedTuple):
    """Given sequences, with time first."""

    x: Tensor
    """Frames, with a frame or element of the support where nothing was seen; (time, batch, *frame)."""
    read: Tensor
    """What backward RNNs read: frames, or frames with covariates and flags beside them; (time, batch, ...)."""
    covariates: Tensor | None
    """c_1..c_T, (time, batch, K); None without."""
    seen: Tensor | None
    """True for parts of frames that were seen, (time, batch, flags); None if all were."""


def known_steps(
    net: ReadingNetwork, x: Tensor, lengths: Tensor | None, covariates: Tensor | None, observed: Tensor | None
) -> KnownSteps:
    """Check covariates and gaps of sequences, and join what networks read of them.

    Args:
        net: the model.
        x: frames that were checked, (time, batch, *frame); of what was not seen, anything.
        lengths: real frames of each sequence, (batch,), checked; None if all are.
        covariates: (batch, time, K); None without.
        observed: True where x was seen, (batch, time) or (batch, time, *frame); None if all was.

    Raises:
        TypeError, ValueError: covariates or observed of another type, shape, dtype, device, or without need.
    """
    family, steps, seen = net.emission_family, (x.shape[1], x.shape[0]), None
    covariates = check_covariates(covariates, *steps, net)
    if covariates is not None:
        covariates = covariates.transpose(0, 1)
    read = x
    if observed is not None:
        check_observed(observed, steps, family, x.device)
        seen = seen_parts(observed, family).transpose(0, 1)
    if lengths is not None:
        if covariates is not None:
            covariates = with_last_repeated(covariates, lengths)
        if seen is not None:
            seen = with_last_repeated(seen, lengths)
        read = with_last_repeated(x, lengths)
    frames = read
    if seen is not None:
        frames = replaced(read, seen, family.example_frame.to(read), family)
        read = filled(read, seen, family) if net.flag_dim else carried(frames, seen, family)
    return KnownSteps(frames, joined(net, read, covariates, seen if net.flag_dim else None), covariates, seen)


def check_covariates(
    covariates: Tensor | None, batch_size: int, num_steps: int, net: ReadingNetwork, *, least: bool = False
) -> Tensor | None:
    """Covariates of every step, once they are known to fit, (batch, time, K); None for a model without.

    Args:
        covariates: (batch, time, K), or None.
        batch_size: number of sequences.
        num_steps: steps that need them.
        net: the model.
        least: more steps may be given, and are left out.

    Raises:
        TypeError: no tensor of floats.
        ValueError: missing, given to a model without, of another shape or device, or (under validation) not finite.
    """
    size, like = net.covariate_dim, net.emission_layer.weight
    if covariates is None:
        if size:
            raise ValueError(
                f"covariates must be given, (batch, time, {size}), to a model of covariate_dim={size}, got None"
            )
        return None
    shape = tuple(require_tensor("covariates", covariates).shape)
    if not size:
        raise ValueError(
            f"covariates must be left out for a model of covariate_dim=0, got shape {shape}: build the model with "
            f"covariate_dim={shape[-1] if shape else 1}"
        )
    steps = shape[1] if len(shape) == 3 else 0
    if len(shape) == 3 and shape[::2] == (batch_size, size) and steps < num_steps:
        raise ValueError(
            f"covariates end after {steps} steps, and {num_steps} need them: give those of every step, future ones "
            f"included, ({batch_size}, {num_steps}, {size})"
        )
    if len(shape) != 3 or shape[::2] != (batch_size, size) or (steps != num_steps and not least):
        advice = "; repeat those that do not change, as in c.unsqueeze(1).expand(-1, time, -1)" * (len(shape) == 2)
        raise ValueError(f"covariates must have shape ({batch_size}, {num_steps}, {size}), got {shape}{advice}")
    if not covariates.is_floating_point():
        raise TypeError(
            f"covariates must hold floats, got {covariates.dtype}: convert numbers with covariates.to({like.dtype}), "
            "and categories with torch.nn.functional.one_hot"
        )
    if covariates.dtype != like.dtype or covariates.device != like.device:
        raise ValueError(
            f"covariates must be {like.dtype} on {like.device} like the net's parameters, got {covariates.dtype} on "
            f"{covariates.device}; convert them with covariates.to(...)"
        )
    return covariates[:, :num_steps] if steps > num_steps else covariates


def require_finite(covariates: Tensor, mask: Tensor | None) -> None:
    """Refuse covariates (time, batch, K) that are not finite at a real step, where the mask (time, batch) is True.

    Raises:
        ValueError: under Pyro's validation, since that reads the data back from the device.
    """
    if not is_validation_enabled():
        return
    wrong = ~covariates.isfinite().all(-1)
    wrong = wrong if mask is None else wrong & mask
    if wrong.any():
        t, i = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"covariates must be finite at every real step, got {covariates[t, i].tolist()} at sequence {i}, step {t}: "
            "fill what is missing, and give a covariate that says where"
        )


def check_observed(
    observed: Tensor, steps: tuple[int, ...] | torch.Size, emission: Emission, device: torch.device | None = None
) -> None:
    """Refuse flags that are not one bool per frame, or per element of a frame.

    Args:
        observed: (batch, time), or (batch, time, *frame).
        steps: sequences and steps.
        emission: the family of frames.
        device: where they must be.

    Raises:
        TypeError: no tensor of bools.
        ValueError: another shape or device, or elements missing from a frame whose density is of the whole.
    """
    if require_tensor("observed", observed).dtype != torch.bool:
        raise TypeError(
            f"observed must hold bools, True where x was seen, got {observed.dtype}: convert it with observed.bool()"
        )
    steps, frame = tuple(steps), tuple(emission.event_shape)
    if tuple(observed.shape) not in (steps, (*steps, *frame)):
        raise ValueError(
            f"observed must have shape {steps}, one value a frame, or {(*steps, *frame)}, one an element, got "
            f"{tuple(observed.shape)}"
        )
    if device is not None and observed.device != device:
        raise ValueError(f"observed must be on {device}, where x is, got {observed.device}")
    if observed.dim() > 2 and not emission.factorises:
        parts = observed.flatten(2)
        if (parts.any(-1) != parts.all(-1)).any():
            raise ValueError(
                f"observed must hold whole frames for {emission}, whose density is of a whole frame and not a product "
                "over its elements: mark such frames as missing, or take an emission such as Gaussian or StudentT"
            )


def of_context(observed: Tensor, num_steps: int, context: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """Flags of a context frame, and of the steps: ``observed`` may have one more step in front for the context.

    Args:
        observed: (batch, time[, *frame]), or (batch, time + 1[, *frame]).
        num_steps: T.
        context: the frame before the first; None without.

    Returns:
        (batch, 1[, *frame]) or None, and (batch, time[, *frame]).

    Raises:
        ValueError: a step in front without a context.
    """
    require_tensor("observed", observed)
    if observed.dim() < 2 or observed.shape[1] != num_steps + 1:
        return None, observed
    if context is None:
        raise ValueError(
            f"observed must have {num_steps} steps, as x has, got {num_steps + 1}: one more in front says what was "
            "seen of a context, and there is none"
        )
    return observed[:, :1], observed[:, 1:]


def flags_before(seen: Tensor, first: Tensor | None, dim: int = 0) -> Tensor:
    """Flags of the frames before steps 1..T, which a network reads.

    Args:
        seen: flags of the steps, with time at dimension ``dim``; (time, ..., flags).
        first: of the context frame, the same with one step; None for a frame that was seen whole.
        dim: the dimension of time.
    """
    first = torch.ones_like(seen.narrow(dim, 0, 1)) if first is None else first
    return torch.cat([first, seen.narrow(dim, 0, seen.shape[dim] - 1)], dim=dim)


def seen_parts(observed: Tensor, emission: Emission) -> Tensor:
    """Flags of the parts of a frame that may be missing, (batch, time, flags), of ``observed`` that was checked."""
    flags = emission.flag_dim
    if observed.dim() == 2:
        return observed.unsqueeze(-1).expand(*observed.shape, flags)
    parts = observed.flatten(2)
    return parts if parts.shape[-1] == flags else parts[..., :1]


def observed_of(seen: Tensor | None, emission: Emission) -> Tensor | None:
    """``observed`` as programs take it, (batch, time[, *frame]), of flags (time, batch, flags); None of None."""
    if seen is None:
        return None
    flags = seen.transpose(0, 1)
    return flags.unflatten(-1, emission.event_shape) if emission.factorises else flags.squeeze(-1)


def replaced(x: Tensor, seen: Tensor, other: Tensor, emission: Emission) -> Tensor:
    """Frames x (..., *frame) with those of ``other``, broadcast, where ``seen`` (..., flags) is False."""
    frame = emission.event_shape
    flags = seen.expand(*seen.shape[:-1], frame.numel()).reshape(*seen.shape[:-1], *frame)
    return torch.where(flags, x, other)


def filled(x: Tensor, seen: Tensor, emission: Emission) -> Tensor:
    """Frames x (..., *frame) with the start frame (zeros; for symbols its token) where ``seen`` (..., flags) is not."""
    x = x.long() if emission.integer else x
    return replaced(x, seen, emission.start(torch.zeros_like(x)), emission)


def carried(x: Tensor, seen: Tensor, emission: Emission) -> Tensor:
    """Frames with the value seen last in place of what was not seen, or the next one before any was seen.

    Args:
        x: (time, batch, *frame), with any values of the support where nothing was seen.
        seen: (time, batch, flags).
        emission: the family of frames.
    """
    steps = torch.arange(len(x), device=x.device).view(-1, 1, 1)
    last = torch.where(seen, steps, -1).cummax(0).values
    first = torch.where(seen, steps, len(x)).amin(0).clamp(max=len(x) - 1)
    chosen = torch.where(last < 0, first, last)
    flat = x.reshape(*x.shape[:2], -1)
    return flat.gather(0, chosen.expand_as(flat)).view(x.shape)
