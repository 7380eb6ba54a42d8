"""Exact expectations by Gauss-Hermite quadrature, for models with one latent dimension and few steps."""

import math
from typing import NamedTuple

import numpy as np
import torch

import zf_pyro

from .conftest import random_frames, random_net

NODES = 60


class Rule(NamedTuple):
    """A quadrature rule: E[f(noise)] for standard normal noise is sum_i exp(log_weights_i) f(points_i)."""

    points: torch.Tensor
    log_weights: torch.Tensor


class Grid(NamedTuple):
    """All combinations of a rule's points for the latents of all steps."""

    log_joint: torch.Tensor
    """log p(x, z) plus the log-weight of the rule, so that its logsumexp is log p(x); (combinations, batch)."""
    z: torch.Tensor
    """The latents; (combinations, batch, time)."""


def small(emission, transition, time):
    """Build a model with one latent dimension, and two sequences."""
    return small_of(emission, time, transition=transition)


def small_of(emission, time, spread=0.3, **settings):
    """Build a model of any kind with one latent dimension, and two sequences."""
    net = random_net(emission, latent_dim=1, spread=spread, seed=4, **settings)
    return net, random_frames(emission, 2, time, seed=5)


def rule(nodes):
    """Return the rule of ``nodes`` points."""
    points, weights = (torch.as_tensor(v, dtype=torch.float64) for v in np.polynomial.hermite_e.hermegauss(nodes))
    return Rule(points, (weights / math.sqrt(2 * math.pi)).log())


def grid(net, x, nodes=NODES, *, u=None, score=None):
    """Place the latents of each step on a rule of ``nodes`` points, under the prior given the latents before.

    ``u`` are the inputs (batch, time, ...), those of x by default, and ``score`` is the log-density of step t of an
    emission, of x by default.
    """
    points, log_weights = rule(nodes)
    batch, time = x.shape[:2]
    u, total, latents = net.inputs(x) if u is None else u, torch.zeros(batch, dtype=torch.float64), []
    state = net.initial_state((batch,))
    for t in range(time):
        u_t = u[:, t].expand(*state.hidden.shape[:-1], *u.shape[2:])
        past = net.past(state, u_t)
        prior = net.prior(past).base_dist
        noise = points.reshape(nodes, *[1] * (prior.loc.dim()))
        z = prior.loc + prior.scale * noise
        past = zf_pyro.State(*(field.expand(*z.shape[:-1], -1) for field in past))
        state = net.transition(past, u[:, t].expand(*z.shape[:-1], *u.shape[2:]), z)
        added = net.emission(state).log_prob(x[:, t]) if score is None else score(net.emission(state), t)
        total = total + added + log_weights.reshape(nodes, *[1] * (added.dim() - 1))
        latents.append(z[..., 0])
    latents = [z.expand(total.shape).reshape(-1, batch) for z in latents]
    return Grid(total.reshape(-1, batch), torch.stack(latents, dim=-1))


def log_evidence(net, x, nodes=NODES, **more):
    """Compute log p(x); (batch,) nats. ``more`` as of :func:`grid`."""
    return grid(net, x, nodes, **more).log_joint.logsumexp(0)


def posterior_moments(net, x, nodes=NODES, **more):
    """Compute the mean and variance of every z_t given x; each (batch, time)."""
    log_joint, z = grid(net, x, nodes, **more)
    weights = log_joint.softmax(0).unsqueeze(-1)
    mean = (weights * z).sum(0)
    return mean, (weights * (z - mean).square()).sum(0)


def guide_grid(net, x, nodes, steps=None):
    """Place the noise of the guide's first ``steps`` steps, or of all, on a rule; all combinations.

    Returns:
        log p(x | z), log p(z), log q(z | x), each (combinations, batch), and log-weights of the rule, (combinations,).
    """
    points, log_weights = rule(nodes)
    batch, time = x.shape[:2]
    u, b = net.inputs(x), net.backward_states(x, None)
    state, totals, log_rule = net.initial_state((batch,)), [0.0, 0.0, 0.0], torch.zeros((), dtype=torch.float64)
    for t in range(time if steps is None else steps):
        past = net.past(state, u[:, t].expand(*state.hidden.shape[:-1], *u.shape[2:]))
        prior, posterior = net.prior(past), net.posterior(past, b[t]).base_dist
        noise = points.reshape(nodes, *[1] * (posterior.loc.dim()))
        z = posterior.loc + posterior.scale * noise
        added = [prior.log_prob(z), posterior.log_prob(z).sum(-1)]
        past = zf_pyro.State(*(field.expand(*z.shape[:-1], -1) for field in past))
        state = net.transition(past, u[:, t].expand(*z.shape[:-1], *u.shape[2:]), z)
        added.insert(0, net.emission(state).log_prob(x[:, t]))
        totals = [total + more for total, more in zip(totals, added, strict=True)]
        log_rule = log_rule + log_weights.reshape(nodes, *[1] * t)
    totals = [total.reshape(-1, batch) for total in totals]
    return (*totals, log_rule.reshape(-1))


