"""Shared code of the paper's experiments: flags, presets, objectives by name, fitting, results."""

from .choices import MODELS
from .command import command_line, prepared_data
from .commands import main
from .fitting import Fitted, count_parameters, fit_model, save, scores_of
from .loaders import evaluation_loader, spread, training_loader
from .presets import Preset
from .results import write_results
from .settings import Run
from .speech import SpeechEmission, emission_of, speech_experiment

__all__ = [
    "MODELS",
    "Fitted",
    "Preset",
    "Run",
    "SpeechEmission",
    "command_line",
    "count_parameters",
    "emission_of",
    "evaluation_loader",
    "fit_model",
    "main",
    "prepared_data",
    "save",
    "scores_of",
    "speech_experiment",
    "spread",
    "training_loader",
    "write_results",
]
