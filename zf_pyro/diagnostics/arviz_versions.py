"""Support of two ArviZ versions: 0.21 to 0.23 with InferenceData, and 1.x with xarray's DataTree.

Groups are xarray datasets in both. Only the container and the place of PSIS differ.
"""

import re
import warnings
from typing import Any

import numpy as np

OLDEST = (0, 21)
"""Oldest supported version, major and minor."""


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


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """Pareto k-hat of log-weights (..., draws) by ArviZ's PSIS; (...).

    Vehtari, Simpson, Gelman, Yao, Gabry 2024, https://jmlr.org/papers/v25/19-556.html. Log-weights that differ by less
    than 0.001 nats, as those of an exact guide, have no tail to fit. Their k-hat is 0 here, and infinity in PSIS.
    """
    arviz = require_arviz()
    values = np.array(log_weights, dtype=np.float64)
    differ = np.ptp(values, axis=-1) > 1e-3
    result = np.zeros(values.shape[:-1])
    if has_inference_data():
        _, result[differ] = arviz.psislw(values[differ])
    else:
        from arviz_stats.base import array_stats

        _, result[differ] = array_stats.psislw(-values[differ], axis=-1)  # takes log-likelihoods, and negates them
    return result
