"""Leave-future-out validation: densities of forecasts of later frames given the earlier ones."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import require_count
from ..evaluation import parts, require_evaluation, require_given
from ..inference import ParticleFilter
from ..models import StochasticRNN


class Forecasts(NamedTuple):
    """Log predictive densities of windows of frames, given all frames before each window."""

    densities: Tensor
    """log p(x_{t+1}..x_{t+M} | x_1..x_t) for t = first, first + 1, ...; (sequence, forecast) nats, NaN for windows that
    reach beyond a sequence."""
    first: int
    """Frames before the first forecast."""
    horizon: int
    """M, frames of each window."""

    @property
    def elpd(self) -> float:
        """Sum over all forecasts, nats: the expected log predictive density times the number of forecasts.

        Comparable between models for the same sequences, ``first`` and ``horizon``.
        """
        return float(self.densities.nansum())

    @property
    def per_sequence(self) -> Tensor:
        """Mean over the forecasts of each sequence, nats; (sequence,), NaN for a sequence without forecasts."""
        return self.densities.nanmean(1)

    @property
    def error(self) -> float:
        """Standard error of :attr:`elpd` over sequences. Forecasts within a sequence are not independent."""
        sums = self.densities.nansum(1)
        return float(sums.std() * len(sums) ** 0.5)


@torch.no_grad()
def leave_future_out(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    first: int = 1,
    horizon: int = 1,
    num_particles: int = 256,
    batch_size: int = 64,
) -> Forecasts:
    """Score forecasts ``horizon`` steps ahead by a bootstrap particle filter, which does not use later frames.

    Burkner, Gabry, Vehtari 2020, "Approximate leave-future-out cross-validation for Bayesian time series models",
    https://doi.org/10.1080/00949655.2020.1783262. The parameters are fixed, so nothing is refitted. The log-density of
    a window is the sum of the filter's increments log p(x_s | x_1..x_{s-1}) over it.

    Args:
        net: the model, in evaluation mode.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``.
        first: frames before the first forecast; 0 forecasts the first frame too.
        horizon: frames of each forecast.
        num_particles: particles of the filter.
        batch_size: sequences processed at once.

    Raises:
        TypeError, ValueError: x or lengths that ``net`` refuses, a model in training mode, a bad count, or no sequence
            of ``first + horizon`` frames.
    """
    require_evaluation(net)
    given = require_given(net, x, lengths, covariates=covariates, observed=observed)
    x, lengths = given.x, given.lengths
    num_particles, batch_size = require_count("num_particles", num_particles), require_count("batch_size", batch_size)
    first, horizon = require_count("first", first, least=0), require_count("horizon", horizon)
    full = torch.full((len(x),), x.shape[1], device=x.device)
    real = full if lengths is None else lengths
    longest = int(real.max())
    if first + horizon > longest:
        raise ValueError(f"first + horizon must be at most {longest}, the longest sequence, got {first} + {horizon}")
    filtering = ParticleFilter(net, num_particles, proposal="prior")
    increments = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
    for part in parts(x, real, None, batch_size, **given.named):
        found = filtering.run(part.x, part.lengths, **part.named).log_increments
        increments[part.rows, : len(found)] = found.T.double()
    windows = increments[:, first:longest].unfold(1, horizon, 1).sum(-1)
    ends = first + horizon + torch.arange(windows.shape[1], device=x.device)
    return Forecasts(windows.where(ends <= real.unsqueeze(1), torch.nan).cpu(), first, horizon)
