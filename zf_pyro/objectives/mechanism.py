"""Measurement of the auxiliary at work: what z earns of it, the spread of its target, gradient norms by term."""

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import pyro.poutine as poutine
import torch
from torch import Tensor

from ..networks import runs_eagerly
from ..paths import LatentStep, PosteriorPath
from .elbo import ZForcingELBO
from .graphed import GraphedELBO
from .held import HeldELBO
from .objective import networks_of
from .programs import PyroProgram
from .schedules import Constant
from .terms import Terms

MEASURED = ("log_likelihood", "kl", "auxiliary", "backward")
"""Terms of the objective whose gradients are measured."""


class Mechanism(NamedTuple):
    """State of the auxiliary on one batch, at the weights of the current step."""

    terms: Terms
    """All terms of a sample of the latents, ``earned`` included where the model has the auxiliary; (batch,) nats."""
    spread: Tensor
    """Standard deviation of b_t over the sequences of the batch, averaged over units and real frames; a scalar."""
    gradient_norms: dict[str, Tensor]
    """Norm of the gradient of each weighted term by its name, each a scalar. Terms of weight 0 are left out."""


@runs_eagerly
def mechanism(
    objective: ZForcingELBO | HeldELBO,
    model: PyroProgram,
    guide: PyroProgram,
    *args: Any,
    gradient_norms: bool = True,
    parameters: Iterable[Tensor] | None = None,
    **kwargs: Any,
) -> Mechanism:
    """Measure the auxiliary at work, without a trace in the training: gradients and the random state stay as they are.

    Each gradient is that of the loss with one term alone, for the same samples of the latents, so that those of all
    terms add up to the gradient of the loss. Together they cost about one training step per term.

    Args:
        objective: the objective of training. A captured one is run without its graphs.
        model: the model.
        guide: its guide.
        args: arguments of model and guide, such as x (batch, time, *frame) and lengths (batch,).
        gradient_norms: measure them.
        parameters: tensors of any shape, (...), over which norms are taken; those of the networks by default.
        kwargs: further arguments of model and guide.

    Raises:
        TypeError: the objective is no ZForcingELBO, or holds none.
        ValueError: a handler changed sites of the path, so that there are no terms.
    """
    if not isinstance(objective, ZForcingELBO | HeldELBO):
        raise TypeError(f"objective must be a ZForcingELBO, or hold one, got {type(objective).__name__}")
    own = networks_of(model, guide, objective).parameters() if parameters is None else parameters
    trained = [parameter for parameter in own if parameter.requires_grad]
    with _same_samples(), torch.no_grad(), poutine.block():
        path = _path_of(guide, args, kwargs)
    whole = _copy(objective)
    _plain(whole).measure_earned = path.net.has_auxiliary
    with _same_samples(), torch.no_grad(), poutine.block():
        whole.differentiable_loss(model, guide, *args, **kwargs)
    if whole.terms is None:
        raise ValueError("a handler changed sites of the path, so that the objective has no terms to measure")
    norms = {}
    kept = [parameter.grad for parameter in trained]
    try:
        for name in MEASURED if gradient_norms else ():
            alone = _alone(objective, name)
            if alone is None:
                continue
            for parameter in trained:
                parameter.grad = None
            with _same_samples(), poutine.block():
                alone.backward(model, guide, *args, **kwargs)
            found = [parameter.grad for parameter in trained if parameter.grad is not None]
            norms[name] = torch.nn.utils.get_total_norm(found) if found else path.b.new_zeros(())
    finally:
        for parameter, gradient in zip(trained, kept, strict=True):
            parameter.grad = gradient
    return Mechanism(whole.terms, spread_of(path.b, path.run.mask), norms)


def spread_of(b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Standard deviation of b_t over the sequences of a batch, averaged over units and real frames; a scalar.

    Args:
        b: backward states; (time, batch, backward).
        mask: True on real frames, (time, batch); None if all are. At each step only the real ones count.
    """
    real = b.new_ones(b.shape[:2]) if mask is None else mask.to(b.dtype)
    counts = real.sum(1, keepdim=True)
    shares = (real / counts.clamp(min=1.0)).unsqueeze(-1)
    mean = (shares * b).sum(1, keepdim=True)
    deviations = (shares * (b - mean).square()).sum(1).sqrt()  # (time, backward)
    return (counts * deviations).sum() / (counts.sum() * b.shape[2])


def _same_samples() -> Any:
    """Random numbers inside the block as those that follow it."""
    return torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else [])


def _path_of(guide: PyroProgram, args: Any, kwargs: Any) -> PosteriorPath:
    trace = poutine.trace(guide).get_trace(*args, **kwargs)
    step: Any = next((site["fn"] for site in trace.nodes.values() if isinstance(site.get("fn"), LatentStep)), None)
    path = None if step is None else step.path
    if not isinstance(path, PosteriorPath):
        raise TypeError("guide must run net.guide of a zf_pyro network, whose backward states are measured")
    return path


def _copy(objective: ZForcingELBO | HeldELBO) -> ZForcingELBO | HeldELBO:
    """A copy that shares settings and step, with a state of its own."""
    if isinstance(objective, GraphedELBO):
        objective = objective.objective
    made = copy.copy(objective)
    if isinstance(made, HeldELBO):
        made.objective = copy.copy(made.objective)
    return made


def _plain(objective: ZForcingELBO | HeldELBO) -> ZForcingELBO:
    return objective.objective if isinstance(objective, HeldELBO) else objective


def _alone(objective: ZForcingELBO | HeldELBO, term: str) -> ZForcingELBO | HeldELBO | None:
    """The objective with one of its terms; None where the term has no weight."""
    made = _copy(objective)
    plain = _plain(made)
    weights = {"kl": plain.kl_weight, "auxiliary": plain.aux_weight, "backward": plain.backward_weight}
    if not weights.get(term, 1.0) > 0:
        return None
    kept = {name: Constant(weight if name == term else 0.0) for name, weight in weights.items()}
    plain.kl_schedule, plain.aux_schedule, plain.backward_schedule = kept.values()
    plain._scores_frames = term == "log_likelihood"
    plain.measure_earned = False
    return made
