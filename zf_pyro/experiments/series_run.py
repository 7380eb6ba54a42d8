"""Experiments on series of tables: training on a prepared folder, and the trained network with its names and units."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from ..checks import require_choice, require_count
from ..data import RECORD, Series, SeriesSets, empty_like, from_folder, joined, load_series
from ..emissions import Bernoulli, Emission, Gaussian, GaussianMixture, NegativeBinomial, Poisson, StudentT
from ..evaluation import Evaluation, Scores, summarise
from ..models import StochasticRNN
from .choices import MODELS
from .fitting import fit_model, save, scores_of
from .loaders import evaluation_loader, spread, training_loader
from .presets import Preset
from .results import write_results
from .settings import Run

SeriesEmission = Literal["gaussian", "student_t", "gaussian_mixture", "poisson", "negative_binomial", "bernoulli"]
"""Distribution of the features of a step. All but the mixture take the features as independent given h_t."""
UNSCALED = ("poisson", "negative_binomial", "bernoulli")
"""Distributions of counts and of True and False, whose features are not scaled."""
Part = Literal["train", "validation", "test", "all"]
"""Part of a data set; ``all`` for whole sequences, joined over the parts."""
PRESETS = {
    "small": Preset(
        embed_dim=32,
        hidden_dim=32,
        latent_dim=8,
        mlp_dim=32,
        batch_size=32,
        learning_rate=3e-3,
        max_steps=1000,
        annealing_steps=250,
        aux_weight=(0.02, 0.0),
        transition="concatenate",
        validate_every=25,
    ),
    "large": Preset(
        embed_dim=128,
        hidden_dim=128,
        latent_dim=16,
        mlp_dim=128,
        batch_size=32,
        learning_rate=1e-3,
        max_steps=5000,
        annealing_steps=1000,
        aux_weight=(0.02, 0.0),
        transition="concatenate",
        dropout=0.1,
        validate_every=100,
    ),
}
"""Sizes and schedules; all are our choice."""


def series_emission(name: SeriesEmission, series: Series, components: int = 5) -> Emission:
    """The emission of that name for the features of a data set.

    Args:
        name: see :data:`SeriesEmission`.
        series: the data.
        components: of a mixture.

    Raises:
        TypeError, ValueError: an unknown name, a count that is not positive, or scaled features for a distribution of
            counts.
    """
    require_choice("emission", name, get_args(SeriesEmission))
    components = require_count("components", components)
    scaled = [feature for feature, kind in zip(series.features, series.scaling.kinds, strict=True) if kind != "none"]
    if name in UNSCALED and scaled:
        raise ValueError(
            f"emission {name} is for features in their own units, {scaled[0]!r} is scaled: prepare the table with "
            "--scaling none"
        )
    if name == "gaussian_mixture":
        return GaussianMixture(series.frame_dim, components)
    kinds: dict[str, type[Any]] = {
        "gaussian": Gaussian,
        "student_t": StudentT,
        "poisson": Poisson,
        "negative_binomial": NegativeBinomial,
        "bernoulli": Bernoulli,
    }
    emission: Emission = kinds[name](series.frame_dim)
    return emission


def for_data(preset: Preset, sets: SeriesSets) -> Preset:
    """The preset with the network's options that follow from the data: covariates and gaps."""
    options: dict[str, Any] = {}
    if sets.train.covariate_dim:
        options["covariate_dim"] = sets.train.covariate_dim
    if any(part is not None and part.has_gaps for part in sets):
        options["missing"] = "fill"
    return replace(preset, options={**options, **preset.options})


