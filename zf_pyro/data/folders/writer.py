"""Writer of the arrays of one split, sequence by sequence."""

import contextlib
import hashlib
import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from .record import Split, StoredFile, digest, file_name


class SplitWriter:
    """Writer of the sequences of one split. It keeps no values in memory.

    Attributes:
        count: number of values written so far.
        mean: their mean, in float64.
        variance: their variance (divided by the count), in float64.
    """

    def __init__(self, folder: Path, split: str, dtype: str) -> None:
        self.split, self.dtype, self.count = split, np.dtype(dtype).newbyteorder("<"), 0
        self.mean = self._squares = 0.0
        self._folder, self._sha256 = folder, hashlib.sha256()
        self._offsets, self._names, self._labels = array("q", [0]), list[str](), array("q")
        self._file: BinaryIO = open(folder / file_name(split, "values"), "wb")  # noqa: SIM115
        self._header = self._write_header()

    @property
    def variance(self) -> float:
        """Variance of the values written so far; 0 if there are none."""
        return self._squares / self.count if self.count else 0.0

    def add(self, values: np.ndarray | Iterable[np.ndarray], name: str | None = None, label: int | None = None) -> None:
        """Append one sequence.

        Args:
            values: the whole sequence, or its pieces in order, each of the split's dtype, of any shape, in C order.
            name: the source of the sequence. For all sequences of a split or for none.
            label: the label of the sequence. For all sequences of a split or for none.

        Raises:
            TypeError: values of another dtype.
            ValueError: no values, or a name or label for some sequences only.
        """
        before, index = self.count, len(self._offsets) - 1
        for piece in [values] if isinstance(values, np.ndarray) else values:
            self._append(piece)
        if self.count == before:
            raise ValueError(f"sequence {index} of {self.split} ({name or 'no name'}) holds no values")
        for kind, given, found in (("name", name, self._names), ("label", label, self._labels)):
            if len(found) != (0 if given is None else index):
                raise ValueError(f"give a {kind} for every sequence of {self.split} or for none: see sequence {index}")
        self._offsets.append(self.count)
        if name is not None:
            self._names.append(name)
        if label is not None:
            self._labels.append(label)

    def _append(self, piece: np.ndarray) -> None:
        if piece.dtype != self.dtype:
            raise TypeError(f"values of {self.split} must be {self.dtype.name}, got {piece.dtype}")
        if not piece.size:
            return
        piece = np.ascontiguousarray(piece, self.dtype).reshape(-1)
        self._file.write(piece.data)
        self._sha256.update(piece.data)
        # Pooled moments (Chan, Golub, LeVeque 1979), which avoid the cancellation of a sum of squares.
        mean, squares = float(piece.mean(dtype=np.float64)), float(piece.var(dtype=np.float64)) * piece.size
        total, shift = self.count + piece.size, mean - self.mean
        self._squares += squares + shift**2 * self.count * piece.size / total
        self.mean += shift * piece.size / total
        self.count = total

    def finish(self) -> Split:
        """Flush everything to disk and describe what was written.

        Raises:
            ValueError: no sequences.
        """
        if len(self._offsets) == 1:
            raise ValueError(f"{self.split} holds no sequences")
        if self._write_header() != self._header:
            raise ValueError(f"{self.split} is too large for its header: {self.count} values")
        sync(self._file)
        self._file.close()
        arrays = {"offsets": np.frombuffer(self._offsets, np.int64)}
        if self._labels:
            arrays["labels"] = np.frombuffer(self._labels, np.int64)
        stored = {"values": StoredFile(self._path("values").stat().st_size, self._sha256.hexdigest())}
        for kind, values in arrays.items():
            with open(self._path(kind), "wb") as file:
                np.save(file, values, allow_pickle=False)
                sync(file)
            stored[kind] = StoredFile(self._path(kind).stat().st_size, digest(values))
        return Split(len(self._offsets) - 1, self.count, stored, self._names or None)

    def abandon(self) -> None:
        """Close the file, ignoring the error of a full disk."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _path(self, kind: str) -> Path:
        return self._folder / file_name(self.split, kind)

    def _write_header(self) -> int:
        """Write the .npy header at the start of the file and return its size. NumPy leaves room for a growing shape."""
        self._file.seek(0)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()


def sync(file: IO[Any]) -> None:
    """Wait until everything written to ``file`` is on disk."""
    file.flush()
    os.fsync(file.fileno())
