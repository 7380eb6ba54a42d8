"""The plate of the sequences."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
from pyro.poutine.runtime import _PYRO_STACK

NAME = "sequences"


def sequences(size: int) -> AbstractContextManager[Any]:
    """The plate ``sequences`` at dim -1, or nothing where the caller is inside one of that name already.

    So a latent of the user's own, one a sequence, can share the plate, which is what makes it one a sequence to
    TraceEnum_ELBO and the like.

    Raises:
        ValueError: the plate around has another size or another dimension.
    """
    for handler in _PYRO_STACK:
        if isinstance(handler, pyro.plate) and handler.name == NAME:
            if handler.size != size or handler.dim != -1:
                raise ValueError(
                    f"the plate {NAME!r} around the program must be pyro.plate({NAME!r}, {size}, dim=-1) for "
                    f"{size} sequences, got size {handler.size} and dim {handler.dim}"
                )
            return nullcontext()
    return pyro.plate(NAME, size, dim=-1)
