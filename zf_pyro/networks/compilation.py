"""Functions that ``torch.compile`` leaves alone."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def runs_eagerly(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Keep ``torch.compile`` out of a function and of all that it calls; the compiled code around it calls it as it is.

    A Pyro program has a site per step, and the compiler would compile its Python anew for each: minutes, for a loop
    whose arithmetic runs in C. ``torch.compiler.disable`` itself is called only where something is being compiled,
    since it imports the compiler.
    """

    @functools.wraps(function)
    def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*arguments, **named)
        return function(*arguments, **named)

    return run
