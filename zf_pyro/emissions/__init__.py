"""Emissions p(x_t | h_t): the shape of a frame, its embedding, and its density.

An emission is a description without weights: the model owns one linear layer from h_t (and one from b_t, for the
backward likelihood) to ``num_parameters`` values, and the emission turns those into a distribution over one frame.
"""

from .audio import DiscretizedLogisticMixture, MuLaw
from .counts import NegativeBinomial, Poisson
from .decoding import most_likely, tempered
from .families import Bernoulli, Categorical, Gaussian, GaussianMixture, StudentT
from .family import Emission
from .nade import NADE
from .registry import register, registered

__all__ = [
    "NADE",
    "Bernoulli",
    "Categorical",
    "DiscretizedLogisticMixture",
    "Emission",
    "Gaussian",
    "GaussianMixture",
    "MuLaw",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "most_likely",
    "register",
    "registered",
    "tempered",
]
