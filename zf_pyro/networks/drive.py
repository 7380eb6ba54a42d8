"""The input part of an LSTM's gates, W v_t + b, computed for all steps at once."""

from collections.abc import Callable
from typing import NamedTuple, cast

from torch import Tensor, nn

from .as_built import as_built


class Drive(NamedTuple):
    """Input part of the gates of an LSTM, W v_t + b at each step t."""

    v: Tensor
    """v_t; (time, ..., in)."""
    weight: Tensor
    """W; (4 hidden, in)."""
    bias: Tensor | None
    """b; (4 hidden,). None for zero."""


def fused_drive(
    embedding: nn.Sequential, frames: Tensor, weight: Tensor, bias: Tensor | None, embedded: Tensor | None = None
) -> Drive:
    """Gate inputs W e(x) + b, with embedding and W fused into one matrix where that is cheaper.

    It is cheaper where a frame is smaller than its embedding, and possible unless dropout lies between the two.

    Args:
        embedding: of frames (..., *frame) into (..., embed): a layer, then dropout.
        frames: (time, ..., *frame).
        weight: (4 hidden, embed).
        bias: (4 hidden,) or None.
        embedded: e(x), (..., embed), where it is known already: the embedding is then not called a second time.
    """
    linear, read = _linear(embedding), cast(Callable[[Tensor], Tensor], embedding)
    # With fewer frames than elements of one, the product of weights costs more than it saves.
    if linear is None or linear.in_features < frames[..., 0].numel():
        read, weight, bias = reader(embedding, weight, bias)
    return Drive(embedded if embedded is not None and read is embedding else read(frames), weight, bias)


def reader(
    embedding: nn.Sequential, weight: Tensor, bias: Tensor | None
) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor | None]:
    """A function of frames, and the weight and bias to apply to its result.

    For frames smaller than their embedding it is the identity, and the weight is the product of the two. An embedding
    that is not as the package built it is called.

    Args:
        embedding: of frames (..., *frame) into (..., embed): a layer, then dropout.
        weight: (4 hidden, embed).
        bias: (4 hidden,) or None.
    """
    layer = _linear(embedding)
    dropped = layer is not None and embedding[1].training and cast(nn.Dropout, embedding[1]).p > 0.0
    if layer is None or dropped or layer.in_features >= layer.out_features:
        return embedding, weight, bias
    constant = weight @ layer.bias
    return nn.Identity(), weight @ layer.weight, constant if bias is None else constant + bias


def _linear(embedding: nn.Sequential) -> nn.Linear | None:
    """The layer of an embedding that is a linear layer, then dropout, as built; else None."""
    return cast(nn.Linear, embedding[0]) if as_built(embedding, nn.Sequential) else None
