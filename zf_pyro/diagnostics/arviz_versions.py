"""Support of two ArviZ versions: 0.21 to 0.23 with InferenceData, and 1.x with xarray's DataTree.

Groups are xarray datasets in both. Only the container and the place of PSIS differ.
"""

import re
import warnings
from typing import Any

import numpy as np

OLDEST = (0, 21)
"""Oldest supported version, major and minor."""
NO_TAIL = 1e-3
"""Log-weights that differ by no more, in nats, have no tail to fit."""
FEWEST_DRAWS = 25
"""Samples that PSIS needs: it cannot fit a tail to fewer."""


def require_arviz() -> Any:
    """Import and return the arviz module.

    Raises:
        ImportError: it is older than 0.21.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)
        import arviz
    found = tuple(int(number) for number in re.findall(r"\d+", arviz.__version__)[:2])
    if found < OLDEST:
        raise ImportError(
            f"zf_pyro needs ArviZ {OLDEST[0]}.{OLDEST[1]} or newer, found {arviz.__version__}: pip install -U arviz"
        )
    return arviz


def has_inference_data() -> bool:
    """True if the installed ArviZ has InferenceData (0.x), False if it has DataTree (1.x)."""
    return "InferenceData" in vars(require_arviz())  # attribute access warns in 1.x


def assemble(groups: dict[str, Any]) -> Any:
    """Combine datasets by group name into the container of the installed ArviZ: InferenceData or DataTree."""
    if has_inference_data():
        return require_arviz().InferenceData(**groups)
    import xarray

    return xarray.DataTree.from_dict({f"/{name}": dataset for name, dataset in groups.items()})


def group(data: Any, name: str, argument: str = "data") -> Any:
    """Return one group of ArviZ data as an xarray Dataset.

    Raises:
        TypeError: ``data`` is no ArviZ data.
        ValueError: there is no such group.
    """
    if not hasattr(data, "groups"):
        raise TypeError(f"{argument} must be a result of zf_pyro.to_arviz, got {type(data).__name__}")
    names = [entry.lstrip("/") for entry in data.groups] if isinstance(data.groups, tuple) else list(data.groups())
    if name not in names:
        raise ValueError(f"{argument} must have the group {name!r}, got {[n for n in names if n]}: ask to_arviz for it")
    found = data[name]
    return found.to_dataset() if hasattr(found, "to_dataset") else found


def good_k(num_draws: int) -> float:
    """k-hat below which PSIS over so many samples is reliable: min(1 - 1 / log10(samples), 0.7), as in ArviZ."""
    return min(1 - 1 / np.log10(num_draws), 0.7) if num_draws > 1 else 0.0


def log_mean_exp(values: np.ndarray) -> np.ndarray:
    """Log of the mean of exp(values) over the first dimension, (draws, ...) to (...)."""
    top = values.max(0)
    return np.log(np.exp(values - top).mean(0)) + top


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """Pareto k-hat of log-weights (..., draws) by ArviZ's PSIS; (...).

    Vehtari, Simpson, Gelman, Yao, Gabry 2024, https://jmlr.org/papers/v25/19-556.html. Log-weights that differ by no
    more than :data:`NO_TAIL`, as those of an exact guide, have no tail to fit. Their k-hat is 0 here, and infinity in
    PSIS. Fewer than :data:`FEWEST_DRAWS` samples that differ, or a single one, have k-hat infinity, as in ArviZ 0.x;
    ArviZ 1.x raises an error.
    """
    arviz = require_arviz()
    values = np.array(log_weights, dtype=np.float64)
    differ = np.ptp(values, axis=-1) > NO_TAIL
    result = np.zeros(values.shape[:-1])
    if values.shape[-1] < FEWEST_DRAWS:
        result[differ | (values.shape[-1] == 1)] = np.inf
    elif has_inference_data():
        _, result[differ] = arviz.psislw(values[differ])
    else:
        from arviz_stats.base import array_stats

        _, result[differ] = array_stats.psislw(-values[differ], axis=-1)  # takes log-likelihoods, and negates them
    return result


def elpd_data(pointwise: Any, pareto_k: Any, num_draws: int, se: float, more: dict[str, Any]) -> Any:
    """ArviZ's ELPDData from values per sequence, with the names that both versions read.

    Args:
        pointwise: DataArray, nats per sequence.
        pareto_k: DataArray of the same dims; None where there is none.
        num_draws: samples per sequence.
        se: standard error of the sum over sequences, nats.
        more: further entries by name.
    """
    threshold = good_k(num_draws) if pareto_k is not None else 0.7
    named = {"p": 0.0, "n_samples": num_draws, "n_data_points": pointwise.size, "scale": "log", "good_k": threshold}
    named["elpd"], named["se"] = float(pointwise.sum()), se
    named["warning"] = pareto_k is not None and bool((pareto_k > threshold).any())
    named["elpd_i"] = pointwise.rename("elpd_i")
    if has_inference_data():
        old = {"elpd_loo": named["elpd"], "se": se, "p_loo": 0.0, "loo_i": pointwise.rename("loo_i")}
        tail = {} if pareto_k is None else {"pareto_k": pareto_k}
        entries = {**old, **named, **tail, **more}
        return _elpd_class()(data=list(entries.values()), index=list(entries))
    result = _elpd_class()(**named, pareto_k=pareto_k)
    for name, value in more.items():
        setattr(result, name, value)
    return result


def is_elpd_data(value: Any) -> bool:
    """True if ``value`` is ArviZ's ELPDData."""
    if has_inference_data():
        return isinstance(value, _elpd_class())
    from arviz_stats.utils import ELPDData

    return isinstance(value, ELPDData)


def _elpd_class() -> Any:
    if has_inference_data():
        from arviz.stats.stats_utils import ELPDData

        return ELPDData
    from arviz_stats.utils import ELPDDataLOO

    return ELPDDataLOO
