"""The two scoring protocols: scored frames and given frames of a sequence, whole or in chunks."""

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from ..checks import require_count

Protocol = Literal["full_density", "first_frame_given"]
"""``full_density``: every frame is scored, the first one given the start frame. ``first_frame_given``: the first frame
is the context of the second and is not scored, as in the released code of the paper."""
PROTOCOLS: tuple[Protocol, ...] = ("full_density", "first_frame_given")


class Pieces(NamedTuple):
    """Parts of sequences that are scored separately, each from h_0 = 0."""

    x: Tensor
    """Scored frames, zero beyond each length; (pieces, time, *frame)."""
    lengths: Tensor
    """Real frames of each piece, at least 1; (pieces,)."""
    context: Tensor | None
    """Given frame before the first, (pieces, *frame); None for the start frame."""
    owner: Tensor
    """Index of the sequence of each piece; (pieces,)."""
    counts: Tensor
    """Scored frames of each piece of which anything was seen; (pieces,)."""
    covariates: Tensor | None = None
    """c_1..c_T of each piece, (pieces, time, K); None without."""
    observed: Tensor | None = None
    """True where a piece was seen, (pieces, time[, *frame]); with a context one more step is in front. None if all
    was."""


def require_protocol(protocol: object) -> None:
    """Refuse an unknown protocol.

    Raises:
        ValueError: it is none of :data:`PROTOCOLS`.
    """
    if not isinstance(protocol, str) or protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")


def cut(
    x: Tensor,
    lengths: Tensor,
    protocol: Protocol,
    reset_every: int | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
) -> Pieces:
    """Cut sequences into the pieces that a protocol scores.

    Args:
        x: (batch, time, *frame).
        lengths: real frames of each sequence; (batch,).
        protocol: the scored frames.
        reset_every: scored frames per chunk; the last chunk may be shorter, and chunks are independent. Under
            ``first_frame_given`` the last frame of a chunk is also the given frame of the next, as in the released
            code: every frame but the first of a sequence is scored, in whole sequences and in chunks. None for whole
            sequences.
        covariates: (batch, time, K), or None.
        observed: True where x was seen, (batch, time) or (batch, time, *frame); None if all was.

    Raises:
        ValueError: an unknown protocol, or a sequence with nothing to score.
    """
    require_protocol(protocol)
    given = int(protocol == "first_frame_given")
    if reset_every is not None:
        reset_every = require_count("reset_every", reset_every)
    if (lengths <= given).any():
        i = int((lengths <= given).nonzero()[0])
        raise ValueError(
            f"sequence {i} has {int(lengths[i])} frames, so none to score under {protocol}: leave such sequences out"
        )
    owner, parts = torch.arange(len(x), device=x.device), [x, covariates, observed]
    if reset_every is not None:
        chunks = -(-(x.shape[1] - given) // reset_every)
        parts = [None if part is None else _chunks(part, chunks, reset_every, given) for part in parts]
        before = reset_every * torch.arange(chunks, device=x.device)
        lengths = (lengths.unsqueeze(1) - before).clamp(0, reset_every + given).flatten()
        owner = owner.repeat_interleave(chunks)
        scored = lengths > given
        parts = [None if part is None else part[scored] for part in parts]
        lengths, owner = lengths[scored], owner[scored]
    _, covariates, observed = parts
    x = cast(Tensor, parts[0])
    lengths = lengths - given
    longest = int(lengths.max())
    time, counts = slice(given, given + longest), lengths
    if observed is not None:
        real = torch.arange(longest, device=x.device) < lengths.unsqueeze(1)
        counts = (observed[:, time].flatten(2).any(-1) if observed.dim() > 2 else observed[:, time]).where(real, False)
        counts = counts.sum(1)
        observed = observed[:, : given + longest]
    return Pieces(
        x[:, time],
        lengths,
        x[:, 0] if given else None,
        owner,
        counts,
        None if covariates is None else covariates[:, time],
        observed,
    )


def _chunks(part: Tensor, chunks: int, reset_every: int, given: int) -> Tensor:
    """Chunks of (batch, time, ...), each with the ``given`` frames before it; (batch x chunks, time, ...)."""
    padding = part.new_zeros(part.shape[0], chunks * reset_every + given - part.shape[1], *part.shape[2:])
    windows = torch.cat([part, padding], dim=1).unfold(1, reset_every + given, reset_every)
    return windows.movedim(-1, 2).flatten(0, 1)
