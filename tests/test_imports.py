"""The seven rules of the house: one way down, one door a wing, one name a thing, and importing changes nothing."""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from torch import Tensor

import zf_pyro

ROOT = Path(zf_pyro.__file__).parent
FLOORS = (
    ("checks", "emissions", "networks", "data"),
    ("recurrence", "saving"),
    ("paths",),
    ("generation",),
    ("models",),
    ("smc",),
    ("objectives",),
    ("inference", "training"),
    ("evaluation",),
    ("diagnostics", "experiments"),
)
"""The wings from the ground up. Each imports those on lower floors; on one floor, those that stand before it."""
WINGS = tuple(wing for floor in FLOORS for wing in floor)
TOP = {"__init__", "__main__", "checks"}
RECURRENCE = (
    *(f"engine.{name}" for name in ("building", "operations", "shapes", "buffers", "encoding", "machines")),
    *(f"engine.fused.{name}" for name in ("formulas", "accesses", "phases", "source", "kernels", "plans")),
    *(f"engine.fused.{name}" for name in ("fused_machine", "persistent_machine")),
    *(f"engine.{name}" for name in ("fastest", "linear", "mlp", "lstm", "loops", "backward_loop")),
    *(f"engine.{name}" for name in ("latent_loop", "gru", "heads")),
    *("reference", "fast", "chunks", "precision", "scans", "configuration"),
)
"""Files of the recurrence from the ground up."""
LONGEST = 300
"""Lines of a file."""
FILES = sorted(ROOT.rglob("*.py"))


def by_path(path):
    return str(path.relative_to(ROOT))


@functools.cache
def parsed(path):
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


@functools.cache
def nodes_of(path):
    """All nodes of a file's syntax tree."""
    return list(ast.walk(parsed(path)))


def module_of(path):
    """The parts of a file's module name after ``zf_pyro``, ``__init__`` left out."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


@functools.cache
def imports(path):
    """Imports of a file, wherever in it: the imported module's name in parts, and the imported name (None: itself)."""
    found = []
    package = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append((tuple(alias.name.split(".")), None))
        elif isinstance(node, ast.ImportFrom):
            module = tuple((node.module or "").split(".")) if node.module else ()
            if node.level:
                module = ("zf_pyro", *package[: len(package) - (node.level - 1)], *module)
            for alias in node.names:
                found.append((module, alias.name))
    return found


@functools.cache
def inner_imports(path):
    """Imports of this package alone: the module's parts after ``zf_pyro``, submodules resolved, and the name."""
    found = []
    for module, name in imports(path):
        if module[0] != "zf_pyro":
            continue
        module = module[1:]
        below = ROOT.joinpath(*module, name or "")
        if name is not None and name != "_compiled" and (below.is_dir() or below.with_suffix(".py").is_file()):
            door = ROOT.joinpath(*module, "__init__.py")
            if name not in names_of(door) or not module:
                module, name = (*module, name), None
        found.append((module, name))
    return found


