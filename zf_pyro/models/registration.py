"""Names of networks in Pyro's parameter store, the registration of their parameters, and their weights as built."""

import functools
import itertools
import re
import weakref
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.params import param_with_module_name
from torch import nn

from ..checks import require_name
from .checksums import checksums

_NUMBERS: "defaultdict[str, Iterator[int]]" = defaultdict(itertools.count)
"""Numbers for default names, by kind, so that no two networks of a process share parameters in Pyro's store."""
_NETWORKS: "weakref.WeakSet[RegisteredNetwork]" = weakref.WeakSet()
"""All networks of the process that are still in use."""


class RegisteredNetwork(nn.Module):
    """A network that registers its parameters in Pyro's store under a name of its own.

    A copy gets another name where the name is in use: by ``copy.deepcopy``, by ``copy.copy``, as the average of
    ``torch.optim.swa_utils.AveragedModel``, or unpickled in the same process. Unpickled elsewhere it keeps its name.

    Args:
        name: name in Pyro's parameter store; if None ``kind``, then ``kind_1``, ``kind_2``, ...
        kind: start of default names.

    Attributes:
        name: the name.

    Raises:
        TypeError: a name that is no string.
        ValueError: a name that is empty, or contains Pyro's separator ``$$$``.
    """

    name: str
    _built: dict[str, int] | None = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Have the constructor of a subclass record the weights at its end, so that :attr:`as_built` can tell."""
        super().__init_subclass__(**keywords)
        if "__init__" not in vars(cls):
            return
        construct = cls.__init__

        @functools.wraps(construct)
        def recorded(self: "RegisteredNetwork", *arguments: Any, **settings: Any) -> None:
            construct(self, *arguments, **settings)
            if type(self).__init__ is recorded:  # not within the constructor of a further subclass
                self._built = checksums(self)

        cls.__init__ = recorded  # type: ignore[method-assign]  # the same, and the record

    def __init__(self, name: str | None, kind: str) -> None:
        super().__init__()
        if name is None:
            numbered = (kind if i == 0 else f"{kind}_{i}" for i in _NUMBERS[kind])
            name = next(name for name in numbered if not _in_use(name))
        self.name = require_name("name", name)
        if "$$$" in name:
            raise ValueError(f"name must not contain '$$$', which separates names in Pyro, got {name!r}")
        _NETWORKS.add(self)

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy or of a pickle.

        Pyro's store sets a weak reference on each parameter, which cannot be pickled, and sets it again at each use.
        """
        for parameter in self.parameters():
            vars(parameter).pop("unconstrained", None)
        return dict(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a copy or of a pickle, and another name if it is in use."""
        super().__setstate__(state)
        if _in_use(self.name) or _registered(self.name):
            original = re.sub(r"_copy(_\d+)?$", "", self.name)
            copies = itertools.chain([f"{original}_copy"], (f"{original}_copy_{i}" for i in itertools.count(2)))
            self.name = next(name for name in copies if not _in_use(name) and not _registered(name))
        _NETWORKS.add(self)

    @property
    def as_built(self) -> bool:
        """Whether every parameter has the value that the constructor gave it.

        False once any was trained, loaded, set or replaced, by whatever means, in this network or in the one that it
        is a copy of. False too for a network that was built without values, on the meta device, or loaded.
        """
        return self._built is not None and self._built == checksums(self)

    def register(self) -> None:
        """Announce the parameters to Pyro, as ``pyro.module`` does, for objectives that run the step functions.

        Raises:
            TypeError: the model was made a PyroModule. Priors on its weights would then be sampled at each access.
            RuntimeError: Pyro's parameter store holds other parameters under this name.
        """
        if isinstance(self, PyroModule):
            raise TypeError(
                f"{type(self).__name__} must not be a PyroModule: weights with a PyroSample prior would be sampled at "
                "each access, without a site. Leave to_pyro_module_ out, or sample the weights in a program of "
                "your own and set them with torch.func.functional_call"
            )
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and parameter.is_leaf:
                known = pyro.param(param_with_module_name(self.name, name), parameter)
                if known is not parameter and not known.is_set_to(parameter):  # the same under a wrapper of Pyro's
                    raise RuntimeError(
                        f"Pyro's parameter store holds another tensor as {name!r} of {self.name!r}: give each net its "
                        "own name (name=), or call pyro.clear_param_store() before using this one"
                    )


def _in_use(name: str) -> bool:
    """Whether a network of the process has this name."""
    return any(vars(network).get("name") == name for network in _NETWORKS)


def _registered(name: str) -> bool:
    """Whether Pyro's parameter store holds parameters under this name."""
    start = param_with_module_name(name, "")
    return any(key.startswith(start) for key in pyro.get_param_store().keys())  # noqa: SIM118 (not a dictionary)
