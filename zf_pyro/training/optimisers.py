"""Optimisers of torch and Pyro, as one torch optimiser over all parameters."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor

from ..objectives import require_program

Factory = Callable[[Iterable[Any]], torch.optim.Optimizer]
"""Function from parameters to an optimiser: ``functools.partial(torch.optim.Adam, lr=1e-3)``."""


def require_trainable(model: Any, guide: Any, objective: Any, validation: Any, optimiser: Any) -> None:
    """Refuse what cannot be trained.

    Raises:
        TypeError: a program or optimiser that is no function, or an objective that is no loss of SVI.
    """
    require_program("model", model)
    require_program("guide", guide)
    for name, loss in (("objective", objective), ("validation", objective if validation is None else validation)):
        method = "loss_and_grads" if name == "objective" else "loss"
        if isinstance(loss, type) or not callable(getattr(loss, method, None)):
            got = f"the class {loss.__name__}" if isinstance(loss, type) else type(loss).__name__
            raise TypeError(f"{name} must be a loss of SVI, such as zf_pyro.ZForcingELBO(), got {got}")
    if not isinstance(optimiser, PyroOptim) and not callable(optimiser):
        raise TypeError(
            "optimiser must be one of pyro.optim, or a function from parameters to one of torch.optim, got "
            f"{type(optimiser).__name__}"
        )


def build(optimiser: PyroOptim | Factory, parameters: Mapping[str, Tensor], *, fused: bool) -> torch.optim.Optimizer:
    """Build one optimiser over all parameters.

    Pyro builds one optimiser per parameter. Its optimisers work elementwise, so one over all parameters computes the
    same values.

    Args:
        optimiser: an optimiser of Pyro, or a function that makes one of torch.
        parameters: by name, each of any shape, (...). Per-parameter arguments of Pyro's optimisers depend on the name.
        fused: use the fused kernel of torch's Adam or AdamW, unless the optimiser sets it. On a GPU the kernel skips a
            step by itself, so that the CPU need not wait for the gradient norm.

    Raises:
        ValueError: a Pyro optimiser with gradient clipping, or a scheduler: Training does both.
        TypeError: the function does not return a torch optimiser.
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
        # Each group has its own value for every setting, which takes precedence over the default.
        groups = [{**group, "foreach": None, "fused": True} for group in made.param_groups]
        made = type(made)(groups, **{**made.defaults, "foreach": None, "fused": True})
    return made


def skips_by_itself(optimiser: torch.optim.Optimizer) -> bool:
    """True if the optimiser skips steps by a tensor ``found_inf``, as torch's fused kernels do."""
    fused = all(group.get("fused") for group in optimiser.param_groups)
    return fused and type(optimiser) in (torch.optim.Adam, torch.optim.AdamW)
