"""Cost of inference, against its peers in the same process.

    python benchmarks/inference.py                     # all three comparisons
    python benchmarks/inference.py --work nuts --rounds 9

Tasks are interleaved and paired by round. Because machines are noisy, medians of ratios within a round are printed,
with their quartiles.

    particles   A training step of RenyiELBO and of ImportanceWeightedELBO with 16 particles, against one of
                ZForcingELBO on the same batch enlarged 16 times: the overhead of vectorised particles.
    nuts        Pyro's NUTS over the latents of one batch of T = 100, on this package's model and on the textbook
                program. Step size and tree depth are fixed, so both walk the same chain: time per gradient.
    filter      ParticleFilter, 256 particles for each of 32 sequences, against Pyro's SMCFilter.
                Run once per sequence, SMCFilter does the same work (one set of weights per sequence).
                Run once per batch, it does less work for another result (one set of weights for all sequences).
"""

import statistics
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import jsonargparse
import pyro
import torch
from pyro.infer import MCMC, NUTS, RenyiELBO
from textbook import Textbook

from zf_pyro import ImportanceWeightedELBO, ZForcing, ZForcingELBO, emissions
from zf_pyro.inference import ParticleFilter, latent_mcmc, smc_filter

DEPTH = 3
"""Depth of NUTS trees: at most 7 gradients per draw."""

Task = Callable[[], object]


class Sizes(NamedTuple):
    """Sizes of one comparison."""

    sequences: int
    steps: int
    samples: int
    """Particles, or draws of NUTS."""


SIZES = {"particles": Sizes(8, 100, 16), "nuts": Sizes(4, 100, 4), "filter": Sizes(32, 40, 256)}
SMOKE = {"particles": Sizes(2, 3, 2), "nuts": Sizes(2, 3, 2), "filter": Sizes(2, 3, 4)}


def new_net(hidden_dim: int, transition: str) -> ZForcing:
    """A new model whose embedding and MLP keep the paper's ratio to the hidden size."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    sizes = {"embed_dim": hidden_dim // 2, "latent_dim": hidden_dim // 4, "mlp_dim": hidden_dim // 2}
    return ZForcing(emissions.Gaussian(12), hidden_dim=hidden_dim, **sizes, transition=transition)


def compare(title: str, tasks: dict[str, Task], ratios: dict[tuple[str, str], str], rounds: int) -> None:
    """Print the median time of each task, and the medians of paired ratios with their goals."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for i in range(rounds + 1):  # the first round warms up
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if i:
                times[name].append(time.perf_counter() - start)
    print(f"\n{title}")
    print("  median seconds  " + ", ".join(f"{name} {statistics.median(t):.3f}" for name, t in times.items()))
    for (numerator, denominator), goal in ratios.items():
        found = sorted(a / b for a, b in zip(times[numerator], times[denominator], strict=True))
        low, middle, high = statistics.quantiles(found, n=4) if rounds > 1 else found * 3
        print(f"  {numerator} / {denominator}  {middle:.2f}  [{low:.2f}, {high:.2f}]  goal {goal}")


def particles(rounds: int, hidden_dim: int, transition: str, sizes: Sizes) -> None:
    """Compare objectives of several particles with a batch that is as many times as large."""
    net = new_net(hidden_dim, transition)
    x = torch.randn(sizes.sequences, sizes.steps, 12)
    many = x.repeat(sizes.samples, 1, 1)
    renyi = RenyiELBO(alpha=0, num_particles=sizes.samples, vectorize_particles=True, max_plate_nesting=1)
    weighted, doubly = (
        ImportanceWeightedELBO(sizes.samples, doubly_reparameterised=doubly, max_plate_nesting=1)
        for doubly in (False, True)
    )
    plain = ZForcingELBO()

    def step(elbo: object, batch: torch.Tensor) -> Task:
        return lambda: (elbo.loss_and_grads(net.model, net.guide, batch), net.zero_grad())  # type: ignore[attr-defined]

    tasks = {
        "enlarged batch": step(plain, many),
        "RenyiELBO": step(renyi, x),
        "ImportanceWeightedELBO": step(weighted, x),
        "doubly reparameterised": step(doubly, x),
    }
    goals = {
        ("RenyiELBO", "enlarged batch"): "at most 1.15",
        ("ImportanceWeightedELBO", "enlarged batch"): "at most 1.15",
        ("doubly reparameterised", "enlarged batch"): "none: it runs the recurrence twice",
    }
    title = f"{sizes.samples} particles, {sizes.sequences} sequences of {sizes.steps} steps"
    compare(f"{title}, hidden {hidden_dim}, {transition}", tasks, goals, rounds)


