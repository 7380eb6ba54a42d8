"""The start of training at the data: an untrained model whose frames have the marginals of a data set."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..emissions import Emission
from ..paths import check_frames, check_lengths, real_frames

MOST_VALUES = 4_000_000
"""Elements of frames that are read. Means of 88 notes then have a standard error below half a percent."""


def start_at(
    emission: Emission,
    outputs: Sequence[nn.Linear],
    embedding: nn.Module,
    data: Tensor | Iterable[Any],
    lengths: Tensor | None,
) -> int:
    """Set output layers to the marginals of frames, and the embedding to their centre and scale.

    The bias of each output layer becomes :meth:`.Emission.marginal_parameters`. Its weights stay: at a tenth of them,
    JSB chorales took 450 steps to -8.5 nats per frame instead of 350 (hidden 32), and 150 instead of 100 (hidden 128).
    A linear embedding W x + b becomes W (x - m) / s + b with the mean m of each element and one scale s, the root mean
    square deviation of all elements; without it the steps were 400 and 100.

    Args:
        emission: the family of frames.
        outputs: layers to a frame's parameters.
        embedding: of frames.
        data: x, (batch, time, *frame), with ``lengths``; or a loader of batches (x, lengths).
        lengths: real frames of each sequence, (batch,); all of them if None.

    Returns:
        Number of frames read: all of x, or evenly spread ones of at most :data:`MOST_VALUES` elements of a loader.

    Raises:
        TypeError, ValueError: x or lengths that the model refuses, frames outside the support, or no frames.
    """
    if isinstance(data, Tensor):
        frames = _checked(emission, outputs[0].weight, data, lengths)
    elif lengths is not None:
        raise ValueError("lengths go with x as a tensor, and a loader brings its own: leave lengths out")
    else:
        frames = _from_loader(emission, outputs[0].weight, data)
    frames = frames if emission.integer else frames.double()
    with torch.no_grad():
        parameters = emission.marginal_parameters(frames)
        if parameters.shape != (emission.num_parameters,) or not parameters.isfinite().all():
            raise ValueError(
                f"{emission}.marginal_parameters must return {emission.num_parameters} finite numbers, got shape "
                f"{tuple(parameters.shape)}, finite: {bool(parameters.isfinite().all())}"
            )
        for layer in outputs:
            _set(layer, layer.weight, parameters)
        linear = next((part for part in embedding.modules() if isinstance(part, nn.Linear)), None)
        if not emission.integer and linear is not None and linear.in_features == emission.event_shape.numel():
            values = frames.flatten(1) if frames.dim() > 1 else frames.unsqueeze(1)
            mean = values.mean(0)
            scale = float((values - mean).square().mean().sqrt())
            weight = linear.weight / (scale if scale > 0.0 else 1.0)
            _set(linear, weight, (0.0 if linear.bias is None else linear.bias) - weight @ mean.to(weight))
    return len(frames)


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Set weight (out, in) and bias (out,) of a layer, through its parametrizations where it has some."""
    for name, value in (("weight", weight), ("bias", bias)):
        if parametrize.is_parametrized(layer, name):
            setattr(layer, name, value.to(getattr(layer, name)))
        elif getattr(layer, name) is not None:
            getattr(layer, name).copy_(value)


def _checked(emission: Emission, like: Tensor, x: Any, lengths: Tensor | None) -> Tensor:
    """Real frames (frames, *frame) of x, on the CPU."""
    check_frames(x, emission, like)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], x.device)
        x = x[real_frames(lengths, x.shape[1]).T]
    else:
        x = x.flatten(0, 1)
    frames = x.detach().cpu()
    frames = frames.long() if emission.integer else frames
    wrong = ~emission.valid(frames)
    if wrong.any():
        raise ValueError(f"x must hold {emission.values} for {emission}, got {frames[wrong][0].tolist()}")
    return frames


def _from_loader(emission: Emission, like: Tensor, loader: Iterable[Any]) -> Tensor:
    """Frames of a loader. The data set of a :class:`zf_pyro.data.Loader` is read itself, so no order changes."""
    enough = max(1, MOST_VALUES // max(1, emission.event_shape.numel()))
    parts: list[Tensor] = []
    with torch.random.fork_rng(devices=[]):
        for x, lengths in _batches(loader, enough):
            parts.append(
                _checked(emission, like, x.to(like.device), None if lengths is None else lengths.to(like.device))
            )
            if sum(map(len, parts)) >= enough:
                break
    if not parts:
        raise ValueError("data must hold at least one batch to start from, got none")
    return torch.cat(parts)


def _batches(loader: Iterable[Any], enough: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches (x, lengths) of a loader; or sequences of its data set, evenly spread, as batches of one."""
    batches = getattr(loader, "batches", None)
    sequences: Any = getattr(loader, "dataset", None)
    if batches is not None and sequences is not None and hasattr(batches, "lengths"):
        mean = max(1.0, float(torch.as_tensor(batches.lengths).double().mean()))
        step = max(1, math.floor(len(sequences) * mean / enough))
        for i in range(0, len(sequences), step):
            yield torch.as_tensor(sequences[i]).unsqueeze(0), None
        return
    for batch in loader:
        x, *rest = batch if isinstance(batch, tuple | list) else (batch,)
        yield x, rest[0] if rest else None
