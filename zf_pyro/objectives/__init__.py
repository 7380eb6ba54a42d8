"""Training objectives of this package's own: each a Pyro ELBO, and a module."""

from .fivo import FIVO
from .importance import ImportanceWeightedELBO
from .objective import Objective, ObjectiveModule
from .zforcing import ZForcingELBO

__all__ = ["FIVO", "ImportanceWeightedELBO", "Objective", "ObjectiveModule", "ZForcingELBO"]
