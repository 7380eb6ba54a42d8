"""What was prepared, in a small JSON beside the data: enough to refuse what is cut short, foreign or of another run."""

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
"""Changes whenever a folder of the old format could be read wrongly."""
DTYPES = ("float32", "int16", "uint8", "int64")
"""Of stored values."""


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """One array of a split."""

    bytes: int
    """Size of the file, its header included."""
    sha256: str
    """Of the array's bytes, without the file's header."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of the data, such as ``train``."""

    num_sequences: int
    num_values: int
    """Stored values of all sequences together: audio samples, pixels, tokens."""
    files: dict[str, StoredFile]
    """By array: ``values``, ``offsets`` and, where sequences have them, ``labels``."""
    names: list[str] | None = None
    """What each sequence was made from, in order, such as its file's path below the source folder."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What a prepared folder holds and how it was made."""

    corpus: str
    dtype: str
    """Of the stored values, one of :data:`DTYPES`."""
    frame: int | None
    """Values of a frame; None where a sequence is one integer symbol a step."""
    settings: dict[str, Any]
    """Whatever decides the result, in JSON's types. A repeated preparation must agree in it."""
    sources: list[list[Any]]
    """(path below the source, bytes) of every file that was read. A repeated preparation must agree in it."""
    mean: float = 0.0
    """Subtracted from stored values, in their unit."""
    scale: float = 1.0
    """Then divided by, in the unit of stored values."""
    splits: dict[str, Split] = dataclasses.field(default_factory=dict)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What else is worth knowing, such as the speakers of each split."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of Python and of the packages that had a part in it."""

    def same_request(self, other: "Record") -> list[str]:
        """The fields in which two preparations were asked for different things; none if one can stand for the other."""
        fields = ("corpus", "dtype", "frame", "settings", "sources")
        return [name for name in fields if _plain(getattr(self, name)) != _plain(getattr(other, name))]

    def to_json(self) -> str:
        """The text of ``record.json``."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def read_record(folder: Path) -> Record:
    """The record of a prepared folder.

    Raises:
        FileNotFoundError: there is none, so the folder was not prepared.
        ValueError: it is not JSON, of another format, or incomplete.
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
    """Where an array of a split lies in the folder."""
    return f"{split}.npy" if kind == "values" else f"{split}.{kind}.npy"


def digest(values: np.ndarray) -> str:
    """The sha256 of an array's bytes; a memory-mapped array is read piece by piece."""
    sha256 = hashlib.sha256()
    for start in range(0, len(values), 1 << 20):
        sha256.update(np.ascontiguousarray(values[start : start + (1 << 20)]).data)
    return sha256.hexdigest()


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python, of zf_pyro and of installed packages by their distribution's name."""
    names = ("zf-pyro", "numpy", *packages)
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value, sort_keys=True, default=_reject))


def _reject(value: Any) -> Mapping[str, Any]:
    raise TypeError(f"settings and sources must be of JSON's types, got {type(value).__name__}: {value!r}")
