"""Hidden folders in which data is prepared: locked while their run lives, moved into place, swept after a kill."""

import contextlib
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"
"""File in a partial folder that its run holds locked."""


def move(folder: Path, out: Path) -> None:
    """Move ``folder`` to ``out``. A run killed between the two moves leaves no ``out``, never a mixed one."""
    if out.exists() and any(out.iterdir()):
        old = folder.with_suffix(".old.partial")
        (out / LOCK).touch()  # held by no process: the next run removes ``old`` if this one is killed
        out.rename(old)
        folder.rename(out)
        remove(old)
    else:
        folder.rename(out)
    (out / LOCK).unlink()
    sync_folder(out.parent)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock in ``folder``, which the system releases when the process ends, however it ends."""
    import fcntl  # missing on some systems; only preparing needs it

    with open(folder / LOCK, "w") as file:
        with contextlib.suppress(OSError):  # a file system without locks: nothing is swept there
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sweep(out: Path) -> None:
    """Remove the folders that killed runs left beside ``out``: those whose lock no process holds, and empty ones."""
    import fcntl

    for folder in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        try:
            with open(folder / LOCK, "r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        except OSError:
            continue
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a folder, its lock last: if this run is killed too, the next one sees a lock that no process holds."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Wait until the entries of a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def umask() -> int:
    """Return the permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
