"""Batches of sequences of similar length, shortest first, and validation of the arguments before the first batch."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import pyro
import torch
from torch import Tensor

from ..checks import int64, require_count, require_tensor
from ..data import GivenSequences, given_of
from ..emissions import Emission
from ..models import StochasticRNN, require_model
from ..objectives import replayed_traces
from ..paths import (
    LatentStep,
    PosteriorPath,
    PriorPath,
    RunInputs,
    backward_states_of,
    check_context,
    check_covariates,
    check_frames,
    check_lengths,
    check_observed,
    observed_of,
    of_context,
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
    covariates: Tensor | None = None
    """c_1..c_T, (part, time, K), or None."""
    observed: Tensor | None = None
    """True where x was seen, (part, time) or (part, time, *frame); None if all was."""

    @property
    def named(self) -> dict[str, Any]:
        """Covariates and what was seen, as arguments by name; those that are None are left out."""
        found = {"covariates": self.covariates, "observed": self.observed}
        return {name: value for name, value in found.items() if value is not None}


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

    def named(self, emission: Emission) -> dict[str, Any]:
        """Covariates and what was seen, as arguments by name; those that are None are left out."""
        covariates = None if self.run.covariates is None else self.run.covariates.transpose(0, 1)
        found = {"covariates": covariates, "observed": observed_of(self.run.seen, emission)}
        return {name: value for name, value in found.items() if value is not None}

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
    x: Tensor,
    lengths: Tensor | None,
    context: Tensor | None,
    batch_size: int,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    at_least: int | None = None,
) -> Iterator[Part]:
    """Split sequences into batches, shortest first, so that a batch holds little padding.

    Args:
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); None if all are.
        context: the frame before the first, (batch, *frame), or None.
        batch_size: sequences in a batch.
        covariates: c_1..c_T, (batch, time, K), or None.
        observed: True where x was seen, (batch, time) or (batch, time, *frame); None if all was.
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
        known = None if covariates is None else covariates[rows, :time]
        seen = None
        if observed is not None:  # with a context, one more step may stand in front
            seen = observed[rows, : None if time is None else time + observed.shape[1] - x.shape[1]]
        yield Part(rows, x[rows, :time], real, None if context is None else context[rows], known, seen)


def encoded_parts(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None,
    batch_size: int,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    at_least: int = 1,
) -> Iterator[EncodedPart]:
    """Split sequences into batches of similar size, shortest first, with their backward states.

    Arguments are those of :func:`parts`: x (batch, time, *frame) and lengths (batch,).
    """
    require_model(net)
    cut = parts(x, lengths, None, batch_size, at_least=at_least, covariates=covariates, observed=observed)
    for part in cut:
        run = prepare_inputs(net, part.x, part.lengths, None, None, **part.named)
        yield EncodedPart(part.rows, run, backward_states_of(net, run, part.lengths))


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
    arguments = (part.x, part.lengths, part.context)
    model, guide = replayed_traces(particles(net.model), guide_program, *arguments, **part.named)
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


def require_given(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None,
    context: Tensor | None = None,
    name: str = "x",
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
) -> GivenSequences:
    """Validate all sequences at once, before they are split into batches.

    Args:
        net: the model.
        x: (batch, time, frame) floats or (batch, time) integers; or a batch (x, lengths), or with further fields.
        lengths: real frames of each sequence, (batch,); None if all are.
        context: the frame before the first, (batch, *frame), or None.
        name: the name of x, for errors.
        covariates: c_1..c_T, (batch, time, K), or None.
        observed: True where x was seen, (batch, time) or (batch, time, *frame); None if all was.

    Returns:
        The same, with the lengths (batch,) as int64.

    Raises:
        TypeError, ValueError: arguments that :meth:`zf_pyro.ZForcing.model` refuses.
    """
    like = require_model(net).emission_layer.weight
    given = given_of(x, lengths, covariates, observed, name)
    check_frames(given.x, net.emission_family, like, name)
    steps = (len(given.x), given.x.shape[1])
    if given.lengths is not None:
        check_lengths(given.lengths, *steps, like.device)
    if context is not None:
        check_context(context, steps[0], net.emission_family, like, values=given.observed is None)
    check_covariates(given.covariates, *steps, net)
    if given.observed is not None:
        own = of_context(given.observed, steps[1], context)[1]
        check_observed(own, steps, net.emission_family, like.device)
    return given


def require_sequences(
    net: StochasticRNN, x: Tensor, lengths: Tensor | None, context: Tensor | None = None, name: str = "x"
) -> tuple[Tensor, Tensor | None]:
    """:func:`require_given` for what reads no covariates: x (batch, time, *frame), and lengths (batch,) as int64."""
    given = require_given(net, x, lengths, context, name)
    if given.named:
        raise TypeError(f"{name} must hold x and lengths alone here, got {next(iter(given.named))} too: leave it out")
    return given.x, given.lengths
