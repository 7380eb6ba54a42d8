"""Files that are written whole or not at all."""

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that appears under its name only when all of it is on the disk.

    If the process dies, ``path`` holds its old content or all of the new one. A file ``.NAME.*.partial`` may then
    remain beside it (:func:`remove_partial`).

    Args:
        path: the file, replaced if it exists; its folder is made.
        write: function that fills the open file.

    Raises:
        OSError: the disk is full, or another error of the system. ``path`` is then unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".partial", delete=False) as file:
        partial = Path(file.name)
        try:
            write(file)  # type: ignore[arg-type]  # a file all the same
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself
    finally:
        os.close(folder)


def remove_partial(folder: Path, names: str) -> None:
    """Remove partial files of processes that died in :func:`write_atomically`.

    Args:
        folder: folder of the files.
        names: regular expression of the files that were to be written. Partial files of others stay.
    """
    for partial in folder.glob(".*.partial"):
        if re.fullmatch(rf"\.(?:{names})\.[a-z0-9_]{{8}}\.partial", partial.name) and partial.is_file():
            partial.unlink(missing_ok=True)
