"""What of the latents the posterior uses."""

import torch
from torch import Tensor

from ..checks import require_count
from ..models import StochasticRNN
from ..networks import evaluating
from ..objectives import step_terms
from .batching import parts, replayed_paths, require_sequences


@torch.no_grad()
def active_units(
    net: StochasticRNN, x: Tensor, lengths: Tensor | None = None, threshold: float = 0.01, *, batch_size: int = 64
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
    require_count("batch_size", batch_size)
    require_sequences(net, x, lengths)
    means = []
    with evaluating(net):
        for part in parts(x, lengths, None, batch_size):
            _, guide = replayed_paths(net, part, 1)
            mean = guide.group().mean[:, 0]
            mask = guide.run.mask
            means.append(mean.flatten(0, 1) if mask is None else mean[mask])
    return int((torch.cat(means).var(0, correction=0) > threshold).sum())


@torch.no_grad()
def step_kl(net: StochasticRNN, x: Tensor, lengths: Tensor | None = None, *, batch_size: int = 64) -> Tensor:
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
    require_count("batch_size", batch_size)
    require_sequences(net, x, lengths)
    result = torch.full(x.shape[:2], float("nan"), device=x.device, dtype=net.emission_layer.weight.dtype)
    with evaluating(net):
        for part in parts(x, lengths, None, batch_size):
            model, guide = replayed_paths(net, part, 1)
            kl, mask = step_terms(model, guide).kl[:, 0], guide.run.mask
            result[part.rows, : len(kl)] = (kl if mask is None else kl.where(mask, float("nan"))).T
    return result
