"""Check that an argument is a program."""

from collections.abc import Callable
from typing import Any


def require_program(name: str, program: Any) -> Callable[..., Any]:
    """The argument ``name`` as a model or a guide: a function, not a class.

    Raises:
        TypeError: it is none.
    """
    if not callable(program) or isinstance(program, type):
        got = f"the class {program.__name__}" if isinstance(program, type) else type(program).__name__
        raise TypeError(f"{name} must be a program, such as net.{name}, got {got}")
    return program
