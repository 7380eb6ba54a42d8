"""A network as a forecaster of backtests, by its particle filter."""

import torch
from torch import Tensor

from ..checks import require_choice, require_count
from ..models import StochasticRNN, require_model
from .forecasting import PROPOSALS, forecast


class FilterForecaster:
    """Samples of ``net.forecast``, as :func:`zf_pyro.evaluation.backtest` asks for them.

    Args:
        net: the model.
        num_samples: samples of each forecast.
        num_particles: particles of the filter.
        proposal: of the filter, ``"posterior"`` (the guide) or ``"prior"``.
        batch_size: sequences processed at once.
    """

    def __init__(
        self,
        net: StochasticRNN,
        *,
        num_samples: int = 200,
        num_particles: int = 256,
        proposal: str = "posterior",
        batch_size: int = 64,
    ) -> None:
        require_model(net)
        self.net, self.proposal = net, require_choice("proposal", proposal, PROPOSALS)
        self.num_samples = require_count("num_samples", num_samples)
        self.num_particles = require_count("num_particles", num_particles)
        self.batch_size = require_count("batch_size", batch_size)

    def __call__(
        self,
        x: Tensor,
        lengths: Tensor | None,
        horizon: int,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """Sample the ``horizon`` frames after each sequence.

        Args:
            x: (batch, time, frame).
            lengths: frames of each sequence, (batch,); all of them if None.
            horizon: steps of the forecast.
            covariates: known at all steps, (batch, time + horizon, covariate); None for a model without.
            observed: True where an element was seen, (batch, time, frame); everything if None.

        Returns:
            (num_samples, batch, horizon, frame).
        """
        weight = self.net.emission_layer.weight
        covariates = covariates.to(weight) if covariates is not None and self.net.covariate_dim else None
        found = forecast(
            self.net,
            x.to(weight),
            None if lengths is None else lengths.to(weight.device),
            horizon=horizon,
            num_samples=self.num_samples,
            num_particles=self.num_particles,
            proposal=self.proposal,
            covariates=covariates,
            observed=None if observed is None else observed.to(weight.device),
            batch_size=self.batch_size,
        )
        return torch.from_numpy(found.values)
