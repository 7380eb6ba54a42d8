"""Comparison of densities, gradients and other tensors by name."""

import torch

EXACT = {"rtol": 1e-9, "atol": 1e-9}
"""Tolerance where two programs must agree to rounding, in float64."""


def densities(*traces):
    """Return the log-densities of all sample sites, keyed by trace and name; plates are left out."""
    found = {}
    for i, trace in enumerate(traces):
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and name not in ("sequences", "particles"):
                found[f"{i}:{name}"] = site["log_prob"]
    return found


def gradients(net, loss):
    """Return the gradients of a scalar by parameter name, zero where it does not depend on the parameter."""
    names, parameters = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(parameter) if grad is None else grad
        for name, parameter, grad in zip(names, parameters, grads, strict=True)
    }


def weighted_sum(values, seed=0):
    """Sum all elements, each with its own random weight, so that errors in gradients cannot cancel; a scalar."""
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for value in values.values():
        weight = torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value.dtype) + 0.5
        total = total + (weight * value).sum()
    return total


def assert_same(ours, theirs, **tolerance):
    """Assert that two dictionaries of tensors have equal keys, shapes and values."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.shape == theirs[name].shape, f"{name}: {tuple(value.shape)} against {tuple(theirs[name].shape)}"
        difference = f"{name}: "
        torch.testing.assert_close(
            value, theirs[name], **(tolerance or EXACT), msg=lambda text, name=difference: name + text
        )


def parameter_grads(net):
    """Return the accumulated gradients by parameter name, zero where there is none, and clear them."""
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}
    net.zero_grad()
    return grads
