"""The objective captured in CUDA graphs: the Python of a step runs once per shape, and is replayed from then on.

A graph replays the kernels that were launched during its capture, on the same memory.

- Each shape needs a graph of its own. Sequences are padded to few lengths, and the number of graphs is bounded. Beyond
  it the objective runs without capture.
- The data and the weights of the objective change between steps. They are copied into inputs of the graph.
- Random numbers differ between replays: torch registers the generator with the graph and advances its Philox offset.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from ..checks import int64, require_count, require_tensor
from ..models import StochasticRNN
from ..networks import State, add_in_place, function_modes, handlers
from .capture import Capture, CudaCapture, Evaluated
from .elbo import ZForcingELBO
from .held import HeldELBO
from .programs import PyroProgram, check_programs
from .schedules import WeightInMemory
from .terms import Terms


class GraphedELBO(HeldELBO):
    """An objective that is captured once per shape and replayed from then on: the same values in less time.

    Use it in place of the objective, in :class:`~pyro.infer.SVI` or :class:`zf_pyro.training.Training`. Pyro's
    validation is off during capture, since it would wait for the device. The objective runs without capture

    - without CUDA, or with ``capacity=0``;
    - for programs that are not ``model`` and ``guide`` of one model;
    - under Pyro's handlers;
    - with ``measure_earned``, a measurement for which a graph would be captured anew.

    A graph holds for one shape and one configuration: which weights are zero, the model's mode, the addresses of its
    parameters and which of them are frozen, and the precision (``torch.autocast``, ``bf16-mixed``). When the
    configuration changes, new graphs replace the oldest ones.

    On an NVIDIA H100 a captured step took between a quarter and a sixth of the time (``docs/speed.md``).

    Args:
        objective: the objective to capture, of one particle.
        bucket: lengths are padded to a multiple of this number of steps. Padding costs time, but makes fewer shapes.
        capacity: number of graphs kept. Each holds its inputs and gradients; the other memory is shared. Further
            shapes of one configuration run without capture.
        capture: way to capture; CUDA graphs if None.

    Raises:
        ValueError: a number out of range, or an objective of more than one particle.
    """

    def __init__(
        self, objective: ZForcingELBO, *, bucket: int = 16, capacity: int = 8, capture: Capture | None = None
    ) -> None:
        super().__init__(objective, "to be captured")
        self.bucket, self.capacity = require_count("bucket", bucket), require_count("capacity", capacity, least=0)
        if capture is not None and not callable(capture):
            raise TypeError(f"capture must be a function that captures, or None, got {type(capture).__name__}")
        self.capture = capture
        self._graphs: dict[tuple[Any, ...], _Graph] = {}

    @property
    def num_graphs(self) -> int:
        """Number of graphs kept."""
        return len(self._graphs)

    def _losses(self, model: PyroProgram, guide: PyroProgram, args: Any, kwargs: Any) -> Iterator[Tensor]:
        yield from self.objective._losses(model, guide, args, kwargs)
        self.terms, self.other = self.objective.terms, self.objective.other

    def _uncaptured(self, model: PyroProgram, guide: PyroProgram, *args: Any, **kwargs: Any) -> Tensor:
        loss = self.objective.backward(model, guide, *args, **kwargs)
        self.terms, self.other = self.objective.terms, self.objective.other
        return loss

    def backward(self, model: PyroProgram, guide: PyroProgram, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the loss, a scalar in nats, and add its gradients to the parameters. Nothing waits for the device.

        Arguments as for :meth:`zf_pyro.ZForcing.guide`: x (batch, time, *frame), lengths (batch,).
        """
        check_programs(model, guide)
        net = getattr(guide, "__self__", None)
        if not isinstance(net, StochasticRNN) or not _own(net, model, guide) or self.measure_earned:
            return self._uncaptured(model, guide, *args, **kwargs)
        x, lengths, context, initial_state, covariates, observed = _data(*args, **kwargs)
        lengths = int64(lengths)
        if self.capture is None and require_tensor("x", x).device.type == "cuda" and self.capacity:
            self.capture = CudaCapture()
        if self.capture is None:
            return self._uncaptured(model, guide, *args, **kwargs)
        x, lengths, *more = _pad(x, lengths, self.bucket, covariates, observed)
        inputs = x, lengths, context, *(initial_state or (None, None)), *more
        weights = self.kl_weight, self.aux_weight, self.backward_weight
        positive = tuple(weight > 0 for weight in weights)
        configuration = positive, _state_of(net), _precision(x.device)
        key = configuration, tuple(None if given is None else (given.shape, given.dtype) for given in inputs)
        graph = self._graphs.get(key)
        if graph is None:
            full = len(self._graphs) >= self.capacity
            old = next((key for key in self._graphs if key[0] != configuration), None) if full else None
            if full and old is None:
                return self._uncaptured(model, guide, *args, **kwargs)
            graph = self._graphs[key] = _Graph(self, net, inputs, positive, self.capture)
            if old is not None:  # only now: the shared memory is freed with the last graph
                del self._graphs[old]
        outcome = graph.run(inputs, weights)
        if handlers():  # SVI records parameters, and sees none in a replay
            net.register()
        self.step += 1
        self.terms, self.other = Terms(*(term.clone() for term in outcome.terms)), 0.0
        return outcome.loss.clone()


