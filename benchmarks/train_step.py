"""Time of one training step, forward and backward, against hand-written PyTorch and the textbook Pyro program.

    python benchmarks/train_step.py                       # all three workloads, growth in T, peak memory
    python benchmarks/train_step.py --work timit --rounds 9
    python benchmarks/train_step.py --apart true          # each contender in a process of its own
    python benchmarks/train_step.py --device cuda

Contenders are interleaved and paired by round:

    (a) a hand-written loop in the form of the paper's released code     full objective (with auxiliary and backward)
    (b) the textbook Pyro program under TraceMeanField_ELBO              ELBO
    (c) this package under TraceMeanField_ELBO                           ELBO
    (d) this package under ZForcingELBO                                  full objective
    (e) the same as CUDA graphs (GraphedELBO), on a GPU                  full objective
    (i) graphs with the loops on the fused machine (Triton), on a GPU    full objective

The ratios a / d, a / e, e / i and b / c compare equal work. Because machines are noisy, medians of ratios within a
round are printed, with their quartiles. The floor is the time that the floating-point operations of the full objective
take at the speed of a large matrix product, measured in the same rounds.

In one process the contenders share the C library's heap, which favours (a): each step of its backward pass allocates a
tensor as large as the sequence, and reuses pages that (b), (c) and (d) freed. With ``--apart true`` each contender has
its own process, as in real training. Rounds are still interleaved and paired.
"""

import math
import multiprocessing
import pathlib
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

import jsonargparse
import pyro
import torch
from fused_machine import on_the_fused_machine
from pyro.infer import TraceMeanField_ELBO
from released_form import released_form_loss
from textbook import Textbook

from zf_pyro import ZForcing, ZForcingELBO, emissions
from zf_pyro.objectives import GraphedELBO
from zf_pyro.paths import PosteriorPath

WEIGHTS = (1.0, 0.1, 0.1)
"""Weights of KL, auxiliary and backward terms in the full objective."""


class Work(NamedTuple):
    """Sizes of a training step."""

    num_steps: int
    batch_size: int
    frame_dim: int
    embed_dim: int
    hidden_dim: int
    latent_dim: int
    mlp_dim: int


# Embedding and MLP have half the hidden size, the paper's ratio.
WORKS = {
    "timit": Work(40, 32, 200, 512, 1024, 256, 512),
    "mnist_128": Work(784, 32, 1, 64, 128, 32, 64),
    "mnist_512": Work(784, 32, 1, 256, 512, 64, 256),
}
TINY = Work(4, 2, 1, 4, 4, 2, 4)
FUSED_GOALS = {"timit": 2.0, "mnist_128": 4.0, "mnist_512": 3.0}
"""Goals of e / i on an H100."""
GOALS = {"timit": (1.4, 1.9), "mnist_128": (3.0, 3.0), "mnist_512": (4.5, 4.0)}


def operations(work: Work) -> float:
    """Floating-point operations of the matrix products in the full objective, forward and backward.

    A product of (rows, in) with (in, out) takes 2 * rows * in * out operations. It counts three times: forward, and for
    both gradients. The embeddings of x and of u count twice, as frames need no gradient.
    """
    f, e, h, z, m = work[2:]
    thrice = (
        (e + h) * 4 * h  # the backward LSTM
        + e * 4 * h + h * 4 * h + z * m + m * 8 * h  # the cell and its modulation
        + h * m + m * 2 * z  # prior
        + 2 * h * m + m * 2 * z  # posterior
        + (z + h) * m + m * 2 * h  # auxiliary
        + 2 * h * 2 * f  # emission, and the backward RNN's
    )  # fmt: skip
    return 2.0 * work.num_steps * work.batch_size * (3 * thrice + 2 * 2 * f * e)


