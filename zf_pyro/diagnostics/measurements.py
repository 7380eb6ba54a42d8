"""Results of diagnostics as numbers with a unit, a reference value and a judgement, for reports."""

import math
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np

from .calibration import Calibration
from .information import Information
from .latent_use import LatentUse
from .probe import Probe
from .remedies import FOR_SEQUENCES, FOR_THE_GUIDE, FOR_THE_LATENTS
from .step_check import LEAST_EFFICIENCY, StepCheck
from .weight_check import WeightCheck


class Measurement(NamedTuple):
    """One number of a report."""

    name: str
    """What was measured."""
    value: str
    """The number, rounded."""
    unit: str
    """Its unit."""
    reference: str
    """What it is to be compared with."""
    good: bool | None = None
    """Whether it is as it should be; None where there is no such rule."""
    remedy: str = ""
    """What to do if it is not."""


@singledispatch
def measurements(result: Any) -> list[Measurement]:
    """Numbers of a result of a diagnostic, such as :class:`.WeightCheck`, with units and references.

    Raises:
        TypeError: there are none for such a result.
    """
    raise TypeError(
        f"result must be of check_weights, check_steps, calibrate, latent_use, mutual_information or linear_probe, got "
        f"{type(result).__name__}"
    )


@measurements.register
def _(result: WeightCheck) -> list[Measurement]:
    bad, count = len(result.bad_tails()), len(result.pareto_k)
    found = [
        Measurement(
            "sequences whose weights have a bad tail",
            f"{bad} of {count}",
            "sequences",
            f"0: k-hat at most {result.good_k:.2f}",
            bad == 0,
            FOR_SEQUENCES,
        ),
        Measurement(
            "effective share of the samples, median", f"{100 * np.median(result.efficiency):.0f}", "%", "100 if exact"
        ),
        Measurement(
            "ELBO short of the best estimate of log p(x), median",
            f"{np.nanmedian(result.gap):.2f}",
            "nats per sequence",
            "0 if exact",
        ),
    ]
    if np.isfinite(result.remaining).any():
        short = float(np.nanmedian(result.remaining))
        found.append(
            Measurement(
                "importance-weighted bound short of the given evidence, median",
                f"{short:.2f}",
                "nats per sequence",
                "0 with enough samples",
            )
        )
    return found


@measurements.register
def _(result: StepCheck) -> list[Measurement]:
    flagged, real = int(result.flagged().sum()), int(result.efficiency.notnull().sum())
    return [
        Measurement(
            "steps at which the guide is bad",
            f"{flagged} of {real}",
            "steps",
            f"0: k-hat at most {result.good_k:.2f}, effective share at least {100 * LEAST_EFFICIENCY:.0f} %",
            flagged == 0,
            FOR_SEQUENCES,
        ),
        Measurement(
            "effective share of the samples of a step, median",
            f"{100 * float(np.nanmedian(result.efficiency)):.0f}",
            "%",
            "100 if exact",
        ),
    ]


@measurements.register
def _(result: Calibration) -> list[Measurement]:
    outside = result.outside()
    return [
        Measurement(
            "latents whose ranks are not uniform",
            f"{int(outside.sum())} of {outside.size}",
            "latents (step by element)",
            f"{result.expected_outside:.2g} of an exact posterior",
            not result.failed,
            FOR_THE_GUIDE,
        )
    ]


@measurements.register
def _(result: LatentUse) -> list[Measurement]:
    least = f"at least {result.threshold:g} if used"
    found = [
        Measurement(
            "KL of guide and prior",
            f"{result.total_kl:.1f}",
            "nats per sequence",
            least,
            result.total_kl >= result.threshold,
            FOR_THE_LATENTS,
        ),
        Measurement(
            "log-likelihood lost with z at its prior mean",
            f"{result.lost_at_prior_mean:.1f}",
            "nats per sequence",
            least,
            result.lost_at_prior_mean >= result.threshold,
            FOR_THE_LATENTS,
        ),
        Measurement(
            "log-likelihood lost with another sequence's z",
            f"{result.lost_by_shuffling:.1f}",
            "nats per sequence",
            "0 if z says nothing about its own sequence",
        ),
        Measurement(
            "latents whose posterior mean varies",
            f"{result.active_units} of {result.kl.shape[-1]}",
            "latents",
            "all; they may vary with the past alone",
        ),
    ]
    if not math.isnan(result.earned):
        found.append(
            Measurement(
                "earned by z of the auxiliary",
                f"{result.earned:.1f} of {result.auxiliary:.1f}",
                "nats per sequence",
                "most of it, if it was trained; what it earns without z teaches z nothing",
            )
        )
    return found


@measurements.register
def _(result: Information) -> list[Measurement]:
    return [
        Measurement(
            f"mutual information of x and z_1..z_{result.num_steps}",
            f"{result.estimate:.2f}",
            "nats",
            f"at most {result.ceiling:.2f}, the log of the number of sequences; {result.rate:.2f} by the KL",
        )
    ]


@measurements.register
def _(result: Probe) -> list[Measurement]:
    return [
        Measurement(
            "label read off z by a linear probe",
            f"{100 * result.accuracy:.1f} +- {100 * result.error:.1f}",
            "% right",
            f"{100 * result.baseline:.1f} by the most frequent of {result.num_labels} labels",
        )
    ]
