"""Bounds on the log-likelihood of each sequence, and what of the latent the posterior uses."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from .given import check_frames, check_lengths
from .model import ZForcing
from .posterior_path import PosteriorPath
from .prior_path import PriorPath
from .terms import step_terms


class Bounds(NamedTuple):
    """Lower bounds on log p(x), each (batch,) in nats, summed over the real steps of a sequence."""

    elbo: Tensor
    """The evidence lower bound, with the analytic KL, averaged over the particles."""
    importance_weighted: Tensor
    """log (1/K sum_k p(x, z_k) / q(z_k | x)) over K particles, by Burda et al. 2016
    (https://arxiv.org/abs/1509.00519): tighter, and tight as K grows."""
    kl: Tensor
    """KL(q || p) of all latents, averaged over the particles."""


@torch.no_grad()
def bounds(
    net: ZForcing,
    x: Tensor,
    lengths: Tensor | None = None,
    num_particles: int = 64,
    *,
    batch_size: int = 64,
    chunk_particles: int = 8,
) -> Bounds:
    """Bounds on log p(x) under ``net`` in evaluation mode, one a sequence.

    Args:
        net: the net; left in the mode it was found in.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        num_particles: K, draws of the latents of each sequence.
        batch_size: sequences worked on at once.
        chunk_particles: draws worked on at once. With ``batch_size`` it bounds the memory, not the result.

    Raises:
        TypeError, ValueError: a count that is not a positive integer; or x or lengths that ``net`` refuses.
    """
    counts = {"num_particles": num_particles, "batch_size": batch_size, "chunk_particles": chunk_particles}
    for name, count in counts.items():
        _require_count(name, count)
    _check(net, x, lengths)
    order, parts = _by_length(x, lengths), []
    with _evaluating(net):
        for rows in order.split(batch_size):
            part, real = _batch(x, lengths, rows)
            left, chunks = num_particles, []
            while left > 0:
                chunks.append(_particles(net, part, real, min(left, chunk_particles)))
                left -= chunk_particles
            log_weight, log_likelihood, kl = (torch.cat(field) for field in zip(*chunks, strict=True))
            tightest = log_weight.logsumexp(0) - math.log(num_particles)
            parts.append(Bounds((log_likelihood - kl).mean(0), tightest, kl.mean(0)))
    back = order.argsort().to(x.device)
    return Bounds(*(torch.cat(field)[back] for field in zip(*parts, strict=True)))


@torch.no_grad()
def active_units(
    net: ZForcing, x: Tensor, lengths: Tensor | None = None, threshold: float = 0.01, *, batch_size: int = 64
) -> int:
    """Latent dimensions that the posterior uses: those whose mean varies over the data.

    A dimension i is active if the variance of E_q[z_{t,i}] over sequences and real steps exceeds ``threshold``:
    Burda et al. 2016, https://arxiv.org/abs/1509.00519, section 2. Since the posterior of a step is conditioned on the
    latents drawn before it, one draw of those stands for their average.

    Here the prior p(z_t | h_{t-1}) varies over the data as well, and a posterior that merely follows it counts as
    active: unlike in a model with a fixed prior, a unit can be active and carry next to no KL.

    Args:
        net: the net; left in the mode it was found in.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        threshold: variance of the mean, in the units of z squared.
        batch_size: sequences worked on at once.

    Raises:
        TypeError, ValueError: a negative threshold; a count that is not a positive integer; or x or lengths that
            ``net`` refuses.
    """
    if not threshold >= 0.0:
        raise ValueError(f"threshold must be a variance of at least 0, got {threshold!r}")
    _require_count("batch_size", batch_size)
    _check(net, x, lengths)
    means = []
    with _evaluating(net):
        for rows in _by_length(x, lengths).split(batch_size):
            _, guide = _runs(net, *_batch(x, lengths, rows), 1)
            mean = guide.group().mean[:, 0]
            mask = guide.given.mask
            means.append(mean.flatten(0, 1) if mask is None else mean[mask])
    return int((torch.cat(means).var(0, correction=0) > threshold).sum())


@torch.no_grad()
def step_kl(net: ZForcing, x: Tensor, lengths: Tensor | None = None, *, batch_size: int = 64) -> Tensor:
    """KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1})) of each step, at one draw of the latents before it.

    Args:
        net: the net; left in the mode it was found in.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        batch_size: sequences worked on at once.

    Returns:
        (batch, time) in nats; NaN beyond a length.

    Raises:
        TypeError, ValueError: a count that is not a positive integer; or x or lengths that ``net`` refuses.
    """
    _require_count("batch_size", batch_size)
    _check(net, x, lengths)
    result = torch.full(x.shape[:2], float("nan"), device=x.device)
    with _evaluating(net):
        for rows in _by_length(x, lengths).split(batch_size):
            model, guide = _runs(net, *_batch(x, lengths, rows), 1)
            kl, mask = step_terms(model, guide).kl[:, 0], guide.given.mask
            result[rows.to(x.device), : len(kl)] = (kl if mask is None else kl.where(mask, float("nan"))).T
    return result


def _particles(net: ZForcing, x: Tensor, lengths: Tensor | None, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x, z) - log q(z | x), log p(x | z) and the KL of ``count`` draws; each (count, batch)."""
    model, guide = _runs(net, x, lengths, count)
    steps = step_terms(model, guide)
    log_weight = steps.log_likelihood + model.log_prob() - guide.log_prob()
    fields = torch.stack([log_weight, steps.log_likelihood, steps.kl])
    if guide.given.mask is not None:
        fields = fields.where(guide.given.mask.unsqueeze(1), 0.0)
    log_weight, log_likelihood, kl = fields.sum(1)
    return log_weight, log_likelihood, kl


def _runs(net: ZForcing, x: Tensor, lengths: Tensor | None, count: int) -> tuple[PriorPath, PosteriorPath]:
    """A run of the guide with ``count`` particles, and of the model with its latents; (time, count, batch)."""
    particles = pyro.plate("particles", count, dim=-2)
    guide = poutine.trace(particles(net.guide)).get_trace(x, lengths)
    model = poutine.trace(poutine.replay(particles(net.model), trace=guide)).get_trace(x, lengths)
    return _path(model), _path(guide)


def _path(trace: poutine.Trace) -> Any:
    """The run that a trace is of."""
    site: Any = trace.nodes["z_0"]
    return site["fn"].path


def _by_length(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Indices of the sequences, shortest first, so that a batch holds little padding."""
    return torch.arange(len(x)) if lengths is None else lengths.cpu().argsort()


def _batch(x: Tensor, lengths: Tensor | None, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    rows = rows.to(x.device)
    return (x[rows], None) if lengths is None else (x[rows, : int(lengths[rows].max())], lengths[rows])


@contextmanager
def _evaluating(net: ZForcing) -> Iterator[None]:
    """``net`` in evaluation mode, and every module in its own mode again afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check(net: ZForcing, x: Tensor, lengths: Tensor | None) -> None:
    """Refuse x and lengths as a whole, before they are cut into batches."""
    like = net.emission_layer.weight
    check_frames(x, net.emission_family, like)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], like.device)


def _require_count(name: str, count: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a positive integer, got {count!r}")