def nuts(rounds: int, hidden_dim: int, transition: str, sizes: Sizes) -> None:
    """Compare Pyro's NUTS on both programs, which walk the same chain, and latent_mcmc."""
    net = new_net(hidden_dim, transition)
    textbook, x = Textbook(net), torch.randn(sizes.sequences, sizes.steps, 12)
    settings = {"step_size": 1e-3, "adapt_step_size": False, "adapt_mass_matrix": False, "max_tree_depth": DEPTH}

    def walk(model: Callable) -> Task:
        def run() -> None:
            pyro.set_rng_seed(0)
            pyro.clear_param_store()
            MCMC(NUTS(model, **settings), num_samples=sizes.samples, warmup_steps=0, disable_progbar=True).run(x)

        return run

    def fixed() -> None:
        pyro.set_rng_seed(0)
        latent_mcmc(net, x, num_samples=sizes.samples - 1, warmup_steps=1, **settings)

    tasks = {"textbook": walk(textbook.model), "net": walk(net.model), "latent_mcmc": fixed}
    goals = {("textbook", "net"): "at least 1.5", ("textbook", "latent_mcmc"): "at least 1.5"}
    title = f"NUTS, {sizes.sequences} sequences of {sizes.steps} steps"
    compare(f"{title}, hidden {hidden_dim}, {transition}", tasks, goals, rounds)


def filters(rounds: int, hidden_dim: int, transition: str, sizes: Sizes) -> None:
    """Compare particle filters with the same number of particles for each sequence."""
    net = new_net(hidden_dim, transition)
    x, count = torch.randn(sizes.sequences, sizes.steps, 12), sizes.samples
    ours = ParticleFilter(net, count)
    tasks: dict[str, Task] = {
        "ParticleFilter": lambda: ours.run(x),
        "SMCFilter per sequence": lambda: [smc_filter(net, one, num_particles=count) for one in x.split(1)],
        "SMCFilter per batch": lambda: smc_filter(net, x, num_particles=count),
    }
    goals = {
        ("SMCFilter per sequence", "ParticleFilter"): "at least 5",
        ("SMCFilter per batch", "ParticleFilter"): "none: one set of weights for all sequences",
    }
    title = f"{count} particles, {sizes.sequences} sequences of {sizes.steps} steps"
    compare(f"{title}, hidden {hidden_dim}, {transition}", tasks, goals, rounds)


WORKS = {"particles": particles, "nuts": nuts, "filter": filters}


def benchmark(
    work: Literal["particles", "nuts", "filter", "all"] = "all",
    rounds: int = 5,
    hidden_dim: int = 64,
    transition: str = "conditional_layer_norm",
    threads: int | None = None,
    validation: bool = False,
    smoke: bool = False,
) -> None:
    """Compare the cost of inference with its peers.

    Args:
        work: One comparison, or all.
        rounds: Timed rounds of each, after one warm-up round.
        hidden_dim: Hidden size, by default the quickstart's. Embedding and MLP have half of it, the latents a quarter.
        transition: conditional_layer_norm or concatenate.
        threads: Threads of PyTorch; None keeps PyTorch's default.
        validation: Whether Pyro validates distributions and values.
        smoke: Only check that everything runs, at tiny sizes; the results are meaningless.
    """
    if smoke:
        rounds, hidden_dim, threads = 1, 8, 1
    if threads is not None:
        torch.set_num_threads(threads)
    pyro.enable_validation(validation)
    for name, compared in WORKS.items():
        if work in (name, "all"):
            compared(rounds, hidden_dim, transition, (SMOKE if smoke else SIZES)[name])


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(benchmark, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    benchmark(**parser.parse_args().as_dict())
