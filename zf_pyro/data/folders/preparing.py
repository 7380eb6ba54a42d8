"""Prepared folders, written sequence by sequence and moved into place in one step, or not at all."""

import contextlib
import dataclasses
import errno
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import require_flag
from .partial import LOCK, locked, move, remove, sweep, sync_folder, umask
from .record import DTYPES, RECORD, Record, digest, file_name, read_record
from .writer import SplitWriter, sync

VOCABULARY = "tokenizer.json"
"""File that text adds to a prepared folder."""


class Preparation:
    """Prepared folder while it is written: first its splits, then the record fields known only afterwards.

    Attributes:
        record: content of ``record.json`` so far; :meth:`split` and :meth:`note` replace it.
    """

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder, self.record = folder, record

    @contextlib.contextmanager
    def split(self, name: str) -> Iterator[SplitWriter]:
        """Open a writer for one split, for example ``train``."""
        if not re.fullmatch(r"\w+", name) or name in self.record.splits:
            raise ValueError(f"a split needs a name of its own, of letters, digits and _, got {name!r}")
        writer = SplitWriter(self.folder, name, self.record.dtype)
        try:
            yield writer
            split = writer.finish()
        finally:
            writer.abandon()
        self.record = dataclasses.replace(self.record, splits={**self.record.splits, name: split})

    def note(self, **changes: Any) -> None:
        """Set fields of the record, for example ``mean`` and ``scale``."""
        self.record = dataclasses.replace(self.record, **changes)


def existing(out: Path, request: Record, *, overwrite: bool) -> Record | None:
    """Return the record of ``out`` if it holds the requested data, and None if it has to be written.

    Raises:
        FileExistsError: ``out`` holds something else, or cannot be replaced.
        ValueError: ``out`` holds the requested data, but damaged.
    """
    if not require_flag("overwrite", overwrite) and prepared(out, request):
        return read_record(out)
    _refuse_foreign(out.absolute(), overwrite)
    return None


def require_same(out: Path, request: Record, *, hashes: bool = True) -> Record | None:
    """Return the record of ``out`` if it agrees with the request, and None if ``out`` is empty or missing.

    Args:
        out: the folder.
        request: the record as far as it is known.
        hashes: compare the content of the sources, too.

    Raises:
        FileExistsError: ``out`` holds something else.
    """
    if _is_free(out):
        return None
    try:
        record = read_record(out)
    except FileNotFoundError as error:
        raise FileExistsError(f"{out} exists and is no prepared data: give another folder with --out") from error
    differing = [name for name in record.same_request(request) if hashes or name != "hashes"]
    if differing:
        raise FileExistsError(
            f"{out} holds data prepared otherwise ({'; '.join(_difference(record, request, differing))}): "
            "give another folder with --out, or replace it with --overwrite"
        )
    return record


def prepared(out: Path, request: Record) -> bool:
    """Return True if ``out`` holds the requested data, complete and unchanged, and False if it is empty or missing.

    Every byte is read.

    Raises:
        FileExistsError: ``out`` holds something else.
        ValueError: ``out`` holds the requested data, but damaged.
    """
    record = require_same(out, request)
    if record is None:
        return False
    for split, stored in record.splits.items():
        for kind in stored.files:
            values = open_array(out, record, split, kind)
            if digest(values) != stored.files[kind].sha256:
                raise ValueError(f"{out / file_name(split, kind)} was changed after it was prepared: use --overwrite")
    return True


