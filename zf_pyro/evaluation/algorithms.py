"""Comparison of algorithms on one model: train or infer with a row of ALGORITHMS, and evaluate the result."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from pyro.infer import MCMC, Importance, SMCFilter
from torch import Tensor

from ..checks import require_count
from ..data import batches_of, pair_of
from ..inference import ALGORITHMS, AnnealedResult, FilterResult, effective_sample_size, log_weights, with_padding_prior
from ..models import StochasticRNN
from ..objectives import PyroProgram
from .batching import require_sequences
from .bounds import bounds

NAN = float("nan")
Batch = tuple[Tensor, Tensor | None]
"""x, (batch, time, frame) floats or (batch, time) integers, and lengths (batch,), or None without padding."""


class Outcome(NamedTuple):
    """Results of one algorithm; NaN where it gives no such result."""

    bound: float
    """The algorithm's bound on log p(x), or estimate of it; nats per sequence, mean over sequences."""
    error: float
    """Standard error of ``bound`` from repeated evaluations: over the samples, not over the choice of sequences."""
    yardstick: float
    """Importance-weighted bound of ``net`` and ``net.guide`` afterwards, nats per sequence: the common measure."""
    seconds: float
    """Time of training or inference, without evaluation."""
    ess: float
    """Effective sample size of its samples, or of the importance weights of the guide that it trained."""
    draws: int
    """Number of samples behind ``ess``; 0 where there are none."""


def train_and_judge(
    name: str,
    net: StochasticRNN,
    batches: Iterable[Batch],
    held_out: Batch,
    *,
    num_particles: int = 64,
    repeats: int = 8,
    **settings: Any,
) -> Outcome:
    """Continue training ``net`` with an algorithm that takes new sequences at every call, and evaluate it.

    Args:
        name: row of ALGORITHMS that trains and is amortised.
        net: the model; trained further, and left in evaluation mode.
        batches: training batches, one step each.
        held_out: sequences for the evaluation, x (batch, time, *frame) and lengths (batch,).
        num_particles: samples for the yardstick and for the effective sample size.
        repeats: evaluations of the bound, for its standard error.
        settings: arguments of the row's ``build``.

    Raises:
        KeyError: an unknown name.
        ValueError: an algorithm of the other kind.
    """
    algorithm = ALGORITHMS[name]
    if not (algorithm.trains and algorithm.amortised):
        raise ValueError(f"inference must be an algorithm that trains on new sequences at every call, got {name!r}")
    num_particles, repeats = require_count("num_particles", num_particles), require_count("repeats", repeats)
    held_out = require_sequences(net, *pair_of(held_out, None, "held_out"), name="held_out")
    start = time.perf_counter()
    svi = algorithm.build(net, **settings)
    for x, lengths in batches_of(batches, name="batches"):
        getattr(svi, algorithm.call)(x, lengths)
    seconds = time.perf_counter() - start
    net.eval()
    bound = error = NAN
    if algorithm.evidence:
        bound, error = _repeated(lambda: _minus_loss(svi, held_out), repeats)
    weights = log_weights(net.model, net.guide, *held_out, num_particles=num_particles)
    ess = effective_sample_size(weights).mean().item()
    return Outcome(bound, error, _yardstick(net, held_out, num_particles), seconds, ess, num_particles)


def infer_and_judge(
    name: str,
    net: StochasticRNN,
    sequences: Batch,
    *,
    steps: int = 100,
    num_particles: int = 64,
    repeats: int = 8,
    **settings: Any,
) -> Outcome:
    """Infer the latents of given sequences with the parameters of ``net`` fixed, and evaluate the result.

    Args:
        name: row of ALGORITHMS, other than those of :func:`train_and_judge`.
        net: the model; left in evaluation mode with fixed parameters.
        sequences: the sequences whose latents are inferred, x (batch, time, *frame) and lengths (batch,).
        steps: optimisation steps of an algorithm that is fitted to these sequences.
        num_particles: samples for the yardstick, and for the effective sample size of a fitted guide.
        repeats: evaluations of the bound, for its standard error.
        settings: arguments of the row's ``build``.

    Raises:
        KeyError: an unknown name.
        ValueError: an algorithm of the other kind.
    """
    algorithm = ALGORITHMS[name]
    if algorithm.trains and algorithm.amortised:
        raise ValueError(f"inference must be an algorithm that infers given latents, got {name!r}, which trains")
    num_particles, repeats = require_count("num_particles", num_particles), require_count("repeats", repeats)
    steps = require_count("steps", steps)
    sequences = require_sequences(net, *pair_of(sequences, None, "sequences"), name="sequences")
    net.eval().requires_grad_(False)
    built = algorithm.build(net, **settings)
    call = getattr(built, algorithm.call)
    start = time.perf_counter()
    for _ in range(1 if algorithm.amortised else steps):
        result = call(*sequences)
    seconds = time.perf_counter() - start
    bound = error = NAN
    ess, draws = _effective(result)
    if algorithm.evidence == "bound":
        bound, error = _repeated(lambda: _minus_loss(built, sequences), repeats)
        ess, draws = _guide_effective(net, built.guide, sequences, num_particles)
    elif algorithm.evidence == "estimate":
        bound, error = _repeated(lambda: _evidence(call(*sequences), len(sequences[0])), repeats)
    return Outcome(bound, error, _yardstick(net, sequences, num_particles), seconds, ess, draws)


def _repeated(evaluate: Callable[[], float], times: int) -> tuple[float, float]:
    """Mean of repeated evaluations, and its standard error."""
    values = torch.tensor([evaluate() for _ in range(times)], dtype=torch.float64)
    return values.mean().item(), values.std().item() / math.sqrt(times)


def _minus_loss(svi: Any, batch: Batch) -> float:
    """Bound of an objective, nats per sequence; of wake-sleep's two losses, the model's is used."""
    loss = svi.evaluate_loss(*batch)
    return -(loss[0] if isinstance(loss, tuple) else loss) / len(batch[0])


def _yardstick(net: StochasticRNN, batch: Batch, num_particles: int) -> float:
    return bounds(net, *batch, num_particles).importance_weighted.mean().item()


def _effective(result: Any) -> tuple[float, int]:
    """Effective sample size of a result, mean over sequences and steps, and its number of samples."""
    match result:
        case MCMC():
            found = result.diagnostics()
            sizes = [found[site]["n_eff"].mean() for site in result.get_samples()]
            return torch.stack(sizes).mean().item(), result.num_samples
        case Importance():
            return float(result.get_ESS()), result.num_samples
        case SMCFilter():
            weights = result.get_empirical()["z"].log_weights
            return effective_sample_size(weights).item(), len(weights)
        case FilterResult():
            return result.ess.mean().item(), len(result.log_weights)
        case AnnealedResult():
            return effective_sample_size(result.log_weights).mean().item(), len(result.log_weights)
        case _:
            return NAN, 0


def _guide_effective(net: StochasticRNN, guide: PyroProgram, batch: Batch, num_particles: int) -> tuple[float, int]:
    """Effective sample size of importance sampling from a fitted guide, if it has one weight per sequence."""
    try:
        weights = log_weights(with_padding_prior(net.model), guide, *batch, num_particles=num_particles)
    except ValueError:  # one latent for the whole batch
        return NAN, 0
    return effective_sample_size(weights).mean().item(), num_particles


def _evidence(result: Any, num_sequences: int) -> float:
    """Estimate of log p(x), nats per sequence."""
    if isinstance(result, Importance):
        return float(result.get_log_normalizer()) / num_sequences
    return result.log_evidence.mean().item()
