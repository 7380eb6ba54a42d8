"""A plot of forecasts."""

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..checks import require_count, require_tensor
from .plot_axes import axes, index

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_forecast(
    forecast: Any,
    sequence: int = 0,
    feature: int = 0,
    *,
    x: Tensor | None = None,
    future: Tensor | None = None,
    most: int = 50,
    ax: "Axes | None" = None,
) -> "Axes":
    """Plot the median and the middle 50 and 90 % of the samples of a sequence, after its last frames.

    Args:
        forecast: result of ``net.forecast``.
        sequence: index of the sequence.
        feature: index of the element of a frame.
        x: the sequences, (batch, time, frame) or (batch, time), to plot the frames before; none if None.
        future: the frames that came, (batch, horizon, frame) or (batch, horizon), in the same units; none if None.
        most: frames before the forecast to plot.
        ax: axes of the plot; a new figure if None.

    Raises:
        TypeError: no result of ``net.forecast``, or x or future no tensor.
        ValueError: an index out of range, or frames of other sequences.
    """
    if not all(hasattr(forecast, name) for name in ("dims", "isel", "sizes")) or forecast.dims[:3] != (
        "sample",
        "sequence",
        "step",
    ):
        raise TypeError(f"forecast must be a result of net.forecast, got {type(forecast).__name__}")
    ax, most = axes(ax), require_count("most", most)
    sequence = index("sequence", sequence, forecast.sizes["sequence"])
    one = forecast.isel(sequence=sequence)
    values = one.values.reshape(*one.shape[:2], -1)
    feature = index("feature", feature, values.shape[2])
    values, steps = values[..., feature], np.arange(1, values.shape[1] + 1)
    for share, alpha in ((0.9, 0.25), (0.5, 0.45)):
        low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2], axis=0)
        ax.fill_between(steps, low, high, color="C0", alpha=alpha, lw=0, label=f"{100 * share:.0f} %")
    ax.plot(steps, np.median(values, axis=0), "C0.-", lw=1, ms=4, label="median")
    length = int(one["length"])
    for name, given, kept in (("x", x, slice(max(0, length - most), length)), ("future", future, slice(None))):
        if given is None:
            continue
        frames = require_tensor(name, given)
        rank = 2 + len(forecast.dims) - 3
        least = length if name == "x" else 1
        if len(frames) != forecast.sizes["sequence"] or frames.dim() != rank or frames.shape[1] < least:
            raise ValueError(
                f"{name} must hold frames of the {forecast.sizes['sequence']} sequences of the forecast, of the same "
                f"rank, got shape {tuple(frames.shape)}"
            )
        shown = frames[sequence].detach().cpu().reshape(frames.shape[1], -1)[kept, feature].numpy()
        first = 1 - len(shown) if name == "x" else 1
        ax.plot(np.arange(first, first + len(shown)), shown, "k.-" if name == "x" else "kx", lw=1, ms=4, label=name)
    dims = forecast.dims[3:]
    label = str(feature) if len(dims) != 1 else str(one[dims[0]].values[feature])
    ax.legend()
    ax.set(xlabel="steps after the end", ylabel=f"feature {label}", title=f"sequence {one['sequence'].values}")
    return ax
