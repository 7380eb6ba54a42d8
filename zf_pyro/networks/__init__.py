"""Networks without time loops, the recurrent state, and the step functions of a model as one Protocol."""

from .as_built import as_built
from .backward import GRU, LSTM, BackwardRNN, ForwardRNN, in_gate_order, input_weights, turned
from .cells import CELLS, ConcatenateCell, ConditionalLayerNormCell, FeatureCell, GatedCell, Transition, lstm
from .compilation import runs_eagerly
from .covariates import JoinedEmbedding, ReadingNetwork, extras_of, frame_embedding, joined
from .dependencies import (
    BATCHES_STEPPED,
    add_in_place,
    chain_arguments,
    chain_diagnostics,
    function_modes,
    handled_program,
    handlers,
    has_samples,
    multiply_in_place,
    under,
    versions,
)
from .drive import Drive, fused_drive
from .feedforward import MLP, ClippedLeakyReLU, bounded, clipped_leaky_relu, loc_scale
from .flows import AutoregressiveFlow, FlowLayer
from .frame_dropout import some_hidden
from .latent_distributions import Latent, base_of, latent_of, noise_of, normals_proposed, proposed, sampled, with_base
from .layers import (
    RECURRENCES,
    LatentGRUCell,
    LayeredBackwardRNN,
    Recurrence,
    StackedCell,
    backward_kind,
    backward_rnn,
    latent_cell,
)
from .markov import Combiner, GatedTransition
from .modes import evaluating
from .state import PosteriorScan, State, with_first
from .step_functions import PlainLoopWarning, StepFunctions, own_step_functions, with_fast_form

__all__ = [
    "BATCHES_STEPPED",
    "CELLS",
    "GRU",
    "LSTM",
    "MLP",
    "RECURRENCES",
    "AutoregressiveFlow",
    "BackwardRNN",
    "ClippedLeakyReLU",
    "Combiner",
    "ConcatenateCell",
    "ConditionalLayerNormCell",
    "Drive",
    "FeatureCell",
    "FlowLayer",
    "ForwardRNN",
    "GatedCell",
    "GatedTransition",
    "JoinedEmbedding",
    "Latent",
    "LatentGRUCell",
    "LayeredBackwardRNN",
    "PlainLoopWarning",
    "PosteriorScan",
    "ReadingNetwork",
    "Recurrence",
    "StackedCell",
    "State",
    "StepFunctions",
    "Transition",
    "add_in_place",
    "as_built",
    "backward_kind",
    "backward_rnn",
    "base_of",
    "bounded",
    "chain_arguments",
    "chain_diagnostics",
    "clipped_leaky_relu",
    "evaluating",
    "extras_of",
    "frame_embedding",
    "function_modes",
    "fused_drive",
    "handled_program",
    "handlers",
    "has_samples",
    "in_gate_order",
    "input_weights",
    "joined",
    "latent_cell",
    "latent_of",
    "loc_scale",
    "lstm",
    "multiply_in_place",
    "noise_of",
    "normals_proposed",
    "own_step_functions",
    "proposed",
    "runs_eagerly",
    "sampled",
    "some_hidden",
    "turned",
    "under",
    "versions",
    "with_base",
    "with_fast_form",
    "with_first",
]
