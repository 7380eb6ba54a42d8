"""What a run of an experiment is told: the flags all experiments share, sizes by preset, objectives by name."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..objectives import Linear, ZForcingELBO

OBJECTIVES = ("elbo", "kl_annealing", "zforcing")


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
    """Steps from the first to the last weight of KL and auxiliary."""
    aux_weight: tuple[float, float]
    """First and last weight of the auxiliary under ``zforcing``."""
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
        """One of the three objectives, which differ in the weights alone.

        Raises:
            ValueError: an unknown name.
        """
        if name not in OBJECTIVES:
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
"""What ``--smoke`` makes of a preset."""


@dataclass
class Run:
    """The flags that all experiments share.

    Args:
        out: Folder for results.json, figure.png, samples, the trained net, logs and checkpoints.
        objective: What is maximised: the ELBO as it is, with its KL weight annealed, or with the auxiliary as well.
        preset: Sizes and schedules: those of the paper, or small ones that train in minutes on two cores.
        baseline: Fit this instead of the stochastic net: an LSTM of as many parameters with the same output
            distribution, or (real-valued frames) a linear-Gaussian model in closed form.
        seed: Of the initial weights, the order of the data and all draws.
        device: Where to train: cpu, cuda, or auto for what there is.
        devices: Processes, one a GPU.
        precision: 32-true, 64-true, or bf16-mixed.
        max_steps: Training steps, where another number than the preset's is wanted.
        resume: Go on from the latest checkpoint in out.
        particles: Draws of the latents of each sequence, and particles of the filter, behind the bounds.
        validation_sequences: Validate on only so many sequences (of speech, windows), evenly spread; all if left out.
        test_sequences: Evaluate only so many test sequences, evenly spread over the test set; all if left out.
        smoke: Only see that all of it runs, in seconds, with tiny sizes; the results mean nothing.
    """

    out: Path = Path("runs/experiment")
    objective: Literal["elbo", "kl_annealing", "zforcing"] = "zforcing"
    preset: Literal["paper", "small"] = "small"
    baseline: Literal["rnn", "linear_gaussian"] | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "64-true", "bf16-mixed"] = "32-true"
    max_steps: int | None = None
    resume: bool = False
    particles: int = 64
    validation_sequences: int | None = None
    test_sequences: int | None = None
    smoke: bool = False

    def __post_init__(self) -> None:
        for name in ("devices", "max_steps", "particles", "validation_sequences", "test_sequences"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name} must be a positive integer, got {count}")
        if self.smoke:
            self.particles = 2

    def choose(self, presets: Mapping[str, Preset]) -> Preset:
        """The preset that the flags ask for."""
        preset = presets[self.preset]
        if self.smoke:
            preset = replace(preset, **TINY)
        return preset if self.max_steps is None else replace(preset, max_steps=self.max_steps)

    @property
    def name(self) -> str:
        """What is fitted."""
        return self.baseline or self.objective

    @property
    def share(self) -> tuple[int, int]:
        """Which share of the training data this process takes: its rank, and the number of processes."""
        return int(os.environ.get("LOCAL_RANK", 0)), self.devices
