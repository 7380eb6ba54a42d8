"""Times of the steps: as they came, as plain numbers, on a regular grid, and beyond the last step."""

import dataclasses
import functools
from numbers import Real
from typing import Any

import numpy as np

from ...checks import require_count, require_number

KINDS = ("step", "integer", "float", "datetime", "timedelta")
"""Kinds of times. ``step``: none were given, so steps count from 0. Dates and durations are integers of nanoseconds,
dates in UTC."""
CLOSE = 1e-6
"""Distance from a regular grid that times of type float may have, in parts of its step: rounding in the last digits."""
HALF = 2**32
SECOND = 1e9
"""Nanoseconds."""
MOST = 100
"""Steps that a regular grid may have for each given step. Beyond it, the frequency is likely a mistake."""


@dataclasses.dataclass(frozen=True)
class TimeAxis:
    """Name and kind of the times of a data set, and its frequency."""

    name: str = "step"
    kind: str = "step"
    """One of :data:`KINDS`."""
    zone: str | None = None
    """Time zone in which dates were given; None for dates without one."""
    frequency: str | float | None = None
    """Step of a regular grid: an offset of pandas for dates and durations, else a number; None for times as given."""

    @property
    def dtype(self) -> type[np.generic]:
        """Type of the plain numbers."""
        return np.float64 if self.kind == "float" else np.int64

    @property
    def dated(self) -> bool:
        """True for dates and durations."""
        return self.kind in ("datetime", "timedelta")

    def labels(self, times: np.ndarray) -> np.ndarray:
        """Times (...) as NumPy holds them: numbers, datetime64 in UTC, or timedelta64."""
        return times.astype(f"{self.kind}64[ns]") if self.dated else times

    def index(self, times: np.ndarray) -> Any:
        """Times (steps,) as an index of pandas, dates in the zone in which they were given."""
        import pandas as pd

        found = pd.Index(self.labels(times), name=self.name)
        return found if self.zone is None else found.tz_localize("UTC").tz_convert(self.zone)

    def show(self, time: Any) -> str:
        """One time, for an error."""
        return str(self.index(np.array([time]))[0]) if self.dated else str(time)

    def gaps(self, times: np.ndarray) -> np.ndarray:
        """Time since the step before, in seconds for dates and durations; (steps,) float64, 0 at the first."""
        gaps = np.diff(times, prepend=times[:1]).astype(np.float64)
        return gaps / SECOND if self.dated else gaps

    def grid(self, first: Any, last: Any) -> np.ndarray:
        """Times of the regular grid from ``first`` to ``last`` at the frequency; (steps,)."""
        if self.kind == "float":
            step = float(self.frequency or 1)
            return first + step * np.arange(round((last - first) / step) + 1)
        fixed = int(self.frequency or 1) if self.kind == "integer" else _fixed(str(self.frequency), self.zone)
        if fixed:  # counted in integers: numpy.arange counts in float64, which loses the last step of a long grid
            return first + fixed * np.arange((last - first) // fixed + 1)
        return self._range(first, end=last)

    def after(self, last: Any, count: int) -> np.ndarray:
        """The next ``count`` times after ``last``; (count,).

        Raises:
            ValueError: the times have no frequency.
        """
        count = require_count("count", count)
        if self.kind == "step":
            return np.arange(last + 1, last + 1 + count)
        if self.frequency is None:
            raise ValueError(
                "times beyond the last step need a frequency: prepare the data with frequency=, such as 'D' for days"
            )
        if not self.dated:
            return (last + float(self.frequency) * np.arange(1, count + 1)).astype(self.dtype)
        return self._range(last, periods=count + 1)[1:]

    def steps_at_most(self, first: np.ndarray, last: np.ndarray) -> float:
        """Upper estimate of the number of grid steps between ``first`` and ``last``, (sequences,)."""
        if not self.dated:
            return float(((last - first) / float(self.frequency or 1)).sum()) + len(first)
        import pandas as pd

        start, offset = pd.Timestamp(2000, 1, 1), pd.tseries.frequencies.to_offset(self.frequency)
        thirds = 2 if isinstance(offset, pd.tseries.offsets.Tick) else 3  # months and weeks vary
        step = (start + 2 * offset - start).value / thirds
        return float(((last - first) / step).sum()) + len(first)

    def _range(self, first: Any, **until: Any) -> np.ndarray:
        """Times of a range of pandas, in the zone in which they were given, so that days follow its clock."""
        import pandas as pd

        if self.kind == "timedelta":
            ends = {name: pd.Timedelta(value) if name == "end" else value for name, value in until.items()}
            return pd.timedelta_range(pd.Timedelta(first), freq=self.frequency, **ends).as_unit("ns").asi8.copy()
        ends = {name: self._stamp(value) if name == "end" else value for name, value in until.items()}
        found = pd.date_range(self._stamp(first), freq=self.frequency, **ends).as_unit("ns")
        return found.asi8.copy()

    def _stamp(self, time: Any) -> Any:
        import pandas as pd

        stamp = pd.Timestamp(int(time))
        return stamp if self.zone is None else stamp.tz_localize("UTC").tz_convert(self.zone)


@functools.lru_cache
def _fixed(frequency: str, zone: str | None) -> int | None:
    """Nanoseconds of an offset of pandas that is the same everywhere; None for months, and for days of a zone."""
    import pandas as pd

    offset = pd.tseries.frequencies.to_offset(frequency)
    if isinstance(offset, pd.offsets.Day):
        return None if zone else offset.n * 86_400 * int(SECOND)
    return int(offset.nanos) if isinstance(offset, pd.offsets.Tick) else None


def encode(times: np.ndarray) -> np.ndarray:
    """Times (steps,) as two float64 columns (steps, 2) that hold every integer exactly: t = a 2^32 + b."""
    if times.dtype == np.float64:
        return np.stack([np.zeros_like(times), times], axis=1)
    return np.stack([times // HALF, times % HALF], axis=1).astype(np.float64)


def decode(columns: np.ndarray, axis: TimeAxis) -> np.ndarray:
    """Times (steps,) of the two columns of :func:`encode`, (steps, 2)."""
    if axis.kind == "float":
        return columns[:, 1].copy()
    whole: np.ndarray = columns.astype(np.int64)
    return whole[:, 0] * HALF + whole[:, 1]


def with_frequency(axis: TimeAxis, frequency: Any) -> TimeAxis:
    """The axis with a frequency that fits its kind.

    Raises:
        ValueError: no such offset, a number that is not above 0, or data without times.
    """
    if frequency is None:
        return axis
    if axis.kind == "step":
        raise ValueError("frequency needs times, got none: name the column of times as time=")
    if not axis.dated:
        expected = f"a number above 0, in units of the times {axis.name!r}"
        number = require_number("frequency", frequency, expected, 0.0, ends="()")
        if axis.kind == "integer" and number != int(number):
            raise ValueError(f"frequency must be an integer for times that are integers, got {number}")
        return dataclasses.replace(axis, frequency=number)
    import pandas as pd

    refused = "frequency must be a positive offset of pandas, such as 'D', 'h', '15min' or 'MS', got "
    if isinstance(frequency, bool | Real):
        raise ValueError(f"{refused}{frequency!r}: the times {axis.name!r} are dates or durations")
    try:
        offset = pd.tseries.frequencies.to_offset(frequency)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{refused}{frequency!r} ({error})") from error
    fixed = isinstance(offset, pd.tseries.offsets.Tick)
    if offset is None or offset.n < 1 or (axis.kind == "timedelta" and not fixed):
        raise ValueError(f"{refused}{frequency!r}" + (" for durations" if offset is not None and offset.n > 0 else ""))
    return dataclasses.replace(axis, frequency=offset.freqstr)


def read_times(column: Any, name: str) -> tuple[np.ndarray, TimeAxis]:
    """Times of a column of pandas, (steps,), as plain numbers.

    Dates, durations, periods (by their start), integers, floats, and strings or objects that are dates of ISO 8601.

    Raises:
        TypeError: values of another type.
        ValueError: a missing or infinite time, mixed time zones, strings that are no dates, or dates that nanoseconds
            cannot count (before 1678 or after 2261).
    """
    import pandas as pd

    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.to_timestamp()
    if column.dtype == object or isinstance(column.dtype, pd.StringDtype):
        column = _parsed(column, name)
    if column.isna().any():
        raise ValueError(
            f"time column {name!r} has no time in row {column.index[column.isna()][0]!r}: give it, or leave the row out"
        )
    zone = None
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        zone = _zone(column.dtype.tz, name)
        column = column.dt.tz_convert("UTC").dt.tz_localize(None)
    kind = column.dtype.kind
    if kind in "mM":
        try:
            times = column.dt.as_unit("ns").astype("int64").to_numpy()
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"time column {name!r} has dates that nanoseconds cannot count ({error}): give years as numbers"
            ) from error
        return times, TimeAxis(name, "datetime" if kind == "M" else "timedelta", zone)
    if kind in "iu":
        if kind == "u" and len(column) and int(column.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"time column {name!r} has numbers beyond 2^63: subtract an offset")
        return column.to_numpy(np.int64), TimeAxis(name, "integer")
    if kind == "f":
        numbers = column.to_numpy(np.float64)
        if not np.isfinite(numbers).all():
            row = column.index[~np.isfinite(numbers)][0]
            raise ValueError(f"time column {name!r} has an infinite time in row {row!r}: correct it")
        return numbers, TimeAxis(name, "float")
    raise TypeError(f"time column {name!r} must hold dates, durations or numbers, got {column.dtype}")


def _parsed(column: Any, name: str) -> Any:
    """A column of strings or objects as dates or numbers."""
    import pandas as pd

    column = column.infer_objects()
    if column.dtype != object and not isinstance(column.dtype, pd.StringDtype):
        return column
    try:
        found = pd.to_datetime(column, format="ISO8601")
    except (ValueError, TypeError, OverflowError) as error:
        text = str(error).splitlines()[0]
        if "tz" in text.lower() or "timezone" in text.lower():
            raise ValueError(
                f"time column {name!r} mixes time zones ({text}): convert it with pandas.to_datetime(frame[{name!r}], "
                "utc=True)"
            ) from error
        raise ValueError(
            f"time column {name!r} holds text that is no date of ISO 8601 ({text}): convert it with "
            f"pandas.to_datetime(frame[{name!r}], format=...)"
        ) from error
    if found.dtype == object:
        raise ValueError(
            f"time column {name!r} mixes time zones: convert it with pandas.to_datetime(frame[{name!r}], utc=True)"
        )
    return found


def _zone(zone: Any, name: str) -> str:
    import pandas as pd

    try:
        pd.Timestamp(0).tz_localize("UTC").tz_convert(str(zone))
    except Exception as error:  # of many kinds, by the library of zones
        raise ValueError(
            f"time column {name!r} has the time zone {zone}, which cannot be found by name: convert it with "
            f"frame[{name!r}].dt.tz_convert('UTC')"
        ) from error
    return str(zone)