def twist_grid(net, x, nodes, twist):
    """Compute log r_1 at the points of :func:`guide_grid` of one step; (points, batch)."""
    state, b = net.initial_state((len(x),)), net.backward_states(x, None)
    past = net.past(state, net.inputs(x)[:, 0])
    q = net.posterior(past, b[0]).base_dist
    z = q.loc + q.scale * rule(nodes).points.reshape(nodes, 1, 1)
    past = zf_pyro.State(*(field.expand(nodes, *field.shape) for field in past))
    return twist(net.transition(past, net.inputs(x)[:, 0].expand(nodes, *x[:, 0].shape), z).hidden, b[1])


def log_mean(a, b):
    """Compute the log of the mean of two weights."""
    return torch.logaddexp(a, b) - math.log(2)


def importance_weighted_bound(net, x, nodes=24, beta=1.0):
    """Compute E[log (w_1 + w_2) / 2], w = p(x | z) (p(z) / q(z | x))^beta, for two samples from the guide; (batch,)."""
    frames, prior, posterior, log_rule = guide_grid(net, x, nodes)
    log_w = frames + beta * (prior - posterior)
    pairs = (log_rule.unsqueeze(1) + log_rule).exp().unsqueeze(-1)
    return (pairs * log_mean(log_w.unsqueeze(1), log_w)).sum((0, 1))


def fivo_bound(net, x, nodes=14, *, scheme="multinomial", resampling_gradient=True, twist=None):
    """Compute E[log p^(x)] of a guided filter of two particles over two steps, resampled before each; (batch,).

    ``twist`` is log r_1, a function of h_1 and b_2; None for a filter without a twist.
    """
    log_weights = rule(nodes).log_weights
    weights = log_weights.exp()
    frames, prior, posterior, _ = guide_grid(net, x, nodes)
    both = (frames + prior - posterior).reshape(nodes, nodes, -1).transpose(0, 1)
    frames, prior, posterior, _ = guide_grid(net, x, nodes, 1)
    first = frames + prior - posterior  # (first sample, batch)
    if twist is not None:
        first = first + twist_grid(net, x, nodes, twist)
    later = both - first.unsqueeze(1)  # (first sample, second sample, batch)
    ahead = torch.einsum(
        "j,l,ijklb->ikb", weights, weights, log_mean(later[:, :, None, None, :], later[None, None, :, :, :])
    )
    share = (first.unsqueeze(1) - torch.logaddexp(first.unsqueeze(1), first)).exp()
    if not resampling_gradient:
        share = share.detach()
    if scheme == "multinomial":
        same, other, mixed = share.square(), (1 - share).square(), 2 * share * (1 - share)
    else:  # one position in each half
        same, other = (2 * share - 1).clamp(min=0), (1 - 2 * share).clamp(min=0)
        mixed = 1 - same - other
    alone = torch.einsum("iib->ib", ahead)
    onward = same * alone.unsqueeze(1) + other * alone + mixed * ahead
    pairs = torch.einsum("i,k->ik", weights, weights).unsqueeze(-1)
    return (pairs * (log_mean(first.unsqueeze(1), first) + onward)).sum((0, 1))


def flat(gradients):
    """Concatenate gradients into one vector."""
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def assert_gradient(found, exact, *, apart_from=None, precision=0.02):
    """Assert that the mean of independent ``found`` (runs, parameters) is ``exact`` (parameters,), within its noise.

    They are compared along the exact gradient, along its difference from ``apart_from`` and along random directions.
    The quadrature may be off by a thousandth.

    Args:
        found: one gradient estimate per run.
        exact: the exact gradient.
        apart_from: another gradient, which the runs must rule out.
        precision: standard error along the exact gradient, relative to its length, that the runs must reach.
    """
    generator = torch.Generator().manual_seed(0)
    directions = [exact, *torch.randn(20, len(exact), generator=generator, dtype=exact.dtype)]
    if apart_from is not None:
        directions.append(exact - apart_from)
    for i, direction in enumerate(directions):
        shares = found @ direction / direction.norm()
        expected = exact @ direction / direction.norm()
        error = shares.std() / math.sqrt(len(shares))
        told = f"direction {i}: {shares.mean()} against {expected}, standard error {error}"
        assert abs(shares.mean() - expected) < 4 * error + 1e-3 * exact.norm(), told
        if i == 0:
            assert error < precision * expected, "too few runs: the test would have no power"
    if apart_from is not None:
        assert error < (exact - apart_from).norm() / 4, "too few runs to tell the two apart"
