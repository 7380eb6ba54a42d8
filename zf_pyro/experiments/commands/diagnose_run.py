"""``zf-pyro diagnose``: a report on a trained network as one HTML file."""

import warnings
from pathlib import Path
from typing import Literal

import pyro
import torch

from ...diagnostics import Given, ReportSizes, model_sections, to_arviz, write_report
from ..series_run import load_run


def diagnose(
    run: Path,
    data: Path | None = None,
    part: Literal["train", "validation", "test", "all"] = "test",
    sequences: int = 200,
    draws: int = 100,
    simulations: int = 400,
    by_step: int = 20,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Write a report on a trained network: use of its latents, accuracy of its guide, and its samples.

    Args:
        run: Folder that zf-pyro train has written.
        data: Other data of the same columns, a prepared folder or a table; those of the training if left out.
        part: Part of a prepared folder. A table has one part.
        sequences: Sequences of the report, evenly spread.
        draws: Samples from the guide of each sequence.
        simulations: Sequences of the model itself, for the calibration of the guide.
        by_step: Sequences whose steps are checked one by one.
        seed: Random seed of all samples.
        out: The HTML file; report.html in the run's folder if left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    trained = load_run(run)
    series = trained.series(data, part)
    chosen = torch.linspace(0, len(series) - 1, min(sequences, len(series))).round().long().tolist()
    batch, net = series.batch(chosen), trained.net
    given = Given(batch.x, batch.lengths, batch.covariates, batch.observed)
    pyro.set_rng_seed(seed)
    ids = [str(series.ids[index]) for index in chosen]
    coords = {"sequence": ids} if len(set(ids)) == len(ids) else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about high k-hats, which are in the report
        samples = to_arviz(
            net,
            given.x,
            given.lengths,
            num_samples=draws,
            coords={**coords, "feature": list(series.features)},
            batch_size=32,
            progress=True,
            **given.named,
        )
        sizes = ReportSizes(draws=draws, simulations=simulations, by_step=by_step)
        found = model_sections(run.name, net, samples, given, sizes=sizes, feature=series.features[0], progress=True)
    out = run / "report.html" if out is None else out
    out.parent.mkdir(parents=True, exist_ok=True)
    title = f"Diagnosis of {run.name}"
    write_report(out, title, found.page, [found.verdict])
    pyplot.close("all")
    print(f"{run.name}: {found.use.verdict()}")
    print(f"in {out}")
