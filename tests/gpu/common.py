"""Shared by the tests on a GPU: when they run, and models that sample alike on every device."""

import pyro
import pytest
import torch

from zf_pyro import State, ZForcing

from ..conftest import random_net

NEEDS_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ("cpu", "cuda")


class Noiseless(ZForcing):
    """A model whose posterior samples are a function of the data, hence equal on every device."""

    def scan_posterior(self, state, u, b, noise):
        """Scan with noise (time, ..., latent) computed from b (time, batch, hidden), without its gradient."""
        places = torch.arange(noise.shape[-1], device=b.device)
        made = torch.cos(7.0 * b.detach().sum(-1, keepdim=True) + places)
        missing = noise.dim() - made.dim()
        return super().scan_posterior(state, u, b, made[(slice(None), *[None] * missing)].expand_as(noise).to(noise))


def twins(emission="gaussian", *, noiseless=True, **settings):
    """Build one model on the CPU and on the GPU, by device."""
    nets = {device: random_net(emission, **settings).to(device) for device in DEVICES}
    for net in nets.values():
        net.__class__ = Noiseless if noiseless else ZForcing
    return nets


def on(device, value):
    """Move tensors, states and nested lists, tuples and dictionaries of them to a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, State):
        return State(*(field.to(device) for field in value))
    if isinstance(value, dict):
        return {name: on(device, part) for name, part in value.items()}
    return type(value)(on(device, part) for part in value) if isinstance(value, (list, tuple)) else value


def outcome(net, elbo, *arguments, seed=0):
    """Return loss, terms and gradients of one evaluation on the CPU, and clear the gradients."""
    pyro.set_rng_seed(seed)
    loss = elbo.loss_and_grads(net.model, net.guide, *arguments)
    terms = {name: term.nan_to_num(nan=-1.0) for name, term in elbo.terms._asdict().items()}  # NaN: not computed
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}
    net.zero_grad()
    return on("cpu", {"loss": torch.tensor(loss, dtype=torch.float64)} | terms | grads)


def assert_agree(ours, theirs, errors=5.0):
    """Assert that two samples (count, ...) have equal means, within so many standard errors."""
    ours, theirs = ours.cpu().double(), theirs.cpu().double()
    error = (ours.var(0) / len(ours) + theirs.var(0) / len(theirs)).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= errors * error + 1e-12).all()
