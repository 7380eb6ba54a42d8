"""ArviZ groups as named arrays (chain, draw, sequence, step, ...), with NaN for padding."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import require_array
from ..evaluation import EncodedPart
from .posterior_draws import Plan

SEQUENCE, STEP = "sequence", "step"
_LAST = {"z": "latent", "h": "unit", "x": "feature"}
"""Name of the dimensions after the step, by variable."""


def require_labels(labels: Any, num_sequences: int) -> np.ndarray:
    """Labels as an array (sequence,).

    Raises:
        TypeError: they are no array.
        ValueError: they are not one per sequence.
    """
    values = require_array("labels", labels)
    if values.shape != (num_sequences,):
        raise ValueError(f"labels must be one a sequence, ({num_sequences},), got shape {values.shape}")
    return values


class Table:
    """Variables by group, filled batch by batch.

    Args:
        sizes: numbers of chains and samples.
        x: frames of all sequences, (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
    """

    def __init__(self, sizes: Plan, x: Tensor, lengths: Tensor | None) -> None:
        self.sizes = sizes
        self.num_sequences, self.num_steps = x.shape[:2]
        self.x = x.detach().cpu()
        full = torch.full((self.num_sequences,), self.num_steps)
        self.lengths = full if lengths is None else lengths.cpu()
        self.real = torch.arange(self.num_steps) < self.lengths.unsqueeze(1)
        self.padded = not bool(self.real.all())
        self._drawn: dict[tuple[str, str], Tensor] = {}
        self._variables: dict[str, dict[str, tuple[tuple[str, ...], Any]]] = {}
        self._coordinates: dict[str, dict[str, tuple[tuple[str, ...], Any]]] = {}

    def writer(self, batch: EncodedPart, first: int) -> Callable[[str, str, Tensor], None]:
        """Return a function that writes samples of a batch, the first of which has index ``first``.

        It takes the group, the name and the values: (time, draws, batch, ...), or (draws, batch) for sums over time.
        """
        rows, real = batch.rows.cpu(), batch.real.cpu()

        def put(group: str, name: str, value: Tensor) -> None:
            value = value.detach().cpu()
            steps = value.dim() > 2
            if steps:
                value = value.movedim(0, 2)  # (draws, batch, time, ...)
            into = self._array(group, name, value, steps)
            draws = slice(first, first + len(value))
            if not steps:
                into[draws, rows] = value
                return
            if not bool(real.all()):
                mask = real.T.reshape(1, *real.T.shape, *[1] * (value.dim() - 3))
                value = value.to(into.dtype).where(mask, torch.nan)
            into[draws, rows, : value.shape[2]] = value.to(into.dtype)

        return put

    def _array(self, group: str, name: str, like: Tensor, steps: bool) -> Tensor:
        """Array of a variable, (draws of all chains, sequence, ...); filled with NaN if there is padding."""
        if (group, name) not in self._drawn:
            dtype = torch.float32 if self.padded and not like.is_floating_point() else like.dtype
            shape = (self.sizes.total, self.num_sequences, *((self.num_steps, *like.shape[3:]) if steps else ()))
            empty = torch.empty(shape, dtype=dtype)
            self._drawn[group, name] = empty.fill_(torch.nan) if self.padded and steps else empty
        return self._drawn[group, name]

    def whole(self, group: str, name: str, values: np.ndarray, dims: tuple[str, ...]) -> None:
        """Set a variable from values (draws of all chains, *dims)."""
        self._set(group, name, ("chain", "draw", *dims), self._by_chain(values))

    def coordinate(self, group: str, name: str, values: np.ndarray) -> None:
        """Set a coordinate of the sequences of a group, (sequence,)."""
        self._coordinates.setdefault(group, {})[name] = ((SEQUENCE,), values)

    def per_draw(self, group: str, name: str, values: np.ndarray) -> None:
        """Set a variable from values (chain, draw)."""
        self._set(group, name, ("chain", "draw"), values)

    def per_chain(self, group: str, name: str, values: np.ndarray) -> None:
        """Set a variable from values (chain,)."""
        self._set(group, name, ("chain",), values)

    def observed(self) -> None:
        """Set the group observed_data: the frames, NaN for padding."""
        x = self.x
        if self.padded:
            x = x if x.is_floating_point() else x.to(torch.float32)
            x = x.where(self.real.reshape(*self.real.shape, *[1] * (x.dim() - 2)), torch.nan)
        self._set("observed_data", "x", (SEQUENCE, STEP, *_features("x", x.dim() - 2)), x.numpy())

    def constants(self, labels: np.ndarray | None) -> None:
        """Set the group constant_data: lengths, mask, and labels (sequence,) if given."""
        self._set("constant_data", "lengths", (SEQUENCE,), self.lengths.numpy())
        self._set("constant_data", "mask", (SEQUENCE, STEP), self.real.numpy())
        if labels is not None:
            self._set("constant_data", "labels", (SEQUENCE,), labels)

    def dataset(self, group: str, attributes: dict[str, str]) -> Any:
        """Return one group as an xarray Dataset with named coordinates."""
        import xarray

        variables = dict(self._variables.get(group, {}))
        for (owner, name), values in self._drawn.items():
            if owner == group:
                dims = ("chain", "draw", SEQUENCE, STEP)[: 1 + min(values.dim(), 3)]
                dims += _features(name, values.dim() - 3)
                variables[name] = (dims, self._by_chain(values.numpy()))
        sizes = {dim: size for dims, v in variables.values() for dim, size in zip(dims, v.shape, strict=True)}
        index = {str(dim): np.arange(size) for dim, size in sizes.items()}
        return xarray.Dataset(variables, {**index, **self._coordinates.get(group, {})}, attributes)

    def _by_chain(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(self.sizes.num_chains, self.sizes.num_samples, *values.shape[1:])

    def _set(self, group: str, name: str, dims: tuple[str, ...], values: Any) -> None:
        self._variables.setdefault(group, {})[name] = (dims, values)


def _features(name: str, rank: int) -> tuple[str, ...]:
    """Names of the dimensions after the step: ``feature``, or ``feature_0``, ``feature_1``, ... for several."""
    if rank == 1:
        return (_LAST[name],)
    return tuple(f"{_LAST[name]}_{i}" for i in range(rank))
