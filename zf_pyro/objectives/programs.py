"""The pair of programs that an objective is given: their owners, and checks that each is in its place."""

import functools
from collections.abc import Callable
from typing import Any

from pyro.poutine import Trace
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.seed_messenger import SeedMessenger
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from ..models import RefinedGuide, RegisteredNetwork, StochasticRNN
from ..networks import handled_program, handlers
from ..paths import LazyStep, PosteriorPath, PriorPath

PyroProgram = Callable[..., Any]
"""A model or a guide."""
ROLES = ("model", "guide")
EXPECTED = "model and guide must be net.model and net.guide of one network"


def require_program(name: str, program: Any) -> PyroProgram:
    """The argument ``name`` as a model or a guide: a function, not a class.

    Raises:
        TypeError: it is none.
    """
    if not callable(program) or isinstance(program, type):
        got = f"the class {program.__name__}" if isinstance(program, type) else type(program).__name__
        raise TypeError(f"{name} must be a program, such as net.{name}, got {got}")
    return program


def bare(program: PyroProgram) -> PyroProgram:
    """A program without the handlers and arguments that it was wrapped in."""
    while isinstance(program, functools.partial):
        program = handled_program(program) or program.func
    return program


def owner_of(program: PyroProgram) -> nn.Module | None:
    """The module that a bound method such as ``net.model`` belongs to, under handlers too; None for other programs."""
    program = bare(program)
    owner = getattr(program, "__self__", program)
    return owner if isinstance(owner, nn.Module) else None


def check_programs(model: PyroProgram, guide: PyroProgram) -> None:
    """Refuse programs that are not a model and its guide, as far as their names tell.

    Raises:
        TypeError: model and guide are swapped; another method of a network, or a network itself; the model of one
            network with the guide of another; or something that cannot be called.
    """
    given = dict(zip(ROLES, (bare(model), bare(guide)), strict=True))
    owners = {role: getattr(program, "__self__", None) for role, program in given.items()}
    for role, program in given.items():
        owner, name = owners[role], getattr(program, "__name__", None)
        if isinstance(program, RegisteredNetwork):
            raise TypeError(f"{EXPECTED}, got the network itself as {role}: write net.{role}")
        require_program(role, program)
        if not isinstance(owner, RegisteredNetwork) or name == role:
            continue
        if name in ROLES:
            raise TypeError(f"{EXPECTED}, got net.{name} as {role}: they are swapped or the same")
        if (getattr(program, "__module__", None) or "").split(".")[0] in ("zf_pyro", "torch"):  # not a user's program
            raise TypeError(f"{EXPECTED}, got net.{name} as {role}, which is no Pyro program of that role")
    first, second = owners.values()
    if isinstance(first, RegisteredNetwork) and isinstance(second, RegisteredNetwork) and first is not second:
        raise TypeError(
            f"{EXPECTED}, got the model of {first.name!r} and the guide of {second.name!r}: if that is meant, call the "
            "guide in a function of your own"
        )


def check_roles(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse a model whose sites are those of ``net.guide``, and a guide whose sites are those of ``net.model``.

    Raises:
        TypeError: such a program, under whatever functions and handlers.
    """
    places = (("model", model_trace, PosteriorPath, "guide"), ("guide", guide_trace, PriorPath, "model"))
    for role, trace, other, name in places:
        step: Any = next((site["fn"] for site in trace.nodes.values() if isinstance(site.get("fn"), LazyStep)), None)
        if step is not None and isinstance(step.path, other):
            raise TypeError(f"{EXPECTED}, and the {role} runs net.{name}: they are swapped or the same")


def network_of(objective: str, model: PyroProgram, guide: PyroProgram) -> StochasticRNN:
    """The network whose ``model`` and ``guide`` these programs are, without handlers around them.

    For a refined guide it is the corrected network.

    Args:
        objective: name of the objective, for errors.
        model: the model.
        guide: the guide.

    Raises:
        TypeError: they are other programs, or under handlers.
    """
    net = getattr(model, "__self__", None)
    if isinstance(net, StochasticRNN) and model == net.model and isinstance(guide, RefinedGuide) and guide.net is net:
        return guide.network
    if not isinstance(net, StochasticRNN) or model != net.model or guide != net.guide:
        raise TypeError(
            f"{objective} does not run Pyro's sample statements one by one, so model and guide must be net.model and "
            f"net.guide of one zf_pyro.ZForcing, or a refined guide of it, got {model!r} and {guide!r}. For other "
            "programs, and for plates, scales and other handlers around them, use ZForcingELBO or "
            "ImportanceWeightedELBO"
        )
    return net


def refuse_handlers(objective: str) -> None:
    """Refuse handlers around an objective that runs no sample statements. Those that only record are no matter.

    Raises:
        TypeError: another handler is active, such as a plate, a scale or a mask.
    """
    silent = (TraceMessenger, BlockMessenger, SeedMessenger)
    found = next((handler for handler in handlers() if not isinstance(handler, silent)), None)
    if found is not None:
        raise TypeError(
            f"{objective} runs step functions and no sample statements, so {type(found).__name__} around it would have "
            "no effect: leave it out, or use ImportanceWeightedELBO. A subsample of B among N sequences is scaled by "
            "N / B times the loss"
        )


def refuse_class(settings: tuple[Any, ...], objective: type) -> None:
    """Refuse the arguments of a loss where those of an objective's constructor are expected.

    Pyro calls a loss that is no instance of its ELBO with model, guide and data.

    Raises:
        TypeError: the arguments are programs and data.
    """
    of_network = settings[:1] and (owner_of(settings[0]) is not None or isinstance(settings[0], nn.Module))
    data = any(isinstance(value, Tensor) for value in settings[2:]) and all(map(callable, settings[:2]))
    if of_network or data:
        name = objective.__name__
        raise TypeError(
            f"{name} was called with a model, a guide and data: give SVI an instance of the objective, loss={name}(), "
            f"not the class; {name}()(model, guide)(x) is the loss"
        )
