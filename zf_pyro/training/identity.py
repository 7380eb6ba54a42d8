"""Configuration of a training run: what a resumed run must repeat."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from pyro.infer import ELBO
from torch import Tensor, nn

from ..objectives import GraphedELBO
from ..saving import data_of, name_of, plain, write_run
from .module import Training
from .optimisers import build

STATE = frozenset({"step", "terms", "other", "bound", "max_plate_nesting", "capture"})
"""Attributes of objectives that are found in training; the rest are settings."""
IMPLEMENTATION = frozenset({"params", "fused", "foreach", "capturable", "differentiable"})
"""Keys of an optimiser's groups that do not change its arithmetic."""
PROBED = (0, 1, 10, 100, 1_000, 10_000, 100_000)
"""Steps at which the values of a schedule tell one function from another."""


def configuration(
    module: Training, train: Iterable[Any], precision: str, about: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Settings of a run that determine its result, as plain values.

    Left out are those that may change in a resumed run: ``max_steps``, the intervals of validations, checkpoints and
    logs, devices, the path of computation (``recurrence``, CUDA graphs) and the progress bar.

    Args:
        module: model, guide, objective and optimiser.
        train: the loader; the record of its data if it has one.
        precision: as for :func:`zf_pyro.training.fit`.
        about: further settings.
    """
    same = module.validation_objective is module.objective
    known = {"batches": _batches(train), "data": data_of(train)}
    return {
        "programs": [name_of(program) for program in module.programs],
        "nets": [_net(net) for net in module.nets],
        "loose": sorted(module.loose),
        "objective": objective_of(module.objective),
        "validation": None if same else objective_of(module.validation_objective),
        "optimiser": _optimiser(module),
        "accumulate": module.accumulate,
        "clip_norm": plain(module.clip_norm),
        "scale": plain(module.scale),
        "plateau": module.plateau,
        "precision": str(precision),
        **{name: value for name, value in known.items() if value is not None},
        "about": plain(about or {}),
    }


class Recorded(Callback):
    """Writes ``run.json`` before the first batch, by the first process alone."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self.found, self.seed = found, torch.initial_seed()
        self.starts: list[str] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the record, unless the run goes on and has one."""
        if trainer.is_global_zero:
            facts = {"torch_seed": self.seed, "torch": torch.__version__, "starts": self.starts}
            write_run(Path(trainer.default_root_dir), self.found, **facts)


def objective_of(objective: Any) -> Any:
    """Class and settings of an objective; those of the captured one for :class:`~zf_pyro.objectives.GraphedELBO`."""
    if isinstance(objective, GraphedELBO):
        objective = objective.objective
    settings = getattr(objective, "__dict__", {})
    chosen = {name: value for name, value in settings.items() if not name.startswith("_") and name not in STATE}
    return {"class": name_of(objective), **{name: _setting(name, value) for name, value in chosen.items()}}


def _setting(name: str, value: Any) -> Any:
    """A setting as a plain value: a schedule without fields by its values, the same at every step by its weight."""
    if isinstance(value, ELBO):
        return objective_of(value)
    described = plain(value)
    if not name.endswith("_schedule"):
        return described
    if isinstance(described, dict):
        return described["value"] if described.get("class") == "Constant" else described
    try:
        return {"class": described, "at step": {str(step): plain(value(step)) for step in PROBED}}
    except Exception:  # a schedule that ends
        return described


def _net(net: nn.Module) -> dict[str, Any]:
    """Class, settings and number of parameters of a network; its layers if its settings are not known."""
    parameters = [*net.parameters()]
    found: dict[str, Any] = {"class": name_of(net)}
    settings = getattr(net, "settings", None)
    if isinstance(settings, Mapping):
        found["settings"] = {name: plain(value) for name, value in settings.items() if name != "recurrence"}
        found["emission"] = plain(getattr(net, "emission_family", None))
    else:
        leaves = (part for part in net.modules() if next(part.children(), None) is None)
        found["layers"] = [repr(leaf) for leaf in leaves]
    found["parameters"] = sum(parameter.numel() for parameter in parameters)
    found["trained"] = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return found


def _optimiser(module: Training) -> dict[str, Any]:
    """Class and settings of the optimiser, from one that is built and dropped."""
    made = build(module.optimiser, module.trained(), fused=False)
    groups: list[dict[str, Any]] = []
    for group in made.param_groups:
        settings = {name: plain(value) for name, value in group.items() if name not in IMPLEMENTATION}
        if settings not in groups:
            groups.append(settings)
    named = {"class": name_of(made)}
    return {**named, **groups[0]} if len(groups) == 1 else {**named, "groups": groups}


def _batches(loader: Any) -> dict[str, Any] | None:
    """Settings of the order of the batches, where the loader has them. Sizes are those of all processes together."""
    order: Any = getattr(loader, "batch_sampler", None)
    if not hasattr(order, "batch_size"):
        return None
    found = {name: plain(getattr(order, name)) for name in ("seed", "shuffle", "drop_last") if hasattr(order, name)}
    size = plain(order.batch_size)
    lengths = getattr(order, "lengths", None)
    found["sequences"] = len(lengths) if isinstance(lengths, Tensor) else None
    return {**found, "batch_size": size * getattr(order, "world_size", 1) if isinstance(size, int) else size}
