"""Importance weights of any guide, one a sequence, and what they are worth."""

from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..objectives import PyroProgram


@torch.no_grad()
def log_weights(model: PyroProgram, guide: PyroProgram, *args: Any, num_particles: int = 64) -> Tensor:
    """log p(x, z_k) - log q(z_k | x) for draws z_k of the guide, in one vectorised run.

    Args:
        model: ``net.model`` or a program around it.
        guide: ``net.guide``, an autoguide or a program of the user's, every site of which lies in a plate
            at dim -1, as ``sequences`` is: one with a joint latent, such as AutoDiagonalNormal, has no weight of a
            single sequence.
        args: of model and guide.
        num_particles: K.

    Returns:
        (num_particles, batch) in nats. Their log-mean-exp estimates log p(x), and their mean the guide's bound.

    Raises:
        ValueError: no particles, or a site of the guide outside of such a plate.
    """
    if not isinstance(num_particles, int) or isinstance(num_particles, bool) or num_particles < 1:
        raise ValueError(f"num_particles must be a positive integer, got {num_particles!r}")
    particles = pyro.plate("particles", num_particles, dim=-2)
    with poutine.block():
        guide_trace = poutine.trace(particles(guide)).get_trace(*args)
        model_trace = poutine.trace(poutine.replay(particles(model), trace=guide_trace)).get_trace(*args)
    total: Tensor | float = 0.0
    for trace, sign in ((model_trace, 1.0), (guide_trace, -1.0)):
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site_is_subsample(site):
                continue
            if not any(frame.dim == -1 for frame in site["cond_indep_stack"]):
                raise ValueError(
                    f"guide must have every site in a plate at dim -1 for weights of single sequences, and {name!r} "
                    "is not: give it one sequence at a time, or use a guide such as AutoNormal"
                )
            total = total + sign * site["log_prob"]
    return torch.as_tensor(total)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(sum_k w_k)^2 / sum_k w_k^2, from 1 to K: how many equally weighted draws the weights are worth.

    Args:
        log_weights: (num_particles, ...) in nats, up to a constant.

    Returns:
        (...) draws.
    """
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()
