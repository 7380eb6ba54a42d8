"""Progress bar of computations that take longer than some seconds."""

from typing import Any

from ..checks import require_flag


def progress_bar(what: str, unit: str, total: int | None, progress: bool) -> Any:
    """Bar on stderr with rate and remaining time, for a ``with`` statement; ``update(count)`` moves it on.

    Args:
        what: the computation, written before the bar.
        unit: what is counted, in the singular, such as "sequence".
        total: their number; None if it is unknown, which leaves out the remaining time.
        progress: whether to show it; the argument of that name of the caller.

    Raises:
        TypeError: ``progress`` is no boolean.
    """
    require_flag("progress", progress)
    from tqdm import tqdm  # comes with Pyro

    return tqdm(total=total, desc=what, unit=unit, disable=not progress)
