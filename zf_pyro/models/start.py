"""The start of training at the data: an untrained model whose frames have the marginals of a data set."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..networks import JoinedEmbedding
from .start_data import MOST_VALUES, StartData, StartingNetwork, start_data

__all__ = ["MOST_VALUES", "start_at"]

Reader = tuple[nn.Linear, int]
"""A layer that reads covariates, and its first column that does."""


def start_at(
    net: StartingNetwork,
    outputs: Sequence[nn.Linear],
    embedding: nn.Module,
    data: Tensor | Iterable[Any],
    lengths: Tensor | None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    readers: Sequence[Reader] = (),
) -> int:
    """Set output layers to the marginals of frames, and the embedding to their centre and scale.

    The bias of each output layer becomes :meth:`.Emission.marginal_parameters`. Its weights are multiplied by
    :meth:`.Emission.parameter_units`, 1 but for locations. At a tenth of them JSB chorales took 450 steps to -8.5 nats
    per frame instead of 350 (hidden 32), and 150 instead of 100 (hidden 128).
    A linear embedding W x + b becomes W (x - m) / s + b with the mean m of each element and one scale s, the root mean
    square deviation of all elements; without it the steps were 400 and 100.

    Layers that read covariates get the mean and the deviation of each: W c + b becomes W (c - m) / s + b. Where some of
    a frame was not seen, values of that element which were seen count in its place, and what a network of
    ``missing="fill"`` reads is the mean.

    All else stays as built: with 1 added to the biases of the forget gates the steps were 375, 375 and 450 instead of
    325, 350 and 425 (hidden 32, three seeds), with a tenth of the last weights of prior and posterior 350, 350 and 375
    (``benchmarks/start.py``).

    Args:
        net: the model, or another network of frames.
        outputs: layers to a frame's parameters.
        embedding: of frames.
        data: x, (batch, time, *frame), with ``lengths``; or a loader of batches (x, lengths), or of the other forms of
            :func:`zf_pyro.data.arguments_of`. A context does not count.
        lengths: real frames of each sequence, (batch,); all of them if None.
        covariates: (batch, time, K), where data is x; None without.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), where data is x; None if all was.
        readers: layers that read covariates, and the first column that does.

    Returns:
        Number of frames read: all of x, or evenly spread ones of at most :data:`MOST_VALUES` elements of a loader.

    Raises:
        TypeError, ValueError: x or lengths that the model refuses, frames outside the support (under Pyro's
            validation), or no frames.
    """
    emission = net.emission_family
    found = start_data(net, data, lengths, covariates, observed)
    frames = found.frames if emission.integer else found.frames.double()
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
        _centre(net, embedding, found._replace(frames=frames), readers)
    return len(frames)


def _centre(net: StartingNetwork, embedding: nn.Module, data: StartData, readers: Sequence[Reader]) -> None:
    """Set linear layers that read frames, flags and covariates to the centres and scales of these."""
    size, linear = net.emission_family.event_shape.numel(), _first_linear(embedding)
    extras = next((part.extras for part in embedding.modules() if isinstance(part, JoinedEmbedding)), None)
    if not net.emission_family.integer and linear is not None:
        reads = size if extras is not None else size + net.covariate_dim + net.flag_dim
        if linear.in_features == reads:
            values = data.frames.flatten(1) if data.frames.dim() > 1 else data.frames.unsqueeze(1)
            mean = values.mean(0)
            scale = float((values - mean).square().mean().sqrt())
            weight = linear.weight.clone()
            weight[:, :size] /= scale if scale > 0.0 else 1.0
            _centred(linear, weight, mean.to(weight), extras if extras is not None else linear, net.flag_dim)
    found = [*readers]
    if extras is not None:
        found.append((extras, 0))
    elif linear is not None and linear.in_features == size + net.covariate_dim + net.flag_dim:
        found.append((linear, size))
    for layer, first in found if data.covariates is not None else ():
        known = data.covariates.double()  # type: ignore[union-attr]  # checked in the line above
        centre, deviation = known.mean(0), known.std(0, correction=0)
        deviation = deviation.where(deviation > 0.0, 1.0)
        weight, columns = layer.weight.clone(), slice(first, first + net.covariate_dim)
        weight[:, columns] /= deviation.to(weight)
        _set(layer, weight, layer.bias - weight[:, columns] @ centre.to(weight))


def _centred(linear: nn.Linear, weight: Tensor, mean: Tensor, flags: nn.Linear, flag_dim: int) -> None:
    """Set the weight of a layer that reads frames, and take W m off its result, of the mean m (elements,).

    Where a frame has flags, the offset of a part is that of its flag, which is 0 where the frame holds zeros: what was
    not seen then counts as the mean. Such flags are the last columns of the layer ``flags``.
    """
    if not flag_dim:
        _set(linear, weight, (0.0 if linear.bias is None else linear.bias) - weight[:, : len(mean)] @ mean)
        return
    offset = weight[:, : len(mean)] * mean
    parts = offset if flag_dim == offset.shape[1] else offset.sum(1, keepdim=True)
    if flags is linear:
        weight[:, -flag_dim:] -= parts
    else:
        added = flags.weight.clone()
        added[:, -flag_dim:] -= parts
        _set(flags, added, flags.bias)
    _set(linear, weight, linear.bias)


def _first_linear(embedding: nn.Module) -> nn.Linear | None:
    """The layer of frames in an embedding, if it has a linear one."""
    joint = next((part for part in embedding.modules() if isinstance(part, JoinedEmbedding)), None)
    inside = embedding if joint is None else joint.frames
    return next((part for part in inside.modules() if isinstance(part, nn.Linear)), None)


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Set weight (out, in) and bias (out,) of a layer, through its parametrizations where it has some."""
    for name, value in (("weight", weight), ("bias", bias)):
        if parametrize.is_parametrized(layer, name):
            setattr(layer, name, value.to(getattr(layer, name)))
        elif getattr(layer, name) is not None:
            getattr(layer, name).copy_(value)
