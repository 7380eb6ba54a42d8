"""Trainable parameters: those of networks, and others in Pyro's parameter store."""

import inspect
from collections.abc import Mapping
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from ..data import POSITIONAL, Batch, call_with
from ..objectives import PyroProgram, replayed_traces


def call(program: Any, batch: Any, model: PyroProgram, guide: PyroProgram) -> Any:
    """Call ``program`` on model, guide and a batch.

    For the programs of a network the batch has one of the forms of :func:`zf_pyro.data.arguments_of`. For others it is
    a tuple or list of arguments, a dictionary of keywords, or a single argument.

    Args:
        program: a method of an objective, or another function of model, guide and their arguments.
        batch: what a loader gave.
        model: the first argument.
        guide: the second argument.

    Raises:
        TypeError: a batch of another form for the programs of a network, such as one with a label.
    """
    if isinstance(batch, Tensor):
        return program(model, guide, batch)
    if isinstance(batch, Batch) or (type(batch) in (tuple, list) and len(batch) in (1, 2)):
        return program(model, guide, *batch)
    if _is_of_network(model):
        by_position, by_name = call_with(batch)
        return program(model, guide, *by_position, **by_name)
    if isinstance(batch, Mapping):
        return program(model, guide, **batch)
    return program(model, guide, *batch) if isinstance(batch, tuple | list) else program(model, guide, batch)


def _is_of_network(model: PyroProgram) -> bool:
    """True if the parameters of a program begin with x, lengths and context, as those of a network's do."""
    try:
        names = list(inspect.signature(model).parameters)
    except (TypeError, ValueError):  # not written in Python
        return False
    return tuple(names[:3]) == POSITIONAL[:3]


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
