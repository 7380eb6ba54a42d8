"""Evaluation mode for the duration of a block."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .step_functions import StepFunctions


@contextmanager
def evaluating(net: StepFunctions | nn.Module) -> Iterator[None]:
    """``net`` in evaluation mode inside the block, and every module in its own mode again afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
