"""``zf-pyro diagnose``: a report on a trained network."""

from pathlib import Path
from typing import Literal

import pyro

from .scoring import part_of
from .training_run import opened


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
    from ...diagnostics import report_on

    found = opened(run, data)
    part = part_of(found, split)
    pyro.set_rng_seed(seed)
    use = report_on(
        found.net,
        **part.batch()._asdict(),
        out=out,
        title=f"{run}: {split} part",
        num_samples=samples,
        coords=part.coords,
    )
    print(use.verdict())
    print(f"in {out}")
