"""State of an online filter by name: its check, and its file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import require_tensor
from ..models import StochasticRNN
from ..networks import State
from ..saving import read_tensors, write_tensors
from .online_guide import Carried

FIELDS = ("hidden", "cell", "u", "log_weights", "flags", "guide_hidden", "guide_cell", "frames", "log_evidence")
"""Tensors of a state, in order; ``random`` beside them."""
FORMAT = "zf_pyro filter 1"
"""Version of the file. It changes whenever an old file could be misread."""


def require_state(state: Any, net: StochasticRNN, num_particles: int, like: tuple[State, Carried]) -> dict[str, Tensor]:
    """Copies of a state's tensors, each (batch, ...), on the model's device.

    Args:
        state: tensors by the names of :data:`FIELDS`, and ``random``.
        net: the model.
        num_particles: particles of the filter.
        like: h_0 and what the guide carries, of one sequence; for sizes.

    Raises:
        TypeError: no tensors by these names, or of another dtype.
        ValueError: tensors of other shapes.
    """
    names = {*FIELDS, "random"}
    if not isinstance(state, Mapping) or set(state) != names:
        got = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise TypeError(f"state must be a dictionary of an online filter's state(), with {sorted(names)}, got {got}")
    weight, family = net.emission_layer.weight, net.emission_family
    batch = len(require_tensor("state['frames']", state["frames"]).reshape(-1))
    widths = [field.shape[-1] for part in like for field in part]
    single = state["u"].shape[1:2] == (1,) if isinstance(state["u"], Tensor) else False
    particles = (batch, num_particles)
    shapes: dict[str, tuple[int, ...]] = {
        "hidden": (*particles, widths[0]),
        "cell": (*particles, widths[1]),
        "u": (batch, 1 if single else num_particles, *family.event_shape),
        "log_weights": particles,
        "flags": (batch, 1, net.flag_dim),
        "guide_hidden": (batch, widths[2]),
        "guide_cell": (batch, widths[3]),
        "frames": (batch,),
        "log_evidence": (batch,),
    }
    dtypes = {"u": torch.int64 if family.integer else weight.dtype, "frames": torch.int64, "flags": torch.bool}
    dtypes["log_evidence"] = torch.float64
    found = {}
    for name, shape in shapes.items():
        value = require_tensor(f"state[{name!r}]", state[name])
        dtype = dtypes.get(name, weight.dtype)
        if tuple(value.shape) != shape or value.dtype != dtype or not batch:
            raise ValueError(
                f"state must be of this model and of {num_particles} particles, with {name} of shape {shape} and "
                f"{dtype}, got {tuple(value.shape)} and {value.dtype}: make the filter with the model and the number "
                "of particles that the state was saved with"
            )
        found[name] = value.detach().clone().to(weight.device)
    random = require_tensor("state['random']", state["random"])
    if random.dtype != torch.uint8 or random.dim() != 1:
        raise TypeError(f"state['random'] must be the state of a generator, (bytes,) uint8, got {random.dtype}")
    return {**found, "random": random.cpu().clone()}


def write_state(file: Path | str, state: Mapping[str, Tensor], net: StochasticRNN) -> None:
    """Write a state, tensors (batch, ...) by name, with the model's class and emission."""
    write_tensors(file, state, {"format": FORMAT, **_about(net)})


def read_state(file: Path | str, net: StochasticRNN) -> dict[str, Tensor]:
    """The tensors of a file of :func:`write_state`, (batch, ...) by name.

    Raises:
        ValueError: it is another file, or of another class or emission than the model's.
    """
    tensors, about = read_tensors(file)
    if about.get("format") != FORMAT:
        raise ValueError(f"{file} is of the format {about.get('format')!r}, this version reads {FORMAT!r}")
    for name, own in _about(net).items():
        if about.get(name) != own:
            raise ValueError(f"{file} is of a model with {name} {about.get(name)!r}, got one with {own!r}")
    return tensors


def _about(net: StochasticRNN) -> dict[str, str]:
    return {"class": type(net).__name__, "emission": repr(net.emission_family)}
