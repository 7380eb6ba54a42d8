"""A model on the disk: its weights as safetensors, and its constructor's arguments as JSON."""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .. import emissions
from ..checks import require_name, require_path
from .emission_record import described, rebuilt
from .files import write_atomically
from .tensors import safetensors_modules

DESCRIPTION = "net.json"
"""File name of the description in a saved folder."""
WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")
"""File name of the weights."""
FORMAT = "zf_pyro net 1"
"""Version of the format. It changes whenever an old folder could be misread."""
DTYPES = ("F64", "F32", "BF16", "F16")
"""Dtypes of weights, in safetensors' names."""
LARGEST = 1 << 40
"""Most bytes of weights that a description may ask for: 1 TiB, far above any model here."""


class SavedNetwork(Protocol):
    """A network whose constructor takes its emission and ``settings``."""

    emission_family: emissions.Emission
    settings: dict[str, Any]
    normalisation: Mapping[str, Tensor] | None

    def state_dict(self) -> dict[str, Any]:
        """The weights by name."""
        ...


Network = TypeVar("Network", bound=nn.Module)


def save_net(net: "SavedNetwork", folder: Path | str, normalisation: Mapping[str, Tensor] | None = None) -> None:
    """Write a model into ``folder``: ``net.json`` and the weights it names, ``weights-HASH.safetensors``.

    ``net.json`` is replaced last and atomically: if the process dies, the folder holds the old model or the new one.
    Then the weights that the replaced ``net.json`` named are deleted, and no other file. Not saved are gradients, the
    name in Pyro's parameter store, and the random state.

    Args:
        net: the model.
        folder: made if it does not exist.
        normalisation: tensors of any shape by name, such as ``{"mean": mean, "scale": scale}``; by default those that
            the model was loaded with. The loaded model has them as ``net.normalisation``.

    Raises:
        ImportError: safetensors is not installed.
        TypeError: the emission is not registered (:func:`zf_pyro.emissions.register`), or its fields are not those of
            JSON, so that loading could not rebuild it; or ``normalisation`` holds other than numbers.
        ValueError: two layers share their weights, or ``normalisation`` is not finite.
        FileExistsError: ``folder`` holds another file ``net.json``, which is not replaced.
        OSError: the disk is full, or another error of the system. The saved model before is then unchanged.
    """
    if not isinstance(net, nn.Module) or not hasattr(net, "emission_family"):
        raise TypeError(f"net must be a model of zf_pyro.models, got {type(net).__name__}")
    emission = described(net.emission_family)
    kept = _statistics(net.normalisation if normalisation is None else normalisation)
    folder = require_path("folder", folder)
    replaced = _weights_named(folder / DESCRIPTION)
    tensors = _separate({name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()})
    content = safetensors_modules()[1].save(tensors)
    digest = hashlib.sha256(content).hexdigest()
    weights = folder / f"weights-{digest[:16]}.safetensors"
    description = {
        "format": FORMAT,
        "zf_pyro": importlib.metadata.version("zf-pyro"),
        "torch": torch.__version__,
        "class": {"module": type(net).__module__, "name": type(net).__qualname__},
        "emission": emission,
        "arguments": dict(net.settings),
        "normalisation": kept,
        "weights": {"file": weights.name, "bytes": len(content), "sha256": digest},
    }
    text = json.dumps(description, indent=1, allow_nan=False) + "\n"
    write_atomically(weights, lambda file: file.write(content))
    write_atomically(folder / DESCRIPTION, lambda file: file.write(text.encode()))
    if replaced is not None and replaced != weights.name:
        (folder / replaced).unlink(missing_ok=True)


