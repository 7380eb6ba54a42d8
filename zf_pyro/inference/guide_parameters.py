"""Parameters that the guide has for itself, found by what the densities of model and guide depend on."""

import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from ..models import StochasticRNN
from ..objectives import replayed
from .fixed import only


def guide_parameters(net: StochasticRNN, x: Tensor, **more: Tensor) -> dict[str, nn.Parameter]:
    """Parameters, by name, that log q(z | x) depends on and log p(x, z) does not.

    In :class:`zf_pyro.ZForcing` they are those of the posterior network and of the backward RNN. What both programs
    read is the model's: the embedding, the recurrence, and the prior of a residual posterior. Those without
    ``requires_grad`` are left out.

    Args:
        net: the model.
        x: a few frames, (batch, time, *frame), on which both programs run once.
        more: covariates (batch, time, K) and what was seen, ``observed``.
    """
    named = dict(net.named_parameters())
    with torch.random.fork_rng(), poutine.block(), only(net, net.parameters()), torch.enable_grad():
        with torch.no_grad():
            drawn = poutine.trace(net.guide).get_trace(x, **more)
        used = []
        for program in (net.guide, net.model):
            log_prob = replayed(program, drawn, x, **more).log_prob_sum()
            grads: tuple[Tensor | None, ...] = (None,) * len(named)
            if isinstance(log_prob, Tensor) and log_prob.requires_grad:
                grads = torch.autograd.grad(log_prob, list(named.values()), allow_unused=True)
            used.append([grad is not None for grad in grads])
    of_guide, of_model = used
    pairs = zip(named.items(), of_guide, of_model, strict=True)
    return {name: value for (name, value), own, shared in pairs if own and not shared and value.requires_grad}
