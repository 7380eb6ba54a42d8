"""fit_guide: train the guide of a network with its model fixed."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from ..checks import int64, require_choice, require_count, require_number
from ..data import batches_of, is_batch, pair_of
from ..models import RefinedNetwork, StochasticRNN, require_model
from ..objectives import FIVO, ImportanceWeightedELBO, Objective, WakePhi, ZForcingELBO
from ..paths import prepare_inputs
from .fixed import fixed, only
from .guide_parameters import guide_parameters
from .sequence_bound import SequenceBound, mean_bound, new_seed

OBJECTIVES: dict[str, Callable[[int], Objective]] = {
    "elbo": lambda num_particles: ZForcingELBO(
        num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1
    ),
    "importance_weighted": lambda num_particles: ImportanceWeightedELBO(
        num_particles, doubly_reparameterised=True, max_plate_nesting=1
    ),
    "wake_phi": lambda num_particles: WakePhi(num_particles, max_plate_nesting=1),
    "fivo": lambda num_particles: FIVO(num_particles),
}
"""Objectives for a guide, by name."""
JUDGED, REPORTED = 256, 64
"""Most sequences for the reported bounds, and samples of each."""

Sequences = tuple[Tensor, Tensor | None]


class GuideFit(NamedTuple):
    """Result of :func:`fit_guide`. The bounds are of the same sequences, from the same fresh samples of noise."""

    before: float
    """Importance-weighted bound of 64 samples before, mean over sequences; nats per sequence."""
    after: float
    """The same afterwards."""
    steps: int
    """Optimisation steps taken."""
    num_sequences: int
    """Sequences behind the bounds: all of them, or the first 256."""
    parameters: tuple[str, ...]
    """Names of the trained parameters."""


def fit_guide(
    net: StochasticRNN,
    data: Tensor | Sequences | Iterable[Sequences],
    lengths: Tensor | None = None,
    *,
    objective: str | Objective = "importance_weighted",
    steps: int = 300,
    num_particles: int = 8,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
) -> GuideFit:
    """Train the guide of a network in place, with its model fixed.

    Only parameters that the guide has for itself are trained (:func:`.guide_parameters.guide_parameters`): those of the
    posterior network and of the backward RNN. What the model also reads stays as it is, so log p(x) is the same before
    and after. Parameters without ``requires_grad`` stay as well. Adam takes the steps.

    Objectives:

    - ``"importance_weighted"``: the bound of K particles, with the doubly reparameterised gradient. The plain gradient
      gets worse with K.
    - ``"elbo"``: KL(q || p), which leads to a guide that is too narrow rather than too wide.
    - ``"wake_phi"``: KL(p || q) by self-normalised weights, which leads to a guide that covers the posterior
      (:class:`zf_pyro.objectives.WakePhi`).
    - ``"fivo"``: for a guide that proposes in a particle filter.

    Gradients, flags and modes are restored, also after an error. The weights are then those of the last step.

    Args:
        net: the model. Dropout is off.
        data: x, (batch, time, *frame), with ``lengths``; a batch (x, lengths); or a loader of such batches, read again
            and again.
        lengths: real frames of each sequence, (batch,).
        objective: a name, or an objective of :mod:`zf_pyro.objectives`.
        steps: optimisation steps.
        num_particles: K, where the objective is given by name.
        learning_rate: Adam's.
        batch_size: sequences of a step, where ``data`` is one batch; chosen at random without replacement.

    Raises:
        TypeError: ``net`` is no model, or a refined one; another form of data; or an objective that is none.
        ValueError: a setting out of range, data that the model refuses, no batches, or a guide without parameters of
            its own.
    """
    require_model(net)
    if isinstance(net, RefinedNetwork):
        raise TypeError("net must be the network itself, got one refined for given sequences: call fit_guide(net, ...)")
    steps, num_particles = require_count("steps", steps), require_count("num_particles", num_particles)
    learning_rate = require_number("learning_rate", learning_rate, "a positive number", 0.0, ends="(]")
    batch_size = require_count("batch_size", batch_size)
    loss = _objective(objective, num_particles)
    batches = _batches(net, data, lengths, batch_size)
    chosen = list(_first(_passes(net, data, lengths), JUDGED))
    own = guide_parameters(net, chosen[0][0][:1, :2])
    if not own:
        raise ValueError(
            "net must have trainable parameters that its guide has for itself, such as those of its posterior network, "
            "and has none: set requires_grad_(True) on them"
        )
    seed = new_seed()
    before = _bound(net, chosen, seed)
    with only(net, own.values()):
        optimiser = torch.optim.Adam(own.values(), lr=learning_rate)
        for _ in range(steps):
            optimiser.zero_grad()
            with torch.enable_grad():
                loss.loss_and_grads(net.model, net.guide, *next(batches))
            optimiser.step()
    after = _bound(net, chosen, seed)
    count = sum(len(x) for x, _ in chosen)
    return GuideFit(before, after, steps, count, tuple(own))


def _objective(objective: str | Objective, num_particles: int) -> Objective:
    if isinstance(objective, Objective):
        return objective
    if not isinstance(objective, str):
        got = f"the class {objective.__name__}" if isinstance(objective, type) else type(objective).__name__
        raise TypeError(f"objective must be one of {sorted(OBJECTIVES)} or an objective of zf_pyro, got {got}")
    return OBJECTIVES[require_choice("objective", objective, OBJECTIVES)](num_particles)


def _passes(net: StochasticRNN, data: Any, lengths: Tensor | None) -> Iterator[Sequences]:
    """Batches of one pass, where the weights are, each checked."""
    like = net.emission_layer.weight
    for x, real in batches_of(data, lengths):
        if isinstance(x, Tensor):
            x = x.to(like.device)
        real = real.to(like.device) if isinstance(real, Tensor) else real
        prepare_inputs(net, x, real, None, None)  # for its checks
        yield x, real


def _batches(net: StochasticRNN, data: Any, lengths: Tensor | None, batch_size: int) -> Iterator[Sequences]:
    """Batches without end."""
    if is_batch(data):
        x, real = pair_of(data, lengths, "data")
        while True:
            for rows in torch.randperm(len(x)).split(batch_size):
                yield _cut(x, int64(real), rows.to(x.device))
    while True:
        found = False
        for batch in _passes(net, data, lengths):
            found = True
            yield batch
        if not found:
            raise ValueError(
                "data must be read again and again, and gave no batch: give a loader or a list in place of an iterator"
            )


def _cut(x: Tensor, lengths: Tensor | None, rows: Tensor) -> Sequences:
    """Some sequences, cut to the longest of them."""
    if lengths is None:
        return x[rows], None
    real = lengths[rows]
    return x[rows, : int(real.max())], real


def _first(batches: Iterator[Sequences], count: int) -> Iterator[Sequences]:
    """The first sequences of batches, at most ``count`` of them."""
    left = count
    for x, lengths in batches:
        if left <= 0:
            return
        yield x[:left], None if lengths is None else lengths[:left]
        left -= len(x)
    if left == count:
        raise ValueError("data must hold at least one sequence, got no batches")


def _bound(net: StochasticRNN, batches: list[Sequences], seed: int) -> float:
    """Mean importance-weighted bound over sequences, in nats."""
    found = []
    with fixed(net), pyro.validation_enabled(False), torch.no_grad():
        for number, (x, lengths) in enumerate(batches):
            for rows in torch.arange(len(x), device=x.device).split(64):
                part = SequenceBound(net, *_cut(x, lengths, rows), None, None)
                found.append(mean_bound(part.weighed(part.zeros(), REPORTED, seed + number), REPORTED))
    return torch.cat(found).mean().item()
