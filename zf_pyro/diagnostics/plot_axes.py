"""Parts that all plots share: axes, and checks of their arguments."""

from typing import TYPE_CHECKING

from ..checks import require_integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def index(name: str, value: int, size: int) -> int:
    """The argument ``name`` as an index below ``size``."""
    return require_integer(name, value, f"between 0 and {size - 1}", high=size - 1)


def require_result(name: str, value: object, kind: type, function: str) -> None:
    """Refuse what is no result of a function of this wing."""
    if not isinstance(value, kind):
        got = type(value).__name__
        raise TypeError(f"{name} must be a result of zf_pyro.diagnostics.{function}, got {got}")


def axes(ax: "Axes | None") -> "Axes":
    """Return ``ax``, or the axes of a new figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install zf-pyro[diagnostics]") from error
    return pyplot.subplots(layout="constrained")[1]
