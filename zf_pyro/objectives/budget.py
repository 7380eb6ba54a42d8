"""Budget of the auxiliary: a bound on the norm of its gradient, relative to that of all other terms."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor


def limited_backward(losses: Iterable[tuple[Tensor, Tensor]], budget: float, retain_graph: bool | None) -> Tensor:
    """Add the gradients of :func:`within_budget` to all leaves of the graph, as ``backward`` does.

    Args:
        losses: pairs of the loss without the auxiliary and the auxiliary's part of it, scalars.
        budget: the share.
        retain_graph: as for autograd.

    Returns:
        The sum of all losses, a scalar.
    """
    total: Tensor | float = 0.0
    for rest, auxiliary in losses:
        parameters = leaves_of(rest, auxiliary)
        with torch.autocast(rest.device.type, enabled=False):
            found = within_budget(rest, auxiliary, parameters, budget, retain_graph)
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        total = total + (rest + auxiliary).detach()
    return torch.as_tensor(total)


def within_budget(
    rest: Tensor, auxiliary: Tensor, parameters: Sequence[Tensor], budget: float, retain_graph: bool | None = None
) -> tuple[Tensor | None, ...]:
    """Gradients of ``rest + auxiliary``, that of the auxiliary scaled down to a share of the norm of the other one.

    Args:
        rest: the loss without the auxiliary, a scalar.
        auxiliary: the auxiliary's part of the loss, a scalar.
        parameters: tensors of any shape, (...).
        budget: the share.
        retain_graph: as for autograd.

    Returns:
        A gradient for each parameter, None where neither depends on it.
    """
    first = torch.autograd.grad(rest, parameters, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(auxiliary, parameters, retain_graph=retain_graph, allow_unused=True)
    norms = [torch.nn.utils.get_total_norm([g for g in found if g is not None]) for found in (first, second)]
    factor = (budget * norms[0] / norms[1].clamp(min=torch.finfo(norms[1].dtype).tiny)).clamp(max=1.0)
    return tuple(
        one if two is None else factor * two if one is None else one + factor * two
        for one, two in zip(first, second, strict=True)
    )


def leaves_of(*losses: Tensor) -> list[Tensor]:
    """Tensors of any shape, (...), whose gradients a backward pass of the losses, scalars, would set."""
    found: dict[int, Tensor] = {}
    nodes = [loss.grad_fn for loss in losses]
    seen = set()
    while nodes:
        node: Any = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[id(node.variable)] = cast(Tensor, node.variable)
        nodes.extend(parent for parent, _ in node.next_functions)
    return list(found.values())
