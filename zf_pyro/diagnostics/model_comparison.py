"""Comparison of models by the evidence of each sequence, with ArviZ's PSIS-LOO."""

from collections.abc import Mapping
from typing import Any

from .arviz_versions import group, require_arviz


def loo(data: Any) -> Any:
    """PSIS-LOO by ArviZ over the contributions of the sequences; a pointwise ELPDData.

    - elpd: the estimate of sum_i log p(x_i), with its standard error over sequences.
    - p_loo: the Monte Carlo error of the estimate, not a number of parameters.
    - k-hat: high where few samples dominate the estimate of a sequence.

    See :class:`~zf_pyro.diagnostics.loo_replicates.Contributions`. The replicates are independent, so the efficiency of
    the chains does not matter (``reff=1``).

    Args:
        data: result of :func:`zf_pyro.to_arviz` with the groups posterior and log_likelihood.

    Raises:
        ValueError: there is no log_likelihood group.
    """
    group(data, "log_likelihood")
    return require_arviz().loo(data, pointwise=True, var_name="x", reff=1.0)


def compare(models: Mapping[str, Any]) -> Any:
    """Compare models by the log evidence of the same sequences; ArviZ's table, best model first.

    Args:
        models: results of :func:`zf_pyro.to_arviz` for the same sequences, by the names of the models.

    Raises:
        ValueError: fewer than two models, or models of different sequences.
    """
    if not isinstance(models, Mapping):
        raise TypeError(
            f"models must be a dictionary of results of zf_pyro.to_arviz by name, got {type(models).__name__}"
        )
    if len(models) < 2:
        raise ValueError(f"models must be at least 2, got {list(models)}")
    frames = {name: group(data, "observed_data")["x"] for name, data in models.items()}
    first, *others = frames
    for name in others:
        if not frames[first].equals(frames[name]):
            raise ValueError(f"models must hold the same sequences; those of {name!r} differ from those of {first!r}")
    return require_arviz().compare({name: loo(data) for name, data in models.items()})
