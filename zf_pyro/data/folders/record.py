"""Record of a prepared folder: a JSON file by which truncated, foreign or mismatched data is refused."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import require_path

RECORD = "record.json"
"""The record's file name in a prepared folder."""
FORMAT = "zf_pyro sequences 1"
"""Version of the folder format; changed whenever an older folder could be misread."""
DTYPES = ("float32", "float64", "int16", "uint8", "int64")
"""Dtypes of stored values."""
_EXPECTED = {
    "dtype": f"one of {', '.join(DTYPES)}",
    "frame": "a positive integer or null",
    "mean": "a finite number",
    "scale": "a finite number above 0",
    **dict.fromkeys(("settings", "notes", "versions", "hashes"), "an object"),
    **dict.fromkeys(("sources", "left_out"), "a list of pairs"),
}


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """File of one array of a split."""

    bytes: int
    """Size of the file, its header included."""
    sha256: str
    """Hash of the array's bytes, without the file's header."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of the data, for example ``train``."""

    num_sequences: int
    num_values: int
    """Number of stored values of all sequences together: audio samples, pixels or tokens."""
    files: dict[str, StoredFile]
    """Files by array: ``values``, ``offsets`` and, if sequences have labels, ``labels``."""
    names: list[str] | None = None
    """Source of each sequence, in order, for example the path of its file below the source folder."""


@dataclasses.dataclass(frozen=True)
class Record:
    """Content of a prepared folder and the settings it was prepared with."""

    corpus: str
    dtype: str
    """Dtype of stored values, one of :data:`DTYPES`."""
    frame: int | None
    """Values per frame; None if a sequence holds one integer symbol per step."""
    settings: dict[str, Any]
    """Everything that determines the result, in JSON types. A repeated preparation must agree."""
    sources: list[list[Any]]
    """(path below the source, bytes) of every file that was read. A repeated preparation must agree."""
    mean: float = 0.0
    """Subtracted from stored values, in their unit."""
    scale: float = 1.0
    """Divisor after that, in the unit of stored values."""
    splits: dict[str, Split] = dataclasses.field(default_factory=dict)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further facts, for example the speakers of each split."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    """Versions of Python and of the packages used."""
    hashes: dict[str, str] = dataclasses.field(default_factory=dict)
    """sha256 of the sources that are compared file by file. A repeated preparation must agree."""
    left_out: list[list[str]] = dataclasses.field(default_factory=list)
    """(path below the source, reason) of every file that was not used; folders end in /. Not compared."""

    def check(self) -> None:
        """Refuse a record by which data could not be read.

        Raises:
            ValueError: a field of another type or out of range; the message names it.
        """
        valid = {
            "dtype": self.dtype in DTYPES,
            "frame": self.frame is None or _is_count(self.frame),
            "mean": _is_finite(self.mean),
            "scale": _is_finite(self.scale) and self.scale > 0,
            **{name: isinstance(getattr(self, name), dict) for name in ("settings", "notes", "versions", "hashes")},
            **{name: _are_pairs(getattr(self, name)) for name in ("sources", "left_out")},
        }
        for name, fits in valid.items():
            if not fits:
                raise ValueError(f"its {name} is {getattr(self, name)!r}, expected {_EXPECTED[name]}")
        for name, split in self.splits.items():
            if not _is_count(split.num_sequences) or not _is_count(split.num_values):
                raise ValueError(f"{name} has {split.num_sequences!r} sequences of {split.num_values!r} values in all")

    def same_request(self, other: "Record") -> list[str]:
        """List the fields in which two requests differ; empty if either result can replace the other."""
        fields = ("corpus", "dtype", "frame", "settings", "sources", "hashes")
        return [name for name in fields if _plain(getattr(self, name)) != _plain(getattr(other, name))]

    def to_json(self) -> str:
        """Return the text of ``record.json``."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def read_record(folder: Path) -> Record:
    """Read the record of a prepared folder.

    Raises:
        FileNotFoundError: there is no record, so the folder was not prepared.
        ValueError: the record is not JSON, of another format, or incomplete.
    """
    path = require_path("folder", folder) / RECORD
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{folder} holds no {RECORD}, so it is no prepared data: prepare it with python -m zf_pyro.data.prepare"
        ) from error
    try:
        fields = json.loads(content.decode())
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            raise ValueError(f"it is not of the format {FORMAT!r}")
        fields["splits"] = {
            name: Split(**{**split, "files": {kind: StoredFile(**file) for kind, file in split["files"].items()}})
            for name, split in fields["splits"].items()
        }
        record = Record(**fields)
        record.check()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be used ({error}): prepare the data again into another folder") from error
    return record


def file_name(split: str, kind: str) -> str:
    """Return the file name of an array of a split."""
    return f"{split}.npy" if kind == "values" else f"{split}.{kind}.npy"


def digest(values: np.ndarray) -> str:
    """Compute the sha256 of the bytes of an array, (elements,), in pieces: it may be memory-mapped."""
    sha256 = hashlib.sha256()
    for start in range(0, len(values), 1 << 20):
        sha256.update(np.ascontiguousarray(values[start : start + (1 << 20)]).data)
    return sha256.hexdigest()


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Look up the versions of Python, zf-pyro, NumPy and the given packages, by distribution name."""
    names = ("zf-pyro", "numpy", *packages)
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_pairs(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in values)


def _plain(value: Any) -> Any:
    """Convert to JSON and back, so that tuples equal lists."""
    return json.loads(json.dumps(value, sort_keys=True, default=_reject))


def _reject(value: Any) -> Mapping[str, Any]:
    raise TypeError(f"settings and sources must be of JSON's types, got {type(value).__name__}: {value!r}")
