"""The C loops by other compilers, without OpenMP, and on an emulated processor: the same values and gradients."""

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zf_pyro.recurrence.engine import encoding, machines, operations
from zf_pyro.recurrence.engine.buffers import Arena, Tape
from zf_pyro.recurrence.engine.machines import PlainMachine
from zf_pyro.recurrence.engine.operations import Instruction, single

from .test_recurrence_machines import DTYPES, NUMBERS, OPERATIONS, assert_close, values

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "zf_pyro" / "recurrence" / "engine" / "c"
COMPILERS = ("gcc", "clang")
TOLERANCES = {torch.float32: 2e-4, torch.float64: 1e-9}
"""Between builds, relative and absolute, as for the sanitisers' comparison: rounding errors grow over the steps."""
compiled = pytest.mark.skipif(machines._compiled is None, reason="no C compiler when zf_pyro was installed")


def build(compiler, folder, **environment):
    """Build the extension as an installation does; returns the file."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no compiler {compiler}")
    setup = "from setuptools import setup; setup()"  # reads pyproject.toml
    command = [
        sys.executable,
        "-c",
        setup,
        "-q",
        "build_ext",
        "--build-lib",
        folder,
        "--build-temp",
        folder / "objects",
    ]
    where = {**os.environ, "CC": compiler, "LDSHARED": f"{compiler} -shared", **environment}
    done = subprocess.run(command, cwd=ROOT, env=where, capture_output=True, text=True, timeout=600, check=False)
    found = list((folder / "zf_pyro" / "recurrence" / "engine").glob("_compiled*"))
    assert done.returncode == 0, done.stderr
    assert found, done.stderr
    return found[0]


def loops(file, folder):
    """What a build says of itself, and the values and gradients of its loops."""
    out = folder / "results.pt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ZF_PYRO_MACHINE": "c"}
    command = [sys.executable, ROOT / "tests" / "built.py", file, out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(out)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The loops of the installed extension."""
    return loops(machines._compiled.__file__, tmp_path_factory.mktemp("installed"))


@pytest.mark.slow
@compiled
@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_compiler_gives_the_same_values_and_gradients(compiler, openmp, tmp_path, installed):
    file = build(compiler, tmp_path, **({} if openmp else {"ZF_PYRO_OPENMP": "0"}))
    (build_of, found), (ours, expected) = loops(file, tmp_path), installed
    assert build_of["COMPILER"].startswith(compiler)
    assert (build_of["THREADED"], build_of["OPTIMISED"]) == (int(openmp), 1)
    assert build_of["LEVELS"] == ours["LEVELS"]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            tolerance = TOLERANCES[value.dtype]
            most = tolerance * max(1.0, float(value.abs().max()))
            torch.testing.assert_close(
                one[name], value, rtol=tolerance, atol=most, msg=lambda text, n=name: f"{n}: {text}"
            )


@pytest.mark.slow
@compiled
@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_build_without_openmp_links_no_threads_and_does_not_fail(compiler, tmp_path):
    """A compiler that refuses -fopenmp, as Apple's does, and any other option, builds all the same."""
    path = shutil.which(compiler)
    if path is None:
        pytest.skip(f"no compiler {compiler}")
    strict = tmp_path / f"{compiler}-strict"
    refused = r"case $option in -fopenmp|-ffp-contract=fast) echo unsupported option $option >&2; exit 1;; esac"
    strict.write_text(f'#!/bin/sh\nfor option in "$@"; do {refused}; done\nexec {path} -O0 "$@"\n')
    strict.chmod(0o755)
    file = build(str(strict), tmp_path / "out")
    (said, _) = loops(file, tmp_path)
    assert (said["THREADED"], said["OPTIMISED"]) == (0, 1)


# An emulated processor ----------------------------------------------------------------------------------------------


