"""Mutual information between sequences and their latents."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import require_count
from ..evaluation import encoded_parts, require_evaluation, require_given
from ..models import StochasticRNN
from .per_step import Step, draw, score


class Information(NamedTuple):
    """Information that z carries about x under the guide, in nats.

    z depends on x in two ways: through the earlier frames, which move prior and posterior alike, and through b_t. Only
    the second is added by the latents, and only it costs KL. A collapsed model whose prior moves with the frames can
    have a large ``estimate`` and almost no ``rate``.
    """

    estimate: float
    """I_q(x; z_1..z_K) = E log q(z | x) - log q(z), where q(z) is the mixture of q(z | x_n) over these sequences:
    Hoffman, Johnson 2016, "ELBO surgery". It saturates at ``ceiling``."""
    ceiling: float
    """Log of the number of sequences."""
    rate: float
    """E KL(q || p) of the same steps: an upper bound on the information that z adds to the earlier frames."""
    num_steps: int
    """K, the number of steps."""


@torch.no_grad()
def mutual_information(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    num_steps: int | None = None,
    num_sequences: int = 64,
    chunk: int = 16,
) -> Information:
    """Estimate the mutual information between sequences and their latents.

    Args:
        net: the model, in evaluation mode.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``.
        num_steps: K, the number of steps; shorter sequences are left out. By default the median length.
        num_sequences: maximal number of sequences, chosen at random if there are more. Each is compared with each.
        chunk: sequences whose latents are scored against all sequences at once.

    Raises:
        TypeError, ValueError: x or lengths that ``net`` refuses, a model in training mode, a bad count, or fewer than
            two sequences of at least ``num_steps`` frames.
    """
    require_evaluation(net)
    given = require_given(net, x, lengths, covariates=covariates, observed=observed)
    x, lengths = given.x, given.lengths
    chunk = require_count("chunk", chunk)
    num_sequences = None if num_sequences is None else require_count("num_sequences", num_sequences)
    num_steps = None if num_steps is None else require_count("num_steps", num_steps)
    full = torch.full((len(x),), x.shape[1], device=x.device)
    real = full if lengths is None else lengths
    steps = int(real.median()) if num_steps is None else num_steps
    rows = (real >= steps).nonzero().squeeze(1)
    if len(rows) < 2:
        raise ValueError(f"num_steps must leave at least 2 sequences of as many frames, got {steps} and {len(rows)}")
    rows = rows[torch.randperm(len(rows), device=rows.device)[:num_sequences]]
    more = {name: value[rows] for name, value in given.named.items()}
    (batch,) = encoded_parts(net, x[rows], real[rows], len(rows), **more)
    values = draw(net, batch, 1, [Step.z, Step.kl])
    size = len(rows)
    log_q = torch.empty(size, size, dtype=torch.float64, device=x.device)
    for part in torch.arange(size, device=x.device).split(chunk):
        z = values[Step.z][:, 0, part].unsqueeze(2).expand(-1, -1, size, -1).contiguous()
        log_q[part] = score(net, batch, z, [Step.log_guide])[Step.log_guide][:steps].sum(0).double()
    estimate = (log_q.diagonal() - (log_q.logsumexp(1) - math.log(size))).mean()
    rate = values[Step.kl][:steps, 0].sum(0).mean()
    return Information(float(estimate), math.log(size), float(rate), steps)
