"""Record of a prepared folder: a JSON file by which truncated, foreign or mismatched data is refused."""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

RECORD = "record.json"
"""The record's file name in a prepared folder."""
FORMAT = "zf_pyro sequences 1"
"""Version of the folder format; changed whenever an older folder could be misread."""
DTYPES = ("float32", "int16", "uint8", "int64")
"""Dtypes of stored values."""


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

    def same_request(self, other: "Record") -> list[str]:
        """List the fields in which two requests differ; empty if either result can replace the other."""
        fields = ("corpus", "dtype", "frame", "settings", "sources")
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
    path = folder / RECORD
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{folder} holds no {RECORD}, so it is no prepared data: prepare it with python -m zf_pyro.data.prepare"
        ) from error
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            raise ValueError(f"it is not of the format {FORMAT!r}")
        fields["splits"] = {
            name: Split(**{**split, "files": {kind: StoredFile(**file) for kind, file in split["files"].items()}})
            for name, split in fields["splits"].items()
        }
        record = Record(**fields)
        if record.dtype not in DTYPES:
            raise ValueError(f"its dtype is {record.dtype!r}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
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


def _plain(value: Any) -> Any:
    """Convert to JSON and back, so that tuples equal lists."""
    return json.loads(json.dumps(value, sort_keys=True, default=_reject))


def _reject(value: Any) -> Mapping[str, Any]:
    raise TypeError(f"settings and sources must be of JSON's types, got {type(value).__name__}: {value!r}")
