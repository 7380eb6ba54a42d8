"""``zf-pyro info``: what is installed, and what runs on this machine."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from ...recurrence import show_config

PACKAGES = (
    *("zf-pyro", "torch", "pyro-ppl", "numpy", "arviz", "lightning", "pandas", "xarray", "statsmodels"),
    *("soundfile", "mido", "scikit-learn", "matplotlib"),
)
"""The package, what it needs, and what its extras bring."""
LOOPS = {"c": "in C", "pytorch": "in PyTorch", "measured": "in C or PyTorch"}
"""How loops over time run on the CPU, by the machine of ``zf_pyro.show_config``."""


def info() -> None:
    """Print versions, processor, devices, how loops run, and folders of data."""
    print("\n".join(f"{name:>14}  {value}" for name, value in facts().items()))


def facts() -> dict[str, str]:
    """What is installed and what the machine has, by name."""
    found = {name: _version(name) for name in PACKAGES}
    found["python"] = f"{platform.python_version()} on {platform.platform()}"
    found["processor"] = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads of PyTorch"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(index) for index in range(count)]
    found["GPU"] = ", ".join(names) if names else "none that PyTorch can use"
    loops = show_config("dict") or {}
    found["time loops"] = f"{LOOPS[loops['machine']]}: {loops['reason']}"
    if loops["advice"]:
        found["advice"] = loops["advice"]
    data = os.environ.get("ZF_PYRO_DATA")
    prepared = sorted(str(record.parent) for record in Path().glob("*/*/record.json"))
    found["test data"] = data if data else "none: ZF_PYRO_DATA is not set"
    found["prepared data"] = ", ".join(prepared) if prepared else "none below this folder"
    found["default type"] = str(torch.get_default_dtype()).removeprefix("torch.")
    return found


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
