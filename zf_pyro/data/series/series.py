"""Data set of series with names, times, covariates and gaps, in original and in scaled units."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...checks import require_count
from ..batches import LengthBatches
from ..folders.record import Record
from ..loader import Loader
from .batch import SeriesBatch, SeriesItem, collate_series
from .layout import Layout
from .rows import MappedRows, Rows, Steps
from .scaling import Scaling, Units, array_of

if TYPE_CHECKING:
    from .splitting import SeriesSets


class Series(Dataset[SeriesItem]):
    """Series with named features, times, covariates and gaps; made by :func:`zf_pyro.data.from_dataframe` and others.

    An item is one sequence in scaled units: frames, covariates and a mask of what was seen. Values are kept in original
    units and scaled on reading, so that a part of the data can have a scaling of its own.

    Attributes:
        layout: names and kinds of the columns.
        scaling: scaling of the features.
        covariate_scaling: scaling of the covariates as given; categories and flags have none.
        lengths: frames of each sequence; (len(self),) int64.
        has_gaps: True if an element is missing, so that batches have ``observed``.
    """

    def __init__(
        self,
        rows: Rows,
        layout: Layout,
        scaling: Scaling,
        covariate_scaling: Scaling,
        segments: np.ndarray | None = None,
        record: Record | None = None,
    ) -> None:
        """Take rows and what they mean; ``segments``, (len(self), 3) int64, are sequence, start and stop."""
        self.rows, self.layout, self.scaling, self.covariate_scaling = rows, layout, scaling, covariate_scaling
        if segments is None:
            count = len(rows.lengths)
            segments = np.stack([np.arange(count), np.zeros(count, np.int64), rows.lengths], axis=1)
        self.segments = segments.astype(np.int64)
        self.lengths = torch.from_numpy(self.segments[:, 2] - self.segments[:, 1])
        self.has_gaps = rows.has_gaps(self.segments)
        self._record = record

    # Names ------------------------------------------------------------------------------------------------------------

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the elements of a frame."""
        return self.layout.features

    @property
    def covariate_names(self) -> list[str]:
        """Names of the columns of ``covariates``, those of categories as NAME=CATEGORY."""
        return self.layout.covariate_names

    @property
    def frame_dim(self) -> int:
        """Number of elements of a frame."""
        return len(self.layout.features)

    @property
    def covariate_dim(self) -> int:
        """Number of columns of ``covariates``: ``covariate_dim=`` of a model."""
        return len(self.layout.covariate_names)

    @property
    def ids(self) -> list[Any]:
        """Identifier of each sequence; parts of one sequence have the same."""
        return [self.rows.ids[sequence] for sequence in self.segments[:, 0].tolist()]

    @property
    def coords(self) -> dict[str, list[Any]]:
        """Names of sequences and features, as ``coords=`` of :func:`zf_pyro.to_arviz`, ``net.forecast`` and others."""
        return {"sequence": self.ids, "feature": list(self.features)}

    @property
    def record(self) -> Record:
        """What the data are, with hashes: a training run that is resumed must have the same."""
        if self._record is None:
            from .storing import record_of  # which saves data sets of this class

            self._record = record_of(self)
        return self._record

    # Items ------------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: int) -> SeriesItem:
        """The sequence at ``index``, in scaled units."""
        return self.read(index)

    def read(self, index: int, start: int = 0, stop: int | None = None) -> SeriesItem:
        """Frames ``start`` to ``stop`` (None: the end) of the sequence at ``index``, in scaled units."""
        steps = self.steps(index, start, stop)
        covariates = None
        if self.layout.covariates:
            scaled = self.covariate_scaling.apply(steps.covariates)
            covariates = torch.from_numpy(self.layout.expand(scaled))
        observed = torch.from_numpy(~np.isnan(steps.values)) if self.has_gaps else None
        return SeriesItem(torch.from_numpy(self.scaling.apply(steps.values)), covariates, observed)

    def steps(self, index: int, start: int = 0, stop: int | None = None) -> Steps:
        """Frames ``start`` to ``stop`` (None: the end) of the sequence at ``index``, in original units, with times."""
        if isinstance(index, bool) or not isinstance(index, Integral):
            raise TypeError(f"index must be an integer, got {index!r}: take select() for several sequences")
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be between 0 and {len(self) - 1}, got {index}")
        sequence, begin, end = (int(part) for part in self.segments[int(index)])
        first, last, _ = slice(start, stop).indices(end - begin)
        return self.rows.read(sequence, begin + first, begin + max(first, last))

    def times(self, index: int) -> np.ndarray:
        """Times of the sequence at ``index``, as they came; dates as datetime64 in UTC; (time,)."""
        return self.layout.axis.labels(self.steps(index).times)

    def batch(self, indices: Sequence[int] | Tensor | None = None) -> SeriesBatch:
        """One batch of the sequences at ``indices``, (batch,), in that order; of all if None."""
        if isinstance(indices, Tensor):
            indices = indices.tolist()
        return collate_series([self[index] for index in (range(len(self)) if indices is None else indices)])

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> Loader:
        """Loader of batches with ``x``, ``lengths``, ``covariates`` and ``observed``.

        The order, its state and the division among processes are those of :class:`zf_pyro.data.LengthBatches`.

        Args:
            batch_size: sequences per batch.
            shuffle: take a new order every epoch; otherwise the longest first.
            seed: seed of the order.
            rank: index of this process.
            world_size: number of processes that share the sequences.
            drop_last: leave out the sequences that would make smaller batches.
            num_workers: processes that read ahead.
            pin_memory: copy batches into memory from which a GPU reads fast.
        """
        order = LengthBatches(
            self.lengths, batch_size, shuffle=shuffle, seed=seed, rank=rank, world_size=world_size, drop_last=drop_last
        )
        loader = Loader(self, order, num_workers=num_workers, pin_memory=pin_memory)  # type: ignore[arg-type]  # items
        loader.collate_fn = collate_series
        return loader

    # Parts ------------------------------------------------------------------------------------------------------------

    def part(self, segments: np.ndarray) -> "Series":
        """Other segments of the same rows, (segments, 3) int64: sequence, start and stop."""
        record = self._record if isinstance(self.rows, MappedRows) else None
        return Series(self.rows, self.layout, self.scaling, self.covariate_scaling, segments, record)

    def select(self, ids: Iterable[Any]) -> "Series":
        """The sequences with these identifiers, or with this one, in the order of the data.

        Raises:
            ValueError: an identifier that no sequence has, or none.
        """
        chosen = {ids} if isinstance(ids, str) or not isinstance(ids, Iterable) else set(ids)
        own = self.ids
        missing = chosen - set(own)
        if missing or not chosen:
            raise ValueError(f"ids must be among {own[:8]}, got {next(iter(missing), 'none')!r}")
        return self.part(self.segments[[id_ in chosen for id_ in own]])

    def at_least(self, num_frames: int) -> "Series":
        """The sequences of at least ``num_frames`` frames.

        Raises:
            ValueError: there is none.
        """
        long = self.lengths.numpy() >= require_count("num_frames", num_frames)
        if not long.any():
            raise ValueError(f"num_frames must be at most {int(self.lengths.max())}, the longest, got {num_frames}")
        return self.part(self.segments[long])

    def windows(self, num_frames: int, *, every: int | None = None) -> "Series":
        """Windows of ``num_frames`` frames, for training on long sequences. No frame is left out.

        Args:
            num_frames: frames of a window; the last of a sequence may be shorter.
            every: frames from one start to the next, at most ``num_frames``, which is the default.
        """
        num_frames = require_count("num_frames", num_frames)
        every = num_frames if every is None else require_count("every", every)
        if every > num_frames:
            raise ValueError(
                f"every must be at most num_frames, {num_frames}, so that no frame is left out, got {every}"
            )
        found = []
        for sequence, start, stop in self.segments.tolist():
            count = max(0, -(-(stop - start - num_frames) // every)) + 1
            firsts = (start + k * every for k in range(count))
            found += [(sequence, first, min(first + num_frames, stop)) for first in firsts]
        return self.part(np.array(found))

    def split(
        self,
        by: str = "sequence",
        *,
        validation: Any = 0.1,
        test: Any = 0.1,
        context: int = 0,
        seed: int = 0,
    ) -> "SeriesSets":
        """Training, validation and test part: see :func:`zf_pyro.data.split_series`."""
        from .splitting import split_series  # which makes data sets of this class

        return split_series(self, by, validation=validation, test=test, context=context, seed=seed)

    # Original units ---------------------------------------------------------------------------------------------------

    def inverse(self, values: Any, units: Units = "values") -> Any:
        """Original units of ``values``, (..., frame), a tensor or an array; float64 of the same kind.

        Args:
            values: (..., frame) in scaled units: frames, samples, means, or quantiles.
            units: ``values``; ``deviations`` for standard deviations and widths, which have no location.

        Raises:
            ValueError: another number of features.
        """
        found = self.scaling.inverse(array_of(values), units)
        return torch.from_numpy(found).to(values.device) if isinstance(values, Tensor) else found

    def to_xarray(self, values: Any, dims: Sequence[str] | None = None, **settings: Any) -> Any:
        """``values``, (sequence, time, feature) and the like, with names, in original units: see :func:`.to_xarray`."""
        from .naming import to_xarray

        return to_xarray(self, values, dims, **settings)

    def to_pandas(self, values: Any, dims: Sequence[str] | None = None, **settings: Any) -> Any:
        """The same as a table with a row per step: see :func:`.to_pandas`."""
        from .naming import to_pandas

        return to_pandas(self, values, dims, **settings)

    def save(self, folder: Path | str, *, overwrite: bool = False) -> Record:
        """Write a prepared folder with one split ``train``: see :func:`zf_pyro.data.save_series`."""
        from .storing import save_series

        return save_series(folder, {"train": self}, overwrite=overwrite)


def common(parts: Mapping[str, Series]) -> Series:
    """The first of several parts of one data set.

    Raises:
        TypeError: a part that is no :class:`Series`.
        ValueError: none, or parts with other columns or another scaling.
    """
    if not isinstance(parts, Mapping) or not parts:
        raise ValueError("parts must hold one data set at least, by the name of its split")
    first, *others = parts.items()
    for name, part in parts.items():
        if not isinstance(part, Series):
            raise TypeError(f"{name} must be a zf_pyro.data.Series, got {type(part).__name__}")
    for name, part in others:
        first[1].layout.require_same(part.layout, name)
        first[1].scaling.require_same(part.scaling, name)
        first[1].covariate_scaling.require_same(part.covariate_scaling, f"covariates of {name}")
    return first[1]
