"""Modules that are as this package built them, so that a fast form may read their weights instead of calling them.

A fast form computes with the weights of modules. That is the density of the network only if no module under it was
changed: its type, its functions, its hooks, its parts. Where one was, the plain form runs, which calls the modules.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from .dependencies import any_global_hook, hooks_of

Kind = TypeVar("Kind", bound=type[nn.Module])


class Blueprint(NamedTuple):
    """A kind of module as this package builds it."""

    functions: Mapping[str, Callable[..., Any]]
    """The functions of the class by name."""
    parts: Mapping[str, type[nn.Module]] | None
    """The kinds of its parts by name. None for a list of any number, each of a kind that this package builds."""
    condition: Callable[[Any], bool] | None
    """A further condition, such as the presence of a bias."""


_BLUEPRINTS: dict[type, Blueprint] = {}


def built_of(condition: Callable[[Any], bool] | None = None, **parts: type[nn.Module]) -> Callable[[Kind], Kind]:
    """Register a class whose weights fast forms read.

    Args:
        condition: of a module of this class, beyond its type and parts.
        parts: kind of each part, by name.
    """

    def register(kind: Kind) -> Kind:
        functions = {name: value for name, value in vars(kind).items() if inspect.isfunction(value)}
        _BLUEPRINTS[kind] = Blueprint(functions, parts, condition)
        return kind

    return register


for _kind in (nn.Linear, nn.LayerNorm, nn.Dropout):
    _BLUEPRINTS[_kind] = Blueprint({"forward": _kind.forward}, {}, None)
_BLUEPRINTS[nn.ModuleList] = Blueprint({}, None, None)
_BLUEPRINTS[nn.Sequential] = Blueprint(
    {"forward": nn.Sequential.forward},
    {"0": nn.Linear, "1": nn.Dropout},
    lambda embedding: embedding[0].bias is not None,
)
"""The embedding of float frames: a linear layer, then dropout."""


def change_of(module: nn.Module | None, kind: type[nn.Module], name: str) -> str | None:
    """A description of the first change to a module or to a part of it; None if it is as this package built it.

    Parametrizations of torch (``torch.nn.utils.parametrizations``) are no change: they apply wherever a weight is read.

    Args:
        module: the module.
        kind: the class that it was built as.
        name: its name, for the description.
    """
    found, blueprint = type(module), _BLUEPRINTS[kind]
    if found is not kind and not (
        module is not None
        and parametrize.is_parametrized(module)
        and found.__bases__ == (kind,)
        and found.__module__ == parametrize.__name__  # the class that torch makes of a parametrized module
    ):
        return f"{name} is a {found.__module__}.{found.__qualname__}"
    state = vars(module)
    if hooks_of(state):
        return f"{name} has hooks"
    if not blueprint.functions.keys().isdisjoint(state):
        replaced = sorted(blueprint.functions.keys() & state.keys())[0]
        return f"{name}.{replaced} was set on the instance"
    for function, built in blueprint.functions.items():
        if vars(kind).get(function) is not built:
            return f"{kind.__qualname__}.{function} was replaced"
    parts = state["_modules"]
    built_parts = blueprint.parts
    if built_parts is None:
        built_parts = {part: _built_kind(module) for part, module in parts.items()}
    if len(parts) - ("parametrizations" in parts) != len(built_parts):
        return f"{name} has other parts"
    for part, expected in built_parts.items():
        change = change_of(parts.get(part), expected, f"{name}.{part}")
        if change is not None:
            return change
    if blueprint.condition is not None and not blueprint.condition(module):
        return f"{name} has parts of another form"
    return "a global module hook is set" if any_global_hook() else None


def _built_kind(module: nn.Module) -> type[nn.Module]:
    """The kind that a module of a list was built as: its class, or the one that a parametrization extends."""
    kinds = (kind for kind in type(module).__mro__ if kind in _BLUEPRINTS)
    return next(kinds, nn.Linear)  # of no known kind: then it is no linear layer either


def as_built(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module, and every part of it, is as this package built it."""
    return change_of(module, kind, "") is None
