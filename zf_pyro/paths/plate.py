"""Plates and other handlers of Pyro around a program."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
from pyro.poutine.plate_messenger import PlateMessenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.trace_messenger import TraceMessenger
from pyro.util import ignore_jit_warnings

from ..networks import handlers
from .prior import PriorPath
from .sites import FrameStep

NAME = "sequences"
OF_SAMPLES = ("num_particles_vectorized", "_num_predictive_samples")
"""Names of plates that Pyro's objectives, SVGD, Predictive and MCMC open around programs, for their samples."""


@ignore_jit_warnings()
def sequences(size: int, batch_shape: tuple[int, ...] = ()) -> AbstractContextManager[Any]:
    """The plate ``sequences`` at dim -1, or no plate if the caller is already inside a plate at dim -1.

    That plate holds the sequences, whatever its name. It may be a subsample, whose scale then applies to all sites:
    ``with pyro.plate("data", 1000, subsample_size=32, dim=-1) as i: net.model(x[i])``. A latent of the user's own with
    one value per sequence can share the plate. TraceEnum_ELBO and others then know that it is independent between
    sequences.

    Args:
        size: number of sequences.
        batch_shape: batch shape of the run without plates, which ends with ``size``.

    Raises:
        ValueError: the plate at dim -1 has another size, or holds samples of an algorithm of Pyro; the plate
            ``sequences`` has another dimension; or a plate further left subsamples, so that each sequence would be
            replicated.
    """
    found = False
    for handler in handlers():
        if not isinstance(handler, PlateMessenger):
            continue
        drawn, dim = int(handler.subsample_size), handler.dim
        around = f"the plate {handler.name!r} around the program"
        if handler.name == NAME and dim != -1:
            raise ValueError(
                f"{around} must be pyro.plate({NAME!r}, {size}, dim=-1) for {size} sequences, got size {drawn} and dim "
                f"{dim}"
            )
        if dim == -1 and handler.name in OF_SAMPLES:
            raise ValueError(
                f"{around} holds samples, and is at dim -1, where the {size} sequences are: set max_plate_nesting=1 of "
                "the algorithm"
            )
        if dim == -1 and drawn not in (size, -1):  # -1: a plate without a size
            raise ValueError(
                f"{around} is at dim -1, where the sequences are, and must have their size: it has "
                f"{_described(handler)}, x has {size}. Write pyro.plate({handler.name!r}, {size}, dim=-1), or for a "
                f"subsample of N sequences `with pyro.plate({handler.name!r}, N, subsample_size={size}, dim=-1) as i` "
                "and give the program x[i] (and lengths[i], context[i])"
            )
        if dim is not None and dim < -1 and 0 <= drawn < int(handler.size):
            if len(batch_shape) >= -dim and batch_shape[dim] == drawn:  # initial states of that many groups
                continue
            raise ValueError(
                f"{around} subsamples {_described(handler)} at dim {dim}, which would replicate each of the {size} "
                f"sequences {drawn} times: the sequences are at dim -1, so write pyro.plate({handler.name!r}, "
                f"{int(handler.size)}, subsample_size={size}, dim=-1)"
            )
        found = found or dim == -1
    return nullcontext() if found else pyro.plate(NAME, size, dim=-1)


def _described(plate: PlateMessenger) -> str:
    drawn, size = int(plate.subsample_size), int(plate.size)
    return str(size) if drawn == size else f"{drawn} of {size}"


def refuse_swapped() -> None:
    """Refuse to run a guide as the model of Pyro's SVI, with a model as its guide.

    SVI then replays it with the values of the model's run, whose frames were observed.

    Raises:
        TypeError: SVI runs this program in that place.
    """
    around = handlers()
    if not any(isinstance(handler, TraceMessenger) and handler.param_only for handler in around):
        return  # no SVI: a user may evaluate the guide at any values
    for handler in around:
        if not isinstance(handler, ReplayMessenger) or handler.trace is None:
            continue
        for site in handler.trace.nodes.values():
            step: Any = site.get("fn")
            if isinstance(step, FrameStep) and isinstance(step.path, PriorPath):
                dreamt = "was_observed" in (site["infer"] or {})  # the sleep phase of ReweightedWakeSleep
                if site["is_observed"] and not dreamt:
                    raise TypeError(
                        "model and guide are swapped: the guide runs as the model of SVI. Write SVI(net.model, "
                        "net.guide, ...)"
                    )
                break
