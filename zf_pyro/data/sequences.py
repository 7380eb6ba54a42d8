"""Variable-length sequences in memory-mapped storage, and windows of them."""

import mmap
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..checks import require_count, require_flag, require_path
from .folders.preparing import open_array
from .folders.record import Record, read_record
from .music.rolls import Rolls

MAPPED = 64 << 20
"""Bytes read through a memory mapping before it is closed."""
PAGES = 64 << 10
"""Bytes that one access may map in addition to those it reads."""
LEVELS = -0.5, 32767.5
"""Mean and scale that put 16-bit samples on 65,536 levels from -1 to 1."""


class Sequences(Dataset[Tensor]):
    """One split of a prepared folder: variable-length sequences that stay on disk.

    An item is one whole sequence:

    - with frames, (time, frame) float32, standardised: (stored value - mean) / scale. Values beyond the last whole
      frame are left out.
    - without frames, (time,) integers in the stored dtype, one symbol per step.

    Arrays are memory-mapped when first needed, once per process; pickles contain none of them. A mapping is closed
    after 64 MiB read through it, so that memory does not grow with the corpus.

    The log density of stored values (a raw waveform) is that of the standardised values minus log(scale) per value.

    Attributes:
        folder: the prepared folder.
        split: the name of the split.
        record: the content of ``record.json``.
        frame: values per frame, or None for symbols.
        mean: subtracted from stored values, in their unit.
        scale: divisor after that, in the unit of stored values.
        lengths: frames of each sequence; (len(self),) int64.
        labels: one integer per sequence, (len(self),) int64, or None.
        names: the source of each sequence, or None.
    """

    def __init__(self, folder: Path | str, split: str, *, frame: int | None = None, levels: bool = False) -> None:
        """Check the record and the sizes of all files; no values are read.

        Args:
            folder: a prepared folder.
            split: the name of a split, for example ``train``.
            frame: values per frame; by default as recorded.
            levels: whether items have 16-bit samples v as levels (2 v + 1) / 65535 from -1 to 1, for
                ``emissions.DiscretizedLogisticMixture(frame, num_components, bits=16)``, in place of standardised ones.

        Raises:
            FileNotFoundError: the folder was not prepared, or one of its files is missing.
            ValueError: no such split, truncated or foreign files, a frame longer than a sequence, or levels of other
                values than 16-bit samples.
        """
        self.folder, self.split = require_path("folder", folder), split
        self.record: Record = read_record(self.folder)
        if not isinstance(split, str) or split not in self.record.splits:
            known = ", ".join(self.record.splits)
            raise ValueError(f"split must be one of {known} in {self.folder}, got {split!r}")
        if self.record.corpus == "series":
            raise ValueError(f"{self.folder} holds series with names and times: open it by zf_pyro.data.load_series")
        whole = isinstance(frame, Integral) and not isinstance(frame, bool) and frame > 0
        if frame is not None and (self.record.frame is None or not whole):
            symbols = f", and None for the symbols of {self.record.corpus}" if self.record.frame is None else ""
            raise ValueError(f"frame must be a positive number of values{symbols}, got {frame!r}")
        self.frame = self.record.frame if frame is None else int(frame)
        self.mean, self.scale = LEVELS if require_flag("levels", levels) else (self.record.mean, self.record.scale)
        self.names = self.record.splits[split].names
        self._arrays: dict[str, np.ndarray] = {}
        self._mapped = 0
        stored = self._array("values").dtype
        if levels and (self.frame is None or stored != np.int16):
            raise ValueError(f"levels is for frames of 16-bit samples, and {self.folder} stores {stored}: leave it out")
        sizes = np.diff(self._array("offsets"))
        self._check(sizes)
        self.lengths = torch.from_numpy(sizes // (self.frame or 1))
        labelled = "labels" in self.record.splits[split].files
        self.labels = torch.from_numpy(np.array(self._array("labels"))) if labelled else None

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Tensor:
        """Read the sequence at ``index``; (time, frame) float32, or (time,) integers."""
        return self.read(index)

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Read frames ``start`` to ``stop`` (None: the end) of a sequence, and no others.

        Returns:
            (time, frame) float32, or (time,) integers.

        Raises:
            IndexError: no such sequence.
        """
        index = _from_start(index, len(self))
        offset, size = int(self._array("offsets")[index]), self.frame or 1
        for name, place in (("start", start), ("stop", stop)):
            if place is not None and (isinstance(place, bool) or not isinstance(place, Integral)):
                raise TypeError(f"{name} must be an integer, got {place!r}")
        first, last, _ = slice(start, stop).indices(int(self.lengths[index]))
        stored = fetch(self._array("values"), offset + first * size, offset + max(first, last) * size)
        item = np.array(stored, stored.dtype.newbyteorder("=") if self.frame is None else np.float32)
        self._mapped += stored.nbytes + PAGES
        if self._mapped > MAPPED:
            self._mapped = 0
            del self._arrays["values"]
        if self.frame is None:
            return torch.from_numpy(item)
        item = (item - np.float32(self.mean)) / np.float32(self.scale)
        return torch.from_numpy(item).view(-1, self.frame)

    def _array(self, kind: str) -> np.ndarray:
        if kind not in self._arrays:
            self._arrays[kind] = open_array(self.folder, self.record, self.split, kind)
            if kind == "values":
                expect_random_access(self._arrays[kind])
        return self._arrays[kind]

    def _check(self, sizes: np.ndarray) -> None:
        values, offsets, stored = self._array("values"), self._array("offsets"), self.record.splits[self.split]
        whole = len(sizes) == stored.num_sequences and offsets[0] == 0 and offsets[-1] == stored.num_values
        if not whole or len(values) != stored.num_values or (sizes < 1).any():
            raise ValueError(
                f"the arrays of {self.split!r} in {self.folder} do not belong to its record: "
                "prepare it again with --overwrite"
            )
        if (sizes < (self.frame or 1)).any():
            index = int((sizes < (self.frame or 1)).argmax())
            name = self.names[index] if self.names else "no name"
            raise ValueError(
                f"frame must be at most {sizes[index]}, the values of sequence {index} ({name}), got {self.frame}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}, "_mapped": 0}


def expect_random_access(values: Any) -> None:
    """Ask the system not to read ahead in a memory-mapped array. Its default costs milliseconds per access."""
    if hasattr(mmap, "MADV_RANDOM"):
        values.base.madvise(mmap.MADV_RANDOM)


def fetch(values: Any, start: int, stop: int) -> np.ndarray:
    """Slice a memory-mapped array, ``values[start:stop]``, and have the system read it at once, not page by page."""
    if hasattr(mmap, "MADV_WILLNEED") and start < stop:
        first, last = (values.offset + index * values.itemsize for index in (start, stop))
        page = first - first % mmap.PAGESIZE
        values.base.madvise(mmap.MADV_WILLNEED, page, last - page)
    part: np.ndarray = values[start:stop]
    return part


class Windows(Dataset[Tensor]):
    """Consecutive windows cut from sequences; the last of each sequence may be shorter. No frame is left out.

    Window k of a sequence starts at frame k * ``num_frames``.

    Args:
        sequences: the sequences that they are cut from.
        num_frames: frames from one window's start to the next.
        overlap: frames of the next window that a window also has. With 1, whole windows have ``num_frames`` + 1 frames,
            and where the first frame is given, they have ``num_frames`` scored ones, as in the released code of
            Z-Forcing (Goyal et al. 2017, https://arxiv.org/abs/1711.05411).

    Attributes:
        sequences: the sequences that they are cut from.
        lengths: frames of each window; (len(self),) int64.

    Raises:
        TypeError, ValueError: no sequences, a number of frames below 1, or an overlap below 0 or not below it.
    """

    def __init__(self, sequences: Sequences | Rolls, num_frames: int, overlap: int = 0) -> None:
        if not isinstance(sequences, Sequences | Rolls):
            raise TypeError(f"sequences must be zf_pyro.data.Sequences, got {type(sequences).__name__}")
        self.sequences, self.num_frames = sequences, require_count("num_frames", num_frames)
        self.overlap = require_count("overlap", overlap, least=0)
        if self.overlap >= self.num_frames:
            raise ValueError(f"overlap must be below num_frames, {self.num_frames}, got {self.overlap}")
        beyond = sequences.lengths - self.overlap
        counts = ((beyond + self.num_frames - 1) // self.num_frames).clamp(min=1)
        self._ends = counts.cumsum(0)
        self.lengths = torch.full((int(counts.sum()),), self.num_frames + self.overlap)
        self.lengths[self._ends - 1] = sequences.lengths - (counts - 1) * self.num_frames

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Tensor:
        """Read the window at ``index``; (time, frame) float32, or (time,) integers."""
        index = _from_start(index, len(self))
        sequence = int(torch.searchsorted(self._ends, index, right=True))
        before = int(self._ends[sequence - 1]) if sequence else 0
        start = (index - before) * self.num_frames
        return self.sequences.read(sequence, start, start + int(self.lengths[index]))


def _from_start(index: int, size: int) -> int:
    """Index among ``size`` items, counted from the start; negative indices count from the end."""
    if isinstance(index, bool) or not isinstance(index, Integral):
        raise TypeError(f"index must be an integer, got {index!r}: take torch.utils.data.Subset for several")
    if not -size <= index < size:
        raise IndexError(f"index must be between 0 and {size - 1}, got {index}")
    return int(index) % size
