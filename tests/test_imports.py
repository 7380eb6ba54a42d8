"""Imports go one way, and importing changes nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zf_pyro

ROOT = Path(zf_pyro.__file__).parent
LAYERS = (
    *(
        "schedules",
        "pieces",
        "plates",
        "arena",
        "modes",
        "choice",
        "emissions",
        "networks",
        "_compiled",
        "instructions",
        "machines",
        "products",
        "kernels",
        "cells",
        "loops",
        "heads",
        "steps",
        "given",
        "recurrence",
        "stamp",
    ),
    *(
        "files",
        "saving",
        "paths",
        "posterior_path",
        "prior_path",
        "terms",
        "traces",
        "decoding",
        "generation",
        "sampling",
        "scanning",
        "model",
    ),
    *(
        "memory",
        "resampling",
        "filter_steps",
        "filtering",
        "objectives",
        "segments",
        "graphs",
        "inference",
        "evaluation",
    ),
    *("comparison", "diagnostics", "baselines", "gallery", "data", "training", "experiments"),
)
"""Parts of the package from low to high: each may import those before it alone."""
MODULES = sorted(path for path in ROOT.rglob("*.py"))


def part_of(path):
    """The layer of a file: its module at the top, or its subpackage."""
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(path):
    """Parts of the package that a file imports, wherever in the file."""
    depth = len(path.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = node.level - 1 if node.level else 0
            package = [] if not node.level else ["zf_pyro", *path.relative_to(ROOT).parts[: depth - 1 - above]]
            module = [*package, *(node.module or "").split(".")] if node.module else package
            names = [[*module, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "zf_pyro":
                yield name[1] if len(name) > 1 else "__init__"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    part = part_of(path)
    if part == "__init__":
        assert set(imported(path)) <= set(LAYERS)
        return
    assert part in LAYERS, f"say in LAYERS where {part} stands"
    upward = [name for name in imported(path) if name != part and name not in LAYERS[: LAYERS.index(part)]]
    assert not upward, f"{part} imports {upward}, which stand above it"


def test_the_reader_of_imports_reads_them():
    assert {"networks", "emissions", "paths", "scanning", "given"} <= set(imported(ROOT / "model.py"))
    assert "loops" in set(imported(ROOT / "recurrence.py"))


BEFORE = """
import sys, random, numpy, torch, pyro
state = lambda: (torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state()))
switches = lambda: (
    torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(),
    torch.are_deterministic_algorithms_enabled(),
    pyro.infer.util.is_validation_enabled(), pyro.poutine.util.is_validation_enabled(),
    pyro.distributions.is_validation_enabled(), torch.distributions.Distribution._validate_args,
    len(pyro.get_param_store()), sys.getrecursionlimit(), torch.backends.cuda.matmul.allow_tf32,
)
before = state(), switches()
import zf_pyro
assert (state(), switches()) == before, "importing zf_pyro changed something"
import zf_pyro.data
extras = ("sktime", "matplotlib", "arviz", "tqdm", "lightning", "pandas", "tokenizers", "sklearn", "pooch", "soundfile")
found = [name for name in extras if name in sys.modules]
others = set(OTHERS)
assert not set(found) - others, found
"""


def test_importing_changes_nothing_and_brings_in_no_extras():
    """Extras that Pyro itself imports, such as its progress bars, are not ours."""
    listed = (
        "import sys, pyro, numpy, torch; print([m for m in ('sktime','matplotlib','arviz','tqdm') if m in sys.modules])"
    )
    others = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True).stdout.strip()
    program = f"OTHERS = {others}\n{BEFORE}"
    run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_public_name_is_there():
    for name in zf_pyro.__all__:
        assert getattr(zf_pyro, name) is not None
