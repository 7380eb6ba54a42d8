"""Exact numbers by Gauss-Hermite quadrature, for nets with one latent dimension and sequences of few steps."""

import math
from typing import NamedTuple

import numpy as np
import torch

import zf_pyro

from .conftest import random_frames, random_net

NODES = 60


class Rule(NamedTuple):
    """E[f(noise)] for standard normal noise is sum_i exp(log_weights_i) f(points_i)."""

    points: torch.Tensor
    log_weights: torch.Tensor


class Grid(NamedTuple):
    """Every combination of a rule's points for the latents of all steps."""

    log_joint: torch.Tensor
    """log p(x, z) plus the log-weight of the rule, so that its logsumexp is log p(x); (combinations, batch)."""
    z: torch.Tensor
    """The latents; (combinations, batch, time)."""


def small(emission, transition, time):
    """A net with one latent dimension, and two sequences."""
    net = random_net(emission, transition=transition, latent_dim=1, spread=0.3, seed=4)
    return net, random_frames(emission, 2, time, seed=5)


def rule(nodes):
    """The rule of ``nodes`` points."""
    points, weights = (torch.as_tensor(v, dtype=torch.float64) for v in np.polynomial.hermite_e.hermegauss(nodes))
    return Rule(points, (weights / math.sqrt(2 * math.pi)).log())


def grid(net, x, nodes=NODES):
    """Latents on a rule of ``nodes`` points for each step, given those before, under the prior."""
    points, log_weights = rule(nodes)
    batch, time = x.shape[:2]
    u, total, latents = net.inputs(x), torch.zeros(batch, dtype=torch.float64), []
    state = net.initial_state((batch,))
    for t in range(time):
        prior = net.prior(state).base_dist
        noise = points.reshape(nodes, *[1] * (prior.loc.dim()))
        z = prior.loc + prior.scale * noise
        state = zf_pyro.State(*(field.expand(*z.shape[:-1], -1) for field in state))
        state = net.transition(state, u[:, t].expand(*z.shape[:-1], *u.shape[2:]), z)
        added = net.emission(state).log_prob(x[:, t])
        total = total + added + log_weights.reshape(nodes, *[1] * (added.dim() - 1))
        latents.append(z[..., 0])
    latents = [z.expand(total.shape).reshape(-1, batch) for z in latents]
    return Grid(total.reshape(-1, batch), torch.stack(latents, dim=-1))


def log_evidence(net, x, nodes=NODES):
    """log p(x); (batch,)."""
    return grid(net, x, nodes).log_joint.logsumexp(0)


def posterior_moments(net, x, nodes=NODES):
    """Mean and variance of every z_t given x; each (batch, time)."""
    log_joint, z = grid(net, x, nodes)
    weights = log_joint.softmax(0).unsqueeze(-1)
    mean = (weights * z).sum(0)
    return mean, (weights * (z - mean).square()).sum(0)
