"""``zf-pyro train``: a network on prepared series."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ...data import Series, SeriesSets, load_series
from ...emissions import Bernoulli, Emission, Gaussian, GaussianMixture, NegativeBinomial, Poisson, StudentT
from ...evaluation import Scores, score, summarise
from ...models import StochasticRNN
from ...saving import read_run
from ..choices import MODELS
from ..fitting import Model, fit_model, save, scores_of
from ..presets import Preset
from ..results import write_results
from ..settings import Run

PRESETS = {
    name: Preset(
        embed_dim=size,
        hidden_dim=2 * size,
        latent_dim=size // 2,
        mlp_dim=2 * size,
        batch_size=16,
        learning_rate=2e-3,
        max_steps=1500,
        annealing_steps=500,
        aux_weight=(0.02, 0.0),
        transition="concatenate",
        validate_every=50,
        patience=10,
    )
    for name, size in {"small": 32, "large": 128}.items()
}
"""Our choice, of no publication: a few minutes for thousands of frames on two cores."""
COMPONENTS = 5
UNSCALED = ("poisson", "negative_binomial", "bernoulli")
"""Emissions of counts and bits, which have no other units."""


class Opened(NamedTuple):
    """A trained network and the series that go with it."""

    net: StochasticRNN
    sets: SeriesSets


def train(
    run: Run,
    data: Path,
    emission: Literal["gaussian", "student_t", "mixture", "poisson", "negative_binomial", "bernoulli"] = "gaussian",
    window: int | None = None,
) -> None:
    """Train a stochastic recurrent network on prepared series and report bounds on the test part.

    Args:
        run: Flags shared by all experiments.
        data: Folder that zf-pyro prepare wrote.
        emission: Distribution of a frame's values; counts and bits need data prepared with --scaling none.
        window: Train on windows of this many frames in place of whole sequences.
    """
    sets = load_series(data)
    if sets.validation is None:
        raise ValueError(f"{data} has no validation part, which training needs: prepare it with --validation")
    family = family_of(emission, sets)
    known: dict[str, Any] = {"covariate_dim": sets.train.covariate_dim} if sets.train.covariate_dim else {}
    if any(part is not None and part.has_gaps for part in sets):
        known["missing"] = "fill"
    if run.baseline is not None and known:
        raise ValueError(
            f"baseline {run.baseline} reads neither covariates nor gaps, which {data} has: leave it out, or prepare "
            "the data without them"
        )
    preset = run.choose(PRESETS)
    preset = replace(preset, options={**known, **preset.options})
    pieces = sets.train if window is None else sets.train.windows(window)
    size, (rank, processes) = preset.batch_size, run.share
    fitted = fit_model(
        run,
        preset,
        family,
        pieces.batches(size, seed=run.seed, rank=rank, world_size=processes),
        sets.validation.batches(size, shuffle=False, rank=rank, world_size=processes),
        sets.train.batches(size, shuffle=False),
    )
    parts = {"validation": sets.validation} | ({"test": sets.test} if sets.test is not None else {})
    scores = {name: _scores(run, fitted.model, part) for name, part in parts.items()}
    if isinstance(fitted.model, StochasticRNN):
        scaling = sets.train.scaling
        save(fitted.model, run.out / "net", mean=scaling.centre, scale=scaling.scale)
    found = {name: summarise(score) for name, score in scores.items()}
    write_results(run, preset, sets.train.record, found, scores, value="value", **fitted.facts)


def _scores(run: Run, model: Model, part: Series) -> Scores:
    """Bounds on every sequence; where there are gaps, without that of the particle filter."""
    batches = part.batches(32, shuffle=False)
    if isinstance(model, StochasticRNN) and model.missing == "fill":
        return score(model, batches, num_particles=run.evaluation_particles, batch_size=32, chunk_particles=4)
    return scores_of(run, model, batches)


def family_of(emission: str, sets: SeriesSets) -> Emission:
    """The emission of a name for the frames of a data set.

    Raises:
        ValueError: counts or bits that were scaled.
    """
    size = sets.train.frame_dim
    if emission in UNSCALED and set(sets.train.scaling.kinds) != {"none"}:
        raise ValueError(f"emission {emission} needs values in their own units: prepare the data with --scaling none")
    families: dict[str, Any] = {
        "gaussian": lambda: Gaussian(size),
        "student_t": lambda: StudentT(size),
        "mixture": lambda: GaussianMixture(size, COMPONENTS),
        "poisson": lambda: Poisson(size),
        "negative_binomial": lambda: NegativeBinomial(size),
        "bernoulli": lambda: Bernoulli(size),
    }
    found: Emission = families[emission]()
    return found


def opened(run: Path, data: Path) -> Opened:
    """The network that ``zf-pyro train`` left in a folder, and its data.

    Raises:
        FileNotFoundError: the folder has no network.
        ValueError: the network was trained on other data.
    """
    found = read_run(run)
    if found is None or not (run / "net").is_dir():
        raise FileNotFoundError(f"run must be a folder that zf-pyro train wrote, with a network in net, got {run}")
    net = MODELS[found["configuration"]["about"]["model"]].load(run / "net")
    sets = load_series(data)
    if net.emission_family.event_shape != (sets.train.frame_dim,) or net.covariate_dim != sets.train.covariate_dim:
        raise ValueError(
            f"the network in {run} has other frames or covariates than {data}: give the data of its training"
        )
    _require_scaling(net, sets, f"the network in {run}", data)
    return Opened(net.eval(), sets)


def _require_scaling(net: StochasticRNN, sets: SeriesSets, what: str, data: Path) -> None:
    """Refuse data in other units than those that a network was trained in."""
    scaling, known = sets.train.scaling, net.normalisation or {}
    for name, own in (("mean", scaling.centre), ("scale", scaling.scale)):
        trained = known.get(name)
        if trained is not None and not torch.allclose(trained.double().cpu(), torch.tensor(own).double(), rtol=1e-5):
            raise ValueError(
                f"{what} was trained with the {name} {[round(part, 6) for part in trained.tolist()]} of "
                f"{', '.join(scaling.names)}, {data} has {[round(part, 6) for part in own]}: give the data of its "
                "training, and new data as --source"
            )
