"""Sources of posterior samples of the latents: guide, importance resampling, particle smoother, MCMC."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from pyro.infer import MCMC
from torch import Tensor

from ..checks import require_count
from ..evaluation import EncodedPart
from ..inference import ParticleFilter
from ..models import StochasticRNN
from ..networks import chain_arguments, has_samples
from .per_step import DENSITIES, Quantity, Step, StepValues, draw, log_weight, score

POSTERIORS = ("guide", "importance", "smoother")
"""Posteriors by name. A Pyro MCMC object is the fourth kind."""


class Plan(NamedTuple):
    """Numbers of samples, and their source."""

    posterior: str | MCMC
    """One of :data:`POSTERIORS`, or a Pyro MCMC object that has run."""
    num_chains: int
    """Chains of the result."""
    num_samples: int
    """Samples per chain."""
    num_particles: int
    """Candidates per chain of importance resampling, or particles per filter."""
    chunk: int
    """Samples processed at once."""

    @property
    def name(self) -> str:
        """Name of the posterior; ``"mcmc"`` for an MCMC object."""
        return self.posterior if isinstance(self.posterior, str) else "mcmc"

    @property
    def total(self) -> int:
        """Samples of all chains."""
        return self.num_chains * self.num_samples


class Drawn(NamedTuple):
    """A chunk of the samples of a batch. Samples are numbered chain after chain."""

    first: int
    """Index of the first sample of the chunk."""
    values: StepValues
    """The requested quantities."""


def plan(
    posterior: str | MCMC,
    num_samples: int | None,
    num_chains: int | None,
    num_particles: int | None,
    chunk: int,
) -> Plan:
    """Validate the requested sizes and fill in defaults.

    Raises:
        ValueError: an unknown posterior, an MCMC object with no samples or fewer than requested, or a bad count.
        TypeError: neither a name nor an MCMC object.
    """
    num_samples = None if num_samples is None else require_count("num_samples", num_samples)
    num_chains = None if num_chains is None else require_count("num_chains", num_chains)
    num_particles = None if num_particles is None else require_count("num_particles", num_particles)
    if isinstance(posterior, MCMC):
        chains, draws = _mcmc_latents(posterior)[0].shape[:2]
        if num_chains not in (None, chains):
            raise ValueError(f"num_chains must be left out for MCMC, whose {chains} chains are kept; got {num_chains}")
        if num_samples is not None and num_samples > draws:
            raise ValueError(
                f"num_samples must be at most {draws}, the draws of a chain of this MCMC, got {num_samples}"
            )
        return Plan(posterior, chains, num_samples or draws, 1, chunk)
    if not isinstance(posterior, str):
        raise TypeError(f"posterior must be one of {POSTERIORS} or a Pyro MCMC object, got {type(posterior).__name__}")
    if posterior not in POSTERIORS:
        raise ValueError(f"posterior must be one of {POSTERIORS} or a Pyro MCMC object, got {posterior!r}")
    count = num_samples or 100
    return Plan(posterior, num_chains or 1, count, num_particles or max(10 * count, 100), chunk)


def posterior_draws(
    net: StochasticRNN, batch: EncodedPart, plan: Plan, quantities: Sequence[Quantity]
) -> Iterator[Drawn]:
    """Sample all latents of a batch, and yield the quantities (time, samples, batch, ...) chunk by chunk."""
    if isinstance(plan.posterior, MCMC):
        yield from _scored(net, batch, plan, _mcmc_draws(plan.posterior, batch, plan), 0, quantities)
    elif plan.posterior == "guide":
        for first in range(0, plan.total, plan.chunk):
            yield Drawn(first, draw(net, batch, min(plan.chunk, plan.total - first), quantities))
    else:
        for chain in range(plan.num_chains):
            if plan.posterior == "importance":
                z = _resampled(net, batch, plan)
            else:
                # Each chain is a separate filter, so that differences between chains show a filter's errors.
                filtered = ParticleFilter(net, plan.num_particles).run(
                    batch.x, batch.real.sum(0), **batch.named(net.emission_family)
                )
                z = filtered.smoothed(plan.num_samples).movedim(-2, 0)
            yield from _scored(net, batch, plan, z, chain * plan.num_samples, quantities)


def _scored(
    net: StochasticRNN, batch: EncodedPart, plan: Plan, z: Tensor, first: int, quantities: Sequence[Quantity]
) -> Iterator[Drawn]:
    """Quantities at given latents (time, samples, batch, latent), the samples from index ``first`` on."""
    for part in z.split(plan.chunk, dim=1):
        yield Drawn(first, score(net, batch, part.contiguous(), quantities))
        first += part.shape[1]


def _resampled(net: StochasticRNN, batch: EncodedPart, plan: Plan) -> Tensor:
    """Sampling-importance-resampling: choose ``num_samples`` of ``num_particles`` samples from the guide by weight.

    Rubin 1988, "Using the SIR algorithm to simulate posterior distributions". The candidates are processed in chunks.
    Each of the ``num_samples`` results is replaced by one from the next chunk with probability (weight of the chunk) /
    (weight of all chunks so far). So every candidate is chosen with probability proportional to its weight.

    Returns:
        z (time, num_samples, batch, latent).
    """
    kept: Tensor | None = None
    total = torch.full((), -torch.inf)
    sequences = torch.arange(batch.run.batch_size, device=batch.b.device)
    left = plan.num_particles
    while left > 0:
        values = draw(net, batch, min(left, plan.chunk), [Step.z, *DENSITIES])
        left -= plan.chunk
        log_weights = batch.sum(log_weight(values)).double()
        of_chunk = log_weights.logsumexp(0)
        total = torch.logaddexp(total.to(of_chunk), of_chunk)
        choice = torch.multinomial((log_weights - of_chunk).exp().T, plan.num_samples, replacement=True).T
        chosen = values[Step.z][:, choice, sequences]
        if kept is None:
            kept = chosen
            continue
        replaced = torch.rand(choice.shape, device=choice.device, dtype=total.dtype) < (of_chunk - total).exp()
        kept = torch.where(replaced.unsqueeze(-1), chosen, kept)
    if kept is None:
        raise RuntimeError("no candidates were drawn")
    return kept


def _mcmc_latents(mcmc: MCMC) -> list[Tensor]:
    """Latents z_0, z_1, ... of an MCMC object; each (chain, draw, batch, latent)."""
    if not has_samples(mcmc):
        raise ValueError("posterior is an MCMC object without draws: call its run(x, lengths) first")
    samples = mcmc.get_samples(group_by_chain=True)
    latents: list[Tensor] = []
    while f"z_{len(latents)}" in samples:
        latents.append(samples[f"z_{len(latents)}"])
    if not latents:
        raise ValueError(f"posterior must be MCMC over the latents z_0, z_1, ..., got draws of {sorted(samples)}")
    return latents


def require_same_sequences(mcmc: MCMC, net: StochasticRNN, x: Tensor) -> None:
    """Refuse MCMC samples of other sequences than x (batch, time, frame) or (batch, time).

    Raises:
        ValueError: the latents have other sizes, or the chain was run on another x.
    """
    latents = _mcmc_latents(mcmc)
    expected, got = (x.shape[0], net.latent_dim), tuple(latents[0].shape[2:])
    if len(latents) != x.shape[1] or got != expected:
        raise ValueError(
            f"posterior must hold draws for the sequences of x, {x.shape[1]} steps of latents {expected}; "
            f"got {len(latents)} steps of {got}: run MCMC on the same x"
        )
    arguments = chain_arguments(mcmc)
    ran_on = arguments[0] if arguments else None
    if isinstance(ran_on, Tensor) and (ran_on.shape != x.shape or not torch.equal(ran_on.nan_to_num(), x.nan_to_num())):
        raise ValueError("posterior must hold draws for the sequences of x; this MCMC was run on another x")


def _mcmc_draws(mcmc: MCMC, batch: EncodedPart, plan: Plan) -> Tensor:
    """MCMC samples of a batch, thinned evenly to the requested number; (time, samples, batch, latent)."""
    latents = _mcmc_latents(mcmc)[: batch.run.num_steps]
    have = latents[0].shape[1]
    taken = thinned(have, plan.num_samples)
    z = torch.stack([step.to(batch.b)[:, taken][:, :, batch.rows] for step in latents])
    return z.flatten(1, 2)


def thinned(have: int, wanted: int) -> Tensor:
    """Indices of ``wanted`` of ``have`` samples, evenly spaced."""
    return torch.arange(wanted) * have // wanted
