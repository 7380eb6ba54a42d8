"""Each extra alone suffices for what its page shows: nothing else that is installed can be imported."""

import importlib.metadata
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAMS = {
    "": """
        import pyro, torch
        from pyro.infer import SVI
        from zf_pyro import Linear, ZForcing, ZForcingELBO, emissions, to_arviz
        from zf_pyro.evaluation import bounds
        from zf_pyro.inference import ParticleFilter

        x = torch.randn(4, 6, 3)
        net = ZForcing(emissions.Gaussian(3), embed_dim=8, hidden_dim=8, latent_dim=2, mlp_dim=8)
        svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), ZForcingELBO(Linear(0.2, 1.0, 5)))
        svi.step(x)
        bounds(net, x, num_particles=2)
        ParticleFilter(net, 4).run(x)
        net.generate(2, 4)
        to_arviz(net.eval(), x, num_samples=4)
        """,
    "data": """
        from zf_pyro.data import load_digits, load_polyphonic, write_midi
        from zf_pyro.data.prepare import main

        main(["digits", "--out", "digits"])
        music = load_polyphonic("jsb")
        write_midi("one.mid", music.train[0])
        """,
    "diagnostics": """
        import matplotlib
        matplotlib.use("Agg")
        import torch
        from zf_pyro import ZForcing, diagnostics, emissions, to_arviz
        from zf_pyro.diagnostics import plots

        x = torch.randn(6, 6, 3)
        net = ZForcing(emissions.Gaussian(3), embed_dim=8, hidden_dim=8, latent_dim=2, mlp_dim=8)
        data = to_arviz(net.eval(), x, num_samples=30)
        plots.plot_khat(diagnostics.check_weights(data))
        plots.plot_kl(diagnostics.latent_use(net, x))
        data.to_netcdf("data.nc")
        """,
    "training": """
        import pyro, torch
        from zf_pyro import ZForcing, ZForcingELBO, emissions
        from zf_pyro.data import LengthBatches, Loader
        from zf_pyro.training import Training, fit

        frames = [torch.randn(6, 3) for _ in range(4)]
        net = ZForcing(emissions.Gaussian(3), embed_dim=8, hidden_dim=8, latent_dim=2, mlp_dim=8)
        module = Training(net.model, net.guide, ZForcingELBO(), pyro.optim.Adam({"lr": 1e-3}))
        fit(module, Loader(frames, LengthBatches([6] * 4, 2)), out="run", max_steps=2, progress=False)
        net.save("net")
        ZForcing.load("net")
        """,
    "series": """
        import pandas as pd
        from zf_pyro import ZForcing, emissions
        from zf_pyro.data import from_dataframe
        from zf_pyro.evaluation import ETS, backtest

        table = pd.DataFrame({"hour": range(40), "load": [float(i % 7) for i in range(40)]})
        data = from_dataframe(table, time="hour", values=["load"])
        batch = data.batch()
        net = ZForcing(emissions.Gaussian(1), embed_dim=8, hidden_dim=8, latent_dim=2, mlp_dim=8)
        net.eval().forecast(batch.x, batch.lengths, horizon=3, num_samples=4)
        table.to_parquet("table.parquet")
        """,
    "search": """
        import pandas as pd
        from zf_pyro.experiments import main

        table = pd.DataFrame({"id": [i // 9 for i in range(90)], "load": [float(i % 7) for i in range(90)]})
        table.to_csv("table.csv", index=False)
        main(["prepare", "table.csv", "--sequence", "id", "--values", "load", "--out", "prepared"])
        main(["train", "prepared", "--smoke", "--device", "cpu", "--out", "run"])
        space, flags = '{"hidden_dim":[4,6]}', '{"smoke":true,"device":"cpu"}'
        main(["search", "prepared", "--space", space, "--flags", flags, "--trials", "1", "--out", "search"])
        """,
    "tensorboard": """
        from pathlib import Path
        import pyro, torch
        from zf_pyro import ZForcing, ZForcingELBO, emissions
        from zf_pyro.data import LengthBatches, Loader
        from zf_pyro.training import Training, fit

        frames = [torch.randn(6, 3) for _ in range(4)]
        net = ZForcing(emissions.Gaussian(3), embed_dim=8, hidden_dim=8, latent_dim=2, mlp_dim=8)
        module = Training(net.model, net.guide, ZForcingELBO(), pyro.optim.Adam({"lr": 1e-3}))
        loader = Loader(frames, LengthBatches([6] * 4, 2))
        fit(module, loader, out="run", max_steps=2, progress=False, logger="tensorboard")
        assert list(Path("run").rglob("events.out.tfevents.*"))
        """,
    "export": """
        import numpy as np
        from onnxruntime import InferenceSession
        from zf_pyro import ZForcing, emissions, export_step

        net = ZForcing(emissions.Gaussian(3), embed_dim=8, hidden_dim=8, latent_dim=2, mlp_dim=8).eval()
        export_step(net, "generation", format="onnx").save("step.onnx")
        assert InferenceSession("step.onnx", providers=["CPUExecutionProvider"]).get_inputs()
        """,
    "examples": """
        import importlib, sys
        from pathlib import Path

        sys.path.insert(0, f"{ROOT}/examples")
        names = [script.stem for script in Path(ROOT, "examples").glob("*.py")]
        assert "quickstart" in names
        for name in names:
            importlib.import_module(name)
        """,
    "docs": """
        import importlib, runpy, sys

        site = runpy.run_path(f"{ROOT}/docs/conf.py")
        for name in (*site["extensions"], site["html_theme"], "notebooks"):
            importlib.import_module(name)
        """,
}
"""What the page of an extra shows, in short, by the extra; "" for the core alone."""
UNSHOWN = {"benchmarks", "browser", "gpu-test", "test"}
"""Extras of measurements and tests, which these themselves need."""
BLOCKER = """
import importlib.machinery, sys


class Bare(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            return None
        return super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Bare
"""
"""Hides what another extra brought: it is found by nobody, as if it were not installed."""


