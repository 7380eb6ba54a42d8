"""Checksums of parameters, by which weights as built are told from trained, loaded or set ones."""

from functools import reduce

import torch
from torch import Tensor, nn

CHUNK = 1 << 16
"""Elements that are read at once; they fit into a core's cache."""
MODULUS = (1 << 61) - 1
"""A prime, so that a factor of 3 for each chunk loses nothing."""


def checksums(module: nn.Module) -> dict[str, int] | None:
    """A number for each parameter by name; None where one has no values yet (on the meta device, or a lazy layer's).

    It depends on each bit of each element and on their order, not on the device, and is the same in float64 for values
    that came from float32.
    """
    parameters = dict(module.named_parameters())
    if any(parameter.is_meta or nn.parameter.is_lazy(parameter) for parameter in parameters.values()):
        return None
    return {name: _checksum(parameter.detach()) for name, parameter in parameters.items()}


def _checksum(values: Tensor) -> int:
    sums = []
    places = torch.arange(min(CHUNK, values.numel()), device=values.device)
    odd = 2 * places + 1  # a product with an odd number loses no bit
    for part in values.flatten().split(CHUNK):
        sums.append((part.double().view(torch.int64) * odd[: len(part)]).sum())
    return reduce(lambda total, each: (3 * total + each) % MODULUS, torch.stack(sums).tolist() if sums else [], 0)
