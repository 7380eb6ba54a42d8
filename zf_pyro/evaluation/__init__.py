"""Bounds per sequence and over data sets, and use of the latents by the posterior."""

from .algorithms import Outcome, infer_and_judge, train_and_judge
from .anomalies import anomaly_scores
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
from .estimates import Amount, Bound, Estimate, ratio
from .evaluate import Evaluation, evaluate, report, summarise
from .forecasting import forecast
from .imputation import impute
from .latents import active_units, count_active, step_kl
from .protocols import PROTOCOLS, Protocol
from .scores import Scores, score, score_density

__all__ = [
    "PROTOCOLS",
    "Amount",
    "Bound",
    "Bounds",
    "EncodedPart",
    "Estimate",
    "Evaluation",
    "Outcome",
    "Part",
    "Protocol",
    "Scores",
    "active_units",
    "anomaly_scores",
    "bounds",
    "count_active",
    "encoded_parts",
    "evaluate",
    "forecast",
    "impute",
    "infer_and_judge",
    "particle_bound",
    "parts",
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
