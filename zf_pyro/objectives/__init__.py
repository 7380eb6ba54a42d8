"""Training objectives: each a Pyro ELBO and a module, with their terms and schedules."""

from .elbo import ZForcingELBO
from .fivo import FIVO
from .graphed import Capture, GraphedELBO
from .importance import ImportanceWeightedELBO
from .objective import Objective, ObjectiveModule, PyroProgram, owner_of
from .schedules import Constant, Linear, Schedule, as_schedule
from .segmented import SegmentedELBO
from .terms import Terms, step_terms

__all__ = [
    "FIVO",
    "Capture",
    "Constant",
    "GraphedELBO",
    "ImportanceWeightedELBO",
    "Linear",
    "Objective",
    "ObjectiveModule",
    "PyroProgram",
    "Schedule",
    "SegmentedELBO",
    "Terms",
    "ZForcingELBO",
    "as_schedule",
    "owner_of",
    "step_terms",
]
