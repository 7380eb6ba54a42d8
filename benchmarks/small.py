"""Training steps per second of a small network, the one of examples/quickstart.py, and what a step spends its time on.

    python benchmarks/small.py
    git worktree add ../before COMMIT   # with the extension built there
    python benchmarks/small.py --checkouts '[., ../before]'

Each checkout of the package runs in a process of its own, on one thread. They take turns: medians over the rounds, and
of the ratios of processor time to the first checkout within a round, with their quartiles. Shares are of samples of the
stack, a thousand per second of processor time.
"""

import collections
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import jsonargparse

SEQUENCES = (54, 8, 4, 1)
"""The quickstart's batch, and smaller ones."""
PARTS = (
    ("time loops in C", lambda path, name: path.endswith("engine/machines.py") and name == "run"),
    ("programs of the loops, packed weights", lambda path, _: "/zf_pyro/recurrence/" in path),
    ("optimiser", lambda path, _: "/pyro/optim/" in path or "/torch/optim/" in path),
    (
        "parameters registered, in model and guide",
        lambda path, name: path.endswith("pyro/primitives.py") and name in ("module", "param"),
    ),
)
"""Parts of a step by a frame anywhere in the stack. The innermost frame outside PyTorch decides on the others."""


def new_step(sequences: int) -> Callable[[], object]:
    """A step of SVI under the full objective."""
    import pyro
    import torch
    from pyro.infer import SVI
    from pyro.optim import ClippedAdam

    from zf_pyro import Linear, ZForcing, ZForcingELBO
    from zf_pyro.data import load_vowels
    from zf_pyro.emissions import Gaussian

    torch.set_num_threads(1)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    batch = load_vowels().train.take(torch.arange(sequences))
    net = ZForcing(Gaussian(12), embed_dim=64, hidden_dim=64, latent_dim=16, mlp_dim=64)
    elbo = ZForcingELBO(Linear(0.2, 1.0, 300), aux_weight=Linear(0.05, 0.0, 300))
    svi = SVI(net.model, net.guide, ClippedAdam({"lr": 3e-3, "clip_norm": 10.0}), elbo)
    return lambda: svi.step(batch.x, batch.lengths)


def serve(checkout: Path) -> None:
    """Time as many steps of so many sequences as each line of the input asks for; print seconds of clock and processor.

    Raises:
        ImportError: the package is not that of the checkout.
    """
    import zf_pyro

    if Path(zf_pyro.__file__).parent.parent != checkout:
        raise ImportError(f"checkout must hold the package that is imported, {zf_pyro.__file__}, got {checkout}")
    steps: dict[int, Callable[[], object]] = {}
    for line in sys.stdin:
        sequences, count = map(int, line.split())
        if sequences not in steps:
            steps = {sequences: new_step(sequences)}  # one at a time, since all nets have the same parameters' names
            for _ in range(5):
                steps[sequences]()
        start = time.perf_counter(), time.process_time()
        for _ in range(count):
            steps[sequences]()
        print((time.perf_counter() - start[0]) / count, (time.process_time() - start[1]) / count, flush=True)


def timed(worker: "subprocess.Popen[str]", sequences: int, count: int) -> tuple[float, float]:
    """Seconds of a step in a process: of a clock, and of the processor."""
    if worker.stdin is None or worker.stdout is None:
        raise ValueError("worker must have pipes")
    print(sequences, count, file=worker.stdin, flush=True)
    wall, processor = map(float, worker.stdout.readline().split())
    return wall, processor


def part(frame: FrameType | None) -> str:
    """The part of a step that a stack belongs to."""
    inner = ""
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        for title, found in PARTS:
            if found(path, name):
                return title
        if not inner and "/torch/autograd/" in path:
            inner = "autograd's own operations"
        if not inner and "/pyro/" in path:
            inner = "Pyro's handlers and sites"
        if not inner and "/zf_pyro/" in path:
            inner = "paths, objective, checks of arguments"
        frame = frame.f_back
    return inner or "else"


def shares(sequences: int, seconds: float) -> dict[str, float]:
    """The share of each part in the processor time of steps."""
    step = new_step(sequences)
    for _ in range(5):
        step()
    counts: collections.Counter[str] = collections.Counter()
    signal.signal(signal.SIGPROF, lambda _, frame: counts.update([part(frame)]))
    signal.setitimer(signal.ITIMER_PROF, 1e-3, 1e-3)
    end = time.process_time() + seconds
    while time.process_time() < end:
        step()
    signal.setitimer(signal.ITIMER_PROF, 0.0)
    return {title: count / counts.total() for title, count in counts.most_common()}


def main(checkouts: list[Path] | None = None, rounds: int = 15, smoke: bool = False) -> None:
    """Print the tables.

    Args:
        checkouts: folders that hold a package zf_pyro with its extension; the one of this file if None.
        rounds: rounds of ten steps each.
        smoke: two rounds of two steps, of one size.
    """
    folders = [folder.resolve() for folder in checkouts or [Path(__file__).parent.parent]]
    rounds, count, sizes = (2, 2, SEQUENCES[-1:]) if smoke else (rounds, 10, SEQUENCES)
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, "--serve", str(folder)],
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    for sequences in sizes:
        found: list[list[tuple[float, float]]] = [[] for _ in folders]
        for k in range(rounds):
            for j in range(len(folders))[:: 1 if k % 2 else -1]:
                found[j].append(timed(workers[j], sequences, count))
        for folder, times in zip(folders, found, strict=True):
            wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
            ratios = [mine[1] / first[1] for mine, first in zip(times, found[0], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"{sequences} sequences, {folder.name}: {1 / wall:.1f} steps per second, {1e3 * processor:.1f} ms of a "
                f"processor, {middle:.3f} [{low:.3f}, {high:.3f}] of the first",
                flush=True,
            )
    for worker in workers:
        worker.communicate()
    for sequences in sizes:
        print(f"{sequences} sequences, shares of a step:")
        for title, share in shares(sequences, 0.5 if smoke else 10.0).items():
            print(f"  {title}: {share:.0%}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    else:
        parser = jsonargparse.ArgumentParser()
        parser.add_function_arguments(main, skip={"smoke"})
        parser.add_argument("--smoke", action="store_true", help="Only check that everything runs.")
        main(**parser.parse_args().as_dict())
