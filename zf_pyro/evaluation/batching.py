"""Batches of sequences of similar length, shortest first, and validation of the arguments before the first batch."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple, cast

import pyro
import torch
from torch import Tensor

from ..checks import int64, require_count, require_tensor
from ..data import pair_of
from ..models import StochasticRNN, require_model
from ..objectives import replayed_traces
from ..paths import (
    LatentStep,
    PosteriorPath,
    PriorPath,
    RunInputs,
    check_context,
    check_frames,
    check_lengths,
    prepare_inputs,
)


class Part(NamedTuple):
    """Batch of sequences, cut to the longest of them."""

    rows: Tensor
    """Indices into all sequences; (part,) int64."""
    x: Tensor
    """Frames; (part, time, *frame)."""
    lengths: Tensor | None
    """Real frames of each sequence, (part,); None if all are."""
    context: Tensor | None
    """Frame before the first, (part, *frame), or None."""


class EncodedPart(NamedTuple):
    """Batch of sequences with their backward states."""

    rows: Tensor
    """Indices into all sequences; (batch,) int64."""
    run: RunInputs
    """Frames, inputs and mask, with time first."""
    b: Tensor
    """Backward states b_t; (time, batch, hidden)."""

    @property
    def u(self) -> Tensor:
        """Inputs u_t; (time, batch, *frame)."""
        if self.run.u is None:
            raise RuntimeError("a batch needs its inputs")
        return self.run.u

    @property
    def x(self) -> Tensor:
        """Frames, zero beyond each length; (batch, time, *frame)."""
        return self.frames.transpose(0, 1)

    @property
    def frames(self) -> Tensor:
        """Frames, zero beyond each length; (time, batch, *frame)."""
        if self.run.x is None:
            raise RuntimeError("a batch needs its frames")
        return self.run.x

    @property
    def real(self) -> Tensor:
        """True on real frames; (time, batch)."""
        if self.run.mask is not None:
            return self.run.mask
        return torch.ones(self.run.num_steps, self.run.batch_size, dtype=torch.bool, device=self.rows.device)

    def sum(self, per_step: Tensor) -> Tensor:
        """Sum over the real steps: (time, samples, batch) to (samples, batch)."""
        return per_step.where(self.real.unsqueeze(1), 0.0).sum(0)


def parts(
    x: Tensor, lengths: Tensor | None, context: Tensor | None, batch_size: int, *, at_least: int | None = None
) -> Iterator[Part]:
    """Split sequences into batches, shortest first, so that a batch holds little padding.

    Args:
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); None if all are.
        context: the frame before the first, (batch, *frame), or None.
        batch_size: sequences in a batch.
        at_least: None for full batches and a remainder. A number for batches of similar size with at least that many
            sequences each, even if that takes more than ``batch_size``.
    """
    if require_tensor("x", x).dim() < 2 or not x.numel():
        raise ValueError(f"x must have shape (batch, time, ...), got {tuple(x.shape)}")
    batch_size, lengths = require_count("batch_size", batch_size), int64(lengths)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], x.device)
    if context is not None and len(require_tensor("context", context)) != len(x):
        raise ValueError(f"context must be one frame a sequence, {len(x)}, got {len(context)}")
    # The order of equal lengths decides which noise a sequence gets; each kind keeps the sort of earlier tables.
    order = torch.arange(len(x)) if lengths is None else lengths.cpu().argsort(stable=at_least is not None)
    if at_least is None:
        chosen = order.split(batch_size)
    else:
        chosen = order.tensor_split(min(-(-len(x) // batch_size), max(1, len(x) // at_least)))
    for rows in chosen:
        rows = rows.to(x.device)
        real = None if lengths is None else lengths[rows]
        time = None if real is None else int(real.max())
        yield Part(rows, x[rows, :time], real, None if context is None else context[rows])


def encoded_parts(
    net: StochasticRNN, x: Tensor, lengths: Tensor | None, batch_size: int, *, at_least: int = 1
) -> Iterator[EncodedPart]:
    """Split sequences into batches of similar size, shortest first, with their backward states.

    Arguments are those of :func:`parts`: x (batch, time, *frame) and lengths (batch,).
    """
    require_model(net)
    for rows, frames, real, _ in parts(x, lengths, None, batch_size, at_least=at_least):
        run = prepare_inputs(net, frames, real, None, None)
        yield EncodedPart(rows, run, net.backward_states(cast(Tensor, run.x).transpose(0, 1), real))


def replayed_paths(
    net: StochasticRNN, part: Part, num_particles: int, b: Tensor | None = None
) -> tuple[PriorPath, PosteriorPath]:
    """Run the guide, and the model with the guide's latents; batch shape (num_particles, batch).

    Args:
        net: the model.
        part: the sequences.
        num_particles: samples of each.
        b: their backward states, (time, batch, hidden); computed if None.

    Returns:
        Path of the model, path of the guide.
    """
    particles = pyro.plate("particles", num_particles, dim=-2)
    guide_program = partial(particles(net.guide), b=b)
    model, guide = replayed_traces(particles(net.model), guide_program, part.x, part.lengths, part.context)
    model_path = cast(LatentStep, model.nodes["z_0"]["fn"]).path
    guide_path = cast(LatentStep, guide.nodes["z_0"]["fn"]).path
    return cast(PriorPath, model_path), cast(PosteriorPath, guide_path)


def require_evaluation(net: StochasticRNN) -> None:
    """Refuse a model in training mode.

    Raises:
        TypeError: ``net`` is no model.
        ValueError: any of its modules is in training mode.
    """
    if any(module.training for module in require_model(net).modules()):
        raise ValueError("net must be in evaluation mode, where nothing is dropped out; got training mode: net.eval()")


def require_sequences(
    net: StochasticRNN, x: Tensor, lengths: Tensor | None, context: Tensor | None = None, name: str = "x"
) -> tuple[Tensor, Tensor | None]:
    """Validate all sequences at once, before they are split into batches.

    Args:
        net: the model.
        x: (batch, time, frame) floats or (batch, time) integers; or a batch (x, lengths).
        lengths: real frames of each sequence, (batch,); None if all are.
        context: the frame before the first, (batch, *frame), or None.
        name: the name of x, for errors.

    Returns:
        x, and the lengths (batch,) as int64.

    Raises:
        TypeError, ValueError: arguments that :meth:`zf_pyro.ZForcing.model` refuses.
    """
    like = require_model(net).emission_layer.weight
    x, lengths = pair_of(x, lengths, name)
    check_frames(x, net.emission_family, like, name)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], like.device)
    if context is not None:
        check_context(context, x.shape[0], net.emission_family, like)
    return x, lengths
