"""The objective as CUDA graphs: all of a step's Python, Pyro's included, runs once a shape and is then replayed.

A graph replays the kernels that were launched while it was captured, on the same memory. So each shape needs a graph of
its own; sequences are padded to few lengths, and beyond a bounded number of graphs the objective runs as it is. What
may change from step to step is copied into the graph's own inputs: the data, and the weights of the objective. Random
numbers are fresh in each replay: torch registers the generator with the graph and moves its Philox offset on.
"""

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack

from ..checks import require_count
from ..models import StochasticRNN
from ..networks import State
from .elbo import ZForcingELBO
from .held import HeldELBO
from .objective import PyroProgram
from .terms import Terms

WARM_UP = 3
"""Runs before a capture, in which libraries set themselves up."""


class Evaluated(NamedTuple):
    """What one evaluation leaves."""

    loss: Tensor
    """The loss, a scalar in nats."""
    terms: Terms
    """Its parts, each (batch,) in nats."""
    gradients: tuple[Tensor | None, ...]
    """Of the loss for each parameter; None where it does not depend on one."""


class Capture(Protocol):
    """How a function of no arguments is captured."""

    def __call__(self, function: Callable[[], Evaluated]) -> Callable[[], Evaluated]:
        """Run ``function`` at least once; return what runs it again on the same memory, with fresh random numbers."""


