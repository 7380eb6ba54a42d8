"""The parameters that training moves: those of nets, and loose ones of Pyro's parameter store."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from ..objectives import PyroProgram


def call(program: Any, batch: Any, *before: Any) -> Any:
    """``program`` on a batch: a sequence holds its arguments, a mapping its keywords, anything else is its argument.

    Args:
        program: model, guide, or a method of an objective.
        batch: as a loader gives it.
        before: arguments that come first.
    """
    if isinstance(batch, Mapping):
        return program(*before, **batch)
    return program(*before, *batch) if isinstance(batch, Sequence) else program(*before, batch)


def known_parameters(model: PyroProgram, guide: PyroProgram, batch: Any) -> dict[str, Tensor]:
    """The unconstrained parameters that a run of guide and model meets, by Pyro's name. Leaves the random state."""
    with torch.random.fork_rng(), torch.no_grad(), poutine.block():
        guide_trace = poutine.trace(guide)
        sites = dict(call(guide_trace.get_trace, batch).nodes)
        with poutine.replay(trace=guide_trace.trace):
            sites |= call(poutine.trace(model).get_trace, batch).nodes
    params = {name: site["value"] for name, site in sites.items() if site["type"] == "param"}
    return {name: value.unconstrained() if hasattr(value, "unconstrained") else value for name, value in params.items()}


def loose(nets: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of ``parameters`` that are no net's."""
    own = {id(parameter) for parameter in nets.parameters()}
    return {name: value for name, value in parameters.items() if id(value) not in own and value.is_leaf}
