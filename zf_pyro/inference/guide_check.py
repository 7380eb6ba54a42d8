"""Check that a guide has a sample site for every latent of a model."""

from typing import Any

import pyro.poutine as poutine
import torch
from pyro.poutine.util import site_is_subsample

from ..objectives import PyroProgram, check_programs, check_roles, replayed_traces, require_program


def check_guide(model: PyroProgram, guide: PyroProgram, *args: Any, **kwargs: Any) -> None:
    """Refuse a guide that misses a latent of the model.

    Pyro's objectives only warn. They then add log p(z) of a latent that was sampled from p, and the result is no bound.
    Both programs run once here, under a random state of their own.

    Args:
        model: ``net.model`` or a program around it.
        guide: a guide for it.
        args: arguments of model and guide, as are ``kwargs``.

    Raises:
        ValueError: a latent of the model is neither in the guide nor enumerated.
        TypeError: model and guide are swapped, or otherwise no pair.
    """
    check_programs(model, guide)
    with torch.random.fork_rng(), torch.no_grad(), poutine.block():
        model_trace, guide_trace = replayed_traces(model, guide, *args, **kwargs)
    check_roles(model_trace, guide_trace)
    missing = [
        name
        for name in model_trace.stochastic_nodes
        if name not in guide_trace.nodes
        and not site_is_subsample(model_trace.nodes[name])
        and "enumerate" not in (model_trace.nodes[name]["infer"] or {})
    ]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ValueError(
            f"guide must have a sample statement for every latent of the model, and has none for {shown}: add it, or "
            "condition the model on a value (pyro.condition), or enumerate it (infer={'enumerate': 'parallel'})"
        )


def checked(model: PyroProgram, guide: PyroProgram) -> PyroProgram:
    """``guide``, checked against ``model`` by :func:`check_guide` when it first runs."""
    require_program("guide", guide)
    matches = False

    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal matches
        if not matches:
            check_guide(model, guide, *args, **kwargs)
            matches = True
        return guide(*args, **kwargs)

    return run