class CudaCapture:
    """Captures in a CUDA graph; the graphs of one capture share their memory, as no two are replayed at once."""

    def __init__(self) -> None:
        self.pool: Any = None

    def __call__(self, function: Callable[[], Evaluated]) -> Callable[[], Evaluated]:
        """Capture ``function`` after a few runs on a stream of its own, as torch asks for.

        Random numbers are then where they were, so that the replays draw what ``function`` would have drawn.
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
            # Other threads go on meanwhile: loaders pin memory, NCCL looks at its events.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                outcome = function()
        self.pool = graph.pool()

        def replay() -> Evaluated:
            graph.replay()
            return outcome

        return replay


@functools.cache
def _warm_up_stream(device: int) -> torch.cuda.Stream:
    """One for all captures, as libraries keep memory for each stream."""
    return torch.cuda.Stream(device)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Garbage may hold events, memory or graphs of the device, and what frees those is no part of a capture."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Weight:
    """A weight of the objective that lies in memory, so that a graph reads what is there at its replay.

    Whether it is zero is fixed: that decides what is computed at all.
    """

    def __init__(self, value: Tensor, positive: bool) -> None:
        self.value, self.positive = value, positive

    def __gt__(self, zero: float) -> bool:
        return self.positive

    def __mul__(self, other: Tensor) -> Tensor:
        return self.value * other

    __rmul__ = __mul__


class GraphedELBO(HeldELBO):
    """An objective of which each shape is captured once and replayed from then on; the same numbers, less time.

    Use it in place of the objective, in :class:`~pyro.infer.SVI` or :class:`zf_pyro.training.Training`. Pyro's
    validation is off in what is captured, as it would wait for the device. The objective runs as it is without CUDA,
    with ``capacity=0``, for programs that are not a net's own model and guide, and under Pyro's handlers.

    A graph is of one shape and of one situation: which weights are zero, the net's mode, where its parameters lie and
    which of them are frozen, and the precision (``torch.autocast``, ``bf16-mixed``). Where the situation changes, new
    graphs are captured, and take the place of the old ones, the oldest first.

    On an NVIDIA H100 a step took between a quarter and a sixth of the time that the objective takes as it is
    (``docs/speed.md``).

    Args:
        objective: what is captured; its schedules and its step are used as they are.
        bucket: steps of time that lengths are padded up to a multiple of. Padding costs time, but makes fewer shapes.
        capacity: how many graphs are kept; each holds its inputs and the gradients, all share the rest. Further shapes
            of one situation run as they are.
        capture: how to capture; CUDA graphs if None.

    Raises:
        ValueError: a number out of range, or an objective of more than one particle.
    """

    def __init__(
        self, objective: ZForcingELBO, *, bucket: int = 16, capacity: int = 8, capture: Capture | None = None
    ) -> None:
        super().__init__(objective, "to be captured")
        self.bucket, self.capacity = require_count("bucket", bucket), require_count("capacity", capacity, least=0)
        self.capture = capture
        self._graphs: dict[tuple[Any, ...], _Graph] = {}

    @property
    def num_graphs(self) -> int:
        """Graphs that are kept."""
        return len(self._graphs)

    def _losses(self, model: PyroProgram, guide: PyroProgram, args: Any, kwargs: Any) -> Iterator[Tensor]:
        yield from self.objective._losses(model, guide, args, kwargs)
        self.terms, self.other = self.objective.terms, self.objective.other

    def backward(
        self,
        model: PyroProgram,
        guide: PyroProgram,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
    ) -> Tensor:
        """The loss, a scalar in nats; adds its gradients to the parameters. Nothing waits for the device."""
        if self.capture is None and x.device.type == "cuda" and self.capacity:
            self.capture = CudaCapture()
        net = getattr(guide, "__self__", None)
        arguments = x, lengths, context, initial_state
        if self.capture is None or not isinstance(net, StochasticRNN) or not _own(net, model, guide):
            return super().backward(model, guide, *arguments)
        inputs = *_pad(x, lengths, self.bucket), context, *(initial_state or (None, None))
        weights = self.kl_weight, self.aux_weight, self.backward_weight
        positive = tuple(weight > 0 for weight in weights)
        situation = positive, _state_of(net), _precision(x.device)
        key = situation, tuple(None if given is None else (given.shape, given.dtype) for given in inputs)
        graph = self._graphs.get(key)
        if graph is None:
            full = len(self._graphs) >= self.capacity
            old = next((key for key in self._graphs if key[0] != situation), None) if full else None
            if full and old is None:
                return super().backward(model, guide, *arguments)
            graph = self._graphs[key] = _Graph(self, net, inputs, positive, self.capture)
            if old is not None:  # only now: the memory that graphs share is gone with the last of them
                del self._graphs[old]
        outcome = graph.run(inputs, weights)
        if _PYRO_STACK:  # whoever takes down parameters, as SVI does, sees none in a replay
            net.register()
        self.step += 1
        self.terms, self.other = Terms(*(term.clone() for term in outcome.terms)), 0.0
        return outcome.loss.clone()


class _Graph:
    """One shape of arguments, captured."""

    def __init__(
        self,
        elbo: GraphedELBO,
        net: StochasticRNN,
        inputs: Sequence[Tensor | None],
        positive: Sequence[bool],
        capture: Capture,
    ) -> None:
        self.inputs = [None if given is None else given.clone() for given in inputs]
        self.weights = inputs[0].new_ones(3, dtype=torch.float64)  # type: ignore[union-attr]  # x is never None
        self.parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        in_memory = [Weight(value, flag) for value, flag in zip(self.weights.unbind(), positive, strict=True)]
        fixed = [_Fixed(weight) for weight in in_memory]
        kl, auxiliary, backward = fixed
        objective = ZForcingELBO(kl, auxiliary, backward, free_nats=elbo.objective.free_nats, max_plate_nesting=1)

        def evaluate() -> Evaluated:
            x, lengths, context, *state = self.inputs
            given = (x, lengths, context, None if state[0] is None else State(*state))  # type: ignore[arg-type]
            with pyro.validation_enabled(False), poutine.block(), _casts_not_cached():
                loss = objective.differentiable_loss(net.model, net.guide, *given)
                with torch.autocast(loss.device.type, enabled=False):
                    gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            if objective.terms is None or isinstance(objective.other, Tensor):
                raise RuntimeError("only a model and guide of one path, without other sites, are captured")
            return Evaluated(loss.detach(), objective.terms, gradients)

        self.replay = capture(evaluate)

    def run(self, inputs: Sequence[Tensor | None], weights: Sequence[float]) -> Evaluated:
        """Copy the arguments in, replay, and add the gradients."""
        for own, given in zip(self.inputs, inputs, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        for own, weight in zip(self.weights.unbind(), weights, strict=True):
            own.fill_(weight)
        outcome = self.replay()
        totals, gradients = [], []
        for parameter, gradient in zip(self.parameters, outcome.gradients, strict=True):
            if gradient is not None:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                totals.append(parameter.grad)
                gradients.append(gradient)
        torch._foreach_add_(totals, gradients)
        return outcome


class _Fixed:
    """A schedule that is a weight in memory whatever the step."""

    def __init__(self, weight: Any) -> None:
        self.weight = weight

    def __call__(self, step: int) -> Any:
        return self.weight


def _pad(x: Tensor, lengths: Tensor | None, bucket: int) -> tuple[Tensor, Tensor]:
    """x with zeros up to a multiple of ``bucket`` steps, and the lengths; (batch, time, ...) and (batch,)."""
    batch_size, num_steps = x.shape[:2]
    if lengths is None:
        lengths = torch.full((batch_size,), num_steps, device=x.device)
    missing = -num_steps % bucket
    return (x if missing == 0 else torch.cat([x, x.new_zeros(batch_size, missing, *x.shape[2:])], dim=1)), lengths


def _own(net: StochasticRNN, model: PyroProgram, guide: PyroProgram) -> bool:
    """Whether the programs are the net's, and no handlers are around them but one that takes down parameters."""
    alone = all(getattr(handler, "param_only", False) for handler in _PYRO_STACK)
    return alone and model == net.model and guide == net.guide


def _state_of(net: StochasticRNN) -> tuple[Any, ...]:
    """What of a net a graph is bound to: its mode, and where its parameters lie and which of them have gradients."""
    return id(net), net.training, *((id(p), p.data_ptr(), p.requires_grad) for p in net.parameters())


def _precision(device: torch.device) -> tuple[Any, ...]:
    """What decides the precision of products: autocast, and modes such as that of ``bf16-mixed``."""
    cast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return cast, *(type(mode) for mode in _get_current_function_mode_stack())


@contextmanager
def _casts_not_cached() -> Iterator[None]:
    """Autocast casts weights anew, as part of the graph: one kept from before would be replayed as it was then."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)
