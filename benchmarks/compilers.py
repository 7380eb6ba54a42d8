"""Time of a training step with the C loops of several builds, such as those of two compilers.

    build='from setuptools import setup; setup()'
    CC=gcc python -c "$build" build_ext --build-lib built/gcc
    CC=clang LDSHARED='clang -shared' python -c "$build" build_ext --build-lib built/clang
    python benchmarks/compilers.py --builds '[built/gcc, built/clang]' --work hidden_128

Builds take turns in one process, on one thread. Processor time is compared, which other programs on the machine change
little; medians of the ratios to the first build within a round are printed, with their quartiles.
"""

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jsonargparse
import torch

from zf_pyro import State, ZForcing, emissions

WORKS = {"hidden_128": (32, 1, 128, 32, 40), "hidden_512": (32, 1, 512, 64, 12), "hidden_1024": (32, 200, 1024, 256, 5)}
"""Sequences, frame, hidden, latent, and time steps: the works of train_step.py, shorter."""


def loaded(folder: Path) -> ModuleType:
    """The extension of a build, under a name of its own."""
    (file,) = folder.rglob("_compiled*.so")
    spec = importlib.util.spec_from_file_location(f"build{abs(hash(folder))}._compiled", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no extension module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def new_step(work: str) -> Callable[[], object]:
    """A function that runs all loops of a network, forward and backward."""
    batch, frame, hidden, latent, num_steps = WORKS[work]
    torch.manual_seed(0)
    half = hidden // 2
    net = ZForcing(
        emissions.Gaussian(frame), embed_dim=half, hidden_dim=hidden, latent_dim=latent, mlp_dim=half, z_force=True
    )
    x, noise = torch.randn(batch, num_steps, frame), torch.randn(num_steps, batch, latent)

    def step() -> object:
        start = State(*(torch.zeros(batch, hidden) for _ in range(2)))
        b = net.backward_states(x, None)
        scan = net.scan_posterior(start, net.inputs(x).transpose(0, 1), b, noise)
        prior = net.scan_prior(scan.before).base_dist
        auxiliary = net.scan_auxiliary(scan.z, scan.before, b.detach())
        (scan.z.sum() + scan.loc.sum() + prior.loc.sum() + prior.scale.sum() + auxiliary.sum()).backward()
        return net.zero_grad()

    return step


def main(builds: list[Path] | None = None, work: str = "hidden_128", rounds: int = 25, smoke: bool = False) -> None:
    """Print medians.

    Args:
        builds: folders with an extension in each; None for the installed one alone.
        work: hidden_128, hidden_512 or hidden_1024.
        rounds: steps of each build.
        smoke: two rounds.
    """
    machines = importlib.import_module("zf_pyro.recurrence.engine.machines")  # whose C loops are replaced
    builds, rounds = builds or [Path(machines._compiled.__file__).parent], 2 if smoke else rounds
    os.environ["ZF_PYRO_MACHINE"] = "c"  # builds from older sources, too
    torch.set_num_threads(1)
    modules, step = [loaded(folder) for folder in builds], new_step(work)
    seconds: list[list[float]] = [[] for _ in builds]
    for k in range(rounds + 1):
        for j in range(len(builds)):
            j = j if k % 2 else len(builds) - 1 - j
            machines._compiled = modules[j]
            start = time.process_time()
            step()
            if k:  # the first round warms up
                seconds[j].append(time.process_time() - start)
    for folder, module, column in zip(builds, modules, seconds, strict=True):
        low, middle, high = statistics.quantiles([a / b for a, b in zip(column, seconds[0], strict=True)], n=4)
        about = f"{getattr(module, 'COMPILER', '')}, {statistics.median(column):.3f} s"
        print(f"{work} {folder} ({about}): {middle:.3f} [{low:.3f}, {high:.3f}] of the first", flush=True)


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, in two rounds.")
    main(**parser.parse_args().as_dict())
