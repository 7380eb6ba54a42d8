"""Rows of a data set, one per step: in memory, or memory-mapped in a prepared folder."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..folders.preparing import open_array
from ..folders.record import Record
from ..sequences import MAPPED, PAGES, expect_random_access, fetch
from .layout import Layout
from .times import decode, encode


class Steps(NamedTuple):
    """Successive steps, in original units."""

    values: np.ndarray
    """(steps, feature) float64, NaN where missing."""
    covariates: np.ndarray
    """(steps, covariate) float64, one column for each covariate as given: numbers, or the index of a category."""
    times: np.ndarray
    """(steps,) int64 or float64, as :class:`.TimeAxis` says."""

    def take(self, steps: Any) -> "Steps":
        """The steps at a slice or at indices, (steps,)."""
        return Steps(self.values[steps], self.covariates[steps], self.times[steps])


class Rows(Protocol):
    """All sequences of a data set."""

    @property
    def ids(self) -> list[Any]:
        """Identifiers of the sequences."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each sequence; (sequences,) int64."""
        ...

    def read(self, sequence: int, start: int, stop: int) -> Steps:
        """Steps ``start`` to ``stop`` of a sequence."""
        ...

    def has_gaps(self, segments: np.ndarray) -> bool:
        """True if an element is missing in the segments, (segments, 3) int64: sequence, start, stop."""
        ...


class HeldRows:
    """Rows in memory.

    Args:
        ids: identifiers of the sequences.
        offsets: first step of each sequence, and the end; (sequences + 1,) int64.
        steps: steps of all sequences, one after the other.
    """

    def __init__(self, ids: list[Any], offsets: np.ndarray, steps: Steps) -> None:
        self.ids, self.offsets, self.steps = ids, offsets, steps
        self.lengths = np.diff(offsets)
        self._missing = np.concatenate([[0], np.cumsum(np.isnan(steps.values).any(1))])

    def read(self, sequence: int, start: int, stop: int) -> Steps:
        """Steps ``start`` to ``stop`` of a sequence."""
        first = self.offsets[sequence]
        return self.steps.take(slice(first + start, first + stop))

    def has_gaps(self, segments: np.ndarray) -> bool:
        """True if an element is missing in the segments, (segments, 3) int64: sequence, start, stop."""
        first = self.offsets[segments[:, 0]]
        return bool((self._missing[first + segments[:, 2]] > self._missing[first + segments[:, 1]]).any())


class MappedRows:
    """Rows of one split of a prepared folder. Only what is asked for is read.

    The mapping is made when first needed, once per process, and renewed after 64 MiB read through it.
    """

    def __init__(self, folder: Path, record: Record, split: str, layout: Layout) -> None:
        self.folder, self.record, self.split, self.layout = folder, record, split, layout
        self.ids: list[Any] = record.notes["ids"][split]
        self._gaps = bool(record.notes["gaps"][split])
        self._width = record.frame or 1
        self.offsets = np.array(open_array(folder, record, split, "offsets")) // self._width
        self.lengths = np.diff(self.offsets)
        stored = record.splits[split]
        whole = len(self.lengths) == len(self.ids) == stored.num_sequences
        if not whole or self.offsets[-1] * self._width != stored.num_values or (self.lengths < 1).any():
            raise ValueError(f"the arrays of {split!r} in {folder} do not belong to its record: save the data again")
        self._values: Any = None
        self._read = 0

    def read(self, sequence: int, start: int, stop: int) -> Steps:
        """Steps ``start`` to ``stop`` of a sequence."""
        if self._values is None:
            self._values = open_array(self.folder, self.record, self.split, "values")
            expect_random_access(self._values)
        first, width = int(self.offsets[sequence]), self._width
        stored = fetch(self._values, (first + start) * width, (first + stop) * width)
        columns = np.array(stored, np.float64).reshape(-1, width)
        self._read += stored.nbytes + PAGES
        if self._read > MAPPED:
            self._read, self._values = 0, None
        features = len(self.layout.features)
        return Steps(
            columns[:, :features], columns[:, features : width - 2], decode(columns[:, width - 2 :], self.layout.axis)
        )

    def has_gaps(self, segments: np.ndarray) -> bool:
        """True if an element is missing in the split; the ``segments``, (segments, 3), are not read for it."""
        return self._gaps

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_values": None, "_read": 0}


def stored_form(steps: Steps) -> np.ndarray:
    """Steps as they are stored: values, covariates and two columns of time; (steps, column) float64."""
    return np.concatenate([steps.values, steps.covariates, encode(steps.times)], axis=1)
