"""Series in prepared folders: written in one move, read memory-mapped."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import require_path
from ..folders.preparing import preparing
from ..folders.record import Record, Split, StoredFile, read_record, versions_of
from .layout import Layout
from .rows import MappedRows, stored_form
from .scaling import Scaling
from .series import Series, common
from .splitting import SeriesSets

CORPUS = "series"
SPLITS = ("train", "validation", "test")


def save_series(
    folder: Path | str, parts: SeriesSets | Series | Mapping[str, Series], *, overwrite: bool = False
) -> Record:
    """Write series as a prepared folder, which :func:`load_series` opens memory-mapped.

    Args:
        folder: the folder to write, as for every corpus: in one move, or not at all.
        parts: parts of one data set, or the whole of it, which becomes ``train``.
        overwrite: replace prepared data that are there.

    Raises:
        TypeError: an identifier that is neither text nor a number.
        ValueError: parts with other columns or another scaling.
        FileExistsError: the folder holds something.
    """
    if isinstance(parts, SeriesSets):
        parts = {name: part for name, part in parts._asdict().items() if part is not None}
    elif isinstance(parts, Series):
        parts = {"train": parts}
    first = common(parts)
    unknown = [name for name in parts if name not in SPLITS]
    if unknown or "train" not in parts:
        raise ValueError(f"parts must be train and, if there are, validation and test, got {[*parts]}")
    request = _request(first)
    ids = {name: [_plain(id_) for id_ in part.ids] for name, part in parts.items()}
    with preparing(require_path("folder", folder), request, overwrite=overwrite) as preparation:
        for name, part in parts.items():
            with preparation.split(name) as writer:
                for index in range(len(part)):
                    writer.add(stored_form(part.steps(index)), name=str(ids[name][index]))
        preparation.note(notes={"ids": ids, "gaps": {name: part.has_gaps for name, part in parts.items()}})
    return read_record(require_path("folder", folder))


def load_series(folder: Path | str) -> SeriesSets:
    """Open the series of a prepared folder. Values stay on disk and are read when asked for.

    Raises:
        FileNotFoundError: the folder was not prepared, or one of its files is missing.
        ValueError: it holds another corpus, or files that do not belong to its record.
    """
    folder = require_path("folder", folder)
    record = read_record(folder)
    if record.corpus != CORPUS:
        raise ValueError(f"{folder} holds {record.corpus!r}, not series: open it by the function of that corpus")
    try:
        layout = Layout.from_dict(record.settings["layout"])
        scaling, covariates = (_scaling(record.settings[name]) for name in ("scaling", "covariate_scaling"))
        width = len(layout.features) + len(layout.covariates) + 2
        if record.frame != width or len(scaling.names) != len(layout.features):
            raise ValueError(f"its rows have {record.frame} columns instead of {width}")
        parts = {name: MappedRows(folder, record, name, layout) for name in SPLITS if name in record.splits}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} cannot be used ({error!r} in its record): save the data again") from error
    sets = {name: Series(rows, layout, scaling, covariates, record=record) for name, rows in parts.items()}
    return SeriesSets(sets["train"], sets.get("validation"), sets.get("test"))


def record_of(series: Series) -> Record:
    """Record of a data set in memory, with the hash of its values."""
    sha256, count = hashlib.sha256(), 0
    for index in range(len(series)):
        stored = stored_form(series.steps(index))
        sha256.update(np.ascontiguousarray(stored).data)
        count += stored.size
    file = StoredFile(8 * count, sha256.hexdigest())
    return dataclasses.replace(_request(series), splits={"train": Split(len(series), count, {"values": file})})


def _request(series: Series) -> Record:
    """The record of a data set before anything is written."""
    settings = {
        "layout": series.layout.to_dict(),
        "scaling": dataclasses.asdict(series.scaling),
        "covariate_scaling": dataclasses.asdict(series.covariate_scaling),
    }
    frame = series.frame_dim + len(series.layout.covariates) + 2
    left_out = [list(pair) for pair in series.layout.columns.get("left_out", ())]
    plain = json.loads(json.dumps(settings))
    return Record(CORPUS, "float64", frame, plain, [], versions=versions_of([]), left_out=left_out)


def _scaling(fields: Mapping[str, Any]) -> Scaling:
    return Scaling(**{name: tuple(values) for name, values in fields.items()})


def _plain(id_: Any) -> Any:
    """An identifier in JSON's types."""
    id_ = id_.item() if isinstance(id_, np.generic) else id_
    if isinstance(id_, bool) or not isinstance(id_, str | int | float):
        raise TypeError(f"identifiers must be text or numbers to be saved, got {id_!r}: convert them with str")
    return id_
