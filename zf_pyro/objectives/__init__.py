"""Training objectives of this package's own: each a Pyro ELBO, and a module."""

from .objective import Objective, ObjectiveModule
from .zforcing import ZForcingELBO

__all__ = ["Objective", "ObjectiveModule", "ZForcingELBO"]