def contenders(work: Work, device: str) -> dict[str, Callable[[], object]]:
    """Training steps on one model by contender, each of which leaves gradients."""
    torch.manual_seed(0)
    sizes = {"embed_dim": work.embed_dim, "hidden_dim": work.hidden_dim, "latent_dim": work.latent_dim}
    net = ZForcing(emissions.Gaussian(work.frame_dim), **sizes, mlp_dim=work.mlp_dim).to(device)
    x = torch.randn(work.batch_size, work.num_steps, work.frame_dim, device=device)
    noise = torch.randn(work.num_steps, work.batch_size, work.latent_dim, device=device)
    textbook, stock, full = Textbook(net), TraceMeanField_ELBO(), ZForcingELBO(*WEIGHTS)
    graphed, fused = (GraphedELBO(full, bucket=1) for _ in range(2))
    steps: dict[str, Callable[[], object]] = {
        "a": lambda: released_form_loss(net, x, noise, *WEIGHTS).backward(),
        "b": lambda: stock.loss_and_grads(textbook.model, textbook.guide, x),
        "c": lambda: stock.loss_and_grads(net.model, net.guide, x),
        "d": lambda: full.loss_and_grads(net.model, net.guide, x),
        "clear": lambda: (net.zero_grad(), pyro.clear_param_store()),
    }
    if device == "cuda":
        steps["e"] = lambda: graphed.loss_and_grads(net.model, net.guide, x)
        steps["i"] = on_the_fused_machine(lambda: fused.loss_and_grads(net.model, net.guide, x))
    return steps


def keys(device: str) -> str:
    """Contenders on a device."""
    return "abcdei" if device == "cuda" else "abcd"


def seconds(function: Callable[[], object], device: str) -> float:
    """Wall time of one call, in seconds."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def product_rate(device: str, size: int) -> float:
    """Floating-point operations per second of a square matrix product."""
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    return 5 * 2.0 * size**3 / seconds(lambda: [a @ b for _ in range(5)], device)


def pyro_seconds(step: Callable[[], object]) -> float:
    """Seconds of one call in Pyro's sample and param statements, without the scan that the guide runs inside one."""
    spent = [0.0]

    def timed(function: Callable, sign: float) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[0] += sign * (time.perf_counter() - start)

        return call

    sample, param, draw = pyro.sample, pyro.param, PosteriorPath.draw
    pyro.sample, pyro.param = timed(sample, 1.0), timed(param, 1.0)
    PosteriorPath.draw = timed(draw, -1.0)  # type: ignore[method-assign]
    try:
        step()
    finally:
        pyro.sample, pyro.param = sample, param
        PosteriorPath.draw = draw  # type: ignore[method-assign]
    return spent[0]


def serve(connection: Connection, key: str, work: Work, device: str, threads: int) -> None:
    """Time one contender in this process on request, until told to stop."""
    torch.set_num_threads(threads)
    pyro.enable_validation(False)
    steps = contenders(work, device)
    while connection.recv():
        steps["clear"]()
        connection.send(seconds(steps[key], device))


