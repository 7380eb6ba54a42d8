"""``zf-pyro diagnose``: a report on a trained network."""

from pathlib import Path
from typing import Any, Literal

import pyro

from ...checks import require_count
from .scoring import part_of
from .training_run import opened

LEAST = 25
"""Samples from which the tail of importance weights can be judged."""


def diagnose(
    run: Path,
    data: Path,
    out: Path,
    split: Literal["train", "validation", "test"] = "validation",
    samples: int = 100,
    seed: int = 0,
) -> None:
    """Write a report on a trained network: the use of its latents, and the accuracy of its guide.

    Args:
        run: Folder that zf-pyro train wrote.
        data: Folder that zf-pyro prepare wrote.
        out: HTML file to write.
        split: Part of the data.
        samples: Samples from the guide for each sequence, at least 25.
        seed: Seed of the samples.
    """
    from ...diagnostics import (
        Section,
        Verdict,
        check_weights,
        latent_use,
        measurements,
        remedies,
        to_arviz,
        write_report,
    )

    require_count("samples", samples, LEAST)
    found = opened(run, data)
    part = part_of(found, split)
    pyro.set_rng_seed(seed)
    x, lengths, covariates, observed = part.batch()
    known: dict[str, Any] = {
        name: value for name, value in (("covariates", covariates), ("observed", observed)) if value is not None
    }
    use = latent_use(found.net, x, lengths, **known)
    coords = {"sequence": [f"{id_}" for id_ in part.ids], "feature": list(part.features)}
    draws = to_arviz(found.net, x, lengths, num_samples=samples, coords=coords, **known)
    check = check_weights(draws)
    measured = [*measurements(use), *measurements(check)]
    sections = [
        Section("Do the latents matter?", use.verdict(), measurements(use)),
        Section("Is the guide right?", f"Weights of {samples} samples from the guide.", measurements(check)),
        *remedies({"the network": measured}),
    ]
    good = all(one.good is not False for one in measured)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_report(out, f"{run}: {split} part", sections, [Verdict("latents", use.verdict(), good)])
    print(use.verdict())
    print(f"in {out}")
