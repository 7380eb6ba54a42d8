"""Inputs of one run of the model or of the guide, validated, with time first."""

import operator
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..checks import int64, require_count, require_tensor
from ..emissions import Emission
from ..networks import State, StepFunctions, versions
from .lengths import check_lengths, real_frames, with_last_repeated
from .stamp import same_elements


class RunInputs(NamedTuple):
    """Inputs of one run, with time first."""

    num_steps: int
    """T, the steps of the longest sequence."""
    batch_size: int
    """Number of sequences."""
    initial_state: State
    """h_0; (..., batch, hidden)."""
    x: Tensor | None
    """Frames, the last real one repeated beyond a length; (time, batch, *frame). None where they are generated."""
    u: Tensor | None
    """Inputs u_t; (time, batch, *frame). None where x is."""
    first: Tensor
    """u_1: the context frame or the start frame; (batch, *frame)."""
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

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape, dtype, device or (under Pyro's validation) value.
    """
    family, like = net.emission_family, net.emission_layer.weight
    source = (x, lengths, context, *(initial_state if isinstance(initial_state, State) else (initial_state,)))
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
        check_context(context, batch_size, family, like)
    if initial_state is None:
        initial_state = net.initial_state(shape)
    else:
        check_state(initial_state, batch_size, net.initial_state((1,)))
    if x is None:
        frames = u = None
        dtype = torch.long if family.integer else like.dtype
        empty = torch.zeros(batch_size, *family.event_shape, dtype=dtype, device=like.device)
        first = family.start(empty) if context is None else context.to(dtype)
    else:
        frames = (x.long() if family.integer else x).transpose(0, 1).contiguous()
        if lengths is not None:
            frames = with_last_repeated(frames, lengths)
        if is_validation_enabled():
            check_values(frames, mask, family)
        u = net.inputs(frames.transpose(0, 1), context).transpose(0, 1)
        first = u[0]
    return RunInputs(
        num_steps=num_steps,
        batch_size=batch_size,
        initial_state=initial_state,
        x=frames,
        u=u,
        first=first,
        has_context=context is not None,
        mask=mask,
        source=source,
        versions=versions(a for a in source if isinstance(a, Tensor)),
    )


def check_frames(x: Tensor, emission: Emission, like: Tensor, name: str = "x") -> None:
    """Refuse frames that the emission cannot have produced.

    Args:
        x: (batch, time, *frame) floats or integers.
        emission: the family of frames.
        like: a parameter of the model of any shape, for its dtype and device.
        name: the argument's name, for errors.

    Raises:
        TypeError: x is no tensor, or of a wrong dtype.
        ValueError: wrong rank or frame size, no sequences, no steps, or another device.
    """
    require_tensor(name, x)
    if emission.integer:
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise TypeError(f"{name} must hold integers for {emission}, got {x.dtype}; convert it with {name}.long()")
    elif x.dtype != like.dtype:
        raise TypeError(
            f"{name} must be {like.dtype}, the dtype of the net's parameters, got {x.dtype}; "
            f"convert it with {name}.to({like.dtype}), or the net with net.to({x.dtype})"
        )
    frame = emission.event_shape
    if x.dim() != 2 + len(frame) or x.shape[2:] != frame:
        expected = f"({', '.join(['batch', 'time', *map(str, frame)])})"
        raise ValueError(f"{name} must have shape {expected} for {emission}, got {tuple(x.shape)}")
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"{name} must hold at least one sequence and one step, got shape {tuple(x.shape)}")
    if x.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, where the net's parameters are, got {x.device}")


def check_values(x: Tensor, mask: Tensor | None, emission: Emission, name: str = "x") -> None:
    """Refuse real frames without a density. Reads the data back from the device.

    Args:
        x: frames; (time, batch, *frame).
        mask: True on real frames, (time, batch); None if all are.
        emission: the family of frames.
        name: the argument's name, for errors.
    """
    wrong = ~emission.valid(x)
    if mask is not None:
        wrong = wrong & mask
    if wrong.any():
        t, i = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name} must hold {emission.values} for {emission}, got {x[t, i].tolist()} at sequence {i}, step {t}"
        )


def check_state(state: State, batch_size: int, like: State) -> None:
    """Refuse an ``initial_state`` that is no State of fields (..., batch, hidden) as ``like``, one of one sequence."""
    if not isinstance(state, State):
        raise TypeError(f"initial_state must be a zf_pyro.State(hidden, cell), got {type(state).__name__}")
    for name, field, same in zip(State._fields, state, like, strict=True):
        require_tensor(f"initial_state.{name}", field)
        if field.dim() < 2 or field.shape[-1] != same.shape[-1] or field.shape[-2] not in (1, batch_size):
            raise ValueError(
                f"initial_state.{name} must have shape (..., {batch_size}, {same.shape[-1]}), got {tuple(field.shape)}"
            )
        if field.dtype != same.dtype or field.device != same.device:
            raise ValueError(
                f"initial_state.{name} must be {same.dtype} on {same.device} like the net's parameters, "
                f"got {field.dtype} on {field.device}"
            )
    if state.hidden.shape[:-1] != state.cell.shape[:-1]:
        raise ValueError(
            "initial_state.hidden and initial_state.cell must have the same shape, got "
            f"{tuple(state.hidden.shape)} and {tuple(state.cell.shape)}; expand one to the other's"
        )


def check_backward_states(b: Tensor, num_steps: int, batch_size: int, backward_dim: int, like: Tensor) -> None:
    """Refuse backward states that are not one per frame, (time, batch, backward), or of another dtype or device."""
    _check_sequences("b", b, "(time, batch, hidden)", (num_steps, batch_size, backward_dim), like)


def check_latents(z: Tensor, batch_size: int, num_steps: int, latent_dim: int, like: Tensor) -> None:
    """Refuse latents that are not one per frame, (..., batch, time, latent), or of another dtype or device."""
    _check_sequences("z", z, "(..., batch, time, latent)", (batch_size, num_steps, latent_dim), like)


def _check_sequences(name: str, values: Tensor, meaning: str, sizes: tuple[int, ...], like: Tensor) -> None:
    """Refuse values whose last sizes, or all where ``meaning`` has no dots, are not those given."""
    require_tensor(name, values)
    found, rest = tuple(values.shape), meaning.startswith("(...")
    if (found[-3:] if rest else found) != sizes:
        needed = ", ".join(map(str, (("...", *sizes) if rest else sizes)))
        source = "net.backward_states(x, lengths)" if name == "b" else "the guide's result"
        raise ValueError(
            f"{name} must have shape {meaning} = ({needed}), one for each frame of x, got {found}; take {source} for "
            "the same x"
        )
    cast = torch.is_autocast_enabled(like.device.type) and values.is_floating_point()  # scans then convert it
    if values.device != like.device or (values.dtype != like.dtype and not cast):
        raise ValueError(
            f"{name} must be {like.dtype} on {like.device} like the net's parameters, got {values.dtype} on "
            f"{values.device}; convert it with {name}.to(...)"
        )


def check_context(context: Tensor, batch_size: int, emission: Emission, like: Tensor) -> None:
    """Refuse a ``context`` that is not one frame per sequence, (batch, *frame)."""
    expected = (batch_size, *emission.event_shape)
    if not isinstance(context, Tensor) or context.shape != expected:
        got = tuple(context.shape) if isinstance(context, Tensor) else type(context).__name__
        raise ValueError(f"context must be one frame a sequence, of shape {expected}, got {got}")
    check_frames(context.unsqueeze(1), emission, like, "context")
    if is_validation_enabled() and not emission.valid(context).all():
        raise ValueError(f"context must hold {emission.values} for {emission}")


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
