"""A network with fixed parameters for the duration of a block."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from ..models import StochasticRNN
from ..networks import evaluating


@contextmanager
def fixed(net: StochasticRNN) -> Iterator[None]:
    """``net`` in evaluation mode with fixed parameters inside the block; both are restored afterwards."""
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    with evaluating(net):
        net.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


@contextmanager
def only(net: StochasticRNN, trained: Iterable[nn.Parameter]) -> Iterator[None]:
    """``net`` in evaluation mode with gradients for some parameters alone; modes, flags and gradients are restored.

    Args:
        net: the model.
        trained: the parameters that get gradients.
    """
    chosen = {id(parameter) for parameter in trained}
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in net.parameters()]
    with evaluating(net):
        try:
            for parameter, _, _ in before:
                parameter.requires_grad_(id(parameter) in chosen)
                parameter.grad = None
            yield
        finally:
            for parameter, flag, grad in before:
                parameter.requires_grad_(flag)
                parameter.grad = grad