class Apart:
    """Contenders in a separate process each."""

    def __init__(self, work: Work, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connections = {}
        for key in keys(device):
            self.connections[key], theirs = context.Pipe()
            context.Process(
                target=serve, args=(theirs, key, work, device, torch.get_num_threads()), daemon=True
            ).start()

    def seconds(self, key: str) -> float:
        """Wall time of one step, in seconds."""
        self.connections[key].send(True)
        return self.connections[key].recv()

    def stop(self) -> None:
        """End the processes."""
        for connection in self.connections.values():
            connection.send(False)


def compare(name: str, work: Work, rounds: int, device: str, apart: bool, product_size: int) -> None:
    """Print the paired ratios of one workload."""
    steps = contenders(work, device)
    processes = Apart(work, device) if apart else None
    times: dict[str, list[float]] = {key: [] for key in keys(device)}
    rates = []
    for _ in range(rounds + 1):
        rates.append(product_rate(device, product_size))
        for key, record in times.items():
            steps["clear"]()
            record.append(processes.seconds(key) if processes else seconds(steps[key], device))
    rates, times = rates[1:], {key: record[1:] for key, record in times.items()}  # the first round warms up
    if processes:
        processes.stop()
    print(f"\n{name}: {work}{', each contender in its own process' if apart else ''}")
    print("  median seconds  " + "  ".join(f"({key}) {statistics.median(t):.3f}" for key, t in times.items()))
    pairs = {"ad": f"goal {GOALS[name][0]}", "bc": f"goal {GOALS[name][1]}"}
    if device == "cuda":  # the other goals are for CPUs
        pairs = {"ad": "", "ae": "", "ei": f"goal {FUSED_GOALS[name]}", "bc": ""}
    for (slow, fast), goal in pairs.items():
        ratios = sorted(s / f for s, f in zip(times[slow], times[fast], strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
        print(f"  ({slow}) / ({fast})       {middle:.2f}  [{low:.2f}, {high:.2f}]  {goal}")
    floors = [operations(work) / rate for rate in rates]
    share = statistics.median(f / t for f, t in zip(floors, times["d"], strict=True))
    rate = statistics.median(rates) / 1e9
    print(f"  (d) at {100 * share:.0f} % of the floor: {operations(work) / 1e9:.0f} GFLOP at {rate:.0f} GFLOP/s")
    pyros = statistics.median(pyro_seconds(steps["d"]) / seconds(steps["d"], device) for _ in range(3))
    print(f"  (d) spends {100 * pyros:.0f} % of its time in Pyro's own Python")


def peak_bytes(key: str, work: Work, device: str) -> int:
    """Peak memory of training steps beyond what was allocated before, in bytes; needs a fresh process."""
    pyro.enable_validation(False)
    steps = contenders(work, device)
    if device == "cuda":
        steps[key]()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        steps[key]()
        return torch.cuda.max_memory_allocated() - before
    before = resident_bytes("VmRSS")
    for _ in range(3):
        steps["clear"]()
        steps[key]()
    return max(1, resident_bytes("VmHWM") - before)  # tiny steps may fit into memory that was free


def resident_bytes(field: str) -> int:
    """Resident memory of this process, now (VmRSS) or at its peak (VmHWM), in bytes; Linux only."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def exponent(lengths: list[int], values: list[float]) -> float:
    """Slope of log value against log length by least squares."""
    return statistics.linear_regression(*([math.log(v) for v in column] for column in (lengths, values))).slope


def growth(work: Work, lengths: list[int], rounds: int, device: str) -> None:
    """Print how time and peak memory grow with T."""
    steps = [contenders(work._replace(num_steps=t), device) for t in lengths]
    times = [[seconds(step["d"], device) for step in steps if step["clear"]() or True] for _ in range(rounds + 1)][1:]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    print(f"\ngrowth from T = {lengths[0]} to {lengths[-1]}, hidden {work.hidden_dim}")
    rounded = [round(m, 3) for m in medians]
    print(f"  (d) seconds {rounded}  exponent {exponent(lengths, medians):.2f}  goal at most 1.05")
    memory: dict[str, list[float]] = {}
    threads = (torch.get_num_threads(),)
    for key in "ad":
        memory[key] = []
        for t in lengths:
            with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, threads) as pool:
                memory[key].append(pool.apply(peak_bytes, (key, work._replace(num_steps=t), device)))
    for key, peaks in memory.items():
        print(f"  ({key}) MiB {[round(m / 2**20) for m in peaks]}  exponent {exponent(lengths, peaks):.2f}")
    print(f"  memory (d) / (a) at T = {lengths[-1]}: {memory['d'][-1] / memory['a'][-1]:.2f}  goal at most 1.1")


def main(work: str = "all", rounds: int = 7, device: str = "cpu", apart: bool = False, smoke: bool = False) -> None:
    """Compare training steps.

    Args:
        work: A workload (timit, mnist_128, mnist_512), "growth" for growth with T, or "all".
        rounds: Timed rounds, after one warm-up round.
        device: cpu or cuda.
        apart: Run each contender in its own process.
        smoke: Only check that everything runs, at tiny sizes; the results are meaningless.
    """
    if work not in (*WORKS, "growth", "all"):
        raise ValueError(f"work must be one of {[*WORKS, 'growth', 'all']}, got {work!r}")
    works, lengths, product_size = WORKS, [98, 196, 392, 784], 2048
    if smoke:
        torch.set_num_threads(1)
        rounds, works, lengths, product_size = 1, dict.fromkeys(WORKS, TINY), [2, 4], 64
    pyro.enable_validation(False)
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}; torch {torch.__version__}, pyro {pyro.__version__}")
    for key, sizes in works.items():
        if work in (key, "all"):
            compare(key, sizes, rounds, device, apart, product_size)
    if work in ("growth", "all"):
        growth(works["mnist_128"], lengths, rounds, device)


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    main(**parser.parse_args().as_dict())
