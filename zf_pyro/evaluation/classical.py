"""ETS and ARIMA of statsmodels as forecasters: one model per sequence and feature, by maximum likelihood."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import int64, require_count, require_seed, require_tensor

STEPS = 200
"""Steps of the optimiser; the 50 of statsmodels often end before it has converged."""


class Statespace:
    """Forecaster of a univariate state space model of statsmodels, fitted to each sequence and feature by itself.

    Missing values are marginalised by the Kalman filter. Samples are simulated from the filtered state at the end of a
    sequence. A warning counts the fits that did not converge.

    Args:
        model: name of a class of ``statsmodels.tsa.statespace``, with its module.
        settings: its arguments beside the values.
        num_samples: samples of each forecast.
        seed: seed of the samples.

    Attributes:
        failed: fits that did not converge so far.
    """

    def __init__(self, model: tuple[str, str], settings: Mapping[str, Any], num_samples: int, seed: int) -> None:
        self.model, self.settings = model, dict(settings)
        self.num_samples, self.seed = require_count("num_samples", num_samples), require_seed("seed", seed)
        self.failed = 0

    def __call__(self, x: Tensor, lengths: Tensor | None, horizon: int, *, observed: Tensor | None = None) -> Tensor:
        """Sample the ``horizon`` frames after each sequence.

        Args:
            x: (batch, time, frame).
            lengths: frames of each sequence, (batch,); all of them if None.
            horizon: steps of the forecast.
            observed: True where an element was seen, (batch, time, frame); everything if None.

        Returns:
            (num_samples, batch, horizon, frame) float64.

        Raises:
            ImportError: statsmodels is not installed.
            ValueError: a sequence that the model cannot be fitted to, for example a short one.
        """
        x, horizon = require_tensor("x", x), require_count("horizon", horizon)
        if x.dim() != 3:
            raise ValueError(f"x must be (batch, time, frame), got shape {tuple(x.shape)}")
        values = x.detach().cpu().double()
        if observed is not None:
            values = values.where(observed.cpu(), torch.nan)
        real = [x.shape[1]] * len(x) if lengths is None else int64(lengths).tolist()
        rng, before = np.random.default_rng(self.seed), self.failed
        found = torch.empty(self.num_samples, len(x), horizon, x.shape[2], dtype=torch.float64)
        for row, length in enumerate(real):
            for feature in range(x.shape[2]):
                series = values[row, :length, feature].numpy()
                found[:, row, :, feature] = torch.from_numpy(self._sample(series, horizon, rng, row))
        if self.failed > before:
            warnings.warn(
                f"{self.failed - before} of {len(real) * x.shape[2]} fits of {type(self).__name__} did not converge: "
                "their forecasts may be poor, so a comparison with them may flatter",
                RuntimeWarning,
                stacklevel=2,
            )
        return found

    def _sample(self, values: np.ndarray, horizon: int, rng: np.random.Generator, row: int) -> np.ndarray:
        """Simulated continuations of one series, (num_samples, horizon)."""
        try:
            from statsmodels.tools.sm_exceptions import ConvergenceWarning
            from statsmodels.tsa.statespace import exponential_smoothing, sarimax
        except ImportError as error:
            raise ImportError("ETS and ARIMA need statsmodels: pip install zf-pyro[series]") from error
        module, name = self.model
        kind = getattr({"exponential_smoothing": exponential_smoothing, "sarimax": sarimax}[module], name)
        try:
            model = kind(values, **self.settings)
            seen = int(np.isfinite(values).sum())
            if seen < model.k_states + 2:
                raise ValueError(f"it has {model.k_states} states, and {seen} frames were seen")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
                fitted = model.fit(disp=False, maxiter=STEPS)
            self.failed += not fitted.mle_retvals["converged"]
            drawn = fitted.simulate(horizon, anchor="end", repetitions=self.num_samples, rng=rng)
        except (ValueError, IndexError, np.linalg.LinAlgError) as error:
            raise ValueError(
                f"{type(self).__name__} cannot be fitted to sequence {row} of {len(values)} frames ({error}): give "
                "longer sequences, or a simpler model"
            ) from error
        return np.asarray(drawn).reshape(horizon, self.num_samples).T


class ETS(Statespace):
    """Exponential smoothing with additive errors: level, trend and season (Hyndman et al. 2008).

    Args:
        period: steps of an additive season; None for none.
        trend: whether there is an additive trend.
        damped_trend: whether the trend is damped.
        num_samples: samples of each forecast.
        seed: seed of the samples.
    """

    def __init__(
        self,
        period: int | None = None,
        *,
        trend: bool = False,
        damped_trend: bool = False,
        num_samples: int = 200,
        seed: int = 0,
    ) -> None:
        if period is not None:
            period = require_count("period", period, least=2)
        settings = {
            **{"trend": trend, "damped_trend": damped_trend, "seasonal": period},
            "initialization_method": "concentrated",  # the best initial states in closed form
        }
        super().__init__(("exponential_smoothing", "ExponentialSmoothing"), settings, num_samples, seed)


class ARIMA(Statespace):
    """ARIMA(p, d, q), with a season (P, D, Q, period) if given.

    Args:
        order: p, d and q.
        seasonal_order: P, D, Q and the period.
        trend: ``"c"`` for a constant, ``"t"`` for a line, ``"ct"`` for both; None for none.
        num_samples: samples of each forecast.
        seed: seed of the samples.
    """

    def __init__(
        self,
        order: tuple[int, int, int] = (1, 0, 0),
        *,
        seasonal_order: tuple[int, int, int, int] = (0, 0, 0, 0),
        trend: str | None = None,
        num_samples: int = 200,
        seed: int = 0,
    ) -> None:
        for name, value, count in (("order", order, 3), ("seasonal_order", seasonal_order, 4)):
            if not isinstance(value, tuple | list) or len(value) != count:
                raise ValueError(f"{name} must be {count} integers, got {value!r}")
            for part in value:
                require_count(name, part, least=0)
        settings = {"order": tuple(order), "seasonal_order": tuple(seasonal_order), "trend": trend}
        super().__init__(("sarimax", "SARIMAX"), settings, num_samples, seed)
