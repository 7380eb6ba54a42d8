"""Checks of carried states, backward states and latents that a caller gives."""

import torch
from torch import Tensor

from ..checks import require_tensor
from ..networks import State


def check_state(state: State, batch_size: int, like: State) -> None:
    """Refuse an ``initial_state`` that is no State of fields (..., batch, hidden) as ``like``, one of one sequence."""
    if not isinstance(state, State):
        raise TypeError(f"initial_state must be a zf_pyro.State(hidden, cell), got {type(state).__name__}")
    for name, field, same in zip(State._fields, state, like, strict=True):
        require_tensor(f"initial_state.{name}", field)
        if field.dim() < 2 or field.shape[-1] != same.shape[-1] or field.shape[-2] not in (1, batch_size):
            raise ValueError(
                f"initial_state.{name} must have shape (..., {batch_size}, {same.shape[-1]}), got {tuple(field.shape)}"
            )
        if field.dtype != same.dtype or field.device != same.device:
            raise ValueError(
                f"initial_state.{name} must be {same.dtype} on {same.device} like the net's parameters, "
                f"got {field.dtype} on {field.device}"
            )
    if state.hidden.shape[:-1] != state.cell.shape[:-1]:
        raise ValueError(
            "initial_state.hidden and initial_state.cell must have the same shape, got "
            f"{tuple(state.hidden.shape)} and {tuple(state.cell.shape)}; expand one to the other's"
        )


def check_backward_states(b: Tensor, num_steps: int, batch_size: int, backward_dim: int, like: Tensor) -> None:
    """Refuse backward states that are not one per frame, (time, batch, backward), or of another dtype or device."""
    _check_sequences("b", b, "(time, batch, hidden)", (num_steps, batch_size, backward_dim), like)


def check_latents(z: Tensor, batch_size: int, num_steps: int, latent_dim: int, like: Tensor) -> None:
    """Refuse latents that are not one per frame, (..., batch, time, latent), or of another dtype or device."""
    _check_sequences("z", z, "(..., batch, time, latent)", (batch_size, num_steps, latent_dim), like)


def _check_sequences(name: str, values: Tensor, meaning: str, sizes: tuple[int, ...], like: Tensor) -> None:
    """Refuse values whose last sizes, or all where ``meaning`` has no dots, are not those given."""
    require_tensor(name, values)
    found, rest = tuple(values.shape), meaning.startswith("(...")
    if (found[-3:] if rest else found) != sizes:
        needed = ", ".join(map(str, (("...", *sizes) if rest else sizes)))
        source = "net.backward_states(x, lengths)" if name == "b" else "the guide's result"
        raise ValueError(
            f"{name} must have shape {meaning} = ({needed}), one for each frame of x, got {found}; take {source} for "
            "the same x"
        )
    cast = torch.is_autocast_enabled(like.device.type) and values.is_floating_point()  # scans then convert it
    if values.device != like.device or (values.dtype != like.dtype and not cast):
        raise ValueError(
            f"{name} must be {like.dtype} on {like.device} like the net's parameters, got {values.dtype} on "
            f"{values.device}; convert it with {name}.to(...)"
        )
