"""Where posterior draws of the latents come from: guide, importance resampling, particle smoother, MCMC."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from pyro.infer import MCMC
from torch import Tensor

from ..evaluation import EncodedPart
from ..inference import ParticleFilter
from ..models import StochasticRNN
from .per_step import Record, draw, score

POSTERIORS = ("guide", "importance", "smoother")
"""Posteriors with a name; a Pyro MCMC object is the fourth kind."""


class Plan(NamedTuple):
    """How many draws, and from where."""

    posterior: str | MCMC
    """One of :data:`POSTERIORS`, or a Pyro MCMC object that has run."""
    num_chains: int
    """Chains of the result."""
    num_samples: int
    """Draws of a chain."""
    num_particles: int
    """Candidates that a chain of importance resampling chooses from, or particles of each filter."""
    chunk: int
    """Draws worked on at once."""

    @property
    def name(self) -> str:
        """The kind in a word."""
        return self.posterior if isinstance(self.posterior, str) else "mcmc"

    @property
    def total(self) -> int:
        """Draws of all chains."""
        return self.num_chains * self.num_samples


class Drawn(NamedTuple):
    """Some draws of a batch; ``draws`` of its fields are those of :class:`Plan`, chain after chain."""

    first: int
    """The number of the first of them."""
    record: Record
    """What was asked of them."""


def plan(
    posterior: str | MCMC,
    num_samples: int | None,
    num_chains: int | None,
    num_particles: int | None,
    chunk: int,
) -> Plan:
    """The sizes of what is asked for, with defaults filled in.

    Raises:
        ValueError: an unknown posterior, an MCMC object without draws or with fewer than asked for, a bad count.
        TypeError: neither a name nor an MCMC object.
    """
    for name, count in (("num_samples", num_samples), ("num_chains", num_chains), ("num_particles", num_particles)):
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise ValueError(f"{name} must be a positive integer, got {count!r}: without draws there is no posterior")
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


def posterior_draws(net: StochasticRNN, batch: EncodedPart, plan: Plan, names: Sequence[str]) -> Iterator[Drawn]:
    """All draws of a batch, a chunk at a time, with what ``names`` ask for (:class:`~.walks.Step`)."""
    if isinstance(plan.posterior, MCMC):
        yield from _scored(net, batch, plan, _mcmc_draws(plan.posterior, batch, plan), 0, names)
    elif plan.posterior == "guide":
        for first in range(0, plan.total, plan.chunk):
            yield Drawn(first, draw(net, batch, min(plan.chunk, plan.total - first), names))
    else:
        for chain in range(plan.num_chains):
            if plan.posterior == "importance":
                z = _resampled(net, batch, plan)
            else:
                # Each chain is a filter of its own, so that differences between chains show what a filter gets wrong.
                filtered = ParticleFilter(net, plan.num_particles).run(batch.x, batch.real.sum(0))
                z = filtered.smoothed(plan.num_samples).movedim(-2, 0)
            yield from _scored(net, batch, plan, z, chain * plan.num_samples, names)


def _scored(
    net: StochasticRNN, batch: EncodedPart, plan: Plan, z: Tensor, start: int, names: Sequence[str]
) -> Iterator[Drawn]:
    """Given latents (time, draws, batch, latent), those from number ``start`` on."""
    first = start
    for part in z.split(plan.chunk, dim=1):
        yield Drawn(first, score(net, batch, part.contiguous(), names))
        first += part.shape[1]


def _resampled(net: StochasticRNN, batch: EncodedPart, plan: Plan) -> Tensor:
    """Sampling-importance-resampling: ``num_samples`` of ``num_particles`` draws of the guide, chosen by weight.

    Rubin 1988, "Using the SIR algorithm to simulate posterior distributions". The candidates are never held all at
    once: each place keeps the draw chosen so far, and takes one of the next chunk with the share that the chunk has in
    all weight until then, which gives every candidate its due.

    Returns:
        z (time, num_samples, batch, latent).
    """
    kept: Tensor | None = None
    total = torch.full((), -torch.inf)
    sequences = torch.arange(batch.run.batch_size, device=batch.b.device)
    left = plan.num_particles
    while left > 0:
        record = draw(net, batch, min(left, plan.chunk), ["z", "log_weight"])
        left -= plan.chunk
        log_weight = batch.sum(record["log_weight"]).double()
        of_chunk = log_weight.logsumexp(0)
        total = torch.logaddexp(total.to(of_chunk), of_chunk)
        choice = torch.multinomial((log_weight - of_chunk).exp().T, plan.num_samples, replacement=True).T
        chosen = record["z"][:, choice, sequences]
        if kept is None:
            kept = chosen
            continue
        replaced = torch.rand(choice.shape, device=choice.device, dtype=total.dtype) < (of_chunk - total).exp()
        kept = torch.where(replaced.unsqueeze(-1), chosen, kept)
    if kept is None:
        raise RuntimeError("no candidates were drawn")
    return kept


def _mcmc_latents(mcmc: MCMC) -> list[Tensor]:
    """z_0, z_1, ... of an MCMC object; each (chain, draw, batch, latent)."""
    if getattr(mcmc, "_samples", None) is None:
        raise ValueError("posterior is an MCMC object without draws: call its run(x, lengths) first")
    samples = mcmc.get_samples(group_by_chain=True)
    latents: list[Tensor] = []
    while f"z_{len(latents)}" in samples:
        latents.append(samples[f"z_{len(latents)}"])
    if not latents:
        raise ValueError(f"posterior must be MCMC over the latents z_0, z_1, ..., got draws of {sorted(samples)}")
    return latents


def require_same_sequences(mcmc: MCMC, net: StochasticRNN, x: Tensor) -> None:
    """Refuse MCMC draws of other sequences than x.

    Raises:
        ValueError: the latents are of other sizes, or the chain was run on another x.
    """
    latents = _mcmc_latents(mcmc)
    expected, got = (x.shape[0], net.latent_dim), tuple(latents[0].shape[2:])
    if len(latents) != x.shape[1] or got != expected:
        raise ValueError(
            f"posterior must hold draws for the sequences of x, {x.shape[1]} steps of latents {expected}; "
            f"got {len(latents)} steps of {got}: run MCMC on the same x"
        )
    arguments = getattr(mcmc, "_args", None) or ()
    ran_on = arguments[0] if arguments else None
    if isinstance(ran_on, Tensor) and (ran_on.shape != x.shape or not torch.equal(ran_on.nan_to_num(), x.nan_to_num())):
        raise ValueError("posterior must hold draws for the sequences of x; this MCMC was run on another x")


def _mcmc_draws(mcmc: MCMC, batch: EncodedPart, plan: Plan) -> Tensor:
    """The chains' draws of a batch, thinned evenly to the number asked for; (time, draws, batch, latent)."""
    latents = _mcmc_latents(mcmc)[: batch.run.num_steps]
    have = latents[0].shape[1]
    taken = thinned(have, plan.num_samples)
    z = torch.stack([step.to(batch.b)[:, taken][:, :, batch.rows] for step in latents])
    return z.flatten(1, 2)


def thinned(have: int, wanted: int) -> Tensor:
    """Indices of ``wanted`` of ``have`` draws, evenly spaced."""
    return torch.arange(wanted) * have // wanted
