"""The plate of the sequences."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro

from ..networks import handlers

NAME = "sequences"


def sequences(size: int) -> AbstractContextManager[Any]:
    """The plate ``sequences`` at dim -1, or no plate if the caller is already inside one of that name.

    A latent of the user's own with one value per sequence can so share the plate. TraceEnum_ELBO and others then know
    that it is independent between sequences.

    Args:
        size: number of sequences.

    Raises:
        ValueError: the plate around has another size or another dimension.
    """
    for handler in handlers():
        if isinstance(handler, pyro.plate) and handler.name == NAME:
            if handler.size != size or handler.dim != -1:
                raise ValueError(
                    f"the plate {NAME!r} around the program must be pyro.plate({NAME!r}, {size}, dim=-1) for "
                    f"{size} sequences, got size {handler.size} and dim {handler.dim}"
                )
            return nullcontext()
    return pyro.plate(NAME, size, dim=-1)
