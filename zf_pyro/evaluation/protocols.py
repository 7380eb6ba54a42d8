"""The two scoring protocols: scored frames and given frames of a sequence, whole or in chunks."""

from typing import Literal, NamedTuple

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


def require_protocol(protocol: object) -> None:
    """Refuse an unknown protocol.

    Raises:
        ValueError: it is none of :data:`PROTOCOLS`.
    """
    if not isinstance(protocol, str) or protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")


def cut(x: Tensor, lengths: Tensor, protocol: Protocol, reset_every: int | None = None) -> Pieces:
    """Cut sequences into the pieces that a protocol scores.

    Args:
        x: (batch, time, *frame).
        lengths: real frames of each sequence; (batch,).
        protocol: the scored frames.
        reset_every: scored frames per chunk; the last chunk may be shorter, and chunks are independent. Under
            ``first_frame_given`` the last frame of a chunk is also the given frame of the next, as in the released
            code: every frame but the first of a sequence is scored, in whole sequences and in chunks. None for whole
            sequences.

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
    owner = torch.arange(len(x), device=x.device)
    if reset_every is not None:
        chunks = -(-(x.shape[1] - given) // reset_every)
        padding = x.new_zeros(x.shape[0], chunks * reset_every + given - x.shape[1], *x.shape[2:])
        x = torch.cat([x, padding], dim=1).unfold(1, reset_every + given, reset_every).movedim(-1, 2).flatten(0, 1)
        before = reset_every * torch.arange(chunks, device=x.device)
        lengths = (lengths.unsqueeze(1) - before).clamp(0, reset_every + given).flatten()
        owner = owner.repeat_interleave(chunks)
        scored = lengths > given
        x, lengths, owner = x[scored], lengths[scored], owner[scored]
    lengths = lengths - given
    longest = int(lengths.max())
    return Pieces(x[:, given : given + longest], lengths, x[:, 0] if given else None, owner)
