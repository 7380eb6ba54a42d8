"""fit_guide: train the guide of a network with its model fixed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from ..checks import require_choice, require_count, require_flag, require_number
from ..data import GivenSequences, given_of, givens_of, is_batch, progress_bar
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
    data: Tensor | tuple[Tensor, Tensor | None] | Iterable[Any],
    lengths: Tensor | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    objective: str | Objective = "importance_weighted",
    steps: int = 300,
    num_particles: int = 8,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
    progress: bool = False,
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
        data: x, (batch, time, *frame), with ``lengths``; a batch (x, lengths), or with further fields; or a loader
            of such batches, read again and again.
        lengths: real frames of each sequence, (batch,).
        covariates: c_1..c_T, (batch, time, K), where data is x.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), where data is x.
        objective: a name, or an objective of :mod:`zf_pyro.objectives`.
        steps: optimisation steps.
        num_particles: K, where the objective is given by name.
        learning_rate: Adam's.
        batch_size: sequences of a step, where ``data`` is one batch; chosen at random without replacement.
        progress: whether to show a progress bar, over the steps.

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
    require_flag("progress", progress)
    loss = _objective(objective, num_particles)
    given = (lengths, covariates, observed)
    batches = _batches(net, data, given, batch_size)
    chosen = list(_first(_passes(net, givens_of(data, *given)), JUDGED))
    few = GivenSequences(*(None if part is None or part.dim() < 2 else part[:1, :2] for part in chosen[0]))
    own = guide_parameters(net, few.x, **few.named)
    if not own:
        raise ValueError(
            "net must have trainable parameters that its guide has for itself, such as those of its posterior network, "
            "and has none: set requires_grad_(True) on them"
        )
    seed = new_seed()
    before = _bound(net, chosen, seed)
    with only(net, own.values()), progress_bar("fit of the guide", "step", steps, progress) as bar:
        optimiser = torch.optim.Adam(own.values(), lr=learning_rate)
        for _ in range(steps):
            optimiser.zero_grad()
            with torch.enable_grad():
                batch = next(batches)
                loss.loss_and_grads(net.model, net.guide, batch.x, batch.lengths, **batch.named)
            optimiser.step()
            bar.update()
    after = _bound(net, chosen, seed)
    count = sum(len(part.x) for part in chosen)
    return GuideFit(before, after, steps, count, tuple(own))


def _objective(objective: str | Objective, num_particles: int) -> Objective:
    if isinstance(objective, Objective):
        return objective
    if not isinstance(objective, str):
        got = f"the class {objective.__name__}" if isinstance(objective, type) else type(objective).__name__
        raise TypeError(f"objective must be one of {sorted(OBJECTIVES)} or an objective of zf_pyro, got {got}")
    return OBJECTIVES[require_choice("objective", objective, OBJECTIVES)](num_particles)


def _passes(net: StochasticRNN, given: Iterable[GivenSequences]) -> Iterator[GivenSequences]:
    """Batches of one pass, where the weights are, each checked."""
    like = net.emission_layer.weight
    for part in given:
        part = part.to(like.device)
        prepare_inputs(net, part.x, part.lengths, None, None, **part.named)  # for its checks
        yield part


def _batches(net: StochasticRNN, data: Any, rest: Sequence[Any], batch_size: int) -> Iterator[GivenSequences]:
    """Batches without end."""
    if is_batch(data):
        whole = given_of(data, *rest)
        while True:
            for rows in torch.randperm(len(whole.x)).split(batch_size):
                yield whole.taken(rows.to(whole.x.device))
    while True:
        found = False
        for batch in _passes(net, givens_of(data, *rest)):
            found = True
            yield batch
        if not found:
            raise ValueError(
                "data must be read again and again, and gave no batch: give a loader or a list in place of an iterator"
            )


def _first(batches: Iterator[GivenSequences], count: int) -> Iterator[GivenSequences]:
    """The first sequences of batches, at most ``count`` of them."""
    left = count
    for batch in batches:
        if left <= 0:
            return
        yield GivenSequences(*(None if part is None else part[:left] for part in batch))
        left -= len(batch.x)
    if left == count:
        raise ValueError("data must hold at least one sequence, got no batches")


def _bound(net: StochasticRNN, batches: list[GivenSequences], seed: int) -> float:
    """Mean importance-weighted bound over sequences, in nats."""
    found = []
    with fixed(net), pyro.validation_enabled(False), torch.no_grad():
        for number, batch in enumerate(batches):
            for rows in torch.arange(len(batch.x), device=batch.x.device).split(64):
                some = batch.taken(rows)
                part = SequenceBound(net, some.x, some.lengths, None, None, **some.named)
                found.append(mean_bound(part.weighed(part.zeros(), REPORTED, seed + number), REPORTED))
    return torch.cat(found).mean().item()
