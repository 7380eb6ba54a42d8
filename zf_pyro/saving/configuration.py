"""Configurations of runs: plain values that are written as JSON and compared field by field."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ABSENT = "absent"
"""Value, in a :class:`Difference`, of a field that one side lacks."""
_INNER = ("dataset", "data", "images", "sequences")
"""Attributes under which loaders and data sets hold another one."""


class Difference(NamedTuple):
    """A field in which two configurations differ."""

    field: str
    """Its name, such as ``optimiser.lr``."""
    old: Any
    new: Any


def plain(value: Any) -> Any:
    """``value`` in JSON's types. Objects without a plain form become the name of their class or function.

    Args:
        value: any value; a tensor may be of any shape.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (torch.dtype, torch.device, Path)):
        return str(value)
    if isinstance(value, Tensor):
        return plain(value.detach().tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": name_of(value), **fields}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # NumPy's scalars
        return plain(value.item())
    return name_of(value)


def name_of(value: Any) -> str:
    """Name of a class or function, or of the class of an object."""
    while hasattr(value, "func") and hasattr(value, "keywords"):  # functools.partial
        value = value.func
    named = value if hasattr(value, "__qualname__") else type(value)
    return str(named.__qualname__)


def differences(old: Any, new: Any, field: str = "") -> Iterator[Difference]:
    """Fields in which two configurations of plain values differ.

    A field that one of them lacks is passed over, as other versions of a package have other settings.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        if old.get("class") != new.get("class"):
            yield Difference(f"{field}.class", old.get("class", ABSENT), new.get("class", ABSENT))
            return
        for key in [key for key in old if key in new]:
            yield from differences(old[key], new[key], f"{field}.{key}" if field else key)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield Difference(f"{field} (number of entries)", len(old), len(new))
            return
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{field}[{i}]")
    elif old != new:
        yield Difference(field, old, new)


def data_of(loader: Any) -> dict[str, Any] | None:
    """Record of the prepared data that a loader, data set or record comes from; None if there is none."""
    record = loader
    for _ in range(8):  # far more than are ever nested
        if hasattr(record, "splits") and hasattr(record, "corpus"):
            break
        inner = next((name for name in ("record", *_INNER) if getattr(record, name, None) is not None), None)
        if inner is None:
            return None
        record = getattr(record, inner)
    else:
        return None
    hashes = {name: plain(split.files) for name, split in record.splits.items()}
    return {
        **{name: plain(getattr(record, name)) for name in ("corpus", "dtype", "frame", "settings")},
        "sha256": hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest(),
    }
