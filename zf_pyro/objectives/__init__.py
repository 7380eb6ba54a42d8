"""Training objectives of this package's own: each a Pyro ELBO, and a module."""

from .fivo import FIVO
from .importance import ImportanceWeightedELBO
from .objective import Objective, ObjectiveModule, Program, owner_of
from .zforcing import ZForcingELBO, plain

__all__ = [
    "FIVO",
    "ImportanceWeightedELBO",
    "Objective",
    "ObjectiveModule",
    "Program",
    "ZForcingELBO",
    "owner_of",
    "plain",
]
