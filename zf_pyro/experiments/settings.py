"""Flags shared by all experiments."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..checks import require_choice, require_count, require_flag, require_path, require_seed
from .choices import CHOICES, NONE_ALLOWED, OF_PARTICLES
from .presets import CHANGEABLE, TINY, Preset

COUNTS = (
    *("devices", "max_steps", "particles", "evaluation_particles", "validation_sequences"),
    "mechanism_every",
)


@dataclass
class Run:
    """Flags shared by all experiments.

    Args:
        out: Folder for results.json, figure.png, samples, the trained network, logs and checkpoints.
        model: The stochastic network.
        objective: The ELBO; the ELBO with annealed KL weight; the latter with the auxiliary term; the
            importance-weighted bound (iwae); or the particle filter's bound (fivo).
        particles: Samples of the latents of each sequence in training, under iwae and fivo.
        anneal: Anneal the KL weight under iwae and fivo too, as under kl_annealing.
        preset: Sizes and schedules: those of the paper, of its released code (speech), small ones that train in minutes
            on two cores, or larger ones.
        baseline: Fit this instead of the stochastic network: an LSTM of as many parameters with the same output
            distribution, the same with layer norm, or (real-valued frames) a linear-Gaussian model in closed form.
        seed: Seed of the initial weights, the order of the data and all samples.
        device: Training device: cpu, cuda, or auto for the available one.
        devices: Processes, one per GPU.
        precision: 32-true, 64-true, or bf16-mixed.
        initialisation: Start at the marginals of the training data, or at the released code's weights.
        max_steps: Training steps; those of the preset if left out.
        resume: Continue from the latest checkpoint in out.
        evaluation_particles: Samples of the latents of each sequence, and particles of the filter, for the bounds.
        validation_sequences: Number of validation sequences (of speech, windows), evenly spread; all if left out.
        test_sequences: Number of test sequences, evenly spread over the test set; all if left out. 0 leaves the test
            set alone: no bound, sample or picture of it.
        mechanism_every: Steps between two measurements of gradient norms by term; none if left out.
        logger: The table of logs/ alone (csv), or TensorBoard's files beside it; those too if installed, if left out.
        smoke: Test run in seconds, with tiny sizes and meaningless results.
        changes: Values of the preset to replace, by field; each is a flag of its own.

    Attributes:
        own: flags of the experiment itself, by name.
    """

    out: Path = Path("runs/experiment")
    model: Literal["zforcing", "vrnn", "srnn", "storn", "dmm"] = "zforcing"
    objective: Literal["elbo", "kl_annealing", "zforcing", "iwae", "fivo"] = "zforcing"
    particles: int = 8
    anneal: bool = False
    preset: Literal["paper", "released", "small", "large"] = "small"
    baseline: Literal["rnn", "rnn_layer_norm", "linear_gaussian"] | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "64-true", "bf16-mixed"] = "32-true"
    initialisation: Literal["data", "released"] = "data"
    max_steps: int | None = None
    resume: bool = False
    evaluation_particles: int = 64
    validation_sequences: int | None = None
    test_sequences: int | None = None
    mechanism_every: int | None = None
    logger: Literal["csv", "tensorboard"] | None = None
    smoke: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name in COUNTS:
            count = getattr(self, name)
            if count is not None:
                setattr(self, name, require_count(name, count))
        if self.test_sequences is not None:
            self.test_sequences = require_count("test_sequences", self.test_sequences, least=0)
        self.out, self.seed = require_path("out", self.out), require_seed("seed", self.seed)
        for name in ("resume", "smoke", "anneal"):
            require_flag(name, getattr(self, name))
        for name, values in CHOICES.items():
            chosen = getattr(self, name)
            if name not in NONE_ALLOWED or chosen is not None:
                require_choice(name, chosen, values)
        unknown = [name for name in self.changes if name not in CHANGEABLE]
        if unknown:
            raise ValueError(f"changes must be fields of a preset, {', '.join(CHANGEABLE)}, got {unknown[0]!r}")
        if self.anneal and (self.baseline is not None or self.objective not in OF_PARTICLES):
            raise ValueError(
                f"anneal is for {' and '.join(OF_PARTICLES)}, got it with {self.name}: leave it out, or take the "
                "objective kl_annealing"
            )
        if self.smoke:
            self.particles = self.evaluation_particles = 2

    def choose(self, presets: Mapping[str, Preset]) -> Preset:
        """Preset selected by the flags, with their changes.

        Raises:
            ValueError: there is no such preset, or a value is out of range.
        """
        preset = presets[require_choice("preset", self.preset, presets)]
        changes = {**(TINY if self.smoke else {}), **self.changes}
        if self.max_steps is not None:
            changes["max_steps"] = self.max_steps
        if "options" in changes:
            changes["options"] = {**preset.options, **changes["options"]}
        return replace(preset, **changes)

    @property
    def splits(self) -> tuple[str, ...]:
        """Parts of the data that are scored after training: the validation set, and the test set unless left alone."""
        return ("validation",) if self.test_sequences == 0 else ("validation", "test")

    @property
    def name(self) -> str:
        """Name of the baseline or objective."""
        return self.baseline or self.objective

    @property
    def title(self) -> str:
        """Name of the baseline, or of model and objective."""
        return self.baseline or f"{self.model}, {self.objective}"

    @property
    def about(self) -> dict[str, Any]:
        """Flags that a resumed run must repeat, in ``run.json``. The data is compared by its record."""
        names = ("model", "initialisation", "preset", "baseline", "seed", "precision", "validation_sequences", "smoke")
        found: dict[str, Any] = {"objective": None if self.baseline else self.objective}
        if not self.baseline and self.objective in OF_PARTICLES:
            found |= {"particles": self.particles, "anneal": self.anneal}
        own = {name: value for name, value in self.own.items() if name != "data"}
        return found | {name: getattr(self, name) for name in names} | self.changes | own

    @property
    def share(self) -> tuple[int, int]:
        """Share of the training data of this process: its rank, and the number of processes."""
        return int(os.environ.get("LOCAL_RANK", 0)), self.devices
