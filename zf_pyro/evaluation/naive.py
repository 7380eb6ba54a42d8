"""Naive and seasonal naive forecasts as samples: baselines that every forecast should beat."""

import torch
from torch import Tensor

from ..checks import int64, require_count, require_seed, require_tensor


class SeasonalNaive:
    """The value one season ago, plus differences between seasons drawn from the sequence itself.

    x_{T+h} is the last value seen in the season of step T + h, plus one difference x_t - x_{t-period} for each season
    from there, drawn with replacement from those of its sequence (Hyndman and Athanasopoulos, Forecasting: Principles
    and Practice, 3rd edition, sections 5.2 and 5.5). Frames are drawn whole, so that features vary together; with
    missing elements, each feature is drawn by itself.

    A forecaster for :func:`zf_pyro.evaluation.backtest`. The same seed gives the same samples.

    Args:
        period: steps of a season.
        num_samples: samples of each forecast.
        seed: seed of the samples.
    """

    def __init__(self, period: int, *, num_samples: int = 200, seed: int = 0) -> None:
        self.period = require_count("period", period)
        self.num_samples, self.seed = require_count("num_samples", num_samples), require_seed("seed", seed)

    def __call__(self, x: Tensor, lengths: Tensor | None, horizon: int, *, observed: Tensor | None = None) -> Tensor:
        """Sample the ``horizon`` frames after each sequence.

        Args:
            x: (batch, time, frame).
            lengths: frames of each sequence, (batch,); all of them if None.
            horizon: steps of the forecast.
            observed: True where an element was seen, (batch, time, frame); everything if None.

        Returns:
            (num_samples, batch, horizon, frame).

        Raises:
            ValueError: a sequence without a value in one of the seasons, or without a difference between two.
        """
        x, horizon = require_tensor("x", x), require_count("horizon", horizon)
        if x.dim() != 3:
            raise ValueError(f"x must be (batch, time, frame), got shape {tuple(x.shape)}")
        values, seen = self._by_season(x, lengths, observed)
        batch, count, period, frame = values.shape
        number = torch.arange(count, device=x.device)[:, None, None]
        newest = torch.where(seen, number, -1).amax(1)  # (batch, period, frame)
        self._require(newest >= 0, "a value in each of the {} seasons")
        start = values.gather(1, newest.clamp(min=0).unsqueeze(1)).squeeze(1)
        step = torch.arange(horizon, device=x.device)
        column = step % period
        seasons = (step // period + 1)[:, None] + (count - 1 - newest)[:, column]  # (batch, horizon, frame)
        longest = int(seasons.max())
        pool = (values[:, 1:] - values[:, :-1]).flatten(1, 2)
        usable = (seen[:, 1:] & seen[:, :-1]).flatten(1, 2)
        drawn = self._draw(pool, usable, longest * period, whole=observed is None)
        sums = drawn.view(self.num_samples, batch, longest, period, frame).cumsum(2)[:, :, :, column]
        chosen = (seasons - 1).unsqueeze(1).expand(self.num_samples, -1, -1, -1, -1)
        return start[:, column] + sums.gather(2, chosen).squeeze(2)

    def _by_season(self, x: Tensor, lengths: Tensor | None, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Frames and what was seen, (batch, season, period, frame), the last frame of each sequence at the end."""
        batch, time, frame = x.shape
        real = torch.full((batch,), time, device=x.device) if lengths is None else int64(lengths).to(x.device)
        total = -(-time // self.period) * self.period
        index = torch.arange(total, device=x.device) - total + real[:, None]
        inside = (index >= 0).unsqueeze(-1)
        index = index.clamp(min=0).unsqueeze(-1).expand(-1, -1, frame)
        seen = inside.expand_as(index) if observed is None else inside & observed.to(x.device).gather(1, index)
        values = x.gather(1, index).where(seen, 0.0)
        shape = (batch, -1, self.period, frame)
        return values.view(shape), seen.reshape(shape)

    def _draw(self, pool: Tensor, usable: Tensor, count: int, *, whole: bool) -> Tensor:
        """``count`` differences per sample of ``pool`` (batch, time, frame): (num_samples, batch, count, frame)."""
        batch, _, frame = pool.shape
        generator = torch.Generator(pool.device).manual_seed(self.seed)
        if not pool.shape[1]:
            self._require(torch.zeros(batch, 1, dtype=torch.bool), "two values a season of {} steps apart")
        weights = usable.all(-1, keepdim=True) if whole else usable  # (batch, time, 1 or frame)
        self._require(weights.any(1), "two values a season of {} steps apart")
        rows = weights.transpose(1, 2).flatten(0, 1).double()
        index = torch.multinomial(rows, self.num_samples * count, replacement=True, generator=generator)
        index = index.view(batch, weights.shape[2], -1).transpose(1, 2).expand(-1, -1, frame)
        return pool.gather(1, index).view(batch, self.num_samples, count, frame).transpose(0, 1)

    def _require(self, fits: Tensor, what: str) -> None:
        """Refuse sequences, (batch, ...) bool, that lack something."""
        lacking = ~fits.flatten(1).all(1)
        if lacking.any():
            raise ValueError(
                f"each sequence must have {what.format(self.period)} to be forecast by {type(self).__name__}, sequence "
                f"{int(lacking.nonzero()[0])} has not: give longer ones, or a shorter period"
            )


class Naive(SeasonalNaive):
    """The last value, plus differences between steps drawn from the sequence itself: a season of one step.

    Args:
        num_samples: samples of each forecast.
        seed: seed of the samples.
    """

    def __init__(self, *, num_samples: int = 200, seed: int = 0) -> None:
        super().__init__(1, num_samples=num_samples, seed=seed)
