"""Emissions by name, so that a saved model finds the class of its emission without executing anything."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from .audio import DiscretizedLogisticMixture, MuLaw
from .counts import NegativeBinomial, Poisson
from .families import Bernoulli, Categorical, Gaussian, GaussianMixture, StudentT
from .family import Emission
from .nade import NADE

Family = TypeVar("Family", bound=Emission)
_OURS = (
    *(Bernoulli, Categorical, Gaussian, GaussianMixture, StudentT),
    *(NADE, DiscretizedLogisticMixture, MuLaw, Poisson, NegativeBinomial),
)
_FAMILIES: dict[str, type[Emission]] = {family.__name__: family for family in _OURS}


def register(family: type[Family]) -> type[Family]:
    """Register an emission by its class name, so that models with it can be saved and loaded. A class decorator.

    Loading never imports or executes anything: the module that defines the class must have been imported before. A
    class of the same module and name replaces the one registered before, as when a notebook's cell runs again.

    Args:
        family: a dataclass, whose fields are saved as JSON.

    Raises:
        TypeError: it is no emission, or no dataclass.
        ValueError: another class is registered under this name.
    """
    if not (isinstance(family, type) and issubclass(family, Emission)):
        raise TypeError(f"family must be a subclass of Emission, got {family!r}")
    if not dataclasses.is_dataclass(family):
        raise TypeError(
            f"family must be a dataclass, whose fields are saved, got {family.__qualname__}: put "
            "@dataclass(frozen=True) below @register"
        )
    known = _FAMILIES.get(family.__name__)
    if known is not None and (known.__module__, known.__qualname__) != (family.__module__, family.__qualname__):
        raise ValueError(
            f"{family.__name__!r} is the registered name of {known.__module__}.{known.__qualname__}: rename "
            f"{family.__module__}.{family.__qualname__}"
        )
    _FAMILIES[family.__name__] = family
    return family


def registered() -> Mapping[str, type[Emission]]:
    """Registered emissions by name, a read-only view."""
    return MappingProxyType(_FAMILIES)
