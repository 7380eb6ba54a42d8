"""Runs of a net over sequences for numbers alone: checked as a whole, cut into batches of like lengths."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from ..given import check_context, check_frames, check_lengths
from ..model import ZForcing
from ..posterior_path import PosteriorPath
from ..prior_path import PriorPath


class Part(NamedTuple):
    """Some of the sequences, as short as the longest of them."""

    rows: Tensor
    """Which ones; (part,)."""
    x: Tensor
    """(part, time, *frame)."""
    lengths: Tensor | None
    """(part,)."""
    context: Tensor | None
    """(part, *frame)."""


def parts(x: Tensor, lengths: Tensor | None, context: Tensor | None, batch_size: int) -> Iterator[Part]:
    """Sequences by ``batch_size``, the shortest first, so that a batch holds little padding."""
    order = torch.arange(len(x)) if lengths is None else lengths.cpu().argsort()
    for rows in order.to(x.device).split(batch_size):
        time = None if lengths is None else int(lengths[rows].max())
        real = None if lengths is None else lengths[rows]
        yield Part(rows, x[rows, :time], real, None if context is None else context[rows])


def run(net: ZForcing, part: Part, count: int) -> tuple[PriorPath, PosteriorPath]:
    """A run of the guide with ``count`` particles, and of the model with its latents; (time, count, batch)."""
    particles = pyro.plate("particles", count, dim=-2)
    given = part.x, part.lengths, part.context
    guide = poutine.trace(particles(net.guide)).get_trace(*given)
    model = poutine.trace(poutine.replay(particles(net.model), trace=guide)).get_trace(*given)
    return _path(model), _path(guide)


def check(net: ZForcing, x: Tensor, lengths: Tensor | None, context: Tensor | None = None) -> None:
    """Refuse arguments as a whole, before they are cut into batches."""
    like = net.emission_layer.weight
    check_frames(x, net.emission_family, like)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], like.device)
    if context is not None:
        check_context(context, x.shape[0], net.emission_family, like)


def require_count(name: str, count: int) -> None:
    """Refuse a count that is not a positive integer."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a positive integer, got {count!r}")


def _path(trace: poutine.Trace) -> Any:
    """The run that a trace is of."""
    site: Any = trace.nodes["z_0"]
    return site["fn"].path