@contextlib.contextmanager
def preparing(out: Path, request: Record, *, overwrite: bool = False) -> Iterator[Preparation]:
    """Write a new folder, which appears at ``out`` in one move when the block ends, complete and on disk.

    Until then everything lies in a hidden folder beside it, ``.NAME.*.partial``. An error in the block removes that
    folder. The next run removes what a killed run left behind.

    Args:
        out: the folder to write. Its parent is created if missing.
        request: the record as far as it is known.
        overwrite: replace an ``out`` that holds prepared data.

    Raises:
        FileExistsError: ``out`` is not empty, and either ``overwrite`` is off, or it holds no prepared data, or it
            holds further files, which are not deleted.
        OSError: the disk is full; the message names ``out``.
    """
    if request.dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {request.dtype!r}")
    if request.frame is not None and request.frame < 1:
        raise ValueError(f"frame must be a positive number of values, or None for symbols, got {request.frame}")
    out = out.absolute()
    _refuse_foreign(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    sweep(out)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    with locked(folder):
        try:
            preparation = Preparation(folder, request)
            yield preparation
            _check(preparation.record, out)
            with open(folder / RECORD, "w", encoding="utf-8") as file:
                file.write(preparation.record.to_json())
                sync(file)
            folder.chmod(0o777 & ~umask())
            sync_folder(folder)
            _refuse_foreign(out, overwrite)
            move(folder, out)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(
                    error.errno,
                    f"no space left to prepare {out}; nothing was kept: free some, or give another disk with --out",
                ) from error
            raise
        finally:
            remove(folder)


def open_array(folder: Path, record: Record, split: str, kind: str) -> np.ndarray:
    """Open an array of a prepared folder, (elements,), memory-mapped for reading; nothing is ever unpickled.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: its size or dtype differs from the record.
    """
    path, stored = folder / file_name(split, kind), record.splits[split].files[kind]
    again = "the folder is incomplete or foreign; prepare it again with --overwrite"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {again}")
    if path.stat().st_size != stored.bytes:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, its record says {stored.bytes}: {again}")
    try:
        values: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{path} is no array that can be read ({error}): {again}") from error
    dtype = np.dtype(record.dtype if kind == "values" else "int64").newbyteorder("<")
    if values.dtype != dtype or values.ndim != 1:
        raise ValueError(f"{path} holds {values.dtype} of shape {values.shape}, its record says {dtype.name}: {again}")
    return values


def _is_free(out: Path) -> bool:
    """True if ``out`` is missing or an empty folder."""
    return not out.exists() or (out.is_dir() and not any(out.iterdir()))


def _difference(record: Record, request: Record, fields: list[str]) -> Iterator[str]:
    """Describe each field in which the stored record differs from the request."""
    for name in fields:
        ours, theirs = getattr(request, name), getattr(record, name)
        if name == "settings":
            keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
            yield from (f"{key} {theirs.get(key)!r} there, {ours.get(key)!r} now" for key in keys)
        elif name == "sources":
            yield f"other source files: {len(theirs)} there, {len(ours)} now{_first(dict(theirs), dict(ours))}"
        elif name == "hashes" and theirs and "sources" not in fields:
            yield f"source files with other content{_first(theirs, ours)}"
        elif name == "hashes" and not theirs:
            yield "no hashes of the source files there: an older version prepared it"
        elif name != "hashes":
            yield f"{name} {theirs!r} there, {ours!r} now"


def _first(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """Name the first of the files that differ."""
    differing = sorted(name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name))
    return f", first {differing[0]}" if differing else ""


def _check(record: Record, out: Path) -> None:
    try:
        record.check()
    except ValueError as error:
        raise ValueError(f"{out} was not written: {error}: see that all values are finite") from error


def require_place(out: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, an ``out`` that can neither be written nor hold the requested data already.

    Raises:
        FileExistsError: ``out`` is a symbolic link, a file, or a folder that may not be replaced.
    """
    if overwrite or not (out / RECORD).is_file():
        _refuse_foreign(out.absolute(), overwrite)


def _refuse_foreign(out: Path, overwrite: bool) -> None:
    require_flag("overwrite", overwrite)
    if out.is_symlink():
        raise FileExistsError(
            f"{out} is a symbolic link to {out.readlink()}, which a folder cannot replace in one move: "
            "give the folder that it leads to, or another one, with --out"
        )
    if _is_free(out):
        return
    if not (out / RECORD).is_file():
        raise FileExistsError(f"{out} exists and is no prepared data, so it is not replaced: give another folder")
    if not overwrite:
        raise FileExistsError(f"{out} holds prepared data: give another folder, or replace it with --overwrite")
    foreign = _not_written(out)
    if foreign:
        raise FileExistsError(
            f"{out} is not replaced, since it holds what no preparation wrote: {', '.join(foreign[:3])}; move "
            f"{'it' if len(foreign) == 1 else 'them'} away, or give another folder"
        )


def _not_written(out: Path) -> list[str]:
    """Names in a prepared folder that no preparation wrote."""
    found = {path.name for path in out.iterdir()} - {RECORD, VOCABULARY, LOCK}
    try:
        splits = read_record(out).splits
    except ValueError:  # damaged, which is why it is replaced
        return sorted(name for name in found if not name.endswith(".npy"))
    return sorted(found - {file_name(split, kind) for split, stored in splits.items() for kind in stored.files})
