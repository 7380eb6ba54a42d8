"""Optimisers: torch's, and Pyro's as the one torch optimiser over all parameters that does the same."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor

Factory = Callable[[Iterable[Any]], torch.optim.Optimizer]
"""Makes an optimiser over parameters: ``functools.partial(torch.optim.Adam, lr=1e-3)``."""


def build(optimiser: PyroOptim | Factory, parameters: Mapping[str, Tensor], *, fused: bool) -> torch.optim.Optimizer:
    """One optimiser over all parameters.

    Pyro makes an optimiser of its own for each parameter. As theirs work number by number, one over all of them does
    the same arithmetic.

    Args:
        optimiser: Pyro's, or a function that makes one of torch's.
        parameters: by name, which is what per-parameter arguments of Pyro's go by.
        fused: take the fused kernel where the optimiser is torch's Adam or AdamW and nothing else is said: on a GPU it
            skips a step by itself, so that nobody has to wait for a norm.

    Raises:
        ValueError: gradient clipping of Pyro's own, or a scheduler: both are the trainer's.
        TypeError: what is made is no torch optimiser.
    """
    if isinstance(optimiser, PyroOptim):
        if optimiser.pt_clip_args:
            raise ValueError("clip_args of a Pyro optimiser are not taken: give clip_norm to Training instead")
        settings = optimiser.pt_optim_args
        make: Callable[..., Any] = optimiser.pt_optim_constructor  # type: ignore[assignment]  # never an instance
        if isinstance(optimiser, PyroLRScheduler):
            raise ValueError("schedules of Pyro are not taken: see plateau= of Training, or give its optimiser alone")
        if callable(settings):
            made = make([{"params": [p], **settings(name)} for name, p in parameters.items()])
        else:
            made = make(list(parameters.values()), **settings)
    else:
        made = optimiser(list(parameters.values()))
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"optimiser must make a torch.optim.Optimizer, got {type(made).__name__}")
    if fused and type(made) in (torch.optim.Adam, torch.optim.AdamW) and made.defaults["fused"] is None:
        # Groups hold a value of their own for every setting, which would win over the one given here.
        groups = [{**group, "foreach": None, "fused": True} for group in made.param_groups]
        made = type(made)(groups, **{**made.defaults, "foreach": None, "fused": True})
    return made


def skips_by_itself(optimiser: torch.optim.Optimizer) -> bool:
    """Whether the optimiser goes by a tensor ``found_inf``, as torch's fused kernels do."""
    fused = all(group.get("fused") for group in optimiser.param_groups)
    return fused and type(optimiser) in (torch.optim.Adam, torch.optim.AdamW)
