"""Arguments of a model in a batch: x and lengths by position, all others by name."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ..checks import int64
from .padding import Batch, has_columns

POSITIONAL = ("x", "lengths", "context", "initial_state")
"""Arguments of the model and the guide of a network by position, in their order."""
ARGUMENTS = (*POSITIONAL, "covariates", "observed")
"""All arguments of the model and the guide that a batch may hold. Those after :data:`POSITIONAL` go by name alone."""
_FORMS = f"x, (x, lengths), or a dictionary or NamedTuple with the fields {', '.join(ARGUMENTS)}"


class ContextBatch(NamedTuple):
    """Batch of padded sequences, with the frame before the first of each."""

    x: Tensor
    """Sequences, zero beyond each length; (batch, time, frame) floats or (batch, time) integers."""
    lengths: Tensor
    """Number of frames of each sequence; (batch,) int64."""
    context: Tensor
    """Given frames, never scored; (batch, frame) or (batch,)."""


def arguments_of(batch: Any, name: str = "batch") -> dict[str, Any]:
    """The arguments of a network's model in a batch, by name; those that are None are left out.

    A batch is one of

    - x, (batch, time, *frame);
    - a tuple or list (x, lengths), with lengths (batch,) or None;
    - a dictionary or NamedTuple with fields of :data:`ARGUMENTS`, such as :class:`ContextBatch`; among them
      ``covariates`` (batch, time, K) and ``observed`` (batch, time) or (batch, time, *frame).

    A tuple holds no more than x and lengths: a third element may be a label, which cannot be told from the context of
    a model of symbols.

    Args:
        batch: what a loader gave.
        name: the argument's name, for errors.

    Raises:
        TypeError: another form, or a field of another name.
    """
    if isinstance(batch, Tensor):
        return {"x": batch}
    if isinstance(batch, Mapping):
        fields = dict(batch)
    elif hasattr(batch, "_fields") and hasattr(batch, "_asdict"):
        fields = batch._asdict()
    elif isinstance(batch, tuple | list):
        return _positional(batch, name)
    else:
        advice = ""
        if isinstance(batch, np.ndarray):
            advice = "; convert it with torch.as_tensor, or sequences with zf_pyro.data.collate"
        raise TypeError(f"{name} must be {_FORMS}, got {type(batch).__name__}{advice}")
    unknown = [field for field in fields if field not in ARGUMENTS]
    if unknown or "x" not in fields:
        got = f"the field {unknown[0]!r}" if unknown else f"the fields {[*fields]}, without x"
        raise TypeError(f"{name} must be {_FORMS}, got {got}: leave out what is no argument of the model")
    return {field: value for field, value in fields.items() if value is not None or field == "x"}


def _positional(batch: tuple[Any, ...] | list[Any], name: str) -> dict[str, Any]:
    """The arguments of a plain tuple or list."""
    if not batch:
        raise TypeError(f"{name} must be {_FORMS}, got an empty {type(batch).__name__}")
    if any(part is not None for part in batch[2:]):
        third = next(part for part in batch[2:] if part is not None)
        shape = f" of shape {tuple(third.shape)}" if isinstance(third, Tensor | np.ndarray) else ""
        raise TypeError(
            f"{name} must be {_FORMS}, got a {type(batch).__name__} of {len(batch)}, whose third element, "
            f"{type(third).__name__}{shape}, may be a label: leave labels out, as in (batch[0], batch[1]), and give a "
            "context by its name, as in zf_pyro.data.ContextBatch(x, lengths, context)"
        )
    x, lengths = (*batch, None)[:2]
    return {"x": x} if lengths is None else {"x": x, "lengths": lengths}


def call_with(batch: Any, name: str = "batch") -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a network's model in a batch, as a call takes them: by position, and by name.

    A context goes by position, since Pyro's handlers have a parameter of that name. Positions up to the last argument
    that is there are filled by None.

    Args:
        batch: what a loader gave, in one of the forms of :func:`arguments_of`.
        name: the argument's name, for errors.

    Raises:
        TypeError: another form, or a field of another name.
    """
    found = arguments_of(batch, name)
    last = max(POSITIONAL.index(field) for field in found if field in POSITIONAL)
    named = {field: value for field, value in found.items() if field not in POSITIONAL}
    return tuple(map(found.get, POSITIONAL[: last + 1])), named


def is_batch(data: Any) -> bool:
    """True for one batch, False for several: lists and other iterables of batches.

    A tuple that starts with a tensor is one batch. So is a list of x and lengths, as torch's own loader gives, where
    the second element is None or has one value per sequence.
    """
    if isinstance(data, Tensor | Mapping) or hasattr(data, "_asdict"):
        return True
    if isinstance(data, tuple):
        return bool(data) and isinstance(data[0], Tensor | np.ndarray)
    if not isinstance(data, list) or len(data) < 2 or not isinstance(data[0], Tensor):
        return False
    return data[1] is None or (isinstance(data[1], Tensor) and data[1].dim() < 2 <= data[0].dim())


