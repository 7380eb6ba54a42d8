"""Bounds per sequence and over data sets, and what of the latents the posterior uses."""

from .bounds import Bounds, bounds, particle_bound, prior_mean_log_likelihood
from .estimates import Amount, Bound, Estimate
from .evaluate import Evaluation, evaluate, report, summarise
from .latents import active_units, step_kl
from .scores import Scores, score, score_density

__all__ = [
    "Amount",
    "Bound",
    "Bounds",
    "Estimate",
    "Evaluation",
    "Scores",
    "active_units",
    "bounds",
    "evaluate",
    "particle_bound",
    "prior_mean_log_likelihood",
    "report",
    "score",
    "score_density",
    "step_kl",
    "summarise",
]