def needed_by(extra):
    """Distributions that ``pip install zf-pyro[extra]`` brings."""
    found, open_ = set(), [("zf-pyro", extra)]
    while open_:
        name, part = open_.pop()
        if (name, part) in found:
            continue
        found.add((name, part))
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform or another version of Python
            continue
        for line in map(Requirement, lines):
            if line.marker is None or line.marker.evaluate({"extra": part}):
                parts = line.extras or {""}
                open_ += [(canonical(line.name), inner) for inner in {*parts, ""}]
    return {name for name, _ in found}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def run_with(extra, program, folder):
    """Run a program in a folder, as if the core and this extra alone were installed; returns what ended."""
    needed = needed_by(extra)
    brought = importlib.metadata.packages_distributions()
    blocked = {top for top, names in brought.items() if not needed & {canonical(name) for name in names}}
    blocked -= {"setuptools", "pkg_resources", "_distutils_hack", "pip"}  # of every environment
    start = f"BLOCKED = {sorted(blocked)!r}\nROOT = {str(ROOT)!r}\n{BLOCKER}\n"
    command = [sys.executable, "-c", start + textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("extra", PROGRAMS, ids=lambda extra: extra or "core")
def test_an_extra_alone_suffices_for_its_page(extra, tmp_path):
    installed = {canonical(one.name) for one in importlib.metadata.distributions()}
    asked = {Requirement(line).name for line in PROJECT["optional-dependencies"].get(extra, ())}
    if missing := sorted(name for name in asked if canonical(name) not in installed):
        pytest.skip(f"{', '.join(missing)} not installed: pip install zf-pyro[{extra}]")
    run = run_with(extra, PROGRAMS[extra], tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]


def test_every_extra_that_users_install_has_a_program():
    assert PROGRAMS.keys() - {""} == PROJECT["optional-dependencies"].keys() - UNSHOWN


def test_the_command_line_of_the_core_shows_what_is_installed_and_says_what_else_it_needs(tmp_path):
    """Each of the others ends with one line and the status of a wrong command line."""
    program = """
        import importlib
        from zf_pyro.experiments import commands

        commands.main(["info"])
        others = [[name] for name in commands.COMMANDS if name != "info"]
        refused = [("commands", words) for words in ([], ["--help"], ["info", "--help"], ["prepare", "timit"], *others)]
        refused += [(name, []) for name in ("figure", "paired", "sweep", "table")]
        for name, words in refused:
            try:
                importlib.import_module(f"zf_pyro.experiments.{name}").main(words)
            except SystemExit as ended:
                assert ended.code == 2, words
            else:
                raise AssertionError(f"{name} {words} ended well")
        print(len(refused), "refused")
        """
    run = run_with("", program, tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "time loops" in run.stdout
    refused = run.stderr.splitlines()
    assert run.stdout.splitlines()[-1] == f"{len(refused)} refused"
    words = r"error: the command line needs jsonargparse: pip install zf-pyro\[(series|data|examples)\]"
    assert [line for line in refused if not re.fullmatch(words, line)] == []


def test_the_core_is_what_training_needs():
    """A guard for the README: the core stays small."""
    core = {Requirement(line).name for line in importlib.metadata.requires("zf-pyro") if "extra" not in line}
    assert core == {"torch", "pyro-ppl", "numpy", "arviz"}
