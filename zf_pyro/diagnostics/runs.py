"""Sequences a batch at a time, and what is refused before the first."""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..given import Given, check_frames, check_lengths, lay_out
from ..model import ZForcing


class Batch(NamedTuple):
    """Sequences of about one length, cut to the longest of them."""

    rows: Tensor
    """Where they stand in the whole; (batch,) int64."""
    given: Given
    """Frames, inputs and mask, by time."""
    b: Tensor
    """Backward states b_t; (time, batch, hidden)."""

    @property
    def u(self) -> Tensor:
        """The inputs u_t; (time, batch, *frame)."""
        if self.given.u is None:
            raise RuntimeError("a batch needs its inputs")
        return self.given.u

    @property
    def x(self) -> Tensor:
        """The frames, zeros beyond each length; (batch, time, *frame)."""
        return self.frames.transpose(0, 1)

    @property
    def frames(self) -> Tensor:
        """The same; (time, batch, *frame)."""
        if self.given.x is None:
            raise RuntimeError("a batch needs its frames")
        return self.given.x

    @property
    def real(self) -> Tensor:
        """True on real frames; (time, batch)."""
        if self.given.mask is not None:
            return self.given.mask
        return torch.ones(self.given.num_steps, self.given.batch_size, dtype=torch.bool, device=self.rows.device)

    def sum(self, per_step: Tensor) -> Tensor:
        """(time, draws, batch) summed over the real steps; (draws, batch)."""
        return per_step.where(self.real.unsqueeze(1), 0.0).sum(0)


def require_evaluation(net: ZForcing) -> None:
    """Refuse a net in training mode.

    Raises:
        ValueError: any of its modules is in training mode.
    """
    if any(module.training for module in net.modules()):
        raise ValueError("net must be in evaluation mode, where nothing is dropped out; got training mode: net.eval()")


def require_count(name: str, count: int) -> None:
    """Refuse a count that is not a positive integer.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a positive integer, got {count!r}")


def require_sequences(net: ZForcing, x: Tensor, lengths: Tensor | None) -> None:
    """Refuse x and lengths as a whole, before they are cut into batches.

    Raises:
        TypeError, ValueError: what :meth:`zf_pyro.ZForcing.model` refuses, or a net in training mode.
    """
    require_evaluation(net)
    like = net.emission_layer.weight
    check_frames(x, net.emission_family, like)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], like.device)


def batches(net: ZForcing, x: Tensor, lengths: Tensor | None, batch_size: int, *, at_least: int = 1) -> Iterator[Batch]:
    """All sequences, shortest first so that a batch holds little padding.

    Args:
        net: the net.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        batch_size: most sequences in a batch, unless that leaves fewer than ``at_least`` in another.
        at_least: fewest sequences in a batch.
    """
    order = torch.arange(len(x)) if lengths is None else lengths.cpu().argsort(stable=True)
    number = min(-(-len(x) // batch_size), max(1, len(x) // at_least))
    for part in order.tensor_split(number):
        rows = part.to(x.device)
        own = None if lengths is None else lengths[rows]
        given = lay_out(net, x[rows] if own is None else x[rows, : int(own.max())], own, None, None)
        yield Batch(rows, given, net.backward_states(cast(Tensor, given.x).transpose(0, 1), own))
