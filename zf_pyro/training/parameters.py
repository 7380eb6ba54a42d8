"""Trainable parameters: those of networks, and others in Pyro's parameter store."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from ..objectives import PyroProgram, replayed_traces


def call(program: Any, batch: Any, *before: Any) -> Any:
    """Call ``program`` on a batch.

    Args:
        program: model, guide, or a method of an objective.
        batch: a sequence of arguments, a mapping of keywords, or a single argument.
        before: arguments that come before those of the batch.
    """
    if isinstance(batch, Mapping):
        return program(*before, **batch)
    return program(*before, *batch) if isinstance(batch, Sequence) else program(*before, batch)


def known_parameters(model: PyroProgram, guide: PyroProgram, batch: Any) -> dict[str, Tensor]:
    """Unconstrained parameters in a run of guide and model, by Pyro's name. Keeps the random state unchanged."""
    with torch.random.fork_rng(), torch.no_grad(), poutine.block():
        model_trace, guide_trace = call(replayed_traces, batch, model, guide)
    sites: dict[str, Any] = {**guide_trace.nodes, **model_trace.nodes}
    params = {name: site["value"] for name, site in sites.items() if site["type"] == "param"}
    return {name: value.unconstrained() if hasattr(value, "unconstrained") else value for name, value in params.items()}


def loose(nets: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters that belong to no network, each of any shape, (...)."""
    own = {id(parameter) for parameter in nets.parameters()}
    return {name: value for name, value in parameters.items() if id(value) not in own and value.is_leaf}
