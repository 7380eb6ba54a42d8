"""Inputs of one run of the model or of the guide, validated, with time first."""

import operator
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..checks import int64, require_count
from ..networks import State, StepFunctions, joined, some_hidden, versions
from .frame_checks import check_context, check_frames, check_values
from .known import (
    check_covariates,
    check_observed,
    filled,
    flags_before,
    known_steps,
    of_context,
    require_finite,
    seen_parts,
)
from .lengths import check_lengths, real_frames, with_last_repeated
from .stamp import same_elements
from .state_checks import check_state


class RunInputs(NamedTuple):
    """Inputs of one run, with time first."""

    num_steps: int
    """T, the steps of the longest sequence."""
    batch_size: int
    """Number of sequences."""
    initial_state: State
    """h_0; (..., batch, hidden)."""
    x: Tensor | None
    """Frames, the last real one repeated beyond a length; (time, batch, *frame). None where they are generated. Any of
    the support where nothing was seen."""
    u: Tensor | None
    """Inputs u_t; (time, batch, *frame), or with covariates and flags beside the frame. None where x is."""
    read: Tensor | None
    """What backward RNNs read: x, or x with covariates and flags beside it; (time, batch, ...). None where x is."""
    covariates: Tensor | None
    """c_1..c_T; (time, batch, K). None without."""
    seen: Tensor | None
    """True for parts of frames that were seen; (time, batch, flags). None if all were."""
    first_seen: Tensor | None
    """The same of the context; (1, batch, flags). None if it was seen as a whole, or is a start frame."""
    first: Tensor
    """u_1: the context frame or the start frame; (batch, *frame)."""
    input_dim: int
    """Event dimensions of an input u_t: those of a frame, or 1 with covariates or flags beside it."""
    has_context: bool
    """Whether ``first`` is a given context frame, not the start frame."""
    mask: Tensor | None
    """True on real frames; (time, batch). None where all are real."""
    source: tuple[Any, ...]
    """The arguments of the call, compared by identity."""
    versions: tuple[int, ...]
    """How many times each tensor among ``source`` had been changed in place."""

    def same_input(self, other: "RunInputs") -> bool:
        """Whether two runs got the same objects, unchanged in between, or equal ones, as by ``x[i]`` in a plate."""
        same = len(self.source) == len(other.source) and all(map(operator.is_, self.source, other.source))
        if same and self.versions == other.versions and self.num_steps == other.num_steps:
            return True
        unchanged = self.versions == versions(a for a in self.source if isinstance(a, Tensor))
        inputs = (self.u, *self.initial_state), (other.u, *other.initial_state)
        return not same and unchanged and all(map(same_elements, *inputs))


