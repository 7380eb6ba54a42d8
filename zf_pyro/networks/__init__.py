"""Networks without time loops, the recurrent state, and the step functions of a model as one Protocol."""

from .backward import LSTM, BackwardRNN
from .cells import CELLS, ConcatenateCell, ConditionalLayerNormCell, GatedCell, Transition
from .drive import Drive, fused_drive
from .feedforward import MLP, bounded, clipped_leaky_relu, loc_scale
from .modes import evaluating
from .state import PosteriorScan, State
from .step_functions import StepFunctions, own_step_functions, with_fast_form

__all__ = [
    "CELLS",
    "LSTM",
    "MLP",
    "BackwardRNN",
    "ConcatenateCell",
    "ConditionalLayerNormCell",
    "Drive",
    "GatedCell",
    "PosteriorScan",
    "State",
    "StepFunctions",
    "Transition",
    "bounded",
    "clipped_leaky_relu",
    "evaluating",
    "fused_drive",
    "loc_scale",
    "own_step_functions",
    "with_fast_form",
]
