"""Models: one page of step functions each, and what all of them share."""

from .base import StochasticRNN
from .deterministic_rnn import DeterministicRNN
from .dmm import DMM
from .linear_gaussian import LinearGaussian
from .pretrained import pretrained
from .refined import Corrections, RefinedNetwork, correctable
from .refined_guide import BoundGain, RefinedGuide, guided
from .registration import RegisteredNetwork
from .required import require_model
from .srnn import SRNN
from .storn import STORN
from .vrnn import VRNN
from .zforcing import ZForcing

__all__ = [
    "DMM",
    "SRNN",
    "STORN",
    "VRNN",
    "BoundGain",
    "Corrections",
    "DeterministicRNN",
    "LinearGaussian",
    "RefinedGuide",
    "RefinedNetwork",
    "RegisteredNetwork",
    "StochasticRNN",
    "ZForcing",
    "correctable",
    "guided",
    "pretrained",
    "require_model",
]
