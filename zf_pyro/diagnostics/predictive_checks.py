"""Predictive checks: statistics of the observed sequences against those of replicated ones."""

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import require_choice, require_count, require_number
from .arviz_versions import group

if TYPE_CHECKING:
    from xarray import DataArray

Statistic = Callable[[np.ndarray], np.ndarray]
"""From frames (sequence, step, feature), NaN for padding, to an array of any shape."""


class PredictiveCheck(NamedTuple):
    """Statistic of the data, and of each replicated data set."""

    observed: np.ndarray
    """Statistic of the data; (...)."""
    replicated: np.ndarray
    """Statistic of each replicate; (draw, ...), draws of all chains."""
    features: tuple[str, ...] = ()
    """Names of the features, as given to :func:`zf_pyro.to_arviz`; their numbers otherwise."""

    @property
    def p_value(self) -> np.ndarray:
        """Share of replicates at or above the observed value, (...). Near 0 or 1 the model does not fit.

        Gelman, Meng, Stern 1996, https://www.jstor.org/stable/24306036. Ties count one half.
        """
        above, ties = self.replicated > self.observed, self.replicated == self.observed
        return above.mean(0) + 0.5 * ties.mean(0)

    @property
    def surprise(self) -> np.ndarray:
        """Observed value minus mean replicate, in standard deviations of the replicates; (...)."""
        return (self.observed - self.replicated.mean(0)) / self.replicated.std(0)


def predictive_check(data: Any, statistic: Statistic, group_name: str = "prior_predictive") -> PredictiveCheck:
    """Compare a statistic of the observed frames with that of the replicated ones.

    ``prior_predictive`` holds sequences from the model alone: it shows whether they resemble the data.
    ``posterior_predictive`` holds frames sampled given the true frames before and the inferred latents: it shows
    whether the density of a frame fits, and is too optimistic about everything else.

    Args:
        data: result of :func:`zf_pyro.to_arviz` with observed_data and ``group_name``.
        statistic: statistic of a data set (sequence, step, feature), for example :func:`autocorrelation`. Frames of
            several dimensions are flattened to features.
        group_name: ``"prior_predictive"`` or ``"posterior_predictive"``.

    Raises:
        ValueError: an unknown group, or one that is missing in ``data``.
    """
    require_choice("group_name", group_name, ("prior_predictive", "posterior_predictive"))
    if not callable(statistic):
        raise TypeError(f"statistic must be a function of frames, such as quantiles(), got {type(statistic).__name__}")
    frames = group(data, "observed_data")["x"]
    observed = _frames(frames.values)
    drawn = group(data, group_name)["x"].values
    replicates = drawn.reshape(-1, *drawn.shape[2:])
    replicated = np.stack([statistic(_frames(draw)) for draw in replicates])
    return PredictiveCheck(statistic(observed), replicated, _feature_names(frames))


def autocorrelation(max_lag: int = 5) -> Statistic:
    """Autocorrelation of each feature, pooled over sequences; a statistic of shape (lag 1..max_lag, feature).

    Deviations are from the mean over all sequences, so differences between sequences count as correlation.

    Raises:
        ValueError: ``max_lag`` is not a positive integer; or, when called, no sequence is longer than it.
    """
    max_lag = require_count("max_lag", max_lag)

    def statistic(x: np.ndarray) -> np.ndarray:
        if max_lag >= x.shape[1]:
            raise ValueError(f"max_lag must be less than the {x.shape[1]} steps of the sequences, got {max_lag}")
        centred = x - np.nanmean(x, axis=(0, 1))
        variance = np.nanmean(centred**2, axis=(0, 1))
        lags = range(1, max_lag + 1)
        return np.stack([np.nanmean(centred[:, lag:] * centred[:, :-lag], axis=(0, 1)) / variance for lag in lags])

    return statistic


def quantiles(levels: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> Statistic:
    """Marginal quantiles of each feature over all frames; a statistic of shape (level, feature).

    Raises:
        TypeError: ``levels`` is no sequence.
        ValueError: a level that is no probability.
    """
    if not isinstance(levels, Sequence | np.ndarray) or isinstance(levels, str) or not len(levels):
        raise TypeError(f"levels must be some probabilities, got {levels!r}")
    levels = tuple(require_number("levels", level, "probabilities in [0, 1]", 0.0, 1.0) for level in levels)

    def statistic(x: np.ndarray) -> np.ndarray:
        return np.nanquantile(x, levels, axis=(0, 1))

    return statistic


def spectrum(num_frequencies: int = 8) -> Statistic:
    """Log power of each feature at frequencies from 0 to 1/2 cycles per frame; a statistic (frequency, feature).

    Power is the squared Fourier sum over the real frames, divided by their number, averaged over sequences. So
    sequences of any lengths share the same frequencies.

    Raises:
        ValueError: ``num_frequencies`` is not a positive integer.
    """
    num_frequencies = require_count("num_frequencies", num_frequencies)

    def statistic(x: np.ndarray) -> np.ndarray:
        real = ~np.isnan(x[..., 0])
        frames = np.where(real[..., None], x - np.nanmean(x, axis=(0, 1)), 0.0)
        frequency = np.linspace(0.0, 0.5, num_frequencies)
        waves = np.exp(-2j * np.pi * frequency[:, None] * np.arange(x.shape[1]))
        power = np.abs(np.einsum("kt,stf->skf", waves, frames)) ** 2 / real.sum(1)[:, None, None]
        return np.log(power.mean(0))

    return statistic


def _feature_names(frames: "DataArray") -> tuple[str, ...]:
    """Names of the features of frames (sequence, step, ...), with several dimensions flattened as the frames are."""
    names = [[str(value) for value in frames[dim].values] for dim in frames.dims if dim not in ("sequence", "step")]
    return tuple(", ".join(each) for each in itertools.product(*names)) if names else ("0",)


def _frames(x: np.ndarray) -> np.ndarray:
    """Frames as floats with one feature dimension, (sequence, step, feature)."""
    return x.astype(np.float64).reshape(*x.shape[:2], -1)
