"""Leave-future-out: how well a model forecasts the frames to come from those before."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import require_count
from ..evaluation import require_evaluation, require_sequences
from ..inference import ParticleFilter
from ..models import StochasticRNN


class Forecasts(NamedTuple):
    """Log predictive densities of stretches of frames, given all frames before each stretch."""

    densities: Tensor
    """log p(x_{t+1}..x_{t+M} | x_1..x_t) for t = first, first + 1, ...; (sequence, forecast) nats, NaN where a sequence
    does not reach so far."""
    first: int
    """Frames seen before the first forecast."""
    horizon: int
    """M, frames of each stretch."""

    @property
    def elpd(self) -> float:
        """Sum over all forecasts, nats: the expected log predictive density times their number.

        Comparable between models for the same sequences, ``first`` and ``horizon``.
        """
        return float(self.densities.nansum())

    @property
    def per_sequence(self) -> Tensor:
        """Mean over the forecasts of each sequence, nats; (sequence,), NaN for one that allows none."""
        return self.densities.nanmean(1)

    @property
    def error(self) -> float:
        """Standard error of :attr:`elpd` over sequences, which are independent where forecasts of one are not."""
        sums = self.densities.nansum(1)
        return float(sums.std() * len(sums) ** 0.5)


@torch.no_grad()
def leave_future_out(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    first: int = 1,
    horizon: int = 1,
    num_particles: int = 256,
    batch_size: int = 64,
) -> Forecasts:
    """Score forecasts ``horizon`` steps ahead by a bootstrap particle filter, which never sees the future.

    Burkner, Gabry, Vehtari 2020, "Approximate leave-future-out cross-validation for Bayesian time series models",
    https://doi.org/10.1080/00949655.2020.1783262. The parameters stay as they are, so nothing is refitted: the
    density of a stretch is the sum of the filter's increments log p(x_s | x_1..x_{s-1}) over it.

    Args:
        net: the net, in evaluation mode.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        first: frames seen before the first forecast; 0 forecasts the first frame too.
        horizon: frames of each forecast.
        num_particles: of the filter.
        batch_size: sequences worked on at once.

    Raises:
        TypeError, ValueError: what ``net`` refuses, a net in training mode, a bad count, or no sequence with ``first``
            and ``horizon`` frames.
    """
    require_evaluation(net)
    require_sequences(net, x, lengths)
    for name, count in (("horizon", horizon), ("num_particles", num_particles), ("batch_size", batch_size)):
        require_count(name, count)
    if not isinstance(first, int) or first < 0:
        raise ValueError(f"first must be an integer of at least 0, got {first!r}")
    full = torch.full((len(x),), x.shape[1], device=x.device)
    own = full if lengths is None else lengths
    longest = int(own.max())
    if first + horizon > longest:
        raise ValueError(f"first + horizon must be at most {longest}, the longest sequence, got {first} + {horizon}")
    filtering = ParticleFilter(net, num_particles, proposal="prior")
    increments = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
    for rows in own.argsort().split(batch_size):
        reached = int(own[rows].max())
        found = filtering.run(x[rows, :reached], own[rows]).log_increments
        increments[rows, :reached] = found.T.double()
    stretches = increments[:, first:longest].unfold(1, horizon, 1).sum(-1)
    ends = first + horizon + torch.arange(stretches.shape[1], device=x.device)
    return Forecasts(stretches.where(ends <= own.unsqueeze(1), torch.nan).cpu(), first, horizon)
