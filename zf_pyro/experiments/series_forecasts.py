"""Forecasts of a trained network as a table with names, identifiers and times, in original units."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro
import torch

from ..checks import require_count, require_number, require_seed
from ..data import Series, collate_series, progress_bar
from ..evaluation import FilterForecaster
from ..models import StochasticRNN

AT_ONCE = 64
"""Sequences that are forecast at once."""


def forecast_table(
    net: StochasticRNN,
    series: Series,
    horizon: int,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    num_samples: int = 500,
    num_particles: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> Any:
    """Mean and quantiles of forecasts, a row per sequence and step.

    Args:
        net: the network, in evaluation mode.
        series: sequences of :func:`zf_pyro.data.continued`: the last ``horizon`` steps are to be forecast.
        horizon: steps of each forecast.
        quantiles: between 0 and 1.
        num_samples: samples of each forecast.
        num_particles: particles of the filter.
        seed: random seed of the samples.
        progress: whether to show a progress bar.

    Returns:
        A table of pandas: the column of identifiers, that of times (or ``step``), and for each feature ``NAME_mean``
        and ``NAME_QUANTILE``.

    Raises:
        TypeError, ValueError: as ``net.forecast``, or a quantile out of range.
    """
    import pandas as pd

    horizon = require_count("horizon", horizon)
    levels = [require_number("quantiles", level, "between 0 and 1", 0.0, 1.0, "()") for level in quantiles]
    forecaster = FilterForecaster(net, num_samples=num_samples, num_particles=num_particles)
    pyro.set_rng_seed(require_seed("seed", seed))
    ends = series.lengths - horizon
    found: list[np.ndarray] = []
    with progress_bar("forecasts", "sequence", len(series), progress) as bar:
        for first in range(0, len(series), AT_ONCE):
            rows = range(first, min(first + AT_ONCE, len(series)))
            past = collate_series([series.read(index, 0, int(ends[index])) for index in rows])
            whole = collate_series([series[index] for index in rows])
            observed = past.observed if net.flag_dim or _has_gaps(past.observed, past.lengths) else None
            samples = forecaster(past.x, past.lengths, horizon, covariates=whole.covariates, observed=observed)
            values = np.asarray(series.inverse(samples.double()))
            found.append(np.stack([values.mean(0), *np.quantile(values, levels, axis=0)]))
            bar.update(len(rows))
    summary = np.concatenate(found, axis=1)  # (1 + quantiles, sequence, horizon, feature)
    axis, columns = series.layout.axis, dict[str, Any]()
    columns[series.layout.sequence] = np.repeat(np.array(series.ids, object), horizon)
    times = np.concatenate([series.steps(index, int(ends[index])).times for index in range(len(series))])
    columns[axis.name] = axis.index(times)
    for i, feature in enumerate(series.features):
        for name, values in zip(["mean", *(f"{level:g}" for level in levels)], summary, strict=True):
            columns[f"{feature}_{name}"] = values[..., i].ravel()
    return pd.DataFrame(columns).infer_objects()


def _has_gaps(observed: torch.Tensor | None, lengths: torch.Tensor) -> bool:
    """True if an element of observed (batch, time, frame) is missing before the ends of sequences, lengths (batch,)."""
    if observed is None:
        return False
    real = torch.arange(observed.shape[1]) < lengths.unsqueeze(1)
    return not bool(observed.all(-1)[real].all())


def with_ends(series: Series, horizon: int) -> Series:
    """The series themselves, whose last ``horizon`` steps have covariates and no values.

    Raises:
        ValueError: a sequence with values there, or without steps before them.
    """
    horizon = require_count("horizon", horizon)
    for index, length in enumerate(series.lengths.tolist()):
        if length <= horizon:
            raise ValueError(f"sequence {series.ids[index]!r} has {length} steps, so none before {horizon} to forecast")
        if not np.isnan(series.steps(index, length - horizon).values).all():
            raise ValueError(
                f"sequence {series.ids[index]!r} has values in its last {horizon} steps: a forecast with the "
                f"covariates {series.layout.varying} needs those of the steps to come, in --future or in "
                "rows at the end that have no values"
            )
    return series
