"""Bounds per sequence and over data sets, use of the latents by the posterior, and scores of forecasts."""

from .algorithms import Outcome, infer_and_judge, train_and_judge
from .anomalies import anomaly_scores
from .backtesting import Backtest, backtest
from .batching import (
    EncodedPart,
    Part,
    encoded_parts,
    parts,
    replayed_paths,
    require_evaluation,
    require_given,
    require_sequences,
)
from .bounds import Bounds, bounds, particle_bound, prior_mean_log_likelihood, prior_mean_steps
from .classical import ARIMA, ETS
from .estimates import Amount, Bound, Estimate, ratio
from .evaluate import Evaluation, evaluate, report, summarise
from .forecast_scores import Interval, crps, energy_score, interval, log_score, pit
from .forecaster import FilterForecaster
from .forecasting import forecast
from .imputation import impute
from .latents import active_units, count_active, step_kl
from .naive import Naive, SeasonalNaive
from .protocols import PROTOCOLS, Protocol
from .scores import Scores, score, score_density

__all__ = [
    "ARIMA",
    "ETS",
    "PROTOCOLS",
    "Amount",
    "Backtest",
    "Bound",
    "Bounds",
    "EncodedPart",
    "Estimate",
    "Evaluation",
    "FilterForecaster",
    "Interval",
    "Naive",
    "Outcome",
    "Part",
    "Protocol",
    "Scores",
    "SeasonalNaive",
    "active_units",
    "anomaly_scores",
    "backtest",
    "bounds",
    "count_active",
    "crps",
    "encoded_parts",
    "energy_score",
    "evaluate",
    "forecast",
    "impute",
    "infer_and_judge",
    "interval",
    "log_score",
    "particle_bound",
    "parts",
    "pit",
    "prior_mean_log_likelihood",
    "prior_mean_steps",
    "ratio",
    "replayed_paths",
    "report",
    "require_evaluation",
    "require_given",
    "require_sequences",
    "score",
    "score_density",
    "step_kl",
    "summarise",
    "train_and_judge",
]
