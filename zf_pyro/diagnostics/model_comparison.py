"""Which model is better: evidence by sequence, and forecasts of frames yet to come."""

from collections.abc import Mapping
from typing import Any

from .arviz_versions import group, require_arviz


def loo(data: Any) -> Any:
    """ArviZ's PSIS-LOO over the contributions of the sequences; an ELPDData, pointwise.

    Its elpd is the estimate of the sum of log p(x_i), its standard error is over sequences, its p_loo is the Monte
    Carlo error of the estimate (no number of parameters), and a high k-hat says that few draws carry the estimate of a
    sequence: see :class:`~zf_pyro.diagnostics.loo_replicates.Contributions`. The contributions are independent
    replicates, so the efficiency of chains in the posterior group plays no part (``reff=1``).

    Args:
        data: what :func:`zf_pyro.to_arviz` made, with the groups posterior and log_likelihood.

    Raises:
        ValueError: there is no log_likelihood group.
    """
    group(data, "log_likelihood")
    return require_arviz().loo(data, pointwise=True, var_name="x", reff=1.0)


def compare(models: Mapping[str, Any]) -> Any:
    """ArviZ's table of models, best first, by the log evidence of the same sequences.

    Args:
        models: what :func:`zf_pyro.to_arviz` made, by the models' names, all for the same sequences.

    Raises:
        ValueError: fewer than two models, or of other sequences.
    """
    if len(models) < 2:
        raise ValueError(f"models must be at least 2, got {list(models)}")
    frames = {name: group(data, "observed_data")["x"] for name, data in models.items()}
    first, *others = frames
    for name in others:
        if not frames[first].equals(frames[name]):
            raise ValueError(f"models must hold the same sequences; those of {name!r} differ from those of {first!r}")
    return require_arviz().compare({name: loo(data) for name, data in models.items()})
