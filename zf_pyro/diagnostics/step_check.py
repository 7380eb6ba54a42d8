"""Check of the guide by the importance weights of each step, given the latents before it."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import require_count
from ..data import progress_bar
from ..evaluation import EncodedPart, encoded_parts, require_evaluation, require_given
from ..models import StochasticRNN, guided
from ..networks import State
from ..smc import effective_sample_size, gaps_of, start_states, steps_of
from .arviz_versions import FEWEST_DRAWS, good_k, pareto_k
from .remedies import FOR_SEQUENCES

if TYPE_CHECKING:
    from xarray import DataArray

LEAST_EFFICIENCY = 0.5
"""Effective share of the samples of one step below which the step is flagged."""


class StepCheck(NamedTuple):
    """Statistics of the weights of each step; arrays (sequence, step), NaN beyond a length.

    The weight of z_t is p(z_t | z_1..z_{t-1}, x) / q(z_t | z_1..z_{t-1}, x) up to a factor, so a guide that is right at
    a step has equal weights there: k-hat 0 and efficiency 1, whatever it does at other steps. The weights of whole
    sequences are products of these over all steps, and nearly always have a bad k-hat.
    """

    pareto_k: "DataArray"
    """Pareto k-hat of the weights of the step, by ArviZ's PSIS."""
    efficiency: "DataArray"
    """Effective sample size as a share of the samples; 1 at best."""
    good_k: float
    """k-hat below which PSIS is reliable with so many samples."""

    def flagged(self) -> "DataArray":
        """True where k-hat is above :attr:`good_k` or the efficiency below :data:`LEAST_EFFICIENCY`."""
        return (self.pareto_k > self.good_k) | (self.efficiency < LEAST_EFFICIENCY)

    def summary(self) -> str:
        """Counts, median efficiency and the step flagged most often, as a sentence, and what to do about them."""
        flagged, real = self.flagged(), self.efficiency.notnull()
        text = (
            f"{int(flagged.sum())} of {int(real.sum())} steps flagged, in {int(flagged.any('step').sum())} of "
            f"{flagged.sizes['sequence']} sequences (k-hat above {self.good_k:.2f} or efficiency below "
            f"{LEAST_EFFICIENCY}); median efficiency of a step {np.nanmedian(self.efficiency):.2f}"
        )
        if not flagged.any():
            return text
        share = (flagged.sum("sequence") / real.sum("sequence")).fillna(0.0)
        worst = int(share.values.argmax())
        name = share["step"].values[worst]
        text = f"{text}; most often step {name}, in {100 * float(share[worst]):.0f} % of the sequences that reach it"
        return f"{text}; {FOR_SEQUENCES}"


@torch.no_grad()
def check_steps(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    num_samples: int = 100,
    num_futures: int = 4,
    batch_size: int = 16,
    guide: Callable[..., Any] | None = None,
    progress: bool = False,
) -> StepCheck:
    """Check the guide step by step: a filter whose weights look ahead to the end of the sequence.

    At step t, samples of z_t from the guide share their past. Their incremental weights p(x_t | h_t) p(z_t | h_{t-1}) /
    q(z_t | h_{t-1}, x) are those of the guided particle filter. An exact guide looks ahead, so these alone would differ
    by 1 / p(x_{t+1}..x_T | h_t). This factor is estimated by importance sampling: ``num_futures`` continuations of each
    sample by the guide, with the same random numbers for all samples of a step, so that a guide that is wrong later
    on hardly shows here. Then one sample is drawn by weight and becomes the past of step t + 1.

    The work is num_samples * num_futures * T^2 / 2 steps for each sequence.

    Args:
        net: the model, in evaluation mode.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``.
        num_samples: samples from the guide at each step, at least 25.
        num_futures: continuations of each sample; 0 for the incremental weights of the guided filter alone, which
            judge a guide that is to know no later frames, as that of :class:`~zf_pyro.VRNN`.
        batch_size: sequences processed at once.
        guide: ``net.guide``, or a guide of :func:`zf_pyro.inference.refine` for these sequences.
        progress: whether to show a progress bar.

    Raises:
        TypeError, ValueError: x or lengths that ``net`` refuses, a model in training mode, a bad count, or another
            guide.
    """
    import xarray

    net = guided(net, guide, "check_steps")
    require_evaluation(net)
    given = require_given(net, x, lengths, covariates=covariates, observed=observed)
    x, lengths = given.x, given.lengths
    num_samples = require_count("num_samples", num_samples, least=FEWEST_DRAWS)
    num_futures, batch_size = (
        require_count("num_futures", num_futures, least=0),
        require_count("batch_size", batch_size),
    )
    tails = np.full((2, *x.shape[:2]), np.nan)
    with progress_bar("step check", "sequence", len(x), progress) as bar:
        for batch in encoded_parts(net, x, lengths, batch_size, **given.named):
            log_weights, real = _step_weights(net, batch, num_samples, num_futures), batch.real.T.cpu().numpy()
            share = effective_sample_size(log_weights, dim=-1).cpu().numpy() / num_samples
            values = np.stack([pareto_k(log_weights.cpu().numpy()), share])
            tails[:, batch.rows.cpu().numpy(), : values.shape[2]] = np.where(real, values, np.nan)
            bar.update(len(batch.rows))
    coords = {"sequence": np.arange(x.shape[0]), "step": np.arange(x.shape[1])}
    k, efficiency = (
        xarray.DataArray(array, coords, ("sequence", "step"), name)
        for array, name in zip(tails, ("pareto_k", "efficiency"), strict=True)
    )
    return StepCheck(k, efficiency, good_k(num_samples))


def _step_weights(net: StochasticRNN, batch: EncodedPart, count: int, futures: int) -> Tensor:
    """Log-weights of the samples of each step, (batch, time, samples)."""
    steps = steps_of(net, batch.u, batch.b, batch.frames, gaps_of(batch.run))
    state = steps.start(start_states(batch.run, 1))
    num_steps, sequences, latent = batch.run.num_steps, batch.run.batch_size, net.latent_dim
    normal = state.hidden.new_empty
    result = []
    for t in range(num_steps):
        spread = State(*(field.expand(-1, count, -1) for field in state))
        moved = steps.move(spread, t, normal(sequences, count, latent).normal_())
        log_weights = moved.log_likelihood.double() + moved.log_ratio.double()
        if futures:
            ahead = State(*(field.repeat_interleave(futures, 1) for field in moved.state))
            total = log_weights.new_zeros(sequences, count, futures)
            for s in range(t + 1, num_steps):
                noise = normal(sequences, 1, futures, latent).normal_().expand(-1, count, -1, -1)
                onward = steps.move(ahead, s, noise.reshape(sequences, count * futures, latent))
                added = (onward.log_likelihood.double() + onward.log_ratio.double()).view_as(total)
                total = torch.where(batch.real[s].view(-1, 1, 1), total + added, total)
                ahead = onward.state
            log_weights = log_weights + total.logsumexp(-1) - math.log(futures)
        chosen = torch.multinomial(log_weights.softmax(-1), 1).unsqueeze(-1)
        state = State(*(field.gather(1, chosen.expand(-1, 1, field.shape[-1])) for field in moved.state))
        result.append(log_weights)
    return torch.stack(result, 1)
