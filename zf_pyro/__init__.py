"""Z-Forcing as a probabilistic program: stochastic recurrent networks in Pyro."""

from . import emissions
from .diagnostics import to_arviz
from .evaluation import anomaly_scores, forecast, impute
from .models import DMM, SRNN, STORN, VRNN, StochasticRNN, ZForcing, pretrained
from .networks import State, runs_eagerly
from .objectives import FIVO, SIXO, Constant, ImportanceWeightedELBO, Linear, Terms, ZForcingELBO
from .recurrence import show_config
from .smc import export_step

__all__ = [
    "DMM",
    "FIVO",
    "SIXO",
    "SRNN",
    "STORN",
    "VRNN",
    "Constant",
    "ImportanceWeightedELBO",
    "Linear",
    "State",
    "Terms",
    "ZForcing",
    "ZForcingELBO",
    "emissions",
    "export_step",
    "pretrained",
    "show_config",
    "to_arviz",
]

__version__ = "0.1.0"

# Methods of models that run particle filters, which stand above models.
for _function in (anomaly_scores, forecast, impute):
    setattr(StochasticRNN, _function.__name__, runs_eagerly(_function))
