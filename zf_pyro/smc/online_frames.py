"""Frames of one step and the mask of what was seen of them, validated."""

from typing import Any, NamedTuple

from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..checks import require_tensor
from ..models import StochasticRNN
from ..paths import check_covariates, check_frames, check_observed, replaced, require_finite, seen_parts


class Frame(NamedTuple):
    """One frame of each sequence, and what was seen of it."""

    x: Tensor
    """The frame, with one that has a density where it was not seen; (batch, *frame)."""
    seen: Tensor | None
    """True for parts that were seen, (batch, flags); None if all were."""
    whole: Tensor | None
    """True for frames that were seen as a whole, (batch,); None if all were."""

    def with_unseen(self, net: StochasticRNN, other: Tensor) -> Tensor:
        """The frame with ``other`` in place of what was not seen; both (batch, ..., *frame)."""
        flags, missing = self.seen, other.dim() - self.x.dim()
        x = self.x.reshape(len(self.x), *[1] * missing, *self.x.shape[1:])
        if flags is None:
            return x.clone()
        flags = flags.reshape(len(flags), *[1] * missing, -1)
        return replaced(x, flags, other.to(x.dtype), net.emission_family)


def require_frame(net: StochasticRNN, x_t: Any, observed: Any, batch_size: int) -> Frame:
    """One frame of each sequence, validated.

    Args:
        net: the model.
        x_t: (batch, *frame) floats, or (batch,) integers.
        observed: True where seen, (batch,) or (batch, *frame); None if all was.
        batch_size: number of sequences.

    Raises:
        TypeError, ValueError: another type, shape, dtype, device or (under Pyro's validation) value; or elements that
            are missing from a frame whose density is of the whole.
    """
    family = net.emission_family
    expected = (batch_size, *family.event_shape)
    if require_tensor("x_t", x_t).shape != expected:
        raise ValueError(
            f"x_t must be one frame of each sequence, of shape {expected} for {family}, got {tuple(x_t.shape)}"
        )
    check_frames(x_t.unsqueeze(1), family, net.emission_layer.weight, "x_t")
    frame = Frame(x_t.long() if family.integer else x_t, None, None)
    if observed is not None:
        if require_tensor("observed", observed).shape not in ((batch_size,), expected):
            raise ValueError(
                f"observed must have shape {(batch_size,)}, one value a frame, or {expected}, one an element, got "
                f"{tuple(observed.shape)}"
            )
        check_observed(observed.unsqueeze(1), (batch_size, 1), family, x_t.device)
        if not bool(observed.all()):
            seen = seen_parts(observed.unsqueeze(1), family).squeeze(1)
            frame = frame._replace(seen=seen, whole=seen.all(-1))
            example = family.example_frame.to(frame.x).expand(expected)
            frame = frame._replace(x=frame.with_unseen(net, example))
    if is_validation_enabled() and not family.valid(frame.x).all():
        i = int((~family.valid(frame.x)).nonzero()[0])
        raise ValueError(
            f"x_t must hold {family.values} for {family}, got {x_t[i].tolist()} at sequence {i}: mark what is missing "
            "by observed="
        )
    return frame


def require_covariates(net: StochasticRNN, covariates_t: Any, batch_size: int) -> Tensor | None:
    """Covariates of one step, (batch, covariates), validated; None for a model without.

    Raises:
        TypeError: no tensor of floats.
        ValueError: missing, given to a model without, or of another shape, dtype, device or value.
    """
    size = net.covariate_dim
    if covariates_t is None and not size:
        return None
    if covariates_t is None:
        raise ValueError(
            f"covariates_t must be given, ({batch_size}, {size}), to a model of covariate_dim={size}, got None"
        )
    shape = tuple(require_tensor("covariates_t", covariates_t).shape)
    if not size:
        raise ValueError(f"covariates_t must be left out for a model of covariate_dim=0, got shape {shape}")
    if shape != (batch_size, size):
        raise ValueError(f"covariates_t must have shape ({batch_size}, {size}), got {shape}")
    check_covariates(covariates_t.unsqueeze(1), batch_size, 1, net)
    require_finite(covariates_t.unsqueeze(0), None)
    return covariates_t


def require_observed(net: StochasticRNN, observed: Any, x: Tensor) -> Tensor | None:
    """The mask of what was seen of sequences, (batch, time) or (batch, time, *frame); None where all was.

    Args:
        net: the model.
        observed: True where seen; None if all was.
        x: (batch, time, *frame).

    Raises:
        TypeError: no tensor of bools.
        ValueError: another shape or device, or elements missing from a frame whose density is of the whole.
    """
    if observed is None:
        return None
    check_observed(observed, x.shape[:2], net.emission_family, x.device)
    return None if bool(observed.all()) else observed