def load_net(kind: type[Network], folder: Path | str, *, name: str | None = None) -> Network:
    """Load the model that :func:`save_net` wrote, on the CPU, in evaluation mode, in the weights' dtype.

    Nothing in the folder is executed: the description is JSON, the weights are safetensors, and the only classes built
    are ``kind`` and a registered emission (:func:`zf_pyro.emissions.register`). Before memory is allocated, the weights
    must agree with the description in size and hash, and with the model in names, shapes and dtype. The random state
    does not change.

    Args:
        kind: class of the model.
        folder: folder of :func:`save_net`.
        name: the model's name in Pyro's parameter store.

    Raises:
        ImportError: safetensors is not installed.
        FileNotFoundError: the description or the weights are missing.
        ValueError: they are cut short, changed, of another version, of another class or of sizes that do not fit.
    """
    folder = require_path("folder", folder)
    name = None if name is None else require_name("name", name)
    description = _read(folder)
    _require_class(kind, folder, description)
    try:
        family = rebuilt(folder / DESCRIPTION, description["emission"])
        with torch.device("meta"):  # no memory and no random numbers yet
            net = kind(family, **description["arguments"], name=name)
        kept = description["normalisation"]
        if kept is not None and not isinstance(kept, dict):
            raise TypeError(f"normalisation must be an object of numbers by name, got {type(kept).__name__}")
        normalisation = None if kept is None else {key: torch.tensor(value) for key, value in kept.items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{folder / DESCRIPTION} does not describe a net: {error!r}") from error
    content = _weights(folder, description)
    shapes = {key: tensor.shape for key, tensor in net.state_dict().items()}
    _check_sizes(folder / description["weights"]["file"], content, shapes)
    net.to_empty(device="cpu").load_state_dict(safetensors_modules()[1].load(content), assign=True)
    net.normalisation = normalisation  # type: ignore[assignment]  # declared by SavedNetwork
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    return net.eval()


def _statistics(values: Mapping[str, Tensor] | None) -> dict[str, Any] | None:
    """Tensors by name as JSON's lists.

    Raises:
        TypeError: they are no dictionary of numbers by name.
        ValueError: a number that is not finite, which JSON lacks.
    """
    if values is None:
        return None
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise TypeError(f"normalisation must be a dictionary of tensors by name, got {type(values).__name__}")
    lists = {}
    for name, value in values.items():
        try:
            tensor = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            got = type(value).__name__
            raise TypeError(f"normalisation[{name!r}] must be a tensor or numbers, got {got}") from error
        if tensor.is_complex() or not tensor.isfinite().all():
            raise ValueError(f"normalisation[{name!r}] must hold finite numbers, got {tensor.flatten()[:5].tolist()}")
        lists[name] = tensor.tolist()
    return lists


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors, each of any shape, in memory of their own, as safetensors needs them.

    Raises:
        ValueError: two of them are one, which would be two after loading.
    """
    names: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and names.setdefault(tensor.data_ptr(), name) != name:
            raise ValueError(
                f"{names[tensor.data_ptr()]} and {name} share their weights, which a loaded net would have twice: give "
                "each its own (weight = nn.Parameter(weight.clone())), or keep net.state_dict() by torch.save"
            )
    return {
        name: tensor if tensor.numel() == len(tensor.untyped_storage()) // tensor.element_size() else tensor.clone()
        for name, tensor in tensors.items()
    }


def _read(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {DESCRIPTION}, so no net was saved there")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}): it was cut short or changed; save the net again") from error
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path} is of the format {found!r}, this version reads {FORMAT!r}")
    return description


def _require_class(kind: type, folder: Path, description: dict[str, Any]) -> None:
    """Refuse the net of another class. Its name is compared and shown; nothing is imported by it.

    Modules are compared only where one of them is of this package: a user's class may move, or stand in ``__main__``.
    """
    saved = description.get("class")
    if saved is None:  # written before classes were recorded
        return
    module, name = (saved.get(key) for key in ("module", "name")) if isinstance(saved, dict) else (None, None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError(f"{folder / DESCRIPTION} does not describe a net: its class is {saved!r}")
    own, ours = (place.split(".")[0] == "zf_pyro" for place in (module, kind.__module__))
    if name.split(".")[-1] != kind.__name__ or own != ours:
        wanted, given = f"{module}.{name}", f"{kind.__module__}.{kind.__qualname__}"
        raise ValueError(
            f"{folder} holds a net of the class {wanted!r}, not {given!r}, whose programs may differ: load it by "
            f"{name.split('.')[-1]}.load({str(folder)!r})"
        )


def _weights_named(path: Path) -> str | None:
    """File of the weights that a description names; None if there is none, or if it was cut short.

    Raises:
        FileExistsError: the file is no description of a net.
    """
    if not path.exists():
        return None
    content = path.read_bytes()
    try:
        description = json.loads(content)
    except (ValueError, RecursionError):
        description = None
    if description is None and (not content or b'"format": "zf_pyro net' in content[:100]):
        return None
    found = description.get("format") if isinstance(description, dict) else None
    if not isinstance(found, str) or not found.startswith("zf_pyro net"):
        raise FileExistsError(f"{path} is no net of zf_pyro, so it is not replaced: save into another folder")
    weights = description.get("weights")
    name = weights.get("file") if isinstance(weights, dict) else None
    return name if isinstance(name, str) and WEIGHTS.fullmatch(name) else None


def _weights(folder: Path, description: dict[str, Any]) -> bytes:
    """The bytes of the weights, if they agree with the description."""
    try:
        name, size, digest = (description["weights"][key] for key in ("file", "bytes", "sha256"))
        inside = WEIGHTS.fullmatch(name) is not None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / DESCRIPTION} does not say what its weights are: {error!r}") from error
    if not inside or not isinstance(size, int) or not 0 < size < LARGEST:
        raise ValueError(f"{folder / DESCRIPTION} names weights that save() does not write: {name!r} of {size!r} bytes")
    path = folder / name
    found = path.stat().st_size
    if found != size:
        raise ValueError(f"{path} has {found} bytes, {DESCRIPTION} says {size}: it was cut short or changed")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path} has another sha256 than {DESCRIPTION} says: it was changed")
    return content


def _check_sizes(path: Path, content: bytes, shapes: Mapping[str, torch.Size]) -> None:
    """Refuse weights of another model, by their header alone."""
    safetensors, _ = safetensors_modules()
    try:
        header = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    missing, unknown = sorted(shapes.keys() - header.keys()), sorted(header.keys() - shapes.keys())
    if missing or unknown:
        raise ValueError(f"{path} is of another net: {missing[:3]} missing, {unknown[:3]} unknown")
    for key, entry in header.items():
        if tuple(entry["shape"]) != tuple(shapes[key]) or entry["dtype"] not in DTYPES:
            raise ValueError(
                f"{path} is of another net: {key} is {entry['dtype']} {tuple(entry['shape'])}, "
                f"expected {tuple(shapes[key])} of {', '.join(DTYPES)}"
            )
