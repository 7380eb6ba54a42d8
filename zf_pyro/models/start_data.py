"""Frames and covariates of a data set, of which a model starts: real ones, all seen, and no more than needed."""

import logging
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ..checks import int64
from ..data import Loader, arguments_of
from ..emissions import Emission
from ..paths import check_covariates, check_frames, check_lengths, check_observed, real_frames, replaced, seen_parts

log = logging.getLogger(__name__)

MOST_VALUES = 4_000_000
"""Elements of frames that are read. Means of 88 notes then have a standard error below half a percent."""


class StartingNetwork(Protocol):
    """A network that starts at data."""

    emission_family: Emission
    emission_layer: nn.Linear
    covariate_dim: int
    flag_dim: int


class StartData(NamedTuple):
    """Real frames, on the CPU, with the covariates of their steps."""

    frames: Tensor
    """(frames, *frame)."""
    covariates: Tensor | None
    """(frames, K); None without."""
    seen: Tensor | None
    """True for parts of frames that were seen, (frames, flags); None if all were."""

    @classmethod
    def joint(cls, parts: "list[StartData]") -> "StartData":
        """Several in a row. Flags are of all as soon as some have them."""
        covariates = [part.covariates for part in parts if part.covariates is not None]
        seen = next((part.seen for part in parts if part.seen is not None), None)
        flags = [
            seen.new_ones(len(part.frames), seen.shape[1]) if part.seen is None else part.seen
            for part in parts
            if seen is not None
        ]
        return cls(
            torch.cat([part.frames for part in parts]),
            torch.cat(covariates) if covariates else None,
            torch.cat(flags) if flags else None,
        )

    def whole(self, emission: Emission) -> "StartData":
        """Frames without gaps: values of the same element that were seen stand where nothing was.

        Raises:
            ValueError: an element that was never seen.
        """
        if self.seen is None:
            return self
        missing = ~self.seen.any(0)
        if missing.any():
            at = missing.nonzero().flatten().tolist()
            which = f"elements {at}" if emission.flag_dim > 1 else "no frame"
            raise ValueError(
                f"observed must be True at least once for every element of a frame to start from, got {which} "
                f"{'never seen' if emission.flag_dim > 1 else 'seen'}: leave what is never seen out of x"
            )
        flat = self.frames.reshape(len(self.frames), self.seen.shape[1], -1)
        columns = []
        for column, seen in zip(flat.unbind(1), self.seen.unbind(1), strict=True):
            known = column[seen]
            turn = (~seen).cumsum(0) - 1  # one value after the other, so that none counts much more than another
            columns.append(torch.where(seen.unsqueeze(1), column, known[turn.clamp(min=0) % len(known)]))
        return self._replace(frames=torch.stack(columns, 1).view(self.frames.shape))


def start_data(
    net: StartingNetwork,
    data: Tensor | Iterable[Any],
    lengths: Tensor | None,
    covariates: Tensor | None,
    observed: Tensor | None,
) -> StartData:
    """Real frames of x (batch, time, *frame), or evenly spread ones of a loader; as of :func:`.start_at`."""
    if isinstance(data, Tensor):
        found = _checked(net, data, lengths, covariates, observed)
    elif any(part is not None for part in (lengths, covariates, observed)):
        raise ValueError(
            "lengths go with x as a tensor, and so do covariates and observed; a loader brings its own: leave lengths, "
            "covariates and observed out"
        )
    else:
        found = _from_loader(net, data)
    return found.whole(net.emission_family)


def _checked(
    net: StartingNetwork,
    x: Any,
    lengths: Tensor | None,
    covariates: Tensor | None,
    observed: Tensor | None,
) -> StartData:
    """Real frames (frames, *frame) of x, on the CPU. Without Pyro's validation, those that are not finite are left out.

    As under the model itself, other values are then not checked.
    """
    emission, like = net.emission_family, net.emission_layer.weight
    check_frames(x, emission, like)
    covariates = check_covariates(covariates, x.shape[0], x.shape[1], net)
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], x.device)
        real = real_frames(lengths, x.shape[1]).T
    frames = x[real].detach().cpu()
    frames = frames.long() if emission.integer else frames
    known = None if covariates is None else covariates[real].detach().cpu()
    seen = None
    if observed is not None:
        check_observed(observed, x.shape[:2], emission, x.device)
        seen = seen_parts(observed, emission)[real].cpu()
        frames = replaced(frames, seen, emission.example_frame.to(frames), emission)
    if is_validation_enabled():
        wrong = ~emission.valid(frames)
        if wrong.any():
            raise ValueError(f"x must hold {emission.values} for {emission}, got {frames[wrong][0].tolist()}")
        return StartData(frames, known, seen)
    finite = frames.isfinite().reshape(len(frames), -1).all(1)
    if not finite.all():
        log.warning("%d of %d frames are not finite, and do not count in the start", int((~finite).sum()), len(frames))
    return StartData(*(None if part is None else part[finite] for part in (frames, known, seen)))  # type: ignore[arg-type]  # frames are there


def _from_loader(net: StartingNetwork, loader: Iterable[Any]) -> StartData:
    """Frames of a loader. The data set of a :class:`zf_pyro.data.Loader` is read itself, so no order changes.

    Floats are converted to the dtype of the weights.
    """
    enough = max(1, MOST_VALUES // max(1, net.emission_family.event_shape.numel()))
    parts: list[StartData] = []
    count = 0
    with torch.random.fork_rng(devices=[]):
        for batch in _batches(loader, enough):
            parts.append(_checked(net, *_arguments(batch, net.emission_layer.weight)))
            count += len(parts[-1].frames)
            if count >= enough:
                break
    if not count:
        raise ValueError("data must hold at least one batch to start from, got none")
    return StartData.joint(parts)


def _arguments(batch: Any, like: Tensor) -> tuple[Any, Tensor | None, Tensor | None, Tensor | None]:
    """x (batch, time, *frame), lengths (batch,), covariates and observed of a batch, where the weights are."""
    found = arguments_of(batch, "a batch of data")
    found["lengths"] = int64(found.get("lengths"))
    for name, value in found.items():
        if isinstance(value, Tensor):
            found[name] = value.to(like.device, like.dtype if value.is_floating_point() else None)
    return found["x"], *(found.get(name) for name in ("lengths", "covariates", "observed"))


def _batches(loader: Iterable[Any], enough: int) -> Iterator[Any]:
    """Batches of a loader; or sequences of its data set, evenly spread, as batches of one."""
    if isinstance(loader, Loader) and type(loader).__iter__ is Loader.__iter__:
        sequences: Any = loader.dataset
        mean = max(1.0, float(loader.batches.lengths.double().mean()))
        for i in range(0, len(sequences), max(1, math.floor(len(sequences) * mean / enough))):
            yield loader.collate_fn([sequences[i]])
        return
    yield from loader