def prepare_inputs(
    net: StepFunctions,
    x: Tensor | None,
    lengths: Tensor | None,
    context: Tensor | None,
    initial_state: State | None,
    num_steps: int | None = None,
    batch_shape: Sequence[int] | int | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    draws: bool = False,
) -> RunInputs:
    """Validate the arguments of a model or guide and put time first.

    Args:
        net: the model.
        x: frames, (batch, time, frame) floats or (batch, time) integers; None to generate.
        lengths: real frames of each sequence, (batch,) integers; None if all are.
        context: the frame before the first, (batch, *frame); None for a start frame.
        initial_state: h_0, each field (..., batch, hidden); that of the model if None.
        num_steps: T, where x is None.
        batch_shape: sequences to generate, where x is None.
        covariates: c_1..c_T, (batch, time, K), for a model with covariates.
        observed: True where x was seen, (batch, time) or (batch, time, *frame); None if all was. With a context one
            more step may stand in front, for it.
        draws: the caller samples what was not seen, for a model that cannot read gaps.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape, dtype, device or (under Pyro's validation) value.
    """
    family, like = net.emission_family, net.emission_layer.weight
    source = (x, lengths, context, *(initial_state if isinstance(initial_state, State) else (initial_state,)))
    if covariates is not None or observed is not None:
        source = (*source, covariates, observed)
    lengths = int64(lengths)
    if x is None:
        num_steps, shape = check_sizes(num_steps, batch_shape)
    else:
        if num_steps is not None or batch_shape is not None:
            raise ValueError("num_steps and batch_shape are for generating: leave them out where x is given")
        check_frames(x, family, like)
        num_steps, shape = x.shape[1], x.shape[:1]
    batch_size = shape[-1]
    mask = None
    if lengths is not None:
        check_lengths(lengths, batch_size, num_steps, like.device)
        mask = real_frames(lengths, num_steps)
    if context is not None:
        check_context(context, batch_size, family, like, values=observed is None)
    if initial_state is None:
        initial_state = net.initial_state(shape)
    else:
        check_state(initial_state, batch_size, net.initial_state((1,)))
    seen = first_seen = None
    if x is None:
        if observed is not None:
            raise ValueError("observed says which part of x was seen: leave it out where x is generated")
        frames = u = read = None
        dtype = torch.long if family.integer else like.dtype
        empty = torch.zeros(batch_size, *family.event_shape, dtype=dtype, device=like.device)
        first = family.start(empty) if context is None else context.to(dtype)
        covariates = check_covariates(covariates, batch_size, num_steps, net)
        covariates = None if covariates is None else covariates.transpose(0, 1)
    else:
        if observed is not None and not draws and not net.flag_dim:
            raise ValueError(
                "observed must be left out for a model of missing='draw', whose programs read whole frames: build the "
                "model with missing='fill' to train on gaps, or marginalise them by inference.ParticleFilter"
            )
        if observed is not None:
            first_seen, observed = of_context(observed, num_steps, context)
            if first_seen is not None and not net.flag_dim:
                raise ValueError(
                    f"observed must have the {num_steps} steps of x for a model of missing='draw', which samples no "
                    f"part of a context, got {num_steps + 1}: give a context that was seen as a whole"
                )
            if context is not None and first_seen is not None:
                check_observed(first_seen, (batch_size, 1), family, like.device)
                first_seen = seen_parts(first_seen, family)
                context = filled(context.unsqueeze(1), first_seen, family).squeeze(1)
                first_seen = first_seen.transpose(0, 1)
            if context is not None:
                given = True if first_seen is None else first_seen[0].all(-1)
                check_values(context.unsqueeze(0), torch.as_tensor(given).expand(1, batch_size), family, "context")
        frames = (x.long() if family.integer else x).transpose(0, 1).contiguous()
        if covariates is None and observed is None and not net.covariate_dim:
            if lengths is not None:
                frames = with_last_repeated(frames, lengths)
            read = joined(net, frames) if net.flag_dim else frames
        else:
            frames, read, covariates, seen = known_steps(net, frames, lengths, covariates, observed)
        if is_validation_enabled():
            check_values(frames, mask, family)
        u, first = _inputs(net, frames, context, covariates, seen, first_seen)
    if covariates is not None:
        require_finite(covariates, mask)
    return RunInputs(
        num_steps=num_steps,
        batch_size=batch_size,
        initial_state=initial_state,
        x=frames,
        u=u,
        read=read,
        covariates=covariates,
        seen=seen,
        first_seen=first_seen,
        first=first,
        input_dim=1 if net.covariate_dim or net.flag_dim else first.dim() - 1,
        has_context=context is not None,
        mask=mask,
        source=source,
        versions=versions(a for a in source if isinstance(a, Tensor)),
    )


def backward_states_of(net: StepFunctions, run: RunInputs, lengths: Tensor | None) -> Tensor:
    """The backward states b_1..b_T of a run with frames, (time, batch, backward).

    Args:
        net: the model.
        run: the inputs of the run.
        lengths: real frames of each sequence, (batch,); None if all are.

    Raises:
        ValueError: a run without frames.
    """
    if run.x is None or run.read is None:
        raise ValueError("x must be given: there are no backward states without frames")
    if run.covariates is None and run.seen is None:
        return net.backward_states(run.x.transpose(0, 1), lengths)
    return net.scan_backward(run.read, run.mask, int64(lengths))


def _inputs(
    net: StepFunctions,
    frames: Tensor,
    context: Tensor | None,
    covariates: Tensor | None,
    seen: Tensor | None,
    first_seen: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """u_1..u_T (time, batch, ...) of frames with time first, and the frame of u_1, (batch, *frame)."""
    if not net.covariate_dim and not net.flag_dim:
        u = net.inputs(frames.transpose(0, 1), context).transpose(0, 1)
        return u, u[0]
    flags = None
    if seen is not None and net.flag_dim:
        frames = filled(frames, seen, net.emission_family)
        flags = flags_before(seen, first_seen)
    first = net.emission_family.start(frames[0]) if context is None else context.to(frames.dtype)
    before = some_hidden(net, frames[:-1]) if net.frame_dropout else frames[:-1]
    return joined(net, torch.cat([first.unsqueeze(0), before]), covariates, flags), first


def check_sizes(num_steps: int | None, batch_shape: Any) -> tuple[int, torch.Size]:
    """Steps and batch shape of sequences to generate.

    Raises:
        ValueError: they are no positive integers.
    """
    if num_steps is None:
        raise ValueError(
            "num_steps must be a positive integer where x is None, got None: give x, or num_steps and batch_shape to "
            "generate"
        )
    num_steps = require_count("num_steps", num_steps)
    sizes: Any = (batch_shape,) if isinstance(batch_shape, Integral) else batch_shape
    kinds = (
        [isinstance(n, Integral) and not isinstance(n, bool) for n in sizes] if isinstance(sizes, tuple | list) else []
    )
    if not kinds or not all(kinds) or min(sizes) < 1:
        raise ValueError(
            f"batch_shape must be a tuple of positive sizes, the last one the sequences, got {batch_shape!r}"
        )
    return num_steps, torch.Size(map(int, sizes))
