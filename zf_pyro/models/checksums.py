"""Checksums of parameters, by which weights as built are told from trained, loaded or set ones."""

import torch
from torch import Tensor, nn

CHUNK = 1 << 20
"""Elements that are read at once."""
MODULUS = (1 << 61) - 1


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
    total = 0
    for part in values.flatten().split(CHUNK):
        bits = part.double().view(torch.int64)
        odd = torch.arange(1, 2 * len(bits), 2, device=bits.device)  # a product with an odd number loses no bit
        total = (3 * total + int((bits * odd).sum())) % MODULUS
    return total
