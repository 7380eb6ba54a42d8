"""Files that are there whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file that appears under its name only once all of it is on the disk.

    Whenever the process dies, ``path`` holds what it held before, or the whole of the new file. What then stays behind
    is a file ``.NAME.*.partial`` beside it (:func:`remove_partial`).

    Args:
        path: the file, replaced if it exists; its folder is made.
        write: given the open file.

    Raises:
        OSError: the disk is full, or another error of the system; ``path`` is then what it was.
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


def remove_partial(folder: Path) -> None:
    """Remove what processes that died while writing into ``folder`` left there."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)
