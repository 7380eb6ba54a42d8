"""The input part of an LSTM's gates, W v_t + b, computed for all steps at once."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class Drive(NamedTuple):
    """What reaches the gates of an LSTM from outside, W v_t + b at each step t."""

    v: Tensor
    """v_t; (time, ..., in)."""
    weight: Tensor
    """W; (4 hidden, in)."""
    bias: Tensor | None
    """b; (4 hidden,). None for zero."""


def fused_drive(embedding: nn.Sequential, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Drive:
    """The same as embedding the frames and applying ``weight`` and ``bias``, by way of the fewest numbers.

    Two linear maps in a row are one: a frame smaller than its embedding is not embedded at all, but read by the product
    of the two weights, unless dropout stands between them.

    Args:
        embedding: of frames (..., *frame) into (..., embed): a layer, then dropout.
        frames: (time, ..., *frame).
        weight: (4 hidden, embed).
        bias: (4 hidden,) or None.
    """
    layer = embedding[0]
    if isinstance(layer, nn.Linear) and layer.in_features >= frames[..., 0].numel():
        return Drive(embedding(frames), weight, bias)  # fewer frames than numbers in one: the product is not worth it
    read, weight, bias = reader(embedding, weight, bias)
    return Drive(read(frames), weight, bias)


def reader(
    embedding: nn.Sequential, weight: Tensor, bias: Tensor | None
) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor | None]:
    """What reads frames, and the weight and the bias for what it read; arguments as for :func:`fused_drive`.

    Frames smaller than their embedding are read as they are, and the weight is the product of the two.
    """
    layer, dropout = embedding
    dropped = isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0.0
    if not isinstance(layer, nn.Linear) or dropped or layer.in_features >= layer.out_features:
        return embedding, weight, bias
    constant = weight @ layer.bias
    return nn.Identity(), weight @ layer.weight, constant if bias is None else constant + bias
