"""A lock on the folder of a run, which does not outlive its process."""

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK = "run.lock"
"""File name of the lock: JSON with host, process id and start time."""
_HELD: dict[Path, tuple[int, int]] = {}
"""Locks of this process, with the process and thread that hold each. A forked process inherits the entry alone."""

_THREADS = threading.Lock()


class FolderInUseError(RuntimeError):
    """Another run is writing to the folder."""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is created if missing.

    The lock of a process that has died on this host is taken over. Within one thread the lock can be held repeatedly.

    Raises:
        FolderInUseError: another process holds it, another thread, or a process on another host.
    """
    path, me = folder.absolute() / LOCK, (os.getpid(), threading.get_ident())
    if _HELD.get(path) == me:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _THREADS:
        owner = _acquire(path)
        _HELD[path] = me
    try:
        yield
    finally:
        with _THREADS, contextlib.suppress(FileNotFoundError):  # the folder may have been removed
            _HELD.pop(path, None)
            with _alone(path.parent):
                if _read(path) == owner:
                    path.unlink(missing_ok=True)


def _acquire(path: Path) -> dict[str, Any]:
    """Create the lock, or take over that of a dead process; returns its content."""
    pid = os.getpid()
    owner = {
        "host": platform.node(),
        "process": pid,
        "process_started": _started(pid),
        "boot": _boot(),
        "began": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    with _alone(path.parent):
        if path.exists() and _is_stale(path, _read(path)):
            path.unlink(missing_ok=True)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            other = _read(path) or {}
            raise FolderInUseError(
                f"{path.parent} is in use by the run of process {other.get('process')} on {other.get('host')}, which "
                f"began at {other.get('began')}: wait for its end, or give another out; if that process has ended, "
                f"remove {path}"
            ) from None
        try:
            os.write(handle, json.dumps(owner).encode())
        except OSError:  # the disk is full
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
    return owner


def _is_stale(path: Path, other: dict[str, Any] | None) -> bool:
    """True if the lock is of a process that has died: on this host, or while it created the lock.

    Raises:
        FolderInUseError: the file is no lock.
    """
    if other is None:
        if path.stat().st_size == 0:
            return True  # killed between creating and writing it
        raise FolderInUseError(f"{path} is no lock of zf_pyro: move it elsewhere, or give another out")
    if other.get("host") != platform.node():
        return False
    pid = other.get("process")
    if pid == os.getpid():
        return other.get("process_started") != _started(pid) or path not in _HELD
    return (
        not isinstance(pid, int)
        or other.get("boot") != _boot()
        or not _is_alive(pid)
        or other.get("process_started") != _started(pid)
    )


def _read(path: Path) -> dict[str, Any] | None:
    """Content of a lock; None if there is none or if the file is no lock."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "process" in found else None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time looks at the lock, so that two do not take over the same one."""
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` from the third, the state, on (Linux, ``man 5 proc_pid_stat``); else empty."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks since the system's; it tells apart processes with the same id."""
    fields = _stat(pid)
    return fields[19] if fields else None


def _is_alive(pid: int) -> bool:
    fields = _stat(pid)
    if fields:
        return fields[0] not in "ZX"  # killed, but its parent has not noticed
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot() -> str | None:
    """Identity of the system's start (Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
