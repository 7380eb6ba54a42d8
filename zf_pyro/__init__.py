"""Z-Forcing as a probabilistic program: stochastic recurrent networks in Pyro."""

from . import emissions
from .diagnostics import to_arviz
from .models import DMM, SRNN, STORN, VRNN, ZForcing, pretrained
from .networks import State
from .objectives import FIVO, SIXO, Constant, ImportanceWeightedELBO, Linear, Terms, ZForcingELBO
from .recurrence import show_config

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
    "pretrained",
    "show_config",
    "to_arviz",
]
