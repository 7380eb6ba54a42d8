"""Shared code of the paper's experiments: flags, presets, objectives by name, fitting, results."""

from .choices import MODELS
from .command import command_line, prepared_data
from .commands import main
from .fitting import Fitted, count_parameters, fit_model, save, scores_of
from .loaders import evaluation_loader, spread, training_loader
from .presets import Preset
from .results import write_results
from .series_forecasts import forecast_table
from .series_run import SeriesRun, load_run, series_experiment
from .series_scores import ForecastScores, score_forecasts
from .settings import Run
from .speech import SpeechEmission, emission_of, speech_experiment

__all__ = [
    "MODELS",
    "Fitted",
    "ForecastScores",
    "Preset",
    "Run",
    "SeriesRun",
    "SpeechEmission",
    "command_line",
    "count_parameters",
    "emission_of",
    "evaluation_loader",
    "fit_model",
    "forecast_table",
    "load_run",
    "main",
    "prepared_data",
    "save",
    "score_forecasts",
    "scores_of",
    "series_experiment",
    "speech_experiment",
    "spread",
    "training_loader",
    "write_results",
]
