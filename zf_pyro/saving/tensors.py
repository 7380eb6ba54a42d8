"""Tensors by name in one safetensors file, with short texts about them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checks import require_path
from .files import write_atomically


def write_tensors(file: Path | str, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors of any shape into a safetensors file that appears whole or not at all.

    Args:
        file: the file, replaced if it exists; its folder is made.
        tensors: by name.
        about: texts of the file's header, by name.

    Raises:
        ImportError: safetensors is not installed.
        OSError: an error of the system. A file of the same name is then unchanged.
    """
    path = require_path("file", file)
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors_modules()[1].save(own, metadata=dict(about))
    write_atomically(path, lambda opened: opened.write(content))


def read_tensors(file: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of any shape, by name on the CPU, and the texts of a file of :func:`write_tensors`.

    Raises:
        ImportError: safetensors is not installed.
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, or was cut short.
    """
    path = require_path("file", file)
    safetensors, _ = safetensors_modules()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, "pt") as opened:
            names = opened.keys()
            return {name: opened.get_tensor(name) for name in names}, dict(opened.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or was cut short: {error}") from error


def safetensors_modules() -> tuple[Any, Any]:
    """The modules safetensors and safetensors.torch.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError("saving and loading needs safetensors: pip install zf-pyro[training]") from error
    return safetensors, safetensors.torch