@functools.cache
def names_of(door):
    """What a wing's ``__init__`` defines or imports."""
    if not door.is_file():
        return set()
    tree = parsed(door)
    return {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


# 1. One way down ----------------------------------------------------------------------------------------------------


def test_a_wing_imports_only_those_below_it():
    for path in FILES:
        own = (*module_of(path), "")[0]
        if own in ("", "__main__"):  # above all wings
            continue
        assert own in WINGS, f"{by_path(path)} lies in no wing"
        upward = {module[0] for module, _ in inner_imports(path) if module} - {own, *WINGS[: WINGS.index(own)]}
        assert not upward, f"{by_path(path)} imports {sorted(upward)}, which stand above it or are no wing"


def test_no_wing_below_models_names_a_model():
    models = {"ZForcing", "VRNN", "SRNN", "DMM", "DeterministicRNN", "LinearGaussian"}
    for path in FILES:
        if (*module_of(path), "")[0] in WINGS[: WINGS.index("models")]:
            names = {node.id for node in nodes_of(path) if isinstance(node, ast.Name)}
            assert not names & models, f"{by_path(path)} names {names & models}"


# 2. Inside recurrence -----------------------------------------------------------------------------------------------


def test_files_of_the_recurrence_import_only_those_below():
    for path in FILES:
        if module_of(path)[:1] != ("recurrence",) or path.name == "__init__.py":
            continue
        own = ".".join(module_of(path)[1:])
        found = {".".join(module[1:]) for module, name in inner_imports(path) if module[:1] == ("recurrence",)}
        if own == "engine.machines":
            found.discard("engine")  # the compiled module
        upward = found - set(RECURRENCE[: RECURRENCE.index(own)])
        assert not upward, f"{own} imports {sorted(upward)}, which stand above it"
        if own == "reference":
            assert not any(name.startswith("engine") for name in found)


# 3. One door a wing -------------------------------------------------------------------------------------------------


def test_other_wings_are_entered_by_their_door():
    for path in FILES:
        own = module_of(path)[:1]
        for module, name in inner_imports(path):
            if module and module[:1] != own:
                assert len(module) == 1, (
                    f"{by_path(path)} imports {'.'.join(module)}: take names of zf_pyro.{module[0]}"
                )
                door = ROOT / module[0] / "__init__.py"
                assert name is None or not door.is_file() or name in names_of(door), f"{module[0]} has no {name}"
        if own != ("recurrence",):
            assert "recurrence.engine" not in path.read_text(), f"{by_path(path)} names the engine"


def test_only_the_machines_name_the_compiled_module():
    naming = [path for path in FILES if any("_compiled" in (*module, name) for module, name in imports(path))]
    assert [module_of(path) for path in naming] == [("recurrence", "engine", "machines")]


def test_a_door_lists_what_it_opens_to():
    for wing in set(WINGS) - TOP:
        door = importlib.import_module(f"zf_pyro.{wing}")
        assert set(door.__all__) == names_of(ROOT / wing / "__init__.py")
        assert all(hasattr(door, name) for name in door.__all__)


# 4. One name a thing ------------------------------------------------------------------------------------------------


def test_the_top_holds_the_wings_and_no_more():
    assert {path.stem for path in ROOT.glob("*.py")} == TOP
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(WINGS) - TOP


def test_no_public_class_stands_twice():
    found = {}
    for path in FILES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(by_path(path))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_no_file_name_stands_in_two_wings_of_which_one_imports_the_other():
    below = {wing: set() for wing in WINGS}
    for path in FILES:
        own = (*module_of(path), "")[0]
        if own in below:
            below[own] |= {module[0] for module, _ in inner_imports(path) if module}
    names = {wing: {p.stem for p in (ROOT / wing).rglob("*.py")} - {"__init__"} for wing in WINGS}
    twice = {
        (wing, other): names[wing] & names[other]
        for wing, others in below.items()
        for other in others - {wing}
        if names[wing] & names.get(other, set())
    }
    assert twice == {}


# 5. Sizes and types -------------------------------------------------------------------------------------------------


def test_no_file_is_longer_than_one_sitting():
    lengths = {by_path(path): len(path.read_text().splitlines()) for path in FILES}
    assert {path: length for path, length in lengths.items() if length > LONGEST} == {}


def test_no_path_or_net_is_of_any_type():
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
                target = getattr(node, "target", None)
                name = node.arg if isinstance(node, ast.arg) else getattr(target, "id", getattr(target, "attr", ""))
                vague = name in ("net", "path") and ast.unparse(node.annotation).strip("'\"") == "Any"
                assert not vague, f"{by_path(path)}:{node.lineno} has {name}: Any"


# 6. Importing -------------------------------------------------------------------------------------------------------

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
before, known = (state(), switches()), set(sys.modules)
import zf_pyro
assert (state(), switches()) == before, "importing zf_pyro changed something"
import zf_pyro.data
extras = set(EXTRAS) & (set(sys.modules) - known)
assert not extras, extras
"""


def test_importing_changes_nothing_and_brings_in_no_extras():
    """Extras that Pyro itself imports, such as its progress bars, are not ours."""
    extras = (set(IMPORT_NAMES) - {"torch", "pyro", "numpy"}) | {"pandas", "xarray", "triton"}
    program = f"EXTRAS = {sorted(extras)}\n{BEFORE}"
    run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


IMPORT_NAMES = {
    "torch": "torch",
    "pyro": "pyro-ppl",
    "numpy": "numpy",
    "arviz": "arviz",
    "xarray": "arviz",  # whose data are xarray's
    "pandas": "pandas",
    "statsmodels": "statsmodels",
    "arviz_stats": "arviz",  # part of ArviZ 1.x
    "soundfile": "soundfile",
    "soxr": "soxr",
    "pooch": "pooch",
    "tokenizers": "tokenizers",
    "mido": "mido",
    "sklearn": "scikit-learn",
    "tqdm": "tqdm",
    "jsonargparse": "jsonargparse",
    "matplotlib": "matplotlib",
    "lightning": "lightning",
    "safetensors": "safetensors",
    "sktime": "sktime",
    "scipy": "scipy",
    "optuna": "optuna",
    "setuptools": "setuptools",
}
"""What the package imports, and the distribution that brings it."""
BUILDING = ["setuptools"]
"""What builds the package, and is no dependency of it."""
UNIMPORTED = {
    *("h5netcdf", "h5py", "zarr", "tensorboard", "pyarrow", "polars", "onnx", "onnxscript", "onnxruntime"),
    *(
        "sphinx",
        "myst-nb",
        "pydata-sphinx-theme",
        "latex2mathml",
        "nbclient",
        "nbformat",
        "ipykernel",
        "jupyter_client",
    ),
    *("jax", "playwright", "pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "triton"),
}
"""Declared for files that ArviZ and pandas read and write, for Lightning's logger, for PyTorch's ONNX exporter, for
benchmarks, for the site, and for tests. The texts of kernels import Triton, and no file does."""


def test_no_program_is_imported_by_the_door_of_its_wing():
    programs = [module_of(path) for path in FILES if '__name__ == "__main__"' in path.read_text()]
    named = [".".join(("zf_pyro", *parts)) for parts in programs if parts != ("__main__",)]
    assert "zf_pyro.experiments.sweep" in named
    script = f"import sys, zf_pyro.data, zf_pyro.experiments; print(sorted(set({named}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]", "python -m would warn of a module that is imported already"


def outside_imports(path):
    """Top-level packages that a file imports from outside the standard library and this package."""
    nodes = nodes_of(path)
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module]
    return {name.split(".")[0] for name in named} - set(sys.stdlib_module_names) - {"zf_pyro"}


@pytest.mark.skipif(not (ROOT.parent / "pyproject.toml").is_file(), reason="the package is no checkout")
def test_what_is_imported_is_declared_and_the_other_way_round():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    groups = [BUILDING, project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split(r"[\[<>=~! ]", line)[0] for group in groups for line in group} - {"zf-pyro"}
    examples = sorted((ROOT.parent / "examples").glob("*.py"))
    imported = {name for path in (*FILES, *examples) for name in outside_imports(path)} - {p.stem for p in examples}
    assert imported <= set(IMPORT_NAMES), f"say in IMPORT_NAMES which package brings {imported - set(IMPORT_NAMES)}"
    assert {IMPORT_NAMES[name] for name in imported} == declared - UNIMPORTED


def test_extras_are_imported_where_they_are_used():
    core = {"torch", "pyro", "numpy"}
    opened = ("zf_pyro", "zf_pyro.inference", "zf_pyro.evaluation", "zf_pyro.diagnostics.plots", "zf_pyro.models")
    program = f"import sys, torch, pyro, numpy; known = set(sys.modules)\nimport {', '.join(opened)}\n"
    program += f"print(sorted((set(sys.modules) - known) & {set(IMPORT_NAMES) - core}))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# 7. Shapes ----------------------------------------------------------------------------------------------------------

SHAPE = re.compile(
    r"\(\*?(\.\.\.|\d+|\d*\s?[a-z_]+)[^()]*(,|\.\.\.)[^()]*\)|\((\.\.\.|\*?[a-z_]+,)\)|scalar|any shape|of the shape of"
)
"""Shapes in docstrings: (batch, time), (...), "a scalar", "of any shape"."""


def public_functions():
    """Public functions, and methods of public classes, with a tensor among their parameters."""
    for info in pkgutil.walk_packages(zf_pyro.__path__, "zf_pyro."):
        if info.name.endswith(("._compiled", ".building")):
            continue
        module = importlib.import_module(info.name)
        for name, found in vars(module).items():
            if name.startswith("_") or getattr(found, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(found):
                yield f"{module.__name__}.{name}", found, found.__doc__
            elif inspect.isclass(found):
                for member, function in vars(found).items():
                    if member.startswith("_") and member != "__init__":
                        continue
                    function = inspect.unwrap(getattr(function, "__func__", function))
                    if inspect.isfunction(function) and function.__module__ == module.__name__:
                        inherited = inspect.getdoc(getattr(found, member)) or ""
                        text = (function.__doc__ or inherited) + (found.__doc__ or "" if member == "__init__" else "")
                        yield f"{module.__name__}.{name}.{member}", function, text


def takes_a_tensor(function):
    kinds = (str(value) for name, value in inspect.get_annotations(function).items() if name != "return")
    return any(re.search(r"\bTensor\b", kind.replace("torch.Tensor", Tensor.__name__)) for kind in kinds)


def test_every_public_function_of_tensors_states_a_shape():
    silent = [name for name, f, text in public_functions() if takes_a_tensor(f) and not SHAPE.search(text or "")]
    assert silent == []


# 8. Words -----------------------------------------------------------------------------------------------------------


def test_no_module_docstring_opens_with_a_question_word():
    opening = {by_path(path): (ast.get_docstring(parsed(path)) or "").split(" ")[0] for path in FILES}
    assert {path: word for path, word in opening.items() if word in QUESTIONS} == {}


QUESTIONS = ("What", "Which", "Whether", "Where", "How")


def test_every_public_name_is_there():
    for name in zf_pyro.__all__:
        assert getattr(zf_pyro, name) is not None
