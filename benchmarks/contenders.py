"""Contenders of train_step.py: training steps on one model, by letter."""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pyro
import torch
from careful import ZFORCING
from compiled import compiled_loss
from fused_machine import on_machine
from hand_written import loss_of
from pyro.infer import TraceMeanField_ELBO
from released_form import released_form_loss
from textbook import Textbook
from torch import Tensor

from zf_pyro import ZForcing, ZForcingELBO, emissions
from zf_pyro.objectives import GraphedELBO

WEIGHTS = (1.0, 0.1, 0.1)
"""Weights of KL, auxiliary and backward terms in the full objective."""


class Work(NamedTuple):
    """Sizes of a training step."""

    num_steps: int
    batch_size: int
    frame_dim: int
    embed_dim: int
    hidden_dim: int
    latent_dim: int
    mlp_dim: int


# Embedding and MLP have half the hidden size, the paper's ratio.
WORKS = {
    "timit": Work(40, 32, 200, 512, 1024, 256, 512),
    "mnist_128": Work(784, 32, 1, 64, 128, 32, 64),
    "mnist_512": Work(784, 32, 1, 256, 512, 64, 256),
}
TINY = Work(4, 2, 1, 4, 4, 2, 4)


class Peer(NamedTuple):
    """How the compiled contender (g) is compiled."""

    form: str | None = "step"
    """``"loop"`` or ``"step"``, see compiled.py; None leaves it out."""
    backend: str = "inductor"
    """Of torch.compile."""


def materials(work: Work, device: str) -> tuple[ZForcing, Tensor, Tensor]:
    """A model, x (batch, time, frame) and noise (time, batch, latent), the same in every process."""
    torch.manual_seed(0)
    sizes = {"embed_dim": work.embed_dim, "hidden_dim": work.hidden_dim, "latent_dim": work.latent_dim}
    net = ZForcing(emissions.Gaussian(work.frame_dim), **sizes, mlp_dim=work.mlp_dim).to(device)
    x = torch.randn(work.batch_size, work.num_steps, work.frame_dim, device=device)
    return net, x, torch.randn(work.num_steps, work.batch_size, work.latent_dim, device=device)


def compiled_step(work: Work, device: str, backend: str, form: str) -> Callable[[], object]:
    """A training step of contender (g) on a model of its own."""
    net, x, noise = materials(work, device)
    loss = compiled_loss(ZFORCING, form, backend)
    return lambda: loss(net, x, noise, *WEIGHTS).backward()


def contenders(work: Work, device: str, peer: Peer) -> dict[str, Callable[[], object]]:
    """Training steps on one model by contender, each of which leaves gradients; (h) returns them."""
    net, x, noise = materials(work, device)
    textbook, stock, full = Textbook(net), TraceMeanField_ELBO(), ZForcingELBO(*WEIGHTS)
    steps: dict[str, Callable[[], object]] = {
        "a": lambda: released_form_loss(net, x, noise, *WEIGHTS).backward(),
        "b": lambda: stock.loss_and_grads(textbook.model, textbook.guide, x),
        "c": lambda: stock.loss_and_grads(net.model, net.guide, x),
        "d": lambda: full.loss_and_grads(net.model, net.guide, x),
        "f": lambda: loss_of(ZFORCING, net, x, noise, None, *WEIGHTS).backward(),
        "clear": lambda: (net.zero_grad(), pyro.clear_param_store()),
    }
    if device == "cuda":
        graphed, fused, whole = (GraphedELBO(full, bucket=1) for _ in range(3))
        steps["e"] = lambda: graphed.loss_and_grads(net.model, net.guide, x)
        steps["i"] = on_machine("fused", lambda: fused.loss_and_grads(net.model, net.guide, x))
        steps["j"] = on_machine("persistent", lambda: whole.loss_and_grads(net.model, net.guide, x))
        steps["k"] = on_machine("persistent", steps["d"])
    if peer.form is not None:
        steps["g"] = later(partial(compiled_step, work, device, peer.backend, peer.form))
    if has_jax(device):
        steps["h"] = later(partial(jax_step, work))
    return steps


def later(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """A step that is made when it first runs, so that only the processes that run it pay for it."""
    made: list[Callable[[], object]] = []

    def step() -> object:
        if not made:
            made.append(make())
        return made[0]()

    return step


def jax_step(work: Work) -> Callable[[], object]:
    """A training step of contender (h)."""
    from jax_models import training_step

    return training_step("ZForcing", *materials(work, "cpu"), *WEIGHTS)


def has_jax(device: str) -> bool:
    """True if contender (h) can run: jax is installed, and the device is a CPU."""
    return device == "cpu" and importlib.util.find_spec("jax") is not None


def keys(device: str, peer: Peer) -> str:
    """Contenders on a device."""
    graphs, compiled = "eijk" if device == "cuda" else "", "g" if peer.form is not None else ""
    return f"abcd{graphs}f{compiled}{'h' if has_jax(device) else ''}"
