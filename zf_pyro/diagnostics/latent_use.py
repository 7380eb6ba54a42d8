"""Use of the latents: log-likelihood lost without them, and the verdict "collapsed" or "used"."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import require_count, require_number
from ..evaluation import (
    EncodedPart,
    count_active,
    encoded_parts,
    prior_mean_steps,
    require_evaluation,
    require_given,
)
from ..models import StochasticRNN
from ..networks import State, latent_of, noise_of, sampled
from ..objectives import Auxiliary, spread_of
from .per_step import Step, StepValues, draw, score

PLAIN = Auxiliary()
"""The auxiliary as in the paper."""
LEAST_SHARE = 0.1
"""Share of the auxiliary that z is to earn."""


class LatentUse(NamedTuple):
    """Measures of how much the frames depend on the latents. Nats are per sequence, averaged over sequences."""

    kl: Tensor
    """KL(q || p) of each step and latent, given one sample of the earlier latents; (sequence, step, latent) nats, NaN
    for padding."""
    log_likelihood: float
    """E_q log p(x | z)."""
    at_prior_mean: float
    """log p(x | z) with each z_t at the mean of its prior, where h_{t-1} follows from the earlier prior means."""
    shuffled: float
    """E log p(x | z) with z sampled from the guide for another sequence of about the same length."""
    active_units: int
    """Latents whose posterior mean varies, see :func:`zf_pyro.evaluation.active_units`. It does not detect collapse
    where the prior moves with the earlier frames: a posterior that follows the prior counts as active."""
    auxiliary_r2: float
    """R^2 of the auxiliary's mean for b_t, over all units and real steps. 1 is perfect, 0 is as good as the mean of
    b_t, and a negative value means that the auxiliary was not trained. NaN in a model without the auxiliary."""
    auxiliary: float
    """E_q log p_xi(b_t | z_t [, h_{t-1}]), summed over real steps. NaN in a model without the auxiliary."""
    earned: float
    """What z earns of it: the same less that with a sample of the prior's z_t, at the same h_{t-1}. An auxiliary that
    was not trained earns what chance gives it."""
    spread: float
    """Standard deviation of b_t over the sequences of a part of ``batch_size``, averaged over units and real frames.
    Where it is small a density of b_t is earned by a constant, whatever z says. NaN without the auxiliary."""
    threshold: float
    """Least KL, and least loss of log-likelihood, of latents that count as used; nats per sequence."""

    @property
    def total_kl(self) -> float:
        """KL(q || p), nats per sequence."""
        return float(self.kl.nansum((1, 2)).mean())

    @property
    def elbo(self) -> float:
        """Log-likelihood minus KL, nats per sequence."""
        return self.log_likelihood - self.total_kl

    @property
    def lost_at_prior_mean(self) -> float:
        """Log-likelihood lost when each z_t is replaced by its prior mean, nats per sequence."""
        return self.log_likelihood - self.at_prior_mean

    @property
    def lost_by_shuffling(self) -> float:
        """Log-likelihood lost when z comes from another sequence, nats per sequence."""
        return self.log_likelihood - self.shuffled

    @property
    def used(self) -> bool:
        """True if the KL and the loss at the prior mean both reach ``threshold``.

        The KL is an upper bound on the information in z_t about the frames from t on that the earlier frames lack:
        given the history, E KL(q || p) = I(z_t; b_t | h_{t-1}) + KL(E q || p). The loss shows whether p(x | z) uses it.
        """
        return self.total_kl >= self.threshold and self.lost_at_prior_mean >= self.threshold

    @property
    def auxiliary_by_z(self) -> bool:
        """True if z earns ``threshold`` nats of the auxiliary, and a tenth of it where it is positive.

        Its zero is arbitrary, as that of any density, so the tenth of it is no more than a sign.
        """
        return self.earned >= max(self.threshold, LEAST_SHARE * self.auxiliary)

    def verdict(self) -> str:
        """ "collapsed" or "used", with the measures behind it."""
        auxiliary = ""
        if not math.isnan(self.earned):
            how = f"of which z earns {self.earned:.1f}"
            if self.auxiliary_r2 <= 0:
                how = "which was not trained"
            elif not self.auxiliary_by_z:
                how += f": the auxiliary is earned without z; b_t deviates by {self.spread:.3f} between sequences"
            auxiliary = f"; auxiliary R2 {self.auxiliary_r2:.2f}; auxiliary {self.auxiliary:.1f} nats, {how}"
        return (
            f"{'used' if self.used else 'collapsed'}: KL {self.total_kl:.1f} nats a sequence; "
            f"{self.lost_at_prior_mean:.1f} nats of log-likelihood lost with z at its prior mean, "
            f"{self.lost_by_shuffling:.1f} with another sequence's z; {self.active_units} of {self.kl.shape[-1]} units "
            f"active{auxiliary}"
        )


@torch.no_grad()
def latent_use(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    threshold: float = 2.0,
    batch_size: int = 64,
    auxiliary: Auxiliary = PLAIN,
) -> LatentUse:
    """Measure how much the frames depend on the latents.

    Args:
        net: the model, in evaluation mode.
        x: (batch, time, frame) floats or (batch, time) integers; at least two sequences.
        lengths: real frames of each sequence, (batch,); all of them if None.
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``.
        threshold: nats per sequence below which latents count as collapsed.
        batch_size: sequences processed at once.
        auxiliary: form of the auxiliary that the model was trained with.

    Raises:
        TypeError, ValueError: x or lengths that ``net`` refuses, a model in training mode, a single sequence, a
            threshold that is not positive, or a bad count.
    """
    require_evaluation(net)
    given = require_given(net, x, lengths, covariates=covariates, observed=observed)
    x, lengths = given.x, given.lengths
    batch_size = require_count("batch_size", batch_size)
    if len(x) < 2:
        raise ValueError("x must hold at least 2 sequences, whose latents can be exchanged; got 1")
    threshold = require_number("threshold", threshold, "positive, in nats a sequence", 0.0, ends="(]")
    kl = torch.full((*x.shape[:2], net.latent_dim), torch.nan, device=x.device, dtype=net.emission_layer.weight.dtype)
    sums, means, residuals, targets = torch.zeros(6, dtype=torch.float64), [], [], []
    for batch in encoded_parts(net, x, lengths, batch_size, at_least=2, **given.named):
        values = draw(net, batch, 1, [Step.z, Step.past_hidden, Step.past_cell, Step.log_likelihood, Step.kl_by_latent])
        real = batch.real.T
        step_kl = values[Step.kl_by_latent][:, 0].transpose(0, 1)
        kl[batch.rows, : real.shape[1]] = step_kl.where(real.unsqueeze(-1), torch.nan)
        at_prior_mean = prior_mean_steps(net, batch.run).unsqueeze(1)
        likelihoods = [values[Step.log_likelihood], at_prior_mean, _shuffled(net, batch, values[Step.z])]
        likelihoods += _auxiliary(net, batch, values, auxiliary)
        spread = spread_of(batch.b, batch.real) * batch.real.sum()
        sums += torch.stack([*(batch.sum(value).sum() for value in likelihoods), spread]).cpu()
        mean, residual, target = _per_frame(net, batch, values, auxiliary)
        means.append(mean)
        residuals.append(residual)
        targets.append(target)
    target = torch.cat(targets)
    explained = torch.cat(residuals).square().sum() / (target - target.mean(0)).square().sum()
    drawn, at_mean, shuffled, scored, earned, _ = (sums / len(x)).tolist()
    return LatentUse(
        kl=kl.cpu(),
        log_likelihood=drawn,
        at_prior_mean=at_mean,
        shuffled=shuffled,
        active_units=count_active(torch.cat(means)),
        auxiliary_r2=float(1 - explained),
        auxiliary=scored,
        earned=earned,
        spread=float(sums[-1]) / len(target) if net.has_auxiliary else math.nan,
        threshold=threshold,
    )


def _shuffled(net: StochasticRNN, batch: EncodedPart, z: Tensor) -> Tensor:
    """log p(x_t | h_t) with the latents of the next sequence of the batch; (time, 1, batch).

    A batch is sorted by length, so the next sequence is about as long. The latents of a shorter one are repeated.
    """
    steps, size = batch.real.shape
    donors = torch.arange(size, device=batch.rows.device).roll(-1)
    places = torch.arange(steps, device=donors.device).unsqueeze(1) % batch.real.sum(0)[donors]
    return score(net, batch, z[places, 0, donors].unsqueeze(1), [Step.log_likelihood])[Step.log_likelihood]


def _per_frame(
    net: StochasticRNN, batch: EncodedPart, values: StepValues, form: Auxiliary
) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior means (frames, latent), and residuals and targets of the auxiliary (frames, backward), at real frames.

    Residuals are NaN in a model without the auxiliary.
    """
    past, b = State(values[Step.past_hidden], values[Step.past_cell]), batch.b.unsqueeze(1)
    mean = latent_of(net.posterior(past, b), "posterior", net.latent_dim, past.hidden.shape[:-1]).mean
    target = form.target(batch.b, batch.real)[0]
    residual = torch.full_like(b, torch.nan)
    if net.has_auxiliary:
        residual = target.unsqueeze(1) - net.auxiliary(values[Step.z], past).mean
    return mean[:, 0][batch.real], residual[:, 0][batch.real], target[batch.real]


def _auxiliary(net: StochasticRNN, batch: EncodedPart, values: StepValues, form: Auxiliary) -> tuple[Tensor, Tensor]:
    """log p_xi(b_t | z_t, .), and the same less that of the prior's z_t with the same noise; each (time, 1, batch).

    NaN in a model without the auxiliary.
    """
    if not net.has_auxiliary:
        absent = torch.full_like(values[Step.log_likelihood], torch.nan)
        return absent, absent
    past, z = State(values[Step.past_hidden], values[Step.past_cell]), values[Step.z]
    shape = past.hidden.shape[:-1]
    posterior = latent_of(net.posterior(past, batch.b.unsqueeze(1)), "posterior", net.latent_dim, shape)
    prior = latent_of(net.prior(past), "prior", net.latent_dim, shape)
    like_prior = sampled(prior, noise_of(posterior, z))[0]
    of_posterior, of_prior = (form.density(net, each, past, batch.b, batch.real) for each in (z, like_prior))
    return of_posterior, of_posterior - of_prior
