"""Checks of arguments that every wing shares: positive integers, and particles that fit in memory."""

from numbers import Integral
from pathlib import Path

import torch

GIB = 2**30
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def require_count(name: str, value: object, least: int = 1) -> int:
    """The argument ``name`` as an integer.

    Args:
        name: the argument's name, for the error.
        value: what came; Python and numpy integers are taken, booleans are not.
        least: the smallest integer allowed.

    Raises:
        ValueError: ``value`` is no integer, or below ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return int(value)


def require_room(num_particles: int, bytes_each: int, device: torch.device, name: str = "num_particles") -> None:
    """Refuse particles that do not fit in memory.

    Args:
        num_particles: requested number.
        bytes_each: memory that each takes, in bytes.
        device: device of the particles.
        name: the argument's name.

    Raises:
        MemoryError: they take more than is free; says how many would fit.
    """
    free = available_bytes(device)
    if free is not None and num_particles * bytes_each > free:
        raise MemoryError(
            f"{name} must be at most {free // bytes_each} to fit in the {free / GIB:.3g} GiB free on {device}, got "
            f"{num_particles}, which take about {num_particles * bytes_each / GIB:.3g} GiB: use fewer, fewer "
            "sequences at once, or shorter ones"
        )


def available_bytes(device: torch.device) -> int | None:
    """Free memory of ``device`` in bytes; None where the system does not tell."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    limits = [_meminfo(), _cgroup()]
    return min((limit for limit in limits if limit is not None), default=None)


def _meminfo() -> int | None:
    """Linux's estimate of memory available without swapping (``man 5 proc_meminfo``, MemAvailable)."""
    if not _MEMINFO.exists():
        return None
    fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines() if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None


def _cgroup() -> int | None:
    """The rest of a container's limit (Linux, cgroup v2, memory.max)."""
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if not limit.exists() or not used.exists() or limit.read_text().strip() == "max":
        return None
    return max(0, int(limit.read_text()) - int(used.read_text()))
