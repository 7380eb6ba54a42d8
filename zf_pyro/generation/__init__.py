"""Generation: new sequences, continuations, reconstructions and interpolations."""

from .ancestral import ancestral
from .methods import Interpolation, generate, interpolate, reconstruct
from .strategies import drawn, most_likely, nucleus, tempered

__all__ = [
    "Interpolation",
    "ancestral",
    "drawn",
    "generate",
    "interpolate",
    "most_likely",
    "nucleus",
    "reconstruct",
    "tempered",
]
