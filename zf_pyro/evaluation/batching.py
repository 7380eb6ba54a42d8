"""Sequences in batches of like lengths, the shortest first, and what is refused before the first batch."""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from ..models import StochasticRNN
from ..paths import PosteriorPath, PriorPath, RunInputs, check_context, check_frames, check_lengths, prepare_inputs


class Part(NamedTuple):
    """Some of the sequences, cut to the longest of them."""

    rows: Tensor
    """Their indices in the whole; (part,) int64."""
    x: Tensor
    """(part, time, *frame)."""
    lengths: Tensor | None
    """Real frames of each sequence, (part,); None if all are."""
    context: Tensor | None
    """The frame before the first, (part, *frame), or None."""


class EncodedPart(NamedTuple):
    """Some of the sequences with their backward states."""

    rows: Tensor
    """Their indices in the whole; (batch,) int64."""
    run: RunInputs
    """Frames, inputs and mask, with time first."""
    b: Tensor
    """Backward states b_t; (time, batch, hidden)."""

    @property
    def u(self) -> Tensor:
        """The inputs u_t; (time, batch, *frame)."""
        if self.run.u is None:
            raise RuntimeError("a batch needs its inputs")
        return self.run.u

    @property
    def x(self) -> Tensor:
        """The frames, zero beyond each length; (batch, time, *frame)."""
        return self.frames.transpose(0, 1)

    @property
    def frames(self) -> Tensor:
        """The frames, zero beyond each length; (time, batch, *frame)."""
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
        """Sum over the real steps; (time, samples, batch) to (samples, batch)."""
        return per_step.where(self.real.unsqueeze(1), 0.0).sum(0)


def parts(
    x: Tensor, lengths: Tensor | None, context: Tensor | None, batch_size: int, *, at_least: int | None = None
) -> Iterator[Part]:
    """All sequences, the shortest first, so that a batch holds little padding.

    Args:
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); None if all are.
        context: the frame before the first, (batch, *frame), or None.
        batch_size: sequences in a batch.
        at_least: None for full batches and the rest; a number for batches of like size, each of at least so many
            sequences, even if that takes more than ``batch_size``.
    """
    order = torch.arange(len(x)) if lengths is None else lengths.cpu().argsort(stable=True)
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
    """Batches of like size, the shortest sequences first, with their backward states; see :func:`parts`."""
    for rows, frames, real, _ in parts(x, lengths, None, batch_size, at_least=at_least):
        run = prepare_inputs(net, frames, real, None, None)
        yield EncodedPart(rows, run, net.backward_states(cast(Tensor, run.x).transpose(0, 1), real))


def replayed_paths(net: StochasticRNN, part: Part, num_particles: int) -> tuple[PriorPath, PosteriorPath]:
    """A run of the guide, and one of the model with its latents; batch shape (num_particles, batch)."""
    particles = pyro.plate("particles", num_particles, dim=-2)
    arguments = part.x, part.lengths, part.context
    guide = poutine.trace(particles(net.guide)).get_trace(*arguments)
    model = poutine.trace(poutine.replay(particles(net.model), trace=guide)).get_trace(*arguments)
    return _path(model), _path(guide)


def require_evaluation(net: StochasticRNN) -> None:
    """Refuse a net in training mode.

    Raises:
        ValueError: any of its modules is in training mode.
    """
    if any(module.training for module in net.modules()):
        raise ValueError("net must be in evaluation mode, where nothing is dropped out; got training mode: net.eval()")


def require_sequences(net: StochasticRNN, x: Tensor, lengths: Tensor | None, context: Tensor | None = None) -> None:
    """Refuse arguments as a whole, before they are cut into batches.

    Args:
        net: the net.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); None if all are.
        context: the frame before the first, (batch, *frame), or None.

    Raises:
        TypeError, ValueError: arguments that :meth:`zf_pyro.ZForcing.model` refuses.
    """
    like = net.emission_layer.weight
    check_frames(x, net.emission_family, like)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], like.device)
    if context is not None:
        check_context(context, x.shape[0], net.emission_family, like)


def _path(trace: poutine.Trace) -> Any:
    """The path whose run was traced."""
    site: Any = trace.nodes["z_0"]
    return site["fn"].path
