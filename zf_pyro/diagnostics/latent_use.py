"""Do the latents matter: what the frames lose without them, and the verdict "collapsed" or "used"."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import require_count
from ..evaluation import EncodedPart, encoded_parts, require_evaluation, require_sequences
from ..models import StochasticRNN
from ..networks import State
from .per_step import Record, draw, score


class LatentUse(NamedTuple):
    """How much of the frames goes through the latents. Nats are a sequence, averaged over sequences."""

    kl: Tensor
    """KL(q || p) of each step and latent, at one draw of the latents before; (sequence, step, latent) nats, NaN for
    padding."""
    log_likelihood: float
    """E_q log p(x | z)."""
    at_prior_mean: float
    """log p(x | z) with each z_t at the mean of its prior, given h_{t-1} under the means before it."""
    shuffled: float
    """E log p(x | z) with z drawn by the guide for another sequence of about the same length."""
    active_units: int
    """Latents whose posterior mean varies, by the variance 0.01 of Burda et al. 2016. Blind to collapse wherever the
    prior moves with the frames before: a posterior that merely follows it counts as active."""
    auxiliary_r2: float
    """R^2 of the auxiliary's mean for b_t, over all units and real steps: 1 is perfect, 0 the mean of b_t, negative a
    net whose auxiliary was not trained."""
    threshold: float
    """Nats a sequence that the latents must carry, and be worth, to count as used."""

    @property
    def total_kl(self) -> float:
        """KL(q || p) of a sequence, in nats."""
        return float(self.kl.nansum((1, 2)).mean())

    @property
    def elbo(self) -> float:
        """Log-likelihood less KL."""
        return self.log_likelihood - self.total_kl

    @property
    def lost_at_prior_mean(self) -> float:
        """Nats of log-likelihood lost when each z_t is replaced by its prior mean."""
        return self.log_likelihood - self.at_prior_mean

    @property
    def lost_by_shuffling(self) -> float:
        """Nats of log-likelihood lost when z is another sequence's."""
        return self.log_likelihood - self.shuffled

    @property
    def share_lost_at_prior_mean(self) -> float:
        """The same as a share of the bound's size. For densities the zero of nats is arbitrary: prefer the nats."""
        return self.lost_at_prior_mean / abs(self.elbo)

    @property
    def share_lost_by_shuffling(self) -> float:
        """As for the prior mean."""
        return self.lost_by_shuffling / abs(self.elbo)

    @property
    def used(self) -> bool:
        """Whether the latents carry ``threshold`` nats about a sequence, and are worth as many to its frames.

        The KL is an upper bound on what z_t says of the frames from t on that the frames before do not (given the
        history, E KL(q || p) = I(z_t; b_t | h_{t-1}) + KL(E q || p)). The loss tells whether p(x | z) listens.
        """
        return self.total_kl >= self.threshold and self.lost_at_prior_mean >= self.threshold

    def verdict(self) -> str:
        """ "collapsed" or "used", with the numbers it rests on."""
        return (
            f"{'used' if self.used else 'collapsed'}: KL {self.total_kl:.1f} nats a sequence; "
            f"{self.lost_at_prior_mean:.1f} nats of log-likelihood lost with z at its prior mean "
            f"({100 * self.share_lost_at_prior_mean:.0f} % of the bound), {self.lost_by_shuffling:.1f} with another "
            f"sequence's z; {self.active_units} of {self.kl.shape[-1]} units active; "
            f"auxiliary R2 {self.auxiliary_r2:.2f}"
        )