class GivenSequences(NamedTuple):
    """Sequences with all that is given of them but a context."""

    x: Any
    """Frames; (batch, time, *frame)."""
    lengths: Any
    """Real frames of each sequence, (batch,) int64; None if all are."""
    covariates: Any = None
    """c_1..c_T, (batch, time, K); None without."""
    observed: Any = None
    """True where x was seen, (batch, time) or (batch, time, *frame); None if all was."""

    @property
    def named(self) -> dict[str, Any]:
        """Covariates and what was seen, as arguments by name; those that are None are left out."""
        found = {"covariates": self.covariates, "observed": self.observed}
        return {name: value for name, value in found.items() if value is not None}

    def taken(self, rows: Tensor | slice) -> "GivenSequences":
        """Some sequences, cut to the longest of them; rows (sequences,) are indices."""
        lengths = None if self.lengths is None else self.lengths[rows]
        time = None if lengths is None else int(lengths.max())
        cut = (None if part is None else part[rows, :time] for part in (self.covariates, self.observed))
        return GivenSequences(self.x[rows, :time], lengths, *cut)

    def to(self, device: Any) -> "GivenSequences":
        """The same on a device; what is no tensor stays."""
        return GivenSequences(*(part.to(device) if isinstance(part, Tensor) else part for part in self))


def given_of(
    x: Any, lengths: Any = None, covariates: Any = None, observed: Any = None, name: str = "x"
) -> GivenSequences:
    """Sequences of several arguments, or of one batch in place of x. Values are not checked.

    Args:
        x: frames (batch, time, *frame), or a batch in one of the forms of :func:`arguments_of`.
        lengths: (batch,) integers or None.
        covariates: (batch, time, K) or None.
        observed: (batch, time) or (batch, time, *frame) bools, or None.
        name: the argument's name, for errors.

    Raises:
        TypeError: a batch with a context or a state, or further arguments beside it.
    """
    if isinstance(x, Tensor) or not is_batch(x):
        return GivenSequences(x, int64(lengths), covariates, observed)
    found = arguments_of(x, name)
    others = [field for field in found if field not in GivenSequences._fields]
    if others:
        raise TypeError(f"{name} must hold no {others[0]} here, got one: leave it out")
    for field, value in (("lengths", lengths), ("covariates", covariates), ("observed", observed)):
        if value is not None:
            raise TypeError(f"{field} must be left out where {name} is a batch, which brings its own")
    return given_of(**found)


def givens_of(
    data: Any, lengths: Any = None, covariates: Any = None, observed: Any = None, name: str = "data"
) -> Iterator[GivenSequences]:
    """Sequences of one batch, or of each of several.

    Args:
        data: x (batch, time, *frame) with the arguments that follow, one batch in one of the forms of
            :func:`arguments_of`, or an iterable of such batches.
        lengths: lengths of x, (batch,), where ``data`` is x; None if all frames are real.
        covariates: (batch, time, K), where ``data`` is x; None without.
        observed: (batch, time) or (batch, time, *frame), where ``data`` is x; None if all was seen.
        name: the argument's name, for errors.

    Raises:
        TypeError: another form, or a batch with a context.
        ValueError: further arguments beside batches, which bring their own.
    """
    if is_batch(data):
        return iter([given_of(data, lengths, covariates, observed, name)])
    _require_batches(data, lengths, name)
    if covariates is not None or observed is not None:
        raise ValueError(f"covariates and observed go with {name} that is a tensor: batches bring their own")
    each = f"a batch of {name}"
    return (given_of(arguments_of(batch, each), name=each) for batch in data)


def pair_of(x: Any, lengths: Any = None, name: str = "x") -> tuple[Any, Any]:
    """x and lengths, (batch,) int64 or None, of two arguments, or of one batch in place of x. Values are not checked.

    Args:
        x: frames (batch, time, *frame), or a batch in one of the forms of :func:`arguments_of`.
        lengths: (batch,) integers or None.
        name: the argument's name, for errors.

    Raises:
        TypeError: a batch with other arguments than x and lengths, or lengths beside it.
    """
    if isinstance(x, Tensor) or not is_batch(x):
        return x, int64(lengths)
    found = arguments_of(x, name)
    others = [field for field in found if field not in Batch._fields]
    if others:
        raise TypeError(f"{name} must hold x and lengths alone here, got {others[0]} too: leave it out")
    if lengths is not None:
        raise TypeError(f"lengths must be left out where {name} is a batch (x, lengths), which brings its own")
    return found["x"], int64(found.get("lengths"))


def batches_of(data: Any, lengths: Any = None, name: str = "data") -> Iterator[tuple[Any, Any]]:
    """Pairs of x (batch, time, *frame) and lengths, (batch,) int64 or None, of one batch or of several.

    Args:
        data: one batch in one of the forms of :func:`arguments_of`, or an iterable of such batches.
        lengths: lengths of x, where ``data`` is x.
        name: the argument's name, for errors.

    Raises:
        TypeError: another form, or a batch with a context.
        ValueError: lengths beside batches, which bring their own.
    """
    if is_batch(data):
        return iter([pair_of(data, lengths, name)])
    _require_batches(data, lengths, name)
    each = f"a batch of {name}"
    return (pair_of(arguments_of(batch, each), None, each) for batch in data)


def _require_batches(data: Any, lengths: Any, name: str) -> None:
    """Refuse what is no iterable of batches, and lengths beside it."""
    if isinstance(data, str | bytes | np.ndarray) or has_columns(data) or not isinstance(data, Iterable):
        advice = ""
        if isinstance(data, np.ndarray):
            advice = ": convert it with torch.as_tensor"
        elif hasattr(data, "__getitem__") and not isinstance(data, str | bytes):
            advice = (
                ": give a loader of its batches, such as zf_pyro.data.Loader, or make one with zf_pyro.data.collate"
            )
        got = type(data).__name__
        raise TypeError(f"{name} must be x, a batch, or a loader of batches (x, lengths), got {got}{advice}")
    if lengths is not None:
        raise ValueError(f"lengths go with {name} that is a tensor: batches (x, lengths) bring their own")
