"""Mutual information between sequences and their latents."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import require_count
from ..evaluation import encoded_parts, require_evaluation, require_sequences
from ..models import StochasticRNN
from .per_step import draw, score


class Information(NamedTuple):
    """What z says of x under the guide, in nats.

    z follows x through two ways: through the frames before, which move prior and posterior alike, and through b_t. Only
    the second is what latents add, and only it costs KL: of a collapsed net with a moving prior, ``estimate`` may
    still be large while ``rate`` is next to nothing.
    """

    estimate: float
    """I_q(x; z_1..z_K) = E log q(z | x) - log q(z), with the mixture of q(z | x_n) over these sequences for q(z):
    Hoffman, Johnson 2016, "ELBO surgery". Never above ``ceiling``, where it saturates."""
    ceiling: float
    """Log of the number of sequences."""
    rate: float
    """E KL(q || p) of the same steps: an upper bound on what z adds to the frames before each step."""
    num_steps: int
    """K, the steps counted."""


@torch.no_grad()
def mutual_information(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    num_steps: int | None = None,
    num_sequences: int = 64,
    chunk: int = 16,
) -> Information:
    """Estimate the mutual information between sequences and their latents.

    Args:
        net: the net, in evaluation mode.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        num_steps: K, latents counted; sequences with fewer frames are left out. By default as many as half of the
            sequences have.
        num_sequences: at most so many sequences are compared, each with each; drawn at random if there are more.
        chunk: latents scored against all sequences at once.

    Raises:
        TypeError, ValueError: what ``net`` refuses, a net in training mode, a bad count, or fewer than two sequences of
            at least ``num_steps`` frames.
    """
    require_evaluation(net)
    require_sequences(net, x, lengths)
    for name, count in (("num_sequences", num_sequences), ("chunk", chunk), ("num_steps", num_steps or 1)):
        require_count(name, count)
    full = torch.full((len(x),), x.shape[1], device=x.device)
    own = full if lengths is None else lengths
    steps = int(own.median()) if num_steps is None else num_steps
    rows = (own >= steps).nonzero().squeeze(1)
    if len(rows) < 2:
        raise ValueError(f"num_steps must leave at least 2 sequences of as many frames, got {steps} and {len(rows)}")
    rows = rows[torch.randperm(len(rows), device=rows.device)[:num_sequences]]
    (batch,) = encoded_parts(net, x[rows], own[rows], len(rows))
    record = draw(net, batch, 1, ["z", "kl"])
    size = len(rows)
    log_q = torch.empty(size, size, dtype=torch.float64, device=x.device)
    for part in torch.arange(size, device=x.device).split(chunk):
        z = record["z"][:, 0, part].unsqueeze(2).expand(-1, -1, size, -1).contiguous()
        log_q[part] = score(net, batch, z, ["log_guide"])["log_guide"][:steps].sum(0).double()
    estimate = (log_q.diagonal() - (log_q.logsumexp(1) - math.log(size))).mean()
    rate = record["kl"][:steps, 0].sum(0).mean()
    return Information(float(estimate), math.log(size), float(rate), steps)
