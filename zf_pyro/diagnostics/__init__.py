"""Is the guide right, do the latents matter, which model is better: answers in ArviZ and out of it.

Start with :func:`to_arviz`. Plots need matplotlib, the probe scikit-learn: ``pip install zf-pyro[diagnostics]``.
"""

from .calibration import Calibration, calibrate
from .comparison import compare, loo
from .convert import GROUPS, to_arviz
from .guide_checks import GuideCheck, check_guide
from .information import Information, mutual_information
from .latent_use import LatentUse, latent_use
from .posteriors import PosteriorComparison, compare_posteriors, nuts
from .predictive_checks import PredictiveCheck, autocorrelation, predictive_check, quantiles, spectrum
from .probe import Probe, linear_probe

__all__ = [
    "GROUPS",
    "Calibration",
    "GuideCheck",
    "Information",
    "LatentUse",
    "PosteriorComparison",
    "PredictiveCheck",
    "Probe",
    "autocorrelation",
    "calibrate",
    "check_guide",
    "compare",
    "compare_posteriors",
    "latent_use",
    "linear_probe",
    "loo",
    "mutual_information",
    "nuts",
    "predictive_check",
    "quantiles",
    "spectrum",
    "to_arviz",
]
