"""What of a sequence is scored, and given what: the two protocols, whole or in chunks."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Protocol = Literal["full_density", "first_frame_given"]
"""``full_density``: every frame is scored, the first one given the start frame. ``first_frame_given``: the first frame
is the context of the second and is not scored, as in the released code of the paper."""
PROTOCOLS: tuple[Protocol, ...] = ("full_density", "first_frame_given")


class Pieces(NamedTuple):
    """Stretches of sequences that are scored each by itself, from h_0 = 0 on."""

    x: Tensor
    """Frames that are scored, zeros beyond each length; (pieces, time, *frame)."""
    lengths: Tensor
    """How many of them are real, at least 1; (pieces,)."""
    context: Tensor | None
    """The frame before the first, given; (pieces, *frame). None where the start frame is."""
    owner: Tensor
    """Index of the sequence that each was cut from; (pieces,)."""


def cut(x: Tensor, lengths: Tensor, protocol: Protocol, reset_every: int | None = None) -> Pieces:
    """The pieces of sequences under a protocol.

    Args:
        x: (batch, time, *frame).
        lengths: real frames of each sequence; (batch,).
        protocol: which frames are scored.
        reset_every: cut each sequence into chunks of so many frames (the last one shorter), which know nothing of one
            another; under ``first_frame_given`` each chunk has its own given frame, and a last chunk of one frame has
            nothing to score. Whole sequences if None.

    Raises:
        ValueError: an unknown protocol, chunks too short, or a sequence with nothing to score.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    given = int(protocol == "first_frame_given")
    if reset_every is not None and (not isinstance(reset_every, int) or reset_every < 1 + given):
        raise ValueError(
            f"reset_every must be an integer of at least {1 + given} under {protocol}, got {reset_every!r}"
        )
    if (lengths <= given).any():
        i = int((lengths <= given).nonzero()[0])
        raise ValueError(
            f"sequence {i} has {int(lengths[i])} frames, so none to score under {protocol}: leave such sequences out"
        )
    owner = torch.arange(len(x), device=x.device)
    if reset_every is not None:
        chunks = -(-x.shape[1] // reset_every)
        padding = x.new_zeros(x.shape[0], chunks * reset_every - x.shape[1], *x.shape[2:])
        x = torch.cat([x, padding], dim=1).view(-1, reset_every, *x.shape[2:])
        before = reset_every * torch.arange(chunks, device=x.device)
        lengths = (lengths.unsqueeze(1) - before).clamp(0, reset_every).flatten()
        owner = owner.repeat_interleave(chunks)
        scored = lengths > given
        x, lengths, owner = x[scored], lengths[scored], owner[scored]
    lengths = lengths - given
    longest = int(lengths.max())
    return Pieces(x[:, given : given + longest], lengths, x[:, 0] if given else None, owner)
