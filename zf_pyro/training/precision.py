"""Mixed precision: bfloat16 for matrix products over whole sequences, float32 for all else."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import Precision
from torch import Tensor
from torch.overrides import TorchFunctionMode


class BFloat16Products(TorchFunctionMode):
    """Mode in which linear layers and LSTMs over whole sequences multiply in bfloat16 and return float32.

    All else stays in float32:

    - parameters, gradients and the optimiser's state;
    - the fast loops over h_t and z_t, whose errors would add up over the steps, and all other compiled code;
    - every density and KL, which are differences of large values.

    A model with ``recurrence="reference"``, or with overridden step functions, runs its loop through linear layers.
    These multiply in bfloat16 like any other.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``function``, in bfloat16 if it is a linear layer or LSTM."""
        kwargs = kwargs or {}
        if function is F.linear and args[0].dtype == torch.float32:
            return function(*_cast(args, torch.bfloat16), **_cast(kwargs, torch.bfloat16)).float()
        if function is torch.lstm and args[0].dtype == torch.float32:
            return tuple(_cast(function(*_cast(args, torch.bfloat16), **kwargs), torch.float32))
        return function(*args, **kwargs)


class BFloat16Mixed(Precision):
    """Lightning's plugin for :class:`BFloat16Products`."""

    precision = "bf16-mixed"

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        """Context of every step."""
        with BFloat16Products():
            yield


def mixed(precision: str) -> list[Precision]:
    """Plugin for ``precision="bf16-mixed"``; empty for precisions that Lightning handles.

    Lightning's mixed precision is not used: its autocast would compute densities in bfloat16.
    """
    return [BFloat16Mixed()] if precision == "bf16-mixed" else []


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast floating-point tensors in nested lists, tuples and dictionaries to ``dtype``."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(part, dtype) for part in value)
    return {key: _cast(part, dtype) for key, part in value.items()} if isinstance(value, dict) else value
