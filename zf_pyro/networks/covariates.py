"""Inputs that networks read of a step: its frame, its covariates, and flags of the elements that were seen.

They stand side by side in one tensor, (..., elements of a frame + covariates + flags), that loops and step functions
take in place of the frame. Only embeddings look inside, and models that read covariates without an embedding. A network
without covariates and flags reads frames as they are.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from ..emissions import Emission


class ReadingNetwork(Protocol):
    """A network that may read covariates and flags beside frames."""

    emission_family: Emission
    emission_layer: nn.Linear
    covariate_dim: int
    """K, covariates of a step."""
    flag_dim: int
    """Flags of a step, 1 for seen and 0 for unseen, that a network reads beside a frame with gaps."""


def joined(net: ReadingNetwork, frames: Tensor, covariates: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
    """The input that a network reads: a frame with covariates and flags, or the frame alone if it reads nothing else.

    Symbols become floats of at least single precision, which hold integers up to 2^24.

    Args:
        net: the model.
        frames: (..., *frame).
        covariates: (..., K), broadcast to the frames; None without.
        seen: True for elements that were seen, (..., flags), broadcast to the frames; None for all.

    Returns:
        (..., elements of a frame + K + flags).

    Raises:
        ValueError: a model with covariates, and none given.
    """
    if not net.covariate_dim and not net.flag_dim:
        return frames
    if net.covariate_dim and covariates is None:
        raise ValueError(
            f"covariates must be given, (batch, time, {net.covariate_dim}), to a model of "
            f"covariate_dim={net.covariate_dim}, got None"
        )
    batch_shape = frames.shape[: frames.dim() - len(net.emission_family.event_shape)]
    for extra in (covariates, seen):
        if extra is not None:
            batch_shape = torch.broadcast_shapes(batch_shape, extra.shape[:-1])
    flat = frames.reshape(*frames.shape[: frames.dim() - len(net.emission_family.event_shape)], -1)
    if net.emission_family.integer:
        flat = flat.to(torch.promote_types(net.emission_layer.weight.dtype, torch.float32))
    parts = [flat]
    if covariates is not None:
        parts.append(covariates.to(flat.dtype))
    if net.flag_dim:
        parts.append(flat.new_ones(net.flag_dim) if seen is None else seen.to(flat.dtype))
    return torch.cat([part.expand(*batch_shape, -1) for part in parts], dim=-1)


def extras_of(net: ReadingNetwork, read: Tensor) -> Tensor:
    """Covariates and flags of what :func:`joined` made; (..., elements + K + flags) to (..., K + flags)."""
    return read[..., net.emission_family.event_shape.numel() :]


class JoinedEmbedding(nn.Module):
    """e(x) + W c + b: the embedding of a frame, and a linear layer of what stands beside it.

    For an embedding that is a linear layer, :func:`frame_embedding` makes one linear layer of both.

    Args:
        emission: the family of frames.
        embed_dim: size of the result.
        extra_dim: elements beside a frame.
    """

    def __init__(self, emission: Emission, embed_dim: int, extra_dim: int) -> None:
        super().__init__()
        self.event_shape, self.integer = emission.event_shape, emission.integer
        self.frames = emission.embedding(embed_dim)
        self.extras = nn.Linear(extra_dim, embed_dim)

    def forward(self, read: Tensor) -> Tensor:
        """Embed what was joined, (..., elements + extra) to (..., embed)."""
        size = self.event_shape.numel()
        frames = read[..., :size].reshape(*read.shape[:-1], *self.event_shape)
        frames = frames.long() if self.integer else frames
        embedded: Tensor = self.frames(frames) + self.extras(read[..., size:].to(self.extras.weight.dtype))
        return embedded


def frame_embedding(emission: Emission, embed_dim: int, extra_dim: int) -> nn.Module:
    """A new embedding of frames with ``extra_dim`` elements beside them; that of the emission, if there are none.

    Args:
        emission: the family of frames.
        embed_dim: size of an embedded frame.
        extra_dim: covariates and flags of a step.
    """
    if not extra_dim:
        return emission.embedding(embed_dim)
    if type(emission).embedding is Emission.embedding and len(emission.event_shape) == 1:
        return nn.Linear(emission.event_shape.numel() + extra_dim, embed_dim)
    return JoinedEmbedding(emission, embed_dim, extra_dim)
