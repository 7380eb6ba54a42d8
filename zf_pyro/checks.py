"""Checks that every wing shares: numbers, choices, tensors, particles that fit in memory, and the reader of flags."""

import math
import os
import sys
from collections.abc import Collection
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GIB = 2**30
LARGEST = 2**63
"""Integers of torch are smaller."""
SEEDS = 2**32
"""Seeds that all random generators take: NumPy's take no more."""
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def require_count(name: str, value: object, least: int = 1) -> int:
    """The argument ``name`` as an integer.

    Args:
        name: the argument's name, for the error.
        value: what came; Python and numpy integers are taken, booleans are not.
        least: the smallest integer allowed.

    Raises:
        ValueError: ``value`` is no integer, below ``least``, or too large for a tensor.
    """
    expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
    if isinstance(value, Integral) and int(value) >= LARGEST:
        expected += " and below 2^63"
    return require_integer(name, value, expected, least)


def require_integer(name: str, value: object, expected: str, low: int = 0, high: int = LARGEST - 1) -> int:
    """The argument ``name`` as an integer from ``low`` to ``high``.

    Args:
        name: the argument's name, for the error.
        value: what came; Python and numpy integers are taken, booleans are not.
        expected: what is allowed, for the error.
        low: the smallest integer allowed.
        high: the largest.

    Raises:
        ValueError: ``value`` is no such integer.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ValueError(f"{name} must be {expected}, got {_shown(value)}")
    return int(value)


def require_number(
    name: str,
    value: object,
    expected: str,
    low: float = -math.inf,
    high: float = math.inf,
    ends: str = "[]",
    advice: str = "",
) -> float:
    """The argument ``name`` as a float.

    Args:
        name: the argument's name, for the error.
        value: what came; Python and numpy numbers are taken, booleans, tensors and infinities are not.
        expected: what is allowed, for the error.
        low: lower end of the interval allowed.
        high: upper end.
        ends: whether the interval holds its ends: a square bracket for an end that it holds, else a round one.
        advice: what to do, for the error.

    Raises:
        ValueError: ``value`` is no number, or outside of the interval.
    """
    number = _number(value)
    if (
        number is None
        or not low <= number <= high
        or (number == low and ends[0] == "(")
        or (number == high and ends[1] == ")")
    ):
        raise ValueError(f"{name} must be {expected}, got {_shown(value)}{advice}")
    return number


def require_flag(name: str, value: object) -> bool:
    """The argument ``name`` as a bool.

    Raises:
        TypeError: ``value`` is neither True nor False. Any other value would count as one of them.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {_shown(value)}")
    return bool(value)


def require_choice(name: str, value: object, choices: Collection[str]) -> str:
    """The argument ``name`` as one of ``choices``.

    Raises:
        ValueError: it is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {sorted(choices)}, got {_shown(value)}")
    return value


def require_name(name: str, value: object) -> str:
    """The argument ``name`` as a text that is not empty.

    Raises:
        TypeError: ``value`` is no string.
        ValueError: it is empty.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {_shown(value)}")
    if not value:
        raise ValueError(f"{name} must not be empty")
    return value


def require_path(name: str, value: Any) -> Path:
    """The argument ``name`` as a path.

    Raises:
        TypeError: ``value`` is neither a string nor a path.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"{name} must be a path, as a string or pathlib.Path, got {_shown(value)}")
    return Path(value)


def require_seed(name: str, value: object) -> int:
    """The argument ``name`` as a seed, an integer from 0 to 2^32 - 1.

    Raises:
        ValueError: it is no such integer.
    """
    return require_integer(name, value, f"an integer from 0 to {SEEDS - 1}", high=SEEDS - 1)


def require_tensor(name: str, value: Any) -> Tensor:
    """The argument ``name`` as a tensor, (...).

    Raises:
        TypeError: it is none; says how to make one of an array, a list or a batch.
    """
    if isinstance(value, Tensor):
        return value
    got = type(value).__name__
    if value is None:
        advice = ""
    elif isinstance(value, tuple) and any(isinstance(part, Tensor) for part in value):
        advice = f"; give the parts of a batch one by one, such as *{name} for {name}, lengths"
    elif isinstance(value, list | tuple) and any(isinstance(part, Tensor | np.ndarray | list) for part in value):
        advice = "; convert it with torch.as_tensor, or sequences of several lengths with zf_pyro.data.collate"
    elif hasattr(value, "to_numpy"):
        advice = "; convert it with torch.as_tensor(....to_numpy())"
    elif isinstance(value, list | tuple | np.ndarray | Real):
        advice = "; convert it with torch.as_tensor"
    else:
        advice = ""
    raise TypeError(f"{name} must be a torch.Tensor, got {got}{advice}")


def require_array(name: str, value: Any) -> np.ndarray:
    """The argument ``name`` as an array, (...).

    Raises:
        TypeError: it is no tensor with data, array or list of values.
    """
    try:
        if isinstance(value, Tensor):
            return value.detach().cpu().numpy()
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        got = f"a tensor on {value.device}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a tensor, an array or a list of values, got {got}") from error


def int64(lengths: Any, name: str = "lengths") -> Any:
    """Lengths (batch,) of any integer type as int64, which indexing needs; None stays.

    Raises:
        TypeError: no tensor of integers.
    """
    if lengths is None or (isinstance(lengths, Tensor) and lengths.dtype == torch.int64):
        return lengths
    if not isinstance(lengths, Tensor) or lengths.dtype == torch.bool or lengths.is_floating_point():
        got = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        advice = "; convert them with torch.as_tensor" if isinstance(lengths, list | tuple | np.ndarray) else ""
        raise TypeError(f"{name} must be a tensor of integers, got {got}{advice}")
    if lengths.is_complex() or lengths.is_quantized:
        raise TypeError(f"{name} must be a tensor of integers, got {lengths.dtype}")
    return lengths.long()


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


def _number(value: object) -> float | None:
    """``value`` as a finite float; None if it is none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer too large
        return None
    return number if math.isfinite(number) else None


def _shown(value: object) -> str:
    """``value`` for an error, in one line of at most 200 characters; NumPy's scalars as plain numbers."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 200 and "\n" not in text else type(value).__name__


def require_jsonargparse(extra: str) -> Any:
    """The module jsonargparse, which makes flags of the parameters of functions.

    Args:
        extra: the extra of this package that brings it, for the message.

    Raises:
        SystemExit: it is not installed; of status 2, after a line on stderr that says what to install.
    """
    try:
        import jsonargparse
    except ImportError:
        print(f"error: the command line needs jsonargparse: pip install zf-pyro[{extra}]", file=sys.stderr)
        sys.exit(2)
    return jsonargparse
