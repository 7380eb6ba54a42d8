"""Diagnostics of the guide, of the use of the latents, and of competing models, with ArviZ and without.

Start with :func:`to_arviz`. Plots need matplotlib, the probe scikit-learn: ``pip install "zf-pyro[diagnostics]"``.
"""

from .calibration import Calibration, calibrate
from .conversion import GROUPS, to_arviz
from .evidence import evidence
from .forecasts import Forecasts, leave_future_out
from .information import Information, mutual_information
from .latent_use import LatentUse, latent_use
from .model_comparison import compare
from .model_report import Given, ModelReport, ReportSizes, model_sections
from .network_report import report_on
from .posterior_comparison import PosteriorComparison, compare_posteriors
from .predictive_checks import PredictiveCheck, autocorrelation, predictive_check, quantiles, spectrum
from .probe import Probe, linear_probe
from .report import write_report
from .step_check import StepCheck, check_steps
from .weight_check import WeightCheck, check_weights

__all__ = [
    "GROUPS",
    "Calibration",
    "Forecasts",
    "Given",
    "Information",
    "LatentUse",
    "ModelReport",
    "PosteriorComparison",
    "PredictiveCheck",
    "Probe",
    "ReportSizes",
    "StepCheck",
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
    "model_sections",
    "mutual_information",
    "predictive_check",
    "quantiles",
    "report_on",
    "spectrum",
    "to_arviz",
    "write_report",
]
