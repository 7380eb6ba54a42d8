"""Comparison of models by the evidence of each sequence, with its Monte Carlo error."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from .arviz_versions import has_inference_data, is_elpd_data, require_arviz
from .evidence import measured

ROUNDS = 5000
"""Most rounds of expectation maximisation for stacking weights."""


def compare(models: Mapping[str, Any]) -> Any:
    """Compare models by the log evidence of the same sequences; ArviZ's table, best model first.

    Columns are those of the installed ArviZ's ``compare``, so that ``az.plot_compare`` takes the table, and ``mcse``.

    - ``elpd`` (``elpd_loo`` on ArviZ 0.x), ``se``, ``mcse``: those of :func:`~zf_pyro.diagnostics.evidence`.
    - ``dse``: standard error of the difference to the best model, over sequences and of both estimates. It includes
      the expected difference of the two biases (``mc_bias``).
    - ``weight``: stacking weights (Yao et al. 2018, https://arxiv.org/abs/1704.02030), of which each sequence's
      evidence may be as small as it likes.

    Args:
        models: by the names of the models, results of :func:`zf_pyro.to_arviz` for the same sequences, or of
            :func:`~zf_pyro.diagnostics.evidence`, for example with a particle filter's estimates.

    Raises:
        TypeError: ``models`` is no dictionary of such results.
        ValueError: fewer than two models, or models of different sequences.

    Warns:
        UserWarning: k-hat says that the order, or the size of a difference, rests on bad estimates.
    """
    results = _results(models)
    _require_same_sequences(results)
    _warn_of_bad_estimates(results)
    table = _arviz_table(results)
    best = results[table.index[0]]
    pointwise = np.stack([results[name]["elpd_i"].values for name in table.index], 1)
    table["weight"] = stacking_weights(pointwise)
    for name in table.index[1:]:
        table.loc[name, "dse"] = _difference_error(best, results[name])
    if "p_worse" in table:
        from scipy.stats import norm

        table["p_worse"] = [np.nan, *norm.cdf(0.0, table["elpd_diff"].iloc[1:], table["dse"].iloc[1:] + 1e-12)]
    table["mcse"] = [results[name]["mcse"] for name in table.index]
    return table


def stacking_weights(elpd: np.ndarray) -> np.ndarray:
    """Weights (model,) of the mixture that maximises sum_i log sum_m weight_m exp(elpd_im); elpd (sequence, model).

    By expectation maximisation on values relative to the best model of each sequence, so that none underflows.
    """
    likelihood = np.exp(elpd - elpd.max(1, keepdims=True))
    weights = np.full(elpd.shape[1], 1 / elpd.shape[1])
    for _ in range(ROUNDS):
        shares = likelihood * weights
        updated = (shares / shares.sum(1, keepdims=True)).mean(0)
        if np.abs(updated - weights).max() < 1e-9:
            return updated
        weights = updated
    return weights


def _results(models: Any) -> dict[str, Any]:
    if not isinstance(models, Mapping):
        raise TypeError(
            f"models must be a dictionary of results of zf_pyro.to_arviz by name, got {type(models).__name__}"
        )
    if len(models) < 2:
        raise ValueError(f"models must be at least 2, got {list(models)}")
    results = {name: model if is_elpd_data(model) else measured(model) for name, model in models.items()}
    for name, result in results.items():
        if not all(hasattr(result, entry) for entry in ("mcse", "mc_bias", "mcse_i", "elpd_i")):
            raise TypeError(f"models must hold results of zf_pyro.diagnostics.evidence; that of {name!r} has no mcse")
    return results


def _require_same_sequences(results: dict[str, Any]) -> None:
    first, *others = results
    known = results[first]["elpd_i"]
    for name in others:
        found = results[name]["elpd_i"]
        prints = known.attrs["sequences"], found.attrs["sequences"]
        ids = known["sequence"].values, found["sequence"].values
        same = prints[0] == prints[1] if all(prints) else np.array_equal(*ids)  # frames tell more than names
        if not same:
            raise ValueError(f"models must hold the same sequences; those of {name!r} differ from those of {first!r}")


def _warn_of_bad_estimates(results: dict[str, Any]) -> None:
    """Warn of models with bad estimates. They are too low: below another model they leave the order in doubt."""
    order = sorted(results, key=lambda name: float(results[name]["elpd"]), reverse=True)
    for place, name in enumerate(order):
        result = results[name]
        if not result["warning"]:
            continue
        bad = int((result["pareto_k"] > result["good_k"]).sum())
        doubt = "its place in the order" if place else "the size of its lead"
        warnings.warn(
            f"{bad} of {result['n_data_points']} sequences of {name!r} have a k-hat above {result['good_k']:.2f}: "
            f"{doubt} rests on bad estimates, as a rule too low. Take more samples, or give evidence(data, estimates) "
            "of a particle filter.",
            UserWarning,
            stacklevel=3,
        )


def _arviz_table(results: dict[str, Any]) -> Any:
    arviz = require_arviz()
    exact = {} if has_inference_data() else {"round_to": "none"}
    return arviz.compare(results, method="pseudo-BMA", **exact)  # other methods underflow; weights are replaced


def _difference_error(one: Any, other: Any) -> float:
    """Standard error of the difference of two sums over sequences, nats."""
    difference = one["elpd_i"].values - other["elpd_i"].values
    estimates = one["mcse"] ** 2 + other["mcse"] ** 2
    # The estimates' errors are part of what differs from sequence to sequence.
    over_sequences = len(difference) * difference.var(ddof=1) if len(difference) > 1 else np.nan
    return float(np.sqrt(np.maximum(over_sequences, estimates) + (one["mc_bias"] - other["mc_bias"]) ** 2))
