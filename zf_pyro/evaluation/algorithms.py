"""Comparing algorithms on one net: train or infer with a row of ALGORITHMS, and judge what came of it."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from pyro.infer import MCMC, Importance, SMCFilter
from torch import Tensor

from ..inference import ALGORITHMS, AnnealedResult, FilterResult, effective_sample_size, log_weights, with_padding_prior
from ..models import StochasticRNN
from .bounds import bounds

NAN = float("nan")
Batch = tuple[Tensor, Tensor | None]
"""x, (batch, time, frame) floats or (batch, time) integers, and lengths (batch,), or None if all are whole."""


class Outcome(NamedTuple):
    """What came of one algorithm; NaN where it says nothing of the kind."""

    bound: float
    """Its own bound on log p(x), or estimate of it; mean over sequences, in nats a sequence."""
    error: float
    """Standard error of ``bound`` from repeated evaluations: of the draws, not of the choice of sequences."""
    yardstick: float
    """The importance-weighted bound of net and net.guide afterwards, in nats a sequence: what all are compared by."""
    seconds: float
    """Of training or inference, judging left out."""
    ess: float
    """Effective sample size: of its draws, or of the importance weights of the guide that it trained."""
    draws: int
    """Of how many draws; 0 where there are none."""


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
    """Go on training ``net`` with an algorithm that takes new sequences at every call.

    Args:
        name: of a row of ALGORITHMS that trains and is amortised.
        net: the net; trained further.
        batches: to train on, one step each.
        held_out: sequences to judge by.
        num_particles: of the yardstick and of the effective sample size.
        repeats: evaluations of the bound, for its standard error.
        settings: for the row's ``build``.

    Raises:
        KeyError: an unknown name.
        ValueError: an algorithm of the other kind.
    """
    algorithm = ALGORITHMS[name]
    if not (algorithm.trains and algorithm.amortised):
        raise ValueError(f"inference must be an algorithm that trains on new sequences at every call, got {name!r}")
    start = time.perf_counter()
    svi = algorithm.build(net, **settings)
    for x, lengths in batches:
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
    """Infer the latents of given sequences, the parameters of ``net`` fixed.

    Args:
        name: of a row of ALGORITHMS, other than those of :func:`train_and_judge`.
        net: the net; left in evaluation mode with fixed parameters.
        sequences: to infer the latents of.
        steps: of what is fitted to them.
        num_particles: of the yardstick, and of the effective sample size of a fitted guide.
        repeats: evaluations of the bound, for its standard error.
        settings: for the row's ``build``.

    Raises:
        KeyError: an unknown name.
        ValueError: an algorithm of the other kind.
    """
    algorithm = ALGORITHMS[name]
    if algorithm.trains and algorithm.amortised:
        raise ValueError(f"inference must be an algorithm that infers given latents, got {name!r}, which trains")
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
    """Mean and its standard error."""
    values = torch.tensor([evaluate() for _ in range(times)], dtype=torch.float64)
    return values.mean().item(), values.std().item() / math.sqrt(times)


def _minus_loss(svi: Any, batch: Batch) -> float:
    """The bound of an objective, in nats a sequence. Of wake-sleep's two losses, the model's is minus one."""
    loss = svi.evaluate_loss(*batch)
    return -(loss[0] if isinstance(loss, tuple) else loss) / len(batch[0])


def _yardstick(net: StochasticRNN, batch: Batch, num_particles: int) -> float:
    return bounds(net, *batch, num_particles).importance_weighted.mean().item()


def _effective(result: Any) -> tuple[float, int]:
    """Effective sample size of what an algorithm returned, and its number of draws; means over sequences and steps."""
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


def _guide_effective(net: StochasticRNN, guide: Any, batch: Batch, num_particles: int) -> tuple[float, int]:
    """Effective sample size of importance sampling from a fitted guide, if it has a weight for each sequence."""
    try:
        weights = log_weights(with_padding_prior(net.model), guide, *batch, num_particles=num_particles)
    except ValueError:  # one latent for the whole batch
        return NAN, 0
    return effective_sample_size(weights).mean().item(), num_particles


def _evidence(result: Any, num_sequences: int) -> float:
    """The estimate of log p(x) in nats a sequence."""
    if isinstance(result, Importance):
        return float(result.get_log_normalizer()) / num_sequences
    return result.log_evidence.mean().item()
