"""The start of a training run: new networks start at the data, all others as they are."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import pyro

from ..models import RegisteredNetwork
from .module import Training

log = logging.getLogger(__name__)

INITIALISATIONS = ("data", "released")
"""Starts: :meth:`zf_pyro.ZForcing.initialise`, or the weights as built, as in the released code."""


def initialise(module: Training, train: Iterable[Any], initialisation: str) -> list[str]:
    """Start the networks of a new run, and say how in the log.

    Only a network whose parameters all have the values of its constructor, and are all trained, starts at the data.
    The random state does not change.

    Args:
        module: whose networks start. Programs that belong to no network of :mod:`zf_pyro.models` stay as they are.
        train: the loader of the run, which is read once more. An iterator is not, as it would be used up.
        initialisation: one of :data:`INITIALISATIONS`.

    Returns:
        A sentence for each network.

    Raises:
        TypeError, ValueError: frames that the model refuses.
    """
    found = []
    for net in module.nets:
        if isinstance(net, RegisteredNetwork):
            found.append(f"{net.name} {_start(net, train, initialisation)}")
            log.info("%s", found[-1])
    return found


def _start(net: RegisteredNetwork, train: Iterable[Any], initialisation: str) -> str:
    """Start one network; what was done."""
    if initialisation == "released":
        return "starts as built, without regard to the data: initialisation is 'released'"
    frozen = next((name for name, parameter in net.named_parameters() if not parameter.requires_grad), None)
    start: Any = getattr(net, "initialise", None)
    if start is None:
        return f"starts as it is: {type(net).__name__} has no method initialise"
    if not net.as_built:
        return "starts as it is: its weights are not known to be those of its constructor"
    if frozen is not None:
        return f"starts as it is: {frozen} is not trained"
    if isinstance(train, Iterator):
        return "starts as it is: the loader is an iterator, which can be read once only"
    state = pyro.util.get_rng_state()
    try:
        frames = start(train)
    except (TypeError, ValueError) as error:
        error.add_note(
            "This was found at the start from the data; fit(..., initialisation='released') leaves the weights as built"
        )
        raise
    finally:
        pyro.util.set_rng_state(state)
    count = f"{frames:,} frames of " if isinstance(frames, int) else ""
    return f"starts at the marginals of {count}the training data"
