"""Evidence of the sequences as ArviZ's ELPDData, with its Monte Carlo error and the k-hat of the weights."""

import hashlib
import warnings
from typing import Any

import numpy as np
from torch import Tensor

from ..checks import require_array
from .arviz_versions import (
    FEWEST_DRAWS,
    elpd_data,
    group,
    is_elpd_data,
    log_mean_exp,
    pareto_k,
)


def evidence(
    data: Any, estimates: Tensor | np.ndarray | None = None, *, errors: Tensor | np.ndarray | float | None = None
) -> Any:
    """Log evidence of the sequences as ArviZ's ELPDData.

    - ``elpd``: sum over sequences of the log-mean-weights, estimates of log p(x_i); ``elpd_i`` one per sequence. With
      fixed parameters this is also the leave-one-out density, and ``p``, the number of parameters, is 0.
    - ``pareto_k``: k-hat of the weights of each sequence. Above ``good_k`` the estimate is unreliable, and as a rule
      too low. ``warning`` is True if there is any.
    - ``mcse``: Monte Carlo standard error of ``elpd`` for these sequences, from the spread of the weights; ``mcse_i``
      one per sequence.
    - ``mc_bias``: expected error of ``elpd`` because the log of an unbiased estimate is too low, to second order.
    - ``se``: standard error over sequences as ArviZ has it, of the sum over as many new sequences. The estimates'
      Monte Carlo errors add to it. ``se_sequences`` is without them.

    All in nats. On ArviZ 0.x ``elpd`` and ``elpd_i`` are also ``elpd_loo`` and ``loo_i``. Where k-hat is above
    ``good_k``, the errors are too small: they rest on the weights that were sampled.

    Args:
        data: result of :func:`zf_pyro.to_arviz` with the group log_likelihood; for ``estimates``, with observed_data.
        estimates: logs of unbiased estimates of p(x_i) from elsewhere, which take the place of the weights: repetitions
            (repetition, sequence), for example ``log_evidence`` of several runs of a particle filter or ``log_weights``
            of :class:`zf_pyro.inference.AnnealedImportanceSampling`; or (sequence,) with ``errors``. k-hat is that of
            the repetitions, and missing if they are fewer than 25.
        errors: standard errors of ``estimates`` (sequence,), or one number for all sequences; 0 for exact values.

    Raises:
        TypeError: ``data`` is no ArviZ data, or ``estimates`` or ``errors`` are no numbers.
        ValueError: a group is missing, or ``estimates`` or ``errors`` have another shape or are not finite.

    Warns:
        UserWarning: a k-hat is above ``good_k``.
    """
    result = measured(data, estimates, errors)
    if result["warning"]:
        many = int((result["pareto_k"] > result["good_k"]).sum())
        warnings.warn(
            f"{many} of {result['n_data_points']} sequences have a k-hat above {result['good_k']:.2f}: few samples "
            "carry their estimates of log p(x), which are as a rule too low. Take more samples, or give "
            "estimates= of a particle filter.",
            UserWarning,
            stacklevel=2,
        )
    return result


def measured(data: Any, estimates: Any = None, errors: Any = None) -> Any:
    """:func:`evidence` without its warning."""
    import xarray

    if is_elpd_data(data):
        raise TypeError("data must be a result of zf_pyro.to_arviz, got ELPDData")
    if estimates is None:
        if errors is not None:
            raise ValueError("errors must be left out without estimates: those of the weights are computed")
        log_weights = _log_weights(data)  # (draw, sequence)
        sequences = group(data, "log_likelihood")["x"].coords
        values, variance = _combined(log_weights)
    else:
        sequences = group(data, "observed_data")["x"].coords
        log_weights = _numbers("estimates", estimates)
        values, variance = _given(log_weights, errors, sequences["sequence"].size)
    coords = {name: value for name, value in sequences.items() if value.dims == ("sequence",)}
    coords.pop("log_evidence", None)

    def named(array: np.ndarray, name: str) -> Any:
        return xarray.DataArray(array, coords, ("sequence",), name)

    draws = len(log_weights) if log_weights.ndim == 2 else 1
    has_tail = log_weights.ndim == 2 and (estimates is None or draws >= FEWEST_DRAWS)
    tail = named(pareto_k(log_weights.T), "pareto_k") if has_tail else None
    count = len(values)
    se = float(np.sqrt(count * values.var(ddof=1))) if count > 1 else np.nan
    mcse = float(np.sqrt(variance.sum()))
    more = {
        "mcse": mcse,
        "mc_bias": -0.5 * float(variance.sum()),
        "se_sequences": float(np.sqrt(max(se**2 - mcse**2, 0.0))) if count > 1 else np.nan,
        "mcse_i": named(np.sqrt(variance), "mcse_i"),
    }
    pointwise = named(values, "elpd_i")
    pointwise.attrs["sequences"] = fingerprint(data)
    return elpd_data(pointwise, tail, draws, se, more)


def fingerprint(data: Any) -> str:
    """Checksum of the observed frames; empty without the group observed_data."""
    try:
        frames = group(data, "observed_data")["x"].transpose("sequence", "step", ...).values
    except ValueError:
        return ""
    frames = np.ascontiguousarray(frames, dtype=np.float64)
    frames = np.where(np.isnan(frames), np.nan, frames)  # one NaN for all
    return hashlib.sha256(str(frames.shape).encode() + frames.tobytes()).hexdigest()


def _log_weights(data: Any) -> np.ndarray:
    """Log-weights of samples from the guide, (draw, sequence)."""
    values = group(data, "log_likelihood")["x"]
    if "log_evidence" not in values.coords:
        raise ValueError("data must be a result of zf_pyro.to_arviz: log_likelihood.x has no coordinate log_evidence")
    stacked = values.stack(__sample__=("chain", "draw")).transpose("__sample__", "sequence")
    return 2 * values["log_evidence"].values - stacked.values.astype(np.float64)


def _combined(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-mean-weights and variances of them by the delta method, each (sequence,); weights (draw, sequence)."""
    draws = len(log_weights)
    shares = np.exp(log_weights - log_weights.max(0))
    shares /= shares.sum(0)
    excess = np.maximum((shares**2).sum(0) - 1 / draws, 0.0)
    return log_mean_exp(log_weights), excess * draws / (draws - 1) if draws > 1 else np.full(
        log_weights.shape[1], np.nan
    )


def _given(estimates: np.ndarray, errors: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Estimates from elsewhere and their variances, each (sequence,)."""
    if estimates.ndim not in (1, 2) or estimates.shape[-1] != count:
        raise ValueError(
            f"estimates must be one per sequence, ({count},), or repetitions (repetition, {count}), got shape "
            f"{estimates.shape}"
        )
    if estimates.ndim == 2 and len(estimates) > 1:
        if errors is not None:
            raise ValueError("errors must be left out for repetitions, whose spread gives them")
        return _combined(estimates)
    if errors is None:
        raise ValueError("errors must be given for one estimate per sequence, or estimates for at least 2 repetitions")
    spread = _numbers("errors", np.asarray(errors) if isinstance(errors, int | float) else errors)
    if spread.shape not in ((), (count,)) or (spread < 0).any():
        raise ValueError(f"errors must be one number of at least 0 per sequence, ({count},), got shape {spread.shape}")
    return estimates.reshape(count), np.broadcast_to(spread**2, (count,)).copy()


def _numbers(name: str, value: Any) -> np.ndarray:
    array = require_array(name, value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold numbers, got {type(value).__name__} of {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {int((~np.isfinite(array)).sum())} values that are not")
    return array
