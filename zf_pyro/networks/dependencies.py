"""Private names of Pyro, torch and Lightning that have no public counterpart, in one file.

``tests/test_networks_dependencies.py`` has a test for each, so that an upgrade of a dependency tells.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import MCMC
from pyro.poutine.messenger import Messenger, _context_wrap
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import _get_current_function_mode_stack

BATCHES_STEPPED = "_batches_that_stepped"
"""Key of Lightning's checkpoints, in the state of the epoch loop: batches that loggers have counted."""


def handlers() -> Sequence[Messenger]:
    """Pyro's effect handlers around the caller, the outermost first."""
    return _PYRO_STACK


@contextmanager
def under(around: Sequence[Messenger]) -> Iterator[None]:
    """Put exactly these handlers around the block, in place of those that are there."""
    before = list(_PYRO_STACK)
    _PYRO_STACK[:] = around
    try:
        yield
    finally:
        _PYRO_STACK[:] = before


def handled_program(program: Callable[..., Any]) -> Callable[..., Any] | None:
    """The program inside ``poutine.handler(program)``; None for a program without a handler around it."""
    if not isinstance(program, functools.partial):
        return None
    run = program.func if isinstance(program.func, functools.partial) else program
    if run.func is not _context_wrap:
        return None
    inner: Callable[..., Any] = run.args[1]
    return inner


def hooks_of(state: Mapping[str, Any]) -> bool:
    """Whether a module, given by its ``vars``, has forward or backward hooks."""
    return bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
    )


def any_global_hook() -> bool:
    """Whether a hook is registered for all modules."""
    return bool(_has_any_global_hook())


def versions(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Counts of changes in place, one for each tensor (of any shape)."""
    return tuple([tensor._version for tensor in tensors])


def function_modes() -> tuple[type, ...]:
    """Kinds of torch function modes around the caller, such as that of ``bf16-mixed`` training."""
    return tuple(type(mode) for mode in _get_current_function_mode_stack())


def has_samples(mcmc: MCMC) -> bool:
    """Whether chains of Pyro's MCMC have run."""
    return mcmc._samples is not None


def chain_arguments(mcmc: MCMC) -> tuple[Any, ...]:
    """Arguments that Pyro's MCMC was last run with; empty before a run."""
    return tuple(getattr(mcmc, "_args", None) or ())


def chain_diagnostics(mcmc: MCMC) -> list[dict[str, Any]]:
    """Diagnostics of the kernel, one dictionary per chain; empty before a run."""
    return [dict(found) if found else {} for found in mcmc._diagnostics]


def multiply_in_place(tensors: list[Tensor], factor: float) -> None:
    """Multiply each tensor (any shape) by a factor, in as few kernels as possible."""
    torch._foreach_mul_(tensors, factor)


def add_in_place(totals: list[Tensor], terms: list[Tensor]) -> None:
    """Add each term (any shape) to its total of the same shape, in as few kernels as possible."""
    torch._foreach_add_(totals, terms)
