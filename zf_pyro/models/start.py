"""The start of training at the data: an untrained model whose frames have the marginals of a data set."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..checks import int64
from ..data import Loader, arguments_of
from ..emissions import Emission
from ..paths import check_frames, check_lengths, real_frames

log = logging.getLogger(__name__)

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

    The bias of each output layer becomes :meth:`.Emission.marginal_parameters`. Its weights are multiplied by
    :meth:`.Emission.parameter_units`, 1 but for locations. At a tenth of them JSB chorales took 450 steps to -8.5 nats
    per frame instead of 350 (hidden 32), and 150 instead of 100 (hidden 128).
    A linear embedding W x + b becomes W (x - m) / s + b with the mean m of each element and one scale s, the root mean
    square deviation of all elements; without it the steps were 400 and 100.

    All else stays as built: with 1 added to the biases of the forget gates the steps were 375, 375 and 450 instead of
    325, 350 and 425 (hidden 32, three seeds), with a tenth of the last weights of prior and posterior 350, 350 and 375
    (``benchmarks/start.py``).

    Args:
        emission: the family of frames.
        outputs: layers to a frame's parameters.
        embedding: of frames.
        data: x, (batch, time, *frame), with ``lengths``; or a loader of batches (x, lengths), or of the other forms of
            :func:`zf_pyro.data.arguments_of`. A context does not count.
        lengths: real frames of each sequence, (batch,); all of them if None.

    Returns:
        Number of frames read: all of x, or evenly spread ones of at most :data:`MOST_VALUES` elements of a loader.

    Raises:
        TypeError, ValueError: x or lengths that the model refuses, frames outside the support (under Pyro's
            validation), or no frames.
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
        units = emission.parameter_units(parameters)
        for layer in outputs:
            _set(layer, layer.weight * units.to(layer.weight).unsqueeze(1), parameters)
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
    """Real frames (frames, *frame) of x, on the CPU. Without Pyro's validation, those that are not finite are left out.

    As under the model itself, other values are then not checked.
    """
    check_frames(x, emission, like)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], x.device)
        x = x[real_frames(lengths, x.shape[1]).T]
    else:
        x = x.flatten(0, 1)
    frames = x.detach().cpu()
    frames = frames.long() if emission.integer else frames
    if is_validation_enabled():
        wrong = ~emission.valid(frames)
        if wrong.any():
            raise ValueError(f"x must hold {emission.values} for {emission}, got {frames[wrong][0].tolist()}")
        return frames
    finite = frames.isfinite().reshape(len(frames), -1).all(1)
    if not finite.all():
        log.warning("%d of %d frames are not finite, and do not count in the start", int((~finite).sum()), len(frames))
    return frames[finite]


def _from_loader(emission: Emission, like: Tensor, loader: Iterable[Any]) -> Tensor:
    """Frames of a loader. The data set of a :class:`zf_pyro.data.Loader` is read itself, so no order changes.

    Floats are converted to the dtype of the weights.
    """
    enough = max(1, MOST_VALUES // max(1, emission.event_shape.numel()))
    parts: list[Tensor] = []
    with torch.random.fork_rng(devices=[]):
        for batch in _batches(loader, enough):
            x, lengths = _pair(batch, like)
            parts.append(_checked(emission, like, x, lengths))
            if sum(map(len, parts)) >= enough:
                break
    if not sum(map(len, parts)):
        raise ValueError("data must hold at least one batch to start from, got none")
    return torch.cat(parts)


def _pair(batch: Any, like: Tensor) -> tuple[Any, Tensor | None]:
    """x (batch, time, *frame) and lengths (batch,) of a batch, where the weights are."""
    found = arguments_of(batch, "a batch of data")
    x, lengths = found["x"], int64(found.get("lengths"))
    if isinstance(x, Tensor):
        x = x.to(like.device, like.dtype if x.is_floating_point() else None)
    return x, None if lengths is None else lengths.to(like.device)


def _batches(loader: Iterable[Any], enough: int) -> Iterator[Any]:
    """Batches of a loader; or sequences of its data set, evenly spread, as batches of one."""
    if isinstance(loader, Loader) and type(loader).__iter__ is Loader.__iter__:
        sequences: Any = loader.dataset
        mean = max(1.0, float(loader.batches.lengths.double().mean()))
        for i in range(0, len(sequences), max(1, math.floor(len(sequences) * mean / enough))):
            yield loader.collate_fn([sequences[i]])
        return
    yield from loader
