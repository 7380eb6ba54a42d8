"""The objective over segments of time, for sequences whose intermediate results do not fit in memory."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..checks import int64, require_count, require_flag, require_tensor
from ..models import ZForcing
from ..networks import State, handlers, own_step_functions, under
from ..paths import backward_states_of, observed_of, prepare_inputs, real_frames
from .auxiliary import Statistics
from .elbo import ZForcingELBO
from .held import HeldELBO
from .programs import PyroProgram, network_of
from .terms import Terms


class SegmentedELBO(HeldELBO):
    """:class:`~zf_pyro.ZForcingELBO` over segments of time, for the model and guide of one network.

    **Recomputation**, the default, gives the same loss and gradients under the same random numbers, with less memory.

    - Intermediate results of a segment are dropped, and recomputed in the backward pass (``torch.utils.checkpoint``).
    - Memory grows with the data and with b_t or its gradient, one per frame. All else is that of one segment.
    - With dropout, the masks differ from those of the plain objective.
    - Gradients come from ``backward`` alone, not from ``torch.autograd.grad``.

    **Truncation** takes each segment as a sequence of its own.

    - h_0 is the last state of the segment before, without gradient. The first input is that segment's last frame.
    - The backward RNN starts at the segment's end.
    - The loss is the sum over the segments. Its gradient is truncated backpropagation through time, in
      :meth:`loss_and_grads` and :meth:`backward`. Memory is that of one segment.

    Args:
        args: as for :class:`~zf_pyro.ZForcingELBO`.
        segment: steps of a segment.
        truncate: truncation instead of recomputation.
        settings: as for :class:`~zf_pyro.ZForcingELBO`; one particle.

    Raises:
        ValueError: a segment that is no positive integer, more than one particle, or another setting out of range.
    """

    def __init__(self, *args: Any, segment: int, truncate: bool = False, **settings: Any) -> None:
        super().__init__(ZForcingELBO(*args, **settings), "in segments")
        self.segment, self.truncate = require_count("segment", segment), require_flag("truncate", truncate)

    def _losses(self, model: PyroProgram, guide: PyroProgram, args: Any, kwargs: Any) -> Iterator[Tensor]:
        run = _Run(self, model, guide, *args, **kwargs)
        parts: list[Terms] = []
        if self.truncate:
            yield from run.truncated(parts)
        else:
            yield run.recomputed(parts)
        self.terms = Terms.total(parts)
        self.other = 0.0


class _Run:
    """One evaluation of the objective, segment by segment."""

    def __init__(
        self,
        elbo: SegmentedELBO,
        model: PyroProgram,
        guide: PyroProgram,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> None:
        net = network_of("SegmentedELBO", model, guide)
        lengths = int64(lengths)
        require_tensor("x", x)  # all checks are of the whole
        run = prepare_inputs(net, x, lengths, context, initial_state, covariates=covariates, observed=observed)
        self.around = list(handlers())  # also those of the recomputation, which may come after the block that set them
        self.net, self.lengths, self.context = net, lengths, context
        self.frames = x.transpose(0, 1) if run.x is None else run.x
        self.read, self.run = self.frames if run.read is None else run.read, run
        if run.initial_state.hidden.dim() != 2:
            raise ValueError(
                f"initial_state must be one state per sequence, each field ({len(x)}, hidden), in segments, "
                f"got {tuple(run.initial_state.hidden.shape)}; take ZForcingELBO for states of several particles"
            )
        self.state = State(*(field.expand(len(x), -1) for field in run.initial_state))
        ends = [*range(elbo.segment, x.shape[1], elbo.segment), x.shape[1]]
        self.segments = list(zip([0, *ends[:-1]], ends, strict=True))
        self.elbo = elbo.objective
        self.statistics: Statistics | None = None  # of the target over all segments, where they are recomputed
        self.anchor = torch.zeros((), device=x.device, requires_grad=True)

    def truncated(self, parts: list[Terms]) -> Iterator[Tensor]:
        """The loss of each segment, with truncation."""
        state = self.state
        for start, stop in self.segments:
            x, lengths, *others = self._given(start, stop)
            with pyro.validation_enabled(False):  # some sequences have ended, with length 0
                if self.run.covariates is None and self.run.seen is None:
                    b = self.net.backward_states(x, lengths)
                else:
                    mask = None if lengths is None else real_frames(lengths, stop - start)
                    b = self.net.scan_backward(self.read[start:stop], mask, lengths)
            loss, hidden, cell, earned, *terms = self._evaluate(self.anchor, b, *state, x, lengths, *others)
            state = State(hidden.detach(), cell.detach())
            parts.append(Terms(*terms).with_earned(earned))
            yield loss

    def recomputed(self, parts: list[Terms]) -> Tensor:
        """The loss of all segments, with recomputation."""
        state, losses, states = self.state, [], self._backward_states()
        if self.elbo.auxiliary.standardised:
            mask = None if self.lengths is None else real_frames(self.lengths, len(self.frames))
            self.statistics = Statistics.of(torch.cat([b.detach() for b in states]), mask)
        for (start, stop), b in zip(self.segments, states, strict=True):
            arguments = (self.anchor, b, *state, *self._given(start, stop))
            if torch.is_grad_enabled():
                # Re-entrant: the other kind would keep what the recurrence's autograd function holds.
                loss, hidden, cell, earned, *terms = checkpoint(self._evaluate, *arguments, use_reentrant=True)
            else:
                loss, hidden, cell, earned, *terms = self._evaluate(*arguments)
            state = State(hidden, cell)
            losses.append(loss)
            parts.append(Terms(*(term.detach() for term in terms)).with_earned(earned.detach()))
        return torch.stack(losses).sum()

    def _given(
        self, start: int, stop: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """x, lengths (0 where a sequence has ended), context, covariates and observed of a segment."""
        run, lengths = self.run, None if self.lengths is None else (self.lengths - start).clamp(0, stop - start)
        covariates = None if run.covariates is None else run.covariates[start:stop].transpose(0, 1)
        context = self.frames[start - 1] if start else self.context
        return self.frames[start:stop].transpose(0, 1), lengths, context, covariates, self._observed(start, stop)

    def _observed(self, start: int, stop: int) -> Tensor | None:
        """What was seen in a segment, with a step in front for its context, if it has one."""
        seen = self.run.seen
        if seen is None:
            return None
        if start:
            seen = seen[start - 1 : stop]
        elif self.run.first_seen is not None:
            seen = torch.cat([self.run.first_seen, seen[:stop]])
        else:
            seen = seen[:stop]
        return observed_of(seen, self.net.emission_family)

    def _evaluate(
        self,
        anchor: Tensor,
        b: Tensor,
        hidden: Tensor,
        cell: Tensor,
        x: Tensor,
        lengths: Tensor | None,
        context: Tensor | None,
        covariates: Tensor | None,
        observed: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Loss, last state, what z earns, and terms of a segment.

        The anchor requires a gradient, as re-entrant checkpoints need.
        """
        last: list[State] = []

        def guide(*args: Any, **kwargs: Any) -> Tensor:
            with poutine.trace() as tracer:
                z = self.net.guide(*args, b=b, **kwargs)
            step: Any = tracer.trace.nodes["z_0"]["fn"]
            # Copies: a view would keep the states of every step.
            last.append(State(*(field[-1].clone() for field in step.path.stacked())))
            return z

        # x was validated as a whole. Validation would refuse sequences that have ended, with length 0.
        self.elbo._statistics = self.statistics
        try:
            with pyro.validation_enabled(False), under(self.around):
                given = {"covariates": covariates, "observed": observed}
                known = {name: value for name, value in given.items() if value is not None}
                arguments = (x, lengths, context, State(hidden, cell))
                loss = self.elbo.differentiable_loss(self.net.model, guide, *arguments, **known)
        finally:
            self.elbo._statistics = None
        terms = self.elbo.terms
        if terms is None:
            raise RuntimeError("a handler changed sites of the path: segments are scored whole or not at all")
        earned = terms.earned.clone()  # autograd makes what a checkpoint returns depend on it
        return loss, *last[0], earned, *terms

    def _backward_states(self) -> list[Tensor]:
        """:meth:`zf_pyro.ZForcing.backward_states` for each segment; (steps, batch, hidden)."""
        one_layer = isinstance(self.net, ZForcing) and self.net.has_fast_loops
        if not one_layer or not own_step_functions(self.net, "backward_states"):
            # Another backward pass, one of several layers, or a changed one, runs as a whole.
            b = backward_states_of(self.net, self.run, self.lengths)
            return list(b.split([stop - start for start, stop in self.segments]))
        hidden, cell = (torch.zeros_like(field).unsqueeze(0) for field in self.state)
        ends = set() if self.lengths is None else set(self.lengths.tolist())
        states = []
        for start, stop in reversed(self.segments):
            cuts = sorted({start, *(end for end in ends if start < end < stop), stop})
            b, hidden, cell = checkpoint(self._read, cuts, hidden, cell, use_reentrant=False)
            states.append(b)
        return states[::-1]

    def _read(self, cuts: list[int], hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """b over a segment, cut where sequences end, and the state before it; from the state after it."""
        pieces = []
        for first, last in reversed(list(pairwise(cuts))):
            net = cast(ZForcing, self.net)
            embedded = net.embedding(self.read[first:last].flip(0))
            states, (read, kept) = net.backward_rnn.lstm(embedded, (hidden, cell))
            pieces.append(states.flip(0))
            if self.lengths is None:
                hidden, cell = read, kept
            else:  # sequences that end before these frames keep the zero state
                begun = (self.lengths >= last).unsqueeze(1)
                hidden, cell = torch.where(begun, read, hidden), torch.where(begun, kept, cell)
        return torch.cat(pieces[::-1]), hidden, cell
