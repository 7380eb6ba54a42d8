"""Each extra alone suffices for what its page shows: nothing else that is installed can be imported."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
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
    "search": "import optuna\n",
}
"""What the page of an extra shows, in short, by the extra; "" for the core alone."""
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


@pytest.mark.slow
@pytest.mark.parametrize("extra", PROGRAMS, ids=lambda extra: extra or "core")
def test_an_extra_alone_suffices_for_its_page(extra, tmp_path):
    needed = needed_by(extra)
    brought = importlib.metadata.packages_distributions()
    blocked = {top for top, names in brought.items() if not needed & {canonical(name) for name in names}}
    blocked -= {"setuptools", "pkg_resources", "_distutils_hack", "pip"}  # of every environment
    lines = PROGRAMS[extra].splitlines()
    program = "\n".join(line.removeprefix(" " * 8) for line in lines)
    run = subprocess.run(
        [sys.executable, "-c", f"BLOCKED = {sorted(blocked)!r}\n{BLOCKER}\n{program}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_the_core_is_what_training_needs():
    """A guard for the README: the core stays small."""
    core = {Requirement(line).name for line in importlib.metadata.requires("zf-pyro") if "extra" not in line}
    assert core == {"torch", "pyro-ppl", "numpy", "arviz"}
