"""Importance weights of any guide, one per sequence, and their effective sample size."""

from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..checks import require_count
from ..objectives import PyroProgram, replayed_traces, require_program


@torch.no_grad()
def log_weights(model: PyroProgram, guide: PyroProgram, *args: Any, num_particles: int = 64) -> Tensor:
    """log p(x, z_k) - log q(z_k | x) for samples z_k from the guide, in one vectorised run.

    Scales of sites, as of a plate that subsamples, are left out.

    Args:
        model: ``net.model`` or a program around it.
        guide: ``net.guide``, an autoguide or a program of the user's. Every site must lie in a plate at dim -1, as
            ``sequences`` is. A guide with a joint latent (AutoDiagonalNormal) has no weight per sequence.
        args: arguments of model and guide.
        num_particles: K.

    Returns:
        (num_particles, batch) in nats. Their log-mean-exp estimates log p(x), their mean the guide's bound.

    Raises:
        ValueError: no particles, or a site of the guide outside such a plate.
    """
    num_particles = require_count("num_particles", num_particles)
    require_program("model", model)
    require_program("guide", guide)
    particles = pyro.plate("particles", num_particles, dim=-2)
    with poutine.block():
        model_trace, guide_trace = replayed_traces(particles(model), particles(guide), *args)
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
            total = total + sign * scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    return torch.as_tensor(total)
