"""``zf-pyro train``: a network trained on a prepared folder."""

from pathlib import Path

from ..series_run import PRESETS, SeriesEmission, series_experiment
from ..settings import Run


def train(
    run: Run,
    data: Path,
    emission: SeriesEmission = "gaussian",
    components: int = 5,
    window: int | None = None,
) -> None:
    """Train a network on a prepared table, and report bounds on validation and test series.

    Args:
        run: Flags shared by all experiments.
        data: Folder that zf-pyro prepare has written.
        emission: Distribution of the features of a step. Counts take poisson or negative_binomial, with features
            prepared by --scaling none.
        components: Components of gaussian_mixture.
        window: Train on windows of this many steps in place of whole sequences.
    """
    series_experiment(run, run.choose(PRESETS), data, emission, components, window)
    print(f"in {run.out}")