def series_experiment(
    run: Run,
    preset: Preset,
    folder: Path,
    emission: SeriesEmission = "gaussian",
    components: int = 5,
    window: int | None = None,
) -> None:
    """Train on the series of a prepared folder, score those of validation and test, and write results and network.

    Networks read covariates where there are some, and gaps (``missing="fill"``). ``results.json`` keeps the names of
    the columns and the scaling, for new data of the same kind.

    Args:
        run: the flags.
        preset: sizes and schedules.
        folder: prepared series.
        emission: distribution of the features of a step.
        components: of a mixture.
        window: train on windows of this many steps in place of whole sequences.

    Raises:
        ValueError: data without a validation part, or of which the model cannot be trained.
    """
    sets = load_series(folder)
    if sets.validation is None:
        raise ValueError(f"{folder} must have a validation part, which chooses the weights: prepare it with one")
    preset = for_data(preset, sets)
    if run.baseline == "linear_gaussian" and {"covariate_dim", "missing"} & preset.options.keys():
        raise ValueError("linear_gaussian is for series without covariates and gaps: take --baseline rnn")
    train = sets.train if window is None else sets.train.windows(window)
    checks = spread(sets.validation, run.validation_sequences)
    fitted = fit_model(
        run,
        preset,
        series_emission(emission, sets.train, components),
        training_loader(train, preset.batch_size, seed=run.seed, share=run.share),
        training_loader(checks, preset.batch_size, shuffle=False, share=run.share),
        evaluation_loader(sets.train, preset.batch_size),
    )
    evaluations: dict[str, Evaluation] = {}
    scores: dict[str, Scores] = {}
    for name, part, count in (
        ("test", sets.test, run.test_sequences),
        ("validation", sets.validation, run.validation_sequences),
    ):
        if part is None or name not in run.splits:
            continue
        scores[name] = scores_of(run, fitted.model, evaluation_loader(part, preset.batch_size, count))
        evaluations[name] = summarise(scores[name])
        if scores[name].has_units and not part.has_gaps and emission != "gaussian_mixture":
            evaluations[f"{name}, original units"] = summarise(scores[name], scale=mean_scale(part))
    scaling = sets.train.scaling
    save(fitted.model, run.out / "net", mean=scaling.centre, scale=scaling.scale)
    write_results(run, preset, sets.train.record, evaluations, scores, value="element", **fitted.facts)


def mean_scale(series: Series) -> float:
    """Geometric mean of the scales of the features, whose logarithm is the mean of theirs."""
    return math.exp(sum(map(math.log, series.scaling.scale)) / series.frame_dim)


class SeriesRun(NamedTuple):
    """A finished run of :func:`series_experiment`."""

    folder: Path
    net: StochasticRNN
    """The trained network, in evaluation mode."""
    names: Series
    """Names and scaling of the data, without sequences."""
    results: Mapping[str, Any]
    """What ``results.json`` holds."""

    @property
    def trained_on(self) -> Path:
        """The prepared folder."""
        return Path(self.results["flags"]["own"]["data"])

    def series(self, data: Path | None = None, part: Part = "all") -> Series:
        """Series in the names and the scaling of the training data.

        Args:
            data: a prepared folder, or a table, or a folder of tables; None for the folder of the training data.
            part: part of a prepared folder. A table is one part.

        Raises:
            FileNotFoundError: there is no such folder or file.
            ValueError: data of other columns or another scaling, or without that part.
        """
        require_choice("part", part, get_args(Part))
        if data is not None and not (data / RECORD).is_file():
            return from_folder(data, like=self.names)
        folder = self.trained_on if data is None else data
        if not (folder / RECORD).is_file():
            raise FileNotFoundError(f"{self.folder} was trained on {folder}, which is not there: give it as --data")
        sets = load_series(folder)
        self.names.layout.require_same(sets.train.layout, str(folder))
        self.names.scaling.require_same(sets.train.scaling, str(folder))
        self.names.covariate_scaling.require_same(sets.train.covariate_scaling, f"covariates of {folder}")
        if part == "all":
            return joined(sets)
        found: Series | None = getattr(sets, part)
        if found is None:
            raise ValueError(f"{folder} has no {part} part: take another, or prepare it with one")
        return found


def load_run(folder: Path) -> SeriesRun:
    """Read a finished run of :func:`series_experiment`.

    Raises:
        FileNotFoundError: it is none, or not finished.
        ValueError: a run of a baseline, or of an experiment on other data.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no results.json, as zf-pyro train leaves when it has ended")
    results = json.loads(path.read_text(encoding="utf-8"))
    if "layout" not in results["data"]["settings"]:
        raise ValueError(f"{folder} is no run of zf-pyro train, it has no names of columns: train on a prepared table")
    if results["model"] not in MODELS:
        raise ValueError(f"{folder} holds the baseline {results['model']!r}, take a run of a stochastic network")
    net = MODELS[results["model"]].load(folder / "net").eval()
    return SeriesRun(folder, net, empty_like(results["data"]["settings"]), results)
