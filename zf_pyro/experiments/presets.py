"""Sizes and schedules of an experiment, and the objectives and networks made of them."""

import inspect
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

from ..checks import require_choice, require_count, require_flag, require_number
from ..emissions import Emission
from ..models import StochasticRNN
from ..objectives import (
    FIVO,
    Auxiliary,
    ImportanceWeightedELBO,
    Linear,
    Objective,
    ZForcingELBO,
)
from .choices import CHOICES, MODELS, OF_PARTICLES

OF_NETWORKS = ("embed_dim", "hidden_dim", "latent_dim", "mlp_dim", "transition", "dropout")
"""Fields of a preset that are arguments of a network's constructor, where it has them."""
COUNTS = (
    *("batch_size", "max_steps", "annealing_steps", "aux_steps", "backward_steps", "decay_steps"),
    *("plateau", "patience", "validate_every"),
)
POSITIVE = "a positive number"
AT_LEAST_0 = "a finite number of at least 0"


@dataclass(frozen=True)
class Preset:
    """Sizes and schedules of one experiment.

    Args:
        embed_dim: Size of an embedded frame.
        hidden_dim: Size of the recurrent states.
        latent_dim: Size of the latents.
        mlp_dim: Hidden size of the networks of prior, posterior and auxiliary.
        batch_size: Sequences per training step.
        learning_rate: Step size of Adam.
        max_steps: Training steps.
        annealing_steps: Steps from the first to the last weight of the KL, the auxiliary and the backward likelihood.
        annealing_epochs: Epochs in place of annealing_steps; annealing_steps hold if left out.
        aux_weight: First and last weight of the auxiliary term under zforcing.
        aux_steps: Steps from the first to the last weight of the auxiliary; those of the annealing if left out.
        aux_standardised: Standardise the auxiliary's target by unit, so that a constant earns nothing.
        aux_contrastive: Measure the auxiliary against the targets of the other sequences of the batch.
        aux_per_unit: Apply the auxiliary's weight to the mean over the units of its target, not to their sum.
        kl_weight: First weight of the KL where it is annealed; the last is 1.
        free_nats: KL of each step, in nats, below which it has no gradient, under elbo, kl_annealing and zforcing.
        backward_weight: First and last weight of the backward RNN's likelihood under zforcing.
        backward_steps: Steps between these weights; those of the annealing if left out.
        transition: How latents enter the recurrence, conditional_layer_norm or concatenate. For models that have it.
        dropout: Probability of zeroing an element of an embedded frame in training.
        weight_decay: Decoupled weight decay of AdamW, of matrices alone; biases, gains and the like are left alone.
        decay_steps: Steps over which the step size falls along half a cosine to a hundredth; constant if left out.
        plateau: Validations without a better bound after which the step size is halved; never if left out.
        patience: Validations without a better bound after which training stops; never if left out.
        clip_norm: Bound on the norm of the gradient, per sequence.
        validate_every: Steps between two validations.
        options: Further arguments of the model's constructor, as --options.NAME VALUE.
    """

    embed_dim: int
    hidden_dim: int
    latent_dim: int
    mlp_dim: int
    batch_size: int
    learning_rate: float
    max_steps: int
    annealing_steps: int
    aux_weight: tuple[float, float]
    kl_weight: float = 0.2
    free_nats: float = 0.0
    backward_weight: tuple[float, float] = (0.0, 0.0)
    annealing_epochs: float | None = None
    aux_steps: int | None = None
    aux_standardised: bool = False
    aux_contrastive: bool = False
    aux_per_unit: bool = False
    backward_steps: int | None = None
    transition: str = "conditional_layer_norm"
    dropout: float = 0.0
    weight_decay: float = 0.0
    decay_steps: int | None = None
    plateau: int | None = None
    patience: int | None = None
    clip_norm: float = 100.0
    validate_every: int = 250
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in COUNTS:
            count = getattr(self, name)
            if count is not None:
                object.__setattr__(self, name, require_count(name, count))
        for name, expected, ends in (
            ("learning_rate", POSITIVE, "(]"),
            ("clip_norm", POSITIVE, "(]"),
            ("annealing_epochs", POSITIVE, "(]"),
            ("weight_decay", AT_LEAST_0, "[]"),
            ("free_nats", AT_LEAST_0, "[]"),
        ):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, require_number(name, value, expected, 0.0, ends=ends))
        for name in ("aux_weight", "backward_weight"):
            pair = getattr(self, name)
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError(f"{name} must be a pair, the first and the last weight, got {pair!r}")
            object.__setattr__(self, name, tuple(pair))
        _ = self.form  # raises for values that make none
        if self.plateau is not None and self.decay_steps is not None:
            raise ValueError(
                "plateau and decay_steps are two schedules of one step size: leave one of them out, got "
                f"{self.plateau} and {self.decay_steps}"
            )
        if not isinstance(self.options, dict) or not all(isinstance(name, str) for name in self.options):
            raise TypeError(f"options must be a dictionary of arguments by name, got {self.options!r}")

    def network(self, model: str, emission: Emission, asked: Collection[str] = ()) -> StochasticRNN:
        """Build the network of these sizes.

        Args:
            model: its name in :data:`~zf_pyro.experiments.MODELS`.
            emission: the family of frames.
            asked: fields that the user set. Of the others, those that the model does not have are left out.

        Raises:
            ValueError: an unknown model, a value that it refuses, or an option that it does not have.
        """
        kind = MODELS[require_choice("model", model, MODELS)]
        known = set(inspect.signature(kind.__init__).parameters) - {"self", "emission", "name"}
        foreign = [name for name in (*OF_NETWORKS, *self.options) if name not in known]
        foreign = [name for name in foreign if name in asked or name in self.options]
        if foreign:
            raise ValueError(
                f"{foreign[0]} is no option of {kind.__name__}, which has {', '.join(sorted(known))}: leave it out, or "
                "take another model"
            )
        twice = [name for name in self.options if name in OF_NETWORKS]
        if twice:
            raise ValueError(f"{twice[0]} is a flag of its own: give it as --{twice[0]}, not among the options")
        sizes = {name: getattr(self, name) for name in OF_NETWORKS if name in known}
        return kind(emission, **sizes, **self.options)

    @property
    def form(self) -> Auxiliary:
        """Form of the auxiliary."""
        return Auxiliary(self.aux_standardised, self.aux_contrastive, self.aux_per_unit)

    def annealing(self, steps_per_epoch: int | None) -> int:
        """Steps of the annealing.

        Raises:
            ValueError: they are given in epochs, of an unknown number of steps.
        """
        if self.annealing_epochs is None:
            return self.annealing_steps
        if steps_per_epoch is None:
            raise ValueError("annealing_epochs needs the number of steps of an epoch: give steps_per_epoch")
        return Linear.of_epochs(0.0, 1.0, self.annealing_epochs, steps_per_epoch).num_steps

    def objective(
        self, name: str, num_particles: int = 1, *, anneal: bool = False, steps_per_epoch: int | None = None
    ) -> Objective:
        """Objective by name; those of one sample differ only in their weights.

        Args:
            name: elbo, kl_annealing, zforcing, iwae or fivo.
            num_particles: samples of the latents per sequence under iwae and fivo.
            anneal: anneal the KL weight under iwae and fivo as under kl_annealing.
            steps_per_epoch: training steps of an epoch, for ``annealing_epochs``.

        Raises:
            ValueError: an unknown name, ``anneal`` for another objective, ``free_nats`` for an objective of particles,
                or a form of the auxiliary without weight.
        """
        require_choice("objective", name, CHOICES["objective"])
        if require_flag("anneal", anneal) and name not in OF_PARTICLES:
            raise ValueError(f"anneal is for {' and '.join(OF_PARTICLES)}, got it with {name}: take kl_annealing")
        if self.free_nats and name in OF_PARTICLES:
            raise ValueError(f"free_nats must be 0 for {name}, which has no KL of each step, got {self.free_nats}")
        steps = self.annealing(steps_per_epoch)
        annealed = Linear(self.kl_weight, 1.0, steps)
        match name:
            case "elbo":
                return ZForcingELBO(free_nats=self.free_nats)
            case "kl_annealing":
                return ZForcingELBO(annealed, free_nats=self.free_nats)
            case "zforcing":
                auxiliary = Linear(*self.aux_weight, self.aux_steps or steps)
                backward = Linear(*self.backward_weight, self.backward_steps or steps)
                return ZForcingELBO(annealed, auxiliary, backward, auxiliary=self.form, free_nats=self.free_nats)
            case "iwae":
                return ImportanceWeightedELBO(num_particles, kl_weight=annealed if anneal else 1.0)
            case _:
                return FIVO(num_particles, kl_weight=annealed if anneal else 1.0)


TINY: dict[str, Any] = {
    "embed_dim": 8,
    "hidden_dim": 8,
    "latent_dim": 4,
    "mlp_dim": 8,
    "batch_size": 16,
    "max_steps": 3,
}
"""Values that ``--smoke`` sets in a preset."""
CHANGEABLE = tuple(part.name for part in fields(Preset) if part.name != "max_steps")
"""Fields of a preset that are flags. ``max_steps`` is one of :class:`Run`."""
