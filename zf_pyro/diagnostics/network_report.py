"""Report on one network: use of its latents, and accuracy of its guide."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checks import require_count, require_path
from ..models import StochasticRNN
from .conversion import to_arviz
from .latent_use import LatentUse, latent_use
from .measurements import measurements
from .report import Section, Verdict, remedies, write_report
from .weight_check import check_weights

LEAST = 25
"""Samples from which the tail of importance weights can be judged."""


def report_on(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    out: Path | str,
    title: str = "Report on a network",
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    num_samples: int = 100,
    coords: Mapping[str, Any] | None = None,
) -> LatentUse:
    """Write an HTML report on a network, with what to do where a measurement fails.

    Args:
        net: the model, in evaluation mode.
        x: (batch, time, frame) floats or (batch, time) integers; at least two sequences.
        lengths: real frames of each sequence, (batch,); all of them if None.
        out: the HTML file; its folder is made.
        title: title of the page.
        covariates: (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time, frame), for a model of ``missing="fill"``.
        num_samples: samples from the guide for each sequence, at least 25.
        coords: names by dimension, as for :func:`zf_pyro.to_arviz`.

    Raises:
        TypeError, ValueError: arguments that ``net`` refuses, a model in training mode, or too few samples.
    """
    out, num_samples = require_path("out", out), require_count("num_samples", num_samples, LEAST)
    use = latent_use(net, x, lengths, covariates=covariates, observed=observed)
    draws = to_arviz(net, x, lengths, covariates=covariates, observed=observed, num_samples=num_samples, coords=coords)
    check = check_weights(draws)
    found = {"latents": measurements(use), "guide": measurements(check)}
    sections = [
        Section("Do the latents matter?", use.verdict(), found["latents"]),
        Section("Is the guide right?", f"Weights of {num_samples} samples from the guide.", found["guide"]),
        *remedies({"the network": [*found["latents"], *found["guide"]]}),
    ]
    good = all(one.good is not False for one in found["latents"])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_report(out, title, sections, [Verdict("latents", use.verdict(), good)])
    return use
