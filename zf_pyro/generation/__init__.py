"""Generation: new sequences, continuations, reconstructions and interpolations."""

from .ancestral import ancestral
from .methods import Interpolation, generate, interpolate, reconstruct
from .strategies import drawn, nucleus

__all__ = [
    "Interpolation",
    "ancestral",
    "drawn",
    "generate",
    "interpolate",
    "nucleus",
    "reconstruct",
]