def product_cases(dtype, panel, rows):
    """Operands of products, whose weight is packed as on another processor, of packing, and of a sum of outer products;
    with the results, each (out, rows) or larger.
    """
    generator = torch.Generator().manual_seed(rows)
    shapes = (29, 203), (203, rows), (29, rows), (29, 3, rows), (3, rows, 41)
    w, x, y, g, xs = (torch.randn(*s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes)
    packed = torch.zeros(-(-29 // panel), 203 * panel, dtype=dtype)
    blank = torch.zeros_like(packed)
    operations.pack(packed, w)
    yield operations.pack, [blank, w], [packed, w]
    yield operations.product, [y, packed, x], [w @ x, packed, x]
    yield operations.add_product, [y, packed, x], [y + w @ x, packed, x]
    total, inputs = w[:, :41].contiguous(), xs.permute(2, 0, 1)
    yield operations.add_outer, [total, g, inputs], [total + torch.einsum("osr,sri->oi", g, xs), g, inputs]


def cases(panel):
    """Cases of all operations: its operands, a number, and the operands that a plain machine leaves."""
    for dtype in DTYPES.values():
        for name in (*OPERATIONS, *NUMBERS):
            for features, rows in ((1, 1), (5, 3), (7, 16), (12, 33), (37, 50)):
                tensors = values(OPERATIONS.get(name) or NUMBERS[name], features, rows, dtype, 1.5)
                if name == "modulate":  # sums of squares
                    tensors[3].abs_()
                number = 0.7 if name in NUMBERS else None
                operation, expected = getattr(operations, name), [tensor.clone() for tensor in tensors]
                plain = PlainMachine(Tape(Arena(), torch.empty(0, dtype=dtype)))
                plain.prepare([Instruction(operation, tuple(map(single, expected)), number)])(0, 1, 1)
                yield operation, tensors, number, expected
        for rows in (1, 4, 7, 33, 70):
            for operation, tensors, expected in product_cases(dtype, panel, rows):
                yield operation, tensors, None, expected


def encoded(operation, tensors, number, panel):
    """A case as the driver reads it, the places of its operands in memory, and the bytes of that."""
    memory, places = b"", {}
    for tensor in tensors:
        places[tensor.data_ptr()] = len(memory)
        whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy().tobytes()
        memory += whole + b"\0" * (-len(whole) % 64)
    instruction = Instruction(operation, tuple(map(single, tensors)), number)
    number = machines._CODES[operation.__name__]
    code = list(encoding.INSTRUCTION.unpack(encoding.encode(instruction, number, tensors[0].dtype, panel)[0]))
    for k in range(len(tensors)):
        code[6 + 7 * k] = places[code[6 + 7 * k]]
    sizes = struct.pack("2q", tensors[0].dtype == torch.float64, len(memory))
    return sizes + encoding.INSTRUCTION.pack(*code) + memory, list(places.values()), len(memory)


@pytest.mark.slow
@compiled
def test_all_operations_on_an_emulated_arm_processor(tmp_path):
    """The C core without Python, cross-compiled for aarch64, on recorded operands."""
    compiler, emulator = "aarch64-linux-gnu-gcc", "qemu-aarch64"
    for program in (compiler, emulator):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")
    driver, inputs = tmp_path / "driver", tmp_path / "cases"
    options = [
        "-O3",
        "-ffp-contract=fast",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-Wall",
        "-Wno-unused-variable",
        "-Werror",
    ]
    command = [compiler, *options, "-static", f"-I{SOURCE}", ROOT / "tests" / "other_processor.c", "-lm", "-o", driver]
    subprocess.run(command, check=True, timeout=600)
    said = subprocess.run([emulator, driver], capture_output=True, text=True, check=True).stdout
    assert said == "1 NEON 12\n"
    panel, expected = int(said.split()[2]), []
    with inputs.open("wb") as file:
        for operation, tensors, number, wanted in cases(panel):
            text, offsets, size = encoded(operation, tensors, number, panel)
            file.write(text)
            expected.append((operation, offsets, size, wanted))
    memory = subprocess.run([emulator, driver, inputs], capture_output=True, check=True, timeout=600).stdout
    assert len(memory) == sum(size for _, _, size, _ in expected)
    start = 0
    for _, offsets, size, wanted in expected:
        dtype, found = wanted[0].dtype, []
        for offset, tensor in zip(offsets, wanted, strict=True):
            whole = bytearray(memory[start + offset : start + offset + tensor.numel() * tensor.element_size()])
            found.append(torch.frombuffer(whole, dtype=dtype).as_strided(tensor.shape, tensor.stride()))
        assert_close(found, wanted, dtype)
        start += size
    vectors = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", driver], capture_output=True, text=True, check=True
    ).stdout
    assert len(re.findall(r"\sfmla\s+v\d+\.4s", vectors)) > 100
