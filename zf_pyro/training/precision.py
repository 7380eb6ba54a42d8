"""bfloat16 where it is safe: matrix products of whole sequences."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import Precision
from torch import Tensor
from torch.overrides import TorchFunctionMode


class BFloat16Products(TorchFunctionMode):
    """Within it, linear layers and LSTMs over whole sequences multiply in bfloat16 and return float32.

    All else stays in float32: parameters, gradients and the optimiser's state; the fast loops over h_t and z_t,
    products included, whose errors would add up over the steps, and what else is compiled,;
    and every density and KL, which are differences of large numbers. A net with ``recurrence="reference"``, or with
    step functions of its own, runs its loop through linear layers, which multiply in bfloat16 like any other.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``function``, in bfloat16 if it is one of those."""
        kwargs = kwargs or {}
        if function is F.linear and args[0].dtype == torch.float32:
            return function(*_cast(args, torch.bfloat16), **_cast(kwargs, torch.bfloat16)).float()
        if function is torch._VF.lstm and args[0].dtype == torch.float32:
            return tuple(_cast(function(*_cast(args, torch.bfloat16), **kwargs), torch.float32))
        return function(*args, **kwargs)


class BFloat16Mixed(Precision):
    """Lightning's name for it."""

    precision = "bf16-mixed"

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        """Around every step."""
        with BFloat16Products():
            yield


def mixed(precision: str) -> list[Precision]:
    """The plugin for ``precision="bf16-mixed"``; for the others Lightning has its own.

    Lightning's own mixed precision is not taken: autocast would put densities into bfloat16.
    """
    return [BFloat16Mixed()] if precision == "bf16-mixed" else []


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors in nested lists, tuples and dictionaries, in another dtype."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(part, dtype) for part in value)
    return {key: _cast(part, dtype) for key, part in value.items()} if isinstance(value, dict) else value
