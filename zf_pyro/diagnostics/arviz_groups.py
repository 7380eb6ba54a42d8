"""ArviZ groups as named arrays (chain, draw, sequence, step, ...), with NaN for padding."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..evaluation import EncodedPart
from .arviz_names import SEQUENCE, STEP, Names
from .posterior_draws import Plan


class Table:
    """Variables by group, filled batch by batch.

    Args:
        sizes: numbers of chains and samples.
        x: frames of all sequences, (batch, time, frame) floats or (batch, time) integers.
        real: True on real frames, (batch, time).
        names: names of dimensions, and their coordinates.
    """

    def __init__(self, sizes: Plan, x: Tensor, real: Tensor, names: Names) -> None:
        self.sizes, self.names = sizes, names
        self.num_sequences, self.num_steps = x.shape[:2]
        self.x = x.detach().cpu()
        self.real = real.cpu()
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
        self._set("observed_data", "x", self.names.dims["x"], x.numpy())

    def constants(self, more: dict[str, np.ndarray]) -> None:
        """Set the group constant_data: lengths (sequence,), mask (sequence, step), and more, each (sequence, ...)."""
        self._set("constant_data", "lengths", (SEQUENCE,), self.real.sum(1).numpy())
        self._set("constant_data", "mask", (SEQUENCE, STEP), self.real.numpy())
        for name, values in more.items():
            self._set("constant_data", name, self.names.dims[name], values)

    def joint(self) -> None:
        """Set ``lp`` of sample_stats (chain, draw): log p(x, z) summed over sequences, by ArviZ's name."""
        total = self._drawn["sample_stats", "log_p"].double().sum(1)
        self._set("sample_stats", "lp", ("chain", "draw"), self._by_chain(total.numpy()))

    def dataset(self, group: str, attributes: dict[str, str]) -> Any:
        """Return one group as an xarray Dataset with named coordinates."""
        import xarray

        variables = dict(self._variables.get(group, {}))
        for (owner, name), values in self._drawn.items():
            if owner == group:
                dims = self.names.dims.get(name, (SEQUENCE, STEP))[: values.dim() - 1]
                variables[name] = (("chain", "draw", *dims), self._by_chain(values.numpy()))
        sizes = {dim: size for dims, v in variables.values() for dim, size in zip(dims, v.shape, strict=True)}
        coordinates = {**self.names.coordinates(sizes), **self._coordinates.get(group, {})}
        return xarray.Dataset(variables, coordinates, attributes)

    def _by_chain(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(self.sizes.num_chains, self.sizes.num_samples, *values.shape[1:])

    def _set(self, group: str, name: str, dims: tuple[str, ...], values: Any) -> None:
        self._variables.setdefault(group, {})[name] = (dims, values)
