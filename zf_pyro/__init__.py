"""Z-Forcing as a probabilistic program: stochastic recurrent networks in Pyro."""

from . import emissions
from .diagnostics import to_arviz
from .model import ZForcing
from .networks import State
from .objectives import FIVO, ImportanceWeightedELBO, ZForcingELBO
from .schedules import Constant, Linear
from .terms import Terms

__all__ = [
    "FIVO",
    "Constant",
    "ImportanceWeightedELBO",
    "Linear",
    "State",
    "Terms",
    "ZForcing",
    "ZForcingELBO",
    "emissions",
    "to_arviz",
]