class _Graph:
    """The captured objective for one shape of arguments."""

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
        in_memory = [WeightInMemory(value, flag) for value, flag in zip(self.weights.unbind(), positive, strict=True)]
        fixed = [_Fixed(weight) for weight in in_memory]
        kl, aux, backward = fixed
        form, free_nats = elbo.objective.auxiliary, elbo.objective.free_nats
        objective = ZForcingELBO(kl, aux, backward, auxiliary=form, free_nats=free_nats, max_plate_nesting=1)

        def evaluate() -> Evaluated:
            x, lengths, context, hidden, cell, covariates, observed = self.inputs
            state = None if hidden is None or cell is None else State(hidden, cell)
            given, found = (x, lengths, context, state), {"covariates": covariates, "observed": observed}
            named = {name: value for name, value in found.items() if value is not None}
            with pyro.validation_enabled(False), poutine.block(), _casts_not_cached():
                loss = objective.differentiable_loss(net.model, net.guide, *given, **named)
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
        add_in_place(totals, gradients)
        return outcome


class _Fixed:
    """A schedule that returns a weight in memory at every step."""

    def __init__(self, weight: Any) -> None:
        self.weight = weight

    def __call__(self, step: int) -> Any:
        return self.weight


def _data(
    x: Tensor,
    lengths: Tensor | None = None,
    context: Tensor | None = None,
    initial_state: State | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, State | None, Tensor | None, Tensor | None]:
    """The arguments of the programs in order."""
    return x, lengths, context, initial_state, covariates, observed


def _pad(
    x: Tensor, lengths: Tensor | None, bucket: int, *more: Tensor | None
) -> tuple[Tensor, Tensor, *tuple[Tensor | None, ...]]:
    """x with zeros up to a multiple of ``bucket`` steps, the lengths, and more padded as x is.

    All are (batch, time, ...), but for the lengths, (batch,).
    """
    batch_size, num_steps = x.shape[:2]
    if lengths is None:
        lengths = torch.full((batch_size,), num_steps, device=x.device)
    missing = -num_steps % bucket

    def padded(value: Tensor) -> Tensor:
        if missing == 0:
            return value
        return torch.cat([value, value.new_zeros(batch_size, missing, *value.shape[2:])], dim=1)

    return padded(x), lengths, *(None if value is None else padded(value) for value in more)


def _own(net: StochasticRNN, model: PyroProgram, guide: PyroProgram) -> bool:
    """Whether the programs are the model's, under no handlers but one that records parameters alone."""
    alone = all(getattr(handler, "param_only", False) for handler in handlers())
    return alone and model == net.model and guide == net.guide


def _state_of(net: StochasticRNN) -> tuple[Any, ...]:
    """Properties of a model that a graph depends on: its mode, and each parameter's address and requires_grad."""
    return id(net), net.training, *((id(p), p.data_ptr(), p.requires_grad) for p in net.parameters())


def _precision(device: torch.device) -> tuple[Any, ...]:
    """Settings of the precision of products: autocast, and function modes such as that of ``bf16-mixed``."""
    cast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return cast, *function_modes()


@contextmanager
def _casts_not_cached() -> Iterator[None]:
    """No cache of autocast's casts inside the block: a cached weight would not be cast again in a replay."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)
