"""Cost of inference against its peers, paired in one run.

    python benchmarks/inference.py                     # all three comparisons
    python benchmarks/inference.py --work nuts --rounds 9

In one process, interleaved and paired round by round; what is printed are medians of ratios within a round, with their
quartiles, for machines are noisy.

    particles   a training step of RenyiELBO and of ImportanceWeightedELBO with 16 particles against one of ZForcingELBO
                on the same batch enlarged 16 times: what vectorised particles cost beside the numbers they compute.
    nuts        Pyro's NUTS over the latents of one batch of T = 100 on this package's model against the same sampler on
                the textbook program, step size and tree depth fixed, so that both walk the same chain: time a gradient.
    filter      ParticleFilter, 256 particles for each of 32 sequences, against Pyro's SMCFilter: run once for each
                sequence, which is the same work (one set of weights a sequence); and once for the whole batch, which is
                less work for another result (one set of weights for all sequences).
"""

import statistics
import time
from collections.abc import Callable
from typing import Literal

import pyro
import torch
from jsonargparse import auto_cli
from pyro.infer import MCMC, NUTS, RenyiELBO
from textbook import Textbook

from zf_pyro import ImportanceWeightedELBO, ZForcing, ZForcingELBO, emissions
from zf_pyro.inference import ParticleFilter, latent_mcmc, smc_filter

PARTICLES = 16
DEPTH = 3
"""Of NUTS's trees: at most 7 gradients a draw."""

Task = Callable[[], object]


def new_net(hidden_dim: int, transition: str) -> ZForcing:
    """A net whose embedding and MLP have the paper's proportion to the hidden size."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    sizes = {"embed_dim": hidden_dim // 2, "latent_dim": hidden_dim // 4, "mlp_dim": hidden_dim // 2}
    return ZForcing(emissions.Gaussian(12), hidden_dim=hidden_dim, **sizes, transition=transition)


def compare(title: str, tasks: dict[str, Task], ratios: dict[tuple[str, str], str], rounds: int) -> None:
    """Print medians of each task's time, and of paired ratios with their goals."""
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


def particles(rounds: int, hidden_dim: int, transition: str) -> None:
    """Objectives of 16 particles against a batch 16 times as large."""
    net = new_net(hidden_dim, transition)
    x = torch.randn(8, 100, 12)
    many = x.repeat(PARTICLES, 1, 1)
    renyi = RenyiELBO(alpha=0, num_particles=PARTICLES, vectorize_particles=True, max_plate_nesting=1)
    weighted, doubly = (
        ImportanceWeightedELBO(PARTICLES, doubly_reparameterised=doubly, max_plate_nesting=1)
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
    compare(f"16 particles, 8 sequences of 100 steps, hidden {hidden_dim}, {transition}", tasks, goals, rounds)


def nuts(rounds: int, hidden_dim: int, transition: str) -> None:
    """Pyro's NUTS on both programs, walking the same chain, and latent_mcmc on the net."""
    net = new_net(hidden_dim, transition)
    textbook, x = Textbook(net), torch.randn(4, 100, 12)
    settings = {"step_size": 1e-3, "adapt_step_size": False, "adapt_mass_matrix": False, "max_tree_depth": DEPTH}

    def walk(model: Callable) -> Task:
        def run() -> None:
            pyro.set_rng_seed(0)
            pyro.clear_param_store()
            MCMC(NUTS(model, **settings), num_samples=4, warmup_steps=0, disable_progbar=True).run(x)

        return run

    def fixed() -> None:
        pyro.set_rng_seed(0)
        latent_mcmc(net, x, num_samples=3, warmup_steps=1, **settings)

    tasks = {"textbook": walk(textbook.model), "net": walk(net.model), "latent_mcmc": fixed}
    goals = {("textbook", "net"): "at least 1.5", ("textbook", "latent_mcmc"): "at least 1.5"}
    compare(f"NUTS, 4 sequences of 100 steps, hidden {hidden_dim}, {transition}", tasks, goals, rounds)


def filters(rounds: int, hidden_dim: int, transition: str) -> None:
    """Particle filters over 32 sequences, 256 particles each."""
    net = new_net(hidden_dim, transition)
    x = torch.randn(32, 40, 12)
    ours = ParticleFilter(net, 256)
    tasks: dict[str, Task] = {
        "ParticleFilter": lambda: ours.run(x),
        "SMCFilter a sequence": lambda: [smc_filter(net, one, num_particles=256) for one in x.split(1)],
        "SMCFilter a batch": lambda: smc_filter(net, x, num_particles=256),
    }
    goals = {
        ("SMCFilter a sequence", "ParticleFilter"): "at least 5",
        ("SMCFilter a batch", "ParticleFilter"): "none: one set of weights for all sequences",
    }
    compare(f"256 particles, 32 sequences of 40 steps, hidden {hidden_dim}, {transition}", tasks, goals, rounds)


WORKS = {"particles": particles, "nuts": nuts, "filter": filters}


def benchmark(
    work: Literal["particles", "nuts", "filter", "all"] = "all",
    rounds: int = 5,
    hidden_dim: int = 64,
    transition: str = "conditional_layer_norm",
    threads: int | None = None,
    validation: bool = False,
) -> None:
    """Compare the cost of inference with its peers.

    Args:
        work: One comparison, or all.
        rounds: Measured rounds of each, after one that warms up.
        hidden_dim: Of the net, by default the quickstart's; embedding and MLP have half of it, the latents a quarter.
        transition: conditional_layer_norm or concatenate.
        threads: Of PyTorch; as many as it takes by itself if none.
        validation: Whether Pyro validates, as it does by default.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    pyro.enable_validation(validation)
    for name, compared in WORKS.items():
        if work in (name, "all"):
            compared(rounds, hidden_dim, transition)


if __name__ == "__main__":
    auto_cli(benchmark)
