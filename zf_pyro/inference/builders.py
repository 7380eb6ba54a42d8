"""Builders of the algorithms of the table, with defaults that are ready to run."""

from collections.abc import Callable
from typing import Any

import pyro.infer.autoguide
from pyro.infer import SVGD, SVI, Importance, Predictive, RBFSteinKernel, ReweightedWakeSleep, Trace_ELBO
from pyro.optim import ClippedAdam, PyroOptim

from ..checks import require_count
from ..models import RefinedGuide, StochasticRNN, guided, require_model
from ..objectives import SIXO, PyroProgram, require_program
from ..smc import ParticleFilter, Twist
from .guide_check import checked
from .padding_prior import with_padding_prior
from .wake_sleep import WakeSleepPrograms

LEARNING_RATE = 1e-3
VECTORISED: dict[str, Any] = {"num_particles": 8, "vectorize_particles": True, "max_plate_nesting": 1}
"""Particles along an additional batch dimension."""


def svi(objective: Callable[..., Any], least_particles: int = 1, **defaults: Any) -> Callable[..., SVI]:
    """Builder of SVI under an objective. A user's guide is checked against the model when it first runs."""

    def build(
        net: StochasticRNN,
        optim: Any = None,
        guide: PyroProgram | None = None,
        model: PyroProgram | None = None,
        **settings: Any,
    ) -> SVI:
        require_model(net)
        settings = {**defaults, **settings}
        if "num_particles" in settings:
            settings["num_particles"] = require_count("num_particles", settings["num_particles"], least_particles)
        model = net.model if model is None else require_program("model", model)
        return SVI(model, _guide(net, model, guide), _optim(optim), objective(**settings))

    return build


def sixo(net: StochasticRNN, optim: Any = None, twist: Twist | None = None, **settings: Any) -> SVI:
    """SVI under SIXO, by default with a new twist."""
    return svi(SIXO, num_particles=8)(net, optim, twist=Twist(net) if twist is None else twist, **settings)


def autoguide(name: str, **defaults: Any) -> Callable[..., SVI]:
    """Builder of SVI with an autoguide over the latents of the sequences of its first call."""

    def build(net: StochasticRNN, optim: Any = None, loss: Any = None, **settings: Any) -> SVI:
        model = with_padding_prior(require_model(net).model)
        guide = getattr(pyro.infer.autoguide, name)(model, **{**defaults, **settings})
        return SVI(model, guide, _optim(optim), Trace_ELBO() if loss is None else loss)

    return build


def dreaming(net: StochasticRNN, optim: Any = None, guide: PyroProgram | None = None, **settings: Any) -> SVI:
    """Wake-sleep whose guide learns also from samples of the model (the sleep phase)."""
    if guide is not None:
        raise TypeError(
            "guide must be left out for ReweightedWakeSleep-sleep, whose sleep phase asks the guide for dreamt frames: "
            "use ReweightedWakeSleep, or WakeSleepPrograms of your own"
        )
    settings = {**VECTORISED, "insomnia": 0.5, "num_sleep_particles": 1, **settings}
    settings["num_particles"] = require_count("num_particles", settings["num_particles"], least=2)
    loss = ReweightedWakeSleep(**settings)
    programs = WakeSleepPrograms(require_model(net))
    return SVI(programs.model, programs.guide, _optim(optim), loss)


def svgd(net: StochasticRNN, optim: Any = None, num_particles: int = 16, **settings: Any) -> SVGD:
    """Stein variational gradient descent over the latents of the sequences of its first call."""
    num_particles = require_count("num_particles", num_particles, least=2)
    require_model(net)
    return SVGD(with_padding_prior(net.model), RBFSteinKernel(), _optim(optim), num_particles, 1, **settings)


def importance(
    net: StochasticRNN, guide: PyroProgram | None = None, model: PyroProgram | None = None, num_samples: int = 50
) -> Importance:
    """Pyro's importance sampling with the guide as proposal."""
    num_samples = require_count("num_samples", num_samples)
    require_model(net)
    model = net.model if model is None else require_program("model", model)
    return Importance(model, _guide(net, model, guide), num_samples)


def predictive(
    net: StochasticRNN, num_samples: int = 50, guide: PyroProgram | None = None, **settings: Any
) -> Predictive:
    """Samples from the guide, and from the model given them."""
    num_samples = require_count("num_samples", num_samples)
    require_model(net)
    guide = _guide(net, net.model, guide)
    return Predictive(net.model, guide=guide, num_samples=num_samples, **{"parallel": True, **settings})


def particle_filter(net: StochasticRNN, num_particles: int = 64, **settings: Any) -> ParticleFilter:
    """Particle filter with a default number of particles."""
    return ParticleFilter(net, num_particles, **settings)


def _guide(net: StochasticRNN, model: PyroProgram, guide: PyroProgram | None) -> PyroProgram:
    """The guide: that of the network, a refined one, or a program of the user's, checked when it first runs."""
    if guide is None:
        return net.guide
    if isinstance(guide, RefinedGuide) and model == net.model:
        guided(net, guide, "this algorithm")  # of this network
        return guide
    return checked(model, guide)


def _optim(optim: Any) -> Any:
    if optim is None:
        return ClippedAdam({"lr": LEARNING_RATE})
    if not isinstance(optim, PyroOptim):
        got = type(optim).__name__
        raise TypeError(f"optim must be an optimiser of pyro.optim, such as ClippedAdam({{'lr': 1e-3}}), got {got}")
    return optim
