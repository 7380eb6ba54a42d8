"""Training objectives: each a Pyro ELBO and a module, with their terms and schedules."""

from .auxiliary import Auxiliary
from .capture import Capture
from .elbo import ZForcingELBO
from .fivo import FIVO
from .graphed import GraphedELBO
from .held import HeldELBO
from .importance import ImportanceWeightedELBO
from .log_weights import PathDensities, path_densities
from .mechanism import Mechanism, mechanism, spread_of
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
    "Auxiliary",
    "Capture",
    "Constant",
    "GraphedELBO",
    "HeldELBO",
    "ImportanceWeightedELBO",
    "Linear",
    "Mechanism",
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
    "mechanism",
    "networks_of",
    "owner_of",
    "path_densities",
    "replayed",
    "replayed_traces",
    "require_program",
    "spread_of",
    "step_terms",
]
