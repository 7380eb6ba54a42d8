"""Training objectives: each a Pyro ELBO and a module, with their terms and schedules."""

from .capture import Capture
from .elbo import ZForcingELBO
from .fivo import FIVO
from .graphed import GraphedELBO
from .importance import ImportanceWeightedELBO
from .log_weights import PathDensities, path_densities
from .objective import Objective, ObjectiveModule, networks_of
from .programs import PyroProgram, check_programs, check_roles, owner_of, require_program
from .schedules import Constant, Linear, Schedule, as_schedule
from .segmented import SegmentedELBO
from .sixo import SIXO
from .terms import Terms, step_terms
from .traces import replayed, replayed_traces
from .wake import WakePhi

__all__ = [
    "FIVO",
    "SIXO",
    "Capture",
    "Constant",
    "GraphedELBO",
    "ImportanceWeightedELBO",
    "Linear",
    "Objective",
    "ObjectiveModule",
    "PathDensities",
    "PyroProgram",
    "Schedule",
    "SegmentedELBO",
    "Terms",
    "WakePhi",
    "ZForcingELBO",
    "as_schedule",
    "check_programs",
    "check_roles",
    "networks_of",
    "owner_of",
    "path_densities",
    "replayed",
    "replayed_traces",
    "require_program",
    "step_terms",
]