@torch.no_grad()
def latent_use(
    net: StochasticRNN, x: Tensor, lengths: Tensor | None = None, *, threshold: float = 2.0, batch_size: int = 64
) -> LatentUse:
    """Measure how much of the frames goes through the latents.

    Args:
        net: the net, in evaluation mode.
        x: (batch, time, frame) floats or (batch, time) integers; at least two sequences.
        lengths: real frames of each sequence, (batch,); all of them if None.
        threshold: nats a sequence below which latents count as collapsed.
        batch_size: sequences worked on at once.

    Raises:
        TypeError, ValueError: what ``net`` refuses, a net in training mode, one sequence alone, or a bad count.
    """
    require_evaluation(net)
    require_sequences(net, x, lengths)
    require_count("batch_size", batch_size)
    if len(x) < 2:
        raise ValueError("x must hold at least 2 sequences, whose latents can be exchanged; got 1")
    if not threshold > 0.0:
        raise ValueError(f"threshold must be positive, in nats a sequence, got {threshold!r}")
    kl = torch.full((*x.shape[:2], net.latent_dim), torch.nan, device=x.device, dtype=net.emission_layer.weight.dtype)
    sums, means, residuals, targets = torch.zeros(3, dtype=torch.float64), [], [], []
    for batch in encoded_parts(net, x, lengths, batch_size, at_least=2):
        record = draw(net, batch, 1, ["z", "hidden", "cell", "log_likelihood", "kl_by_latent"])
        real = batch.real.T
        kl[batch.rows, : real.shape[1]] = (
            record["kl_by_latent"][:, 0].transpose(0, 1).where(real.unsqueeze(-1), torch.nan)
        )
        worth = [record["log_likelihood"], _at_prior_mean(net, batch), _shuffled(net, batch, record["z"])]
        sums += torch.stack([batch.sum(value).sum() for value in worth]).cpu()
        mean, residual, target = _per_frame(net, batch, record)
        means.append(mean)
        residuals.append(residual)
        targets.append(target)
    variances = torch.cat(means).var(0, correction=0)
    target = torch.cat(targets)
    explained = torch.cat(residuals).square().sum() / (target - target.mean(0)).square().sum()
    drawn, at_mean, shuffled = (sums / len(x)).tolist()
    return LatentUse(
        kl=kl.cpu(),
        log_likelihood=drawn,
        at_prior_mean=at_mean,
        shuffled=shuffled,
        active_units=int((variances > 0.01).sum()),
        auxiliary_r2=float(1 - explained),
        threshold=threshold,
    )


def _at_prior_mean(net: StochasticRNN, batch: EncodedPart) -> Tensor:
    """log p(x_t | h_t) with latents at their prior means, under the true frames; (time, 1, batch)."""
    given = batch.run
    state = State(*(field.unsqueeze(0) for field in given.initial_state))
    result = []
    for u_t, x_t in zip(batch.u, batch.x.transpose(0, 1), strict=True):
        state = net.transition(state, u_t.unsqueeze(0), net.prior(state).mean)
        result.append(net.emission(state).log_prob(x_t.unsqueeze(0)))
    return torch.stack(result)


def _shuffled(net: StochasticRNN, batch: EncodedPart, z: Tensor) -> Tensor:
    """log p(x_t | h_t) with the latents of the next sequence of the batch; (time, 1, batch).

    A batch is sorted by length, so the next is about as long; where it is shorter, its latents start over.
    """
    steps, size = batch.real.shape
    donors = torch.arange(size, device=batch.rows.device).roll(-1)
    places = torch.arange(steps, device=donors.device).unsqueeze(1) % batch.real.sum(0)[donors]
    return score(net, batch, z[places, 0, donors].unsqueeze(1), ["log_likelihood"])["log_likelihood"]


def _per_frame(net: StochasticRNN, batch: EncodedPart, record: Record) -> tuple[Tensor, Tensor, Tensor]:
    """Of every real frame: posterior mean (frames, latent), the auxiliary's residual and target (frames, hidden)."""
    zero = State(*(field.expand(1, 1, *field.shape) for field in batch.run.initial_state))
    before = State(
        torch.cat([zero.hidden, record["hidden"][:-1]]),
        torch.cat([zero.cell, record["cell"][:-1]]),
    )
    b = batch.b.unsqueeze(1)
    mean = net.posterior(before, b).mean
    residual = b - net.auxiliary(record["z"], before).mean
    return mean[:, 0][batch.real], residual[:, 0][batch.real], batch.b[batch.real]
