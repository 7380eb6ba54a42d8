"""The modes that nets run in: evaluation, with gradients on every device, and one precision throughout."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """``net`` in evaluation mode, and every module in its own mode again afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class LSTM(nn.LSTM):
    """PyTorch's, with gradients in evaluation mode too, which cuDNN has in training mode alone; not for dropout."""

    def forward(self, *arguments: Any) -> Any:
        """Without dropout the mode says nothing but whether a way back is prepared for."""
        mode, self.training = self.training, torch.is_grad_enabled()
        try:
            return super().forward(*arguments)
        finally:
            self.training = mode


def in_full_precision(method: Callable[..., Any]) -> Callable[..., Any]:
    """A net's method that ``torch.autocast`` leaves alone, whose arguments have the dtype of the net's weights.

    For what runs over whole sequences: the fast loops take numbers of one dtype, and rounding adds up over the steps.
    """

    @functools.wraps(method)
    def run(net: nn.Module, *arguments: Any) -> Any:
        like = next(net.parameters())
        if not torch.is_autocast_enabled(like.device.type):
            return method(net, *arguments)
        with torch.autocast(like.device.type, enabled=False):
            return method(net, *(_as(like.dtype, argument) for argument in arguments))

    return run


def _as(dtype: torch.dtype, value: Any) -> Any:
    """A floating-point tensor, or a named tuple of such, in another dtype; other values as they are."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    return type(value)(*(_as(dtype, part) for part in value)) if isinstance(value, tuple) else value
