"""One floating-point precision for all functions over whole sequences."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from ..networks import StepFunctions

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_full_precision(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run a function of a network and tensors without ``torch.autocast``, in the dtype of the network's weights.

    ``torch.compile`` leaves it alone, too.

    Scans over whole sequences need it: fast loops take tensors of one dtype, and rounding errors add up over the steps.

    Args:
        function: takes the network, then positional arguments: tensors, or named tuples of tensors.
    """

    scan = cast(Callable[..., Result], function)

    @functools.wraps(function)
    def run(net: StepFunctions, *arguments: Any) -> Any:
        if torch.compiler.is_compiling():  # as runs_eagerly, without a call more in every scan
            return torch.compiler.disable(run)(net, *arguments)
        like = next(net.parameters())
        if not torch.is_autocast_enabled(like.device.type):
            return scan(net, *arguments)
        with torch.autocast(like.device.type, enabled=False):
            return scan(net, *(_as(like.dtype, argument) for argument in arguments))

    return cast(Callable[Arguments, Result], run)


def _as(dtype: torch.dtype, value: Any) -> Any:
    """Floating-point tensors, also those in named tuples, converted to ``dtype``; other values unchanged."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    return type(value)(*(_as(dtype, part) for part in value)) if isinstance(value, tuple) else value
