"""Capture of one evaluation of an objective, by CUDA graphs."""

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .terms import Terms

WARM_UP = 3
"""Runs before a capture, for libraries to initialise: torch's own advice for CUDA graphs."""


class Evaluated(NamedTuple):
    """Results of one evaluation of the objective."""

    loss: Tensor
    """The loss, a scalar in nats."""
    terms: Terms
    """Its parts, each (batch,) in nats."""
    gradients: tuple[Tensor | None, ...]
    """Gradients of the loss by parameter; None where it does not depend on one."""


class Capture(Protocol):
    """A way to capture a function without arguments."""

    def __call__(self, function: Callable[[], Evaluated]) -> Callable[[], Evaluated]:
        """Run ``function`` at least once; returns a function that repeats it on the same memory with new randomness."""


class CudaCapture:
    """Capture in CUDA graphs, which share their memory, since no two are replayed at once."""

    def __init__(self) -> None:
        self.pool: Any = None

    def __call__(self, function: Callable[[], Evaluated]) -> Callable[[], Evaluated]:
        """Capture ``function`` after a few runs on a side stream, as torch requires.

        The random state is restored, so that replays draw what ``function`` would have drawn.
        """
        device = torch.cuda.current_device()
        with torch.random.fork_rng(devices=[device]), _no_garbage_collection():
            stream = _warm_up_stream(device)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    function()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads run meanwhile: loaders pin memory, NCCL polls its events.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                outcome = function()
        self.pool = graph.pool()

        def replay() -> Evaluated:
            graph.replay()
            return outcome

        return replay


@functools.cache
def _warm_up_stream(device: int) -> torch.cuda.Stream:
    """One side stream for all captures, since libraries keep memory for each stream."""
    return torch.cuda.Stream(device)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """No garbage collection inside the block: freeing events, memory or graphs cannot be captured."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
