"""Settings of an experiment: the flags shared by all experiments, presets of sizes, objectives by name."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..checks import require_choice, require_count, require_flag, require_path, require_seed
from ..objectives import Linear, ZForcingELBO

CHOICES: dict[str, tuple[str, ...]] = {
    "objective": ("elbo", "kl_annealing", "zforcing"),
    "preset": ("paper", "small"),
    "baseline": ("rnn", "linear_gaussian"),
    "device": ("auto", "cpu", "cuda"),
    "precision": ("32-true", "64-true", "bf16-mixed"),
    "initialisation": ("data", "released"),
}
"""Values of the flags that are names."""
OBJECTIVES = CHOICES["objective"]


@dataclass(frozen=True)
class Preset:
    """Sizes and schedules of one experiment."""

    embed_dim: int
    hidden_dim: int
    latent_dim: int
    mlp_dim: int
    batch_size: int
    learning_rate: float
    max_steps: int
    annealing_steps: int
    """Steps from the first to the last weight of the KL and the auxiliary term."""
    aux_weight: tuple[float, float]
    """First and last weight of the auxiliary term under ``zforcing``."""
    kl_weight: float = 0.2
    """First weight of the KL under ``kl_annealing`` and ``zforcing``; the last is 1."""
    transition: str = "conditional_layer_norm"
    dropout: float = 0.0
    validate_every: int = 250

    @property
    def net(self) -> dict[str, Any]:
        """Arguments of :class:`~zf_pyro.ZForcing`."""
        names = ("embed_dim", "hidden_dim", "latent_dim", "mlp_dim", "transition", "dropout")
        return {name: value for name, value in asdict(self).items() if name in names}

    def objective(self, name: str) -> ZForcingELBO:
        """Objective by name; the three differ only in their weights.

        Raises:
            ValueError: an unknown name.
        """
        if not isinstance(name, str) or name not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {name!r}")
        if name == "elbo":
            return ZForcingELBO()
        annealed = Linear(self.kl_weight, 1.0, self.annealing_steps)
        if name == "kl_annealing":
            return ZForcingELBO(annealed)
        return ZForcingELBO(annealed, aux_weight=Linear(*self.aux_weight, self.annealing_steps))


TINY: dict[str, Any] = {
    "embed_dim": 8,
    "hidden_dim": 8,
    "latent_dim": 4,
    "mlp_dim": 8,
    "batch_size": 16,
    "max_steps": 3,
}
"""Values that ``--smoke`` sets in a preset."""


@dataclass
class Run:
    """Flags shared by all experiments.

    Args:
        out: Folder for results.json, figure.png, samples, the trained network, logs and checkpoints.
        objective: Objective: the ELBO, the ELBO with annealed KL weight, or the latter with the auxiliary term.
        preset: Sizes and schedules: those of the paper, or small ones that train in minutes on two cores.
        baseline: Fit this instead of the stochastic network: an LSTM of as many parameters with the same output
            distribution, or (real-valued frames) a linear-Gaussian model in closed form.
        seed: Seed of the initial weights, the order of the data and all samples.
        device: Training device: cpu, cuda, or auto for the available one.
        devices: Processes, one per GPU.
        precision: 32-true, 64-true, or bf16-mixed.
        initialisation: Start at the marginals of the training data, or at the released code's weights.
        max_steps: Training steps; those of the preset if left out.
        resume: Continue from the latest checkpoint in out.
        particles: Samples of the latents of each sequence, and particles of the filter, for the bounds.
        validation_sequences: Number of validation sequences (of speech, windows), evenly spread; all if left out.
        test_sequences: Number of test sequences, evenly spread over the test set; all if left out.
        smoke: Test run in seconds, with tiny sizes and meaningless results.

    Attributes:
        own: flags of the experiment itself, by name.
    """

    out: Path = Path("runs/experiment")
    objective: Literal["elbo", "kl_annealing", "zforcing"] = "zforcing"
    preset: Literal["paper", "small"] = "small"
    baseline: Literal["rnn", "linear_gaussian"] | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "64-true", "bf16-mixed"] = "32-true"
    initialisation: Literal["data", "released"] = "data"
    max_steps: int | None = None
    resume: bool = False
    particles: int = 64
    validation_sequences: int | None = None
    test_sequences: int | None = None
    smoke: bool = False
    own: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("devices", "max_steps", "particles", "validation_sequences", "test_sequences"):
            count = getattr(self, name)
            if count is not None:
                setattr(self, name, require_count(name, count))
        self.out, self.seed = require_path("out", self.out), require_seed("seed", self.seed)
        for name, switch in (("resume", self.resume), ("smoke", self.smoke)):
            require_flag(name, switch)
        for name, values in CHOICES.items():
            chosen = getattr(self, name)
            if name != "baseline" or chosen is not None:
                require_choice(name, chosen, values)
        if self.smoke:
            self.particles = 2

    def choose(self, presets: Mapping[str, Preset]) -> Preset:
        """Preset selected by the flags."""
        preset = presets[self.preset]
        if self.smoke:
            preset = replace(preset, **TINY)
        return preset if self.max_steps is None else replace(preset, max_steps=self.max_steps)

    @property
    def name(self) -> str:
        """Name of the baseline or objective."""
        return self.baseline or self.objective

    @property
    def about(self) -> dict[str, Any]:
        """Flags that a resumed run must repeat, in ``run.json``. The data is compared by its record."""
        names = ("preset", "baseline", "seed", "precision", "initialisation", "validation_sequences", "smoke")
        objective = None if self.baseline else self.objective
        own = {name: value for name, value in self.own.items() if name != "data"}
        return {"objective": objective, **{name: getattr(self, name) for name in names}, **own}

    @property
    def share(self) -> tuple[int, int]:
        """Share of the training data of this process: its rank, and the number of processes."""
        return int(os.environ.get("LOCAL_RANK", 0)), self.devices
