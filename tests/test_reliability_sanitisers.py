"""No C loop leaves its operands or relies on undefined behaviour: a build with the compiler's sanitisers says so."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from zf_pyro.recurrence.engine import machines

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "zf_pyro" / "recurrence" / "engine" / "c"
COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
FLAGS = [
    *("-shared", "-fPIC", "-fopenmp", "-O0", "-g1", "-fno-omit-frame-pointer", "-Wno-psabi"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
]
"""Unoptimised, which compiles in a tenth of the time: what is read and written is the same."""
SHAPES = 210
WHERE = {"ASAN_OPTIONS": "detect_leaks=0:redzone=128:max_redzone=2048", "UBSAN_OPTIONS": "print_stacktrace=1"}
"""Leaks of Python itself are none of ours. Wide zones around allocations catch writes far beyond an end."""

FAULTS = {
    "one element too many": (
        *("vectors.h", "const long count = (width) - n;", "const long count = (width) - n + 1;"),
        "AddressSanitizer: (heap-buffer-overflow|unknown-crash)",  # the latter for a vector across the end
    ),
    "columns that x does not have": (
        *("products.h", "to[c] = c < columns ? x[c] : 0;", "to[c] = x[c];"),
        "heap-buffer-overflow",
    ),
    "too little room on the stack": (
        *("products.h", "REAL values[PANEL][TILE];", "REAL values[PANEL][TILE - 1];"),
        "overflows this variable",
    ),
    "vectors that must be aligned": (
        *("vectors.h", "aligned(sizeof(REAL)), ", ""),
        "misaligned address",
    ),
    "an integer that overflows": (
        *("numbers.h", "k = shifted - MAGIC;", "k = shifted - MAGIC; volatile int most = 2147483647; most++;"),
        "signed integer overflow",
    ),
}
"""Faults to put into a copy of the sources: the file, what stands there, what replaces it, and the expected report."""


def library(name):
    """The compiler's own copy of a shared library; None if there is none."""
    found = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=False)
    path = Path(found.stdout.strip())
    return path if found.returncode == 0 and path.is_absolute() and path.is_file() else None


@pytest.fixture(scope="module")
def preloaded():
    """The libraries that a process must preload."""
    if machines._compiled is None:
        pytest.skip("no C compiler when zf_pyro was installed")
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no C compiler {COMPILER!r}")
    libraries = [library(name) for name in ("libasan.so", "libstdc++.so.6")]
    if not sys.platform.startswith("linux") or None in libraries:
        pytest.skip(f"{COMPILER} has no sanitisers that a process could preload (libasan.so)")
    return " ".join(map(str, libraries))


def build(source, out):
    """Compile a machine with sanitisers, and otherwise with the flags of the package but for its optimisation."""
    extension = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"][0]
    flags = [flag for flag in extension["extra-compile-args"] if not flag.startswith("-O")]
    include = sysconfig.get_path("include")
    command = [COMPILER, *flags, *FLAGS, f"-I{include}", source / "machine.c", "-o", out]
    subprocess.run(command, check=True, timeout=300)


def broken_copy(name, folder):
    """A copy of the sources with a fault, at the plainest level alone, which every processor has."""
    file, before, after, _ = FAULTS[name]
    shutil.copytree(SOURCE, folder)
    text = (folder / file).read_text()
    assert before in text, f"{file} has changed: choose another place for the fault"
    (folder / file).write_text(text.replace(before, after))
    levels = (folder / "levels.h").read_text()
    (folder / "levels.h").write_text(levels.replace("#ifdef __x86_64__", "#if 0"))


def run(folder, jobs, preloaded):
    """Run jobs of sanitised.py; returns the output of each."""
    environment = {**os.environ, **WHERE, "LD_PRELOAD": preloaded, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "tests" / "sanitised.py", folder, *(":".join(map(str, job)) for job in jobs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [(folder / f"{name}-{first}.txt").read_text() for name, first, _ in jobs]


@pytest.mark.slow
def test_no_loop_of_random_shapes_leaves_its_operands_at_any_level(tmp_path, preloaded):
    build(SOURCE, tmp_path / "clean.so")
    half, levels = SHAPES // 2, len(machines._compiled.PANELS)
    texts = run(tmp_path, [("clean", 0, half), ("clean", half, half)], preloaded)
    for first, text in zip((0, half), texts, strict=True):
        float32 = len(range(first + first % 2, first + half, 2))  # shapes with even numbers
        runs = half * levels + float32 * machines._compiled.BFLOAT16
        assert text == f"{runs} runs at {levels} levels\n", "\n".join(texts)


@pytest.mark.slow
def test_the_sanitisers_report_faults_that_are_put_in(tmp_path, preloaded):
    names = {f"fault{k}": name for k, name in enumerate(FAULTS)}
    for file, name in names.items():
        broken_copy(name, tmp_path / file)
        build(tmp_path / file, tmp_path / f"{file}.so")
    texts = run(tmp_path, [(file, 0, 6) for file in names], preloaded)
    for name, text in zip(names.values(), texts, strict=True):
        assert re.search(FAULTS[name][-1], text), f"{name} was not reported:\n{text}"
