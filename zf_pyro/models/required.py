"""Check that an argument is a model of this package."""

from .base import StochasticRNN


def require_model(net: object, name: str = "net") -> StochasticRNN:
    """The argument ``name`` as a model.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(net, StochasticRNN):
        got = f"the class {net.__name__}" if isinstance(net, type) else type(net).__name__
        raise TypeError(f"{name} must be a model of zf_pyro.models, got {got}")
    return net
