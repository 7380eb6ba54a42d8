"""Diagnostics of the guide, of the use of the latents, and of competing models, with ArviZ and without.

Start with :func:`to_arviz`. Plots need matplotlib, the probe scikit-learn: ``pip install zf-pyro[diagnostics]``.
"""

from .calibration import Calibration, calibrate
from .conversion import GROUPS, to_arviz
from .evidence import evidence
from .forecasts import Forecasts, leave_future_out
from .information import Information, mutual_information
from .latent_use import LatentUse, latent_use
from .measurements import measurements
from .model_comparison import compare
from .posterior_comparison import PosteriorComparison, compare_posteriors
from .predictive_checks import PredictiveCheck, autocorrelation, predictive_check, quantiles, spectrum
from .probe import Probe, linear_probe
from .report import Section, Verdict, remedies, write_report
from .step_check import StepCheck, check_steps
from .weight_check import WeightCheck, check_weights

__all__ = [
    "GROUPS",
    "Calibration",
    "Forecasts",
    "Information",
    "LatentUse",
    "PosteriorComparison",
    "PredictiveCheck",
    "Probe",
    "Section",
    "StepCheck",
    "Verdict",
    "WeightCheck",
    "autocorrelation",
    "calibrate",
    "check_steps",
    "check_weights",
    "compare",
    "compare_posteriors",
    "evidence",
    "latent_use",
    "leave_future_out",
    "linear_probe",
    "measurements",
    "mutual_information",
    "predictive_check",
    "quantiles",
    "remedies",
    "spectrum",
    "to_arviz",
    "write_report",
]
