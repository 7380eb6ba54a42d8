"""Use of the latents by the posterior: active units, and the KL of each step."""

import torch
from torch import Tensor

from ..checks import require_count, require_number, require_tensor
from ..models import StochasticRNN
from ..networks import AutoregressiveFlow, evaluating
from ..objectives import step_terms
from .batching import parts, replayed_paths, require_given

ACTIVE_VARIANCE = 0.01
"""Variance of the posterior mean of an active latent, by Burda et al. 2016; in units of z squared."""


@torch.no_grad()
def active_units(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    threshold: float = ACTIVE_VARIANCE,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    batch_size: int = 64,
) -> int:
    """Count the latent dimensions that the posterior uses: those whose mean varies over the data.

    A dimension i is active if the variance of E_q[z_{t,i}] over sequences and real steps exceeds ``threshold``:
    Burda et al. 2016, https://arxiv.org/abs/1509.00519, section 2. The posterior of a step is conditioned on the
    earlier latents; one sample of these replaces their average. Of a flow, whose mean is not known, the covariance of
    two samples of a step estimates the variance without bias.

    The prior p(z_t | h_{t-1}) varies over the data as well. A posterior that only follows it counts as active, so a
    unit can be active with almost no KL, unlike in a model with a fixed prior.

    Args:
        net: the model; its mode is restored afterwards.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        threshold: variance of the mean, in units of z squared.
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``.
        batch_size: sequences processed at once.

    Raises:
        TypeError, ValueError: a negative threshold; a count that is not a positive integer; or x or lengths that
            ``net`` refuses.
    """
    threshold = require_number("threshold", threshold, "a variance of at least 0", 0.0)
    batch_size = require_count("batch_size", batch_size)
    given = require_given(net, x, lengths, covariates=covariates, observed=observed)
    x, lengths, covariates, observed = given
    pairs = []
    with evaluating(net):
        for part in parts(x, lengths, None, batch_size, covariates=covariates, observed=observed):
            _, guide = replayed_paths(net, part, 1)
            group, mask = guide.group(), guide.run.mask
            # The covariance of two samples is the variance of the mean, which a flow has not in closed form.
            flow = isinstance(group, AutoregressiveFlow)
            pair = torch.stack([group.sample(), group.sample()]) if flow else group.mean.unsqueeze(0)
            found = pair[:, :, 0]
            pairs.append(found.flatten(1, 2) if mask is None else found[:, mask])
    first, last = (values - values.mean(0) for values in torch.cat(pairs, dim=1)[[0, -1]])
    return int(((first * last).mean(0) > threshold).sum())


def count_active(means: Tensor, threshold: float = ACTIVE_VARIANCE) -> int:
    """Count the latents whose posterior means (frames, latent) have a variance above ``threshold``."""
    threshold = require_number("threshold", threshold, "a variance of at least 0", 0.0)
    if require_tensor("means", means).dim() != 2 or not len(means):
        raise ValueError(f"means must have shape (frames, latent), got {tuple(means.shape)}")
    return int((means.var(0, correction=0) > threshold).sum())


@torch.no_grad()
def step_kl(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    batch_size: int = 64,
) -> Tensor:
    """KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1})) of each step, given one sample of the earlier latents.

    Args:
        net: the model; its mode is restored afterwards.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``.
        batch_size: sequences processed at once.

    Returns:
        (batch, time) in nats; NaN beyond a length. Of a flow, log q - log p at a sample, which has the KL as its mean.

    Raises:
        TypeError, ValueError: a count that is not a positive integer; or x or lengths that ``net`` refuses.
    """
    batch_size = require_count("batch_size", batch_size)
    given = require_given(net, x, lengths, covariates=covariates, observed=observed)
    x, lengths, covariates, observed = given
    result = torch.full(x.shape[:2], float("nan"), device=x.device, dtype=net.emission_layer.weight.dtype)
    with evaluating(net):
        for part in parts(x, lengths, None, batch_size, covariates=covariates, observed=observed):
            model, guide = replayed_paths(net, part, 1)
            kl, mask = step_terms(model, guide).kl[:, 0], guide.run.mask
            result[part.rows, : len(kl)] = (kl if mask is None else kl.where(mask, float("nan"))).T
    return result
