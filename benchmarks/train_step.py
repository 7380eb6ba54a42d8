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
    (f) a careful loop written by hand in PyTorch (careful.py)           full objective
    (g) the same under torch.compile (compiled.py)                       full objective
    (h) the same in JAX, lax.scan with deferred weight gradients         full objective
    (i) graphs with the loops on the fused machine (Triton), on a GPU    full objective
    (j) graphs with each loop in one kernel, on a GPU                    full objective
    (k) the same without graphs                                          full objective

(g) compiles the whole time loop if that ends within ``--limit`` seconds in a process of its own, else one step of it;
the table says which. (h) needs the extra ``benchmarks`` and a CPU.

The ratios f / d, g / d, h / d, a / d, those to e, and b / c compare equal work. Because machines are noisy, medians of
ratios within a round are printed, with their quartiles. The floor is the time that the floating-point operations of the
full objective take at the speed of a large matrix product, measured in the same rounds.

In one process the contenders share the C library's heap, which favours (a): each step of its backward pass allocates a
tensor as large as the sequence, and reuses pages that (b), (c) and (d) freed. With ``--apart true`` each contender has
its own process, as in real training. Rounds are still interleaved and paired.
"""

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import cache, partial

import jsonargparse
import pyro
import torch
from compiled import choose, fresh_cache
from contenders import TINY, WORKS, Peer, Work, compiled_step, contenders, has_jax, keys
from measuring import Apart, peak_bytes, seconds

from zf_pyro.paths import PosteriorPath

GOALS = {
    "timit": {"fd": 2.2, "hd": 2.0, "ad": 1.4, "bc": 1.9},
    "mnist_128": {"fd": 4.5, "hd": 3.5, "ad": 3.0, "bc": 3.0},
    "mnist_512": {"fd": 3.3, "hd": 2.5, "ad": 4.5, "bc": 4.0},
}
"""Goals of ratios on two cores of a CPU."""
FUSED_GOALS = {"timit": 2.0, "mnist_128": 4.0, "mnist_512": 3.0}
"""Goals of e / i and of e / j on an H100."""
PAIRS = ("fd", "gd", "hd", "ad", "ae", "fe", "ge", "ei", "ej", "ek", "bc")
"""Ratios that are printed: those of the careful loops first."""


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


@cache
def compiled_form(work: Work, device: str, backend: str, limit: float) -> tuple[str | None, str]:
    """What contender (g) compiles at these sizes, and why; tried once."""
    return choose(partial(compiled_step, work, device, backend), limit)


def compare(
    name: str, work: Work, rounds: int, device: str, apart: bool, product_size: int, backend: str, limit: float
) -> None:
    """Print the paired ratios of one workload."""
    print(f"\n{name}: {work}{', each contender in its own process' if apart else ''}")
    form, found = compiled_form(work, device, backend, limit)
    print(f"  (g) {found}{'' if form else ': left out'}")
    if not has_jax(device):
        print(f"  (h) left out: {'it runs on CPUs' if device == 'cuda' else 'jax is missing (the extra benchmarks)'}")
    peer = Peer(form, backend)
    steps = contenders(work, device, peer)
    processes = Apart(work, device, peer) if apart else None
    times: dict[str, list[float]] = {key: [] for key in keys(device, peer)}
    rates = []
    for _ in range(rounds + 1):
        rates.append(product_rate(device, product_size))
        for key, record in times.items():
            steps["clear"]()
            record.append(processes.seconds(key) if processes else seconds(steps[key], device))
    rates, times = rates[1:], {key: record[1:] for key, record in times.items()}  # the first round warms up
    if processes:
        processes.stop()
    print("  median seconds  " + "  ".join(f"({key}) {statistics.median(t):.3f}" for key, t in times.items()))
    for slow, fast in PAIRS:
        if slow not in times or fast not in times:
            continue
        ratios = sorted(s / f for s, f in zip(times[slow], times[fast], strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
        goals = GOALS[name] if device == "cpu" else dict.fromkeys(("ei", "ej"), FUSED_GOALS[name])
        goal = goals.get(slow + fast)
        print(f"  ({slow}) / ({fast})       {middle:.2f}  [{low:.2f}, {high:.2f}]  {f'goal {goal}' if goal else ''}")
    floors = [operations(work) / rate for rate in rates]
    share = statistics.median(f / t for f, t in zip(floors, times["d"], strict=True))
    rate = statistics.median(rates) / 1e9
    print(f"  (d) at {100 * share:.0f} % of the floor: {operations(work) / 1e9:.0f} GFLOP at {rate:.0f} GFLOP/s")
    pyros = statistics.median(pyro_seconds(steps["d"]) / seconds(steps["d"], device) for _ in range(3))
    print(f"  (d) spends {100 * pyros:.0f} % of its time in Pyro's own Python")


def exponent(lengths: list[int], values: list[float]) -> float:
    """Slope of log value against log length by least squares."""
    return statistics.linear_regression(*([math.log(v) for v in column] for column in (lengths, values))).slope


def growth(work: Work, lengths: list[int], rounds: int, device: str) -> None:
    """Print how time and peak memory grow with T."""
    steps = [contenders(work._replace(num_steps=t), device, Peer(None)) for t in lengths]
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


def main(
    work: str = "all",
    rounds: int = 7,
    device: str = "cpu",
    apart: bool = False,
    limit: float = 120.0,
    smoke: bool = False,
) -> None:
    """Compare training steps.

    Args:
        work: A workload (timit, mnist_128, mnist_512), "growth" for growth with T, or "all".
        rounds: Timed rounds, after one warm-up round.
        device: cpu or cuda.
        apart: Run each contender in its own process.
        limit: Seconds that torch.compile may take.
        smoke: Only check that everything runs, at tiny sizes; the results are meaningless.
    """
    if work not in (*WORKS, "growth", "all"):
        raise ValueError(f"work must be one of {[*WORKS, 'growth', 'all']}, got {work!r}")
    works, lengths, product_size, backend = WORKS, [98, 196, 392, 784], 2048, "inductor"
    if smoke:
        torch.set_num_threads(1)
        rounds, works, lengths, product_size, backend = 1, dict.fromkeys(WORKS, TINY), [2, 4], 64, "eager"
    pyro.enable_validation(False)
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}; torch {torch.__version__}, pyro {pyro.__version__}")
    with fresh_cache():
        for key, sizes in works.items():
            if work in (key, "all"):
                compare(key, sizes, rounds, device, apart, product_size, backend, limit)
    if work in ("growth", "all"):
        growth(works["mnist_128"], lengths, rounds, device)


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    main(**parser.parse_args().as_dict())
