"""Time of to_arviz, against Pyro's Predictive on the textbook program: 100 draws for 370 test utterances.

    python benchmarks/diagnostics.py
    python benchmarks/diagnostics.py --rounds 5 --threads 2

All run in one process, interleaved and paired by round, on Japanese Vowels with the quickstart's sizes:

    (a) to_arviz, all groups
    (b) the same values by Predictive: posterior, posterior predictive, prior, and traces for the densities
    (c) to_arviz, the groups posterior and posterior_predictive only
    (d) the same two groups by Predictive, looping over draws, its default
    (e) the posterior draws only, by Predictive(parallel=True), all draws in one run

Medians of the times are printed, and medians of ratios within a round.
"""

import statistics
import time
from collections.abc import Callable

import jsonargparse
import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import Predictive
from textbook import Textbook
from torch import Tensor
from torch.distributions import kl_divergence

from zf_pyro import ZForcing, to_arviz
from zf_pyro.data import NUM_CEPSTRA, Utterances, load_vowels
from zf_pyro.emissions import Gaussian


class Peer:
    """The same results written with Pyro alone."""

    def __init__(self, net: ZForcing, data: Utterances, num_samples: int) -> None:
        self.net, self.data, self.num_samples = net, data, num_samples
        self.textbook = Textbook(net)

    def generative(self) -> None:
        """Run the model without data, step by step."""
        count, steps = self.data.x.shape[:2]
        state, u_t = self.net.initial_state((count,)), torch.zeros_like(self.data.x[:, 0])
        with pyro.plate("sequences", count, dim=-1):
            for t in range(steps):
                z_t = pyro.sample(f"z_{t}", self.net.prior(state))
                state = self.net.transition(state, u_t, z_t)
                u_t = pyro.sample(f"x_{t}", self.net.emission(state))

    def latents(self, parallel: bool = False) -> dict[str, Tensor]:
        """Posterior draws by site name."""
        predictive = Predictive(self.textbook.guide, num_samples=self.num_samples, parallel=parallel)
        return predictive(self.data.x, self.data.lengths)

    def posterior(self) -> dict[str, Tensor]:
        """Posterior draws and replicated frames given them, by site name."""
        z = self.latents()
        return {**z, **Predictive(poutine.uncondition(self.textbook.model), z)(self.data.x, self.data.lengths)}

    def everything(self) -> None:
        """Compute everything that to_arviz returns."""
        draws = self.posterior()
        Predictive(self.generative, num_samples=self.num_samples)()
        x, lengths = self.data.x, self.data.lengths
        names = [f"z_{t}" for t in range(x.shape[1])]
        for i in range(self.num_samples):
            values = {name: draws[name][i] for name in names}
            guide = poutine.trace(poutine.condition(self.textbook.guide, values)).get_trace(x, lengths)
            model = poutine.trace(poutine.condition(self.textbook.model, values)).get_trace(x, lengths)
            guide.compute_log_prob()
            model.compute_log_prob()
            for name in names:
                kl_divergence(guide.nodes[name]["fn"].base_dist, model.nodes[name]["fn"].base_dist)


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call, in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.no_grad()
def main(
    rounds: int = 3, num_samples: int = 100, threads: int = 2, validation: bool = True, smoke: bool = False
) -> None:
    """Compare the conversion with Pyro's Predictive.

    Args:
        rounds: Timed rounds, after a short warm-up.
        num_samples: Posterior draws.
        threads: Threads of PyTorch.
        validation: Whether Pyro validates every distribution, its default. to_arviz validates its arguments once.
        smoke: Only check that everything runs, at tiny sizes; the results are meaningless.
    """
    size, few_samples = 64, 10
    if smoke:
        rounds, num_samples, threads, size, few_samples = 1, 2, 1, 4, 2
    torch.set_num_threads(threads)
    pyro.enable_validation(validation)
    pyro.set_rng_seed(0)
    sizes = {"embed_dim": size, "hidden_dim": size, "latent_dim": size // 4, "mlp_dim": size}
    net = ZForcing(Gaussian(NUM_CEPSTRA), **sizes, transition="concatenate").eval()
    test = load_vowels().test
    if smoke:
        test = test.take(test.lengths.argsort()[:3])
    peer = Peer(net, test, num_samples)
    few = ("posterior", "posterior_predictive")
    contenders: dict[str, Callable[[], object]] = {
        "a": lambda: to_arviz(net, test.x, test.lengths, num_samples=num_samples),
        "b": peer.everything,
        "c": lambda: to_arviz(net, test.x, test.lengths, num_samples=num_samples, groups=few),
        "d": peer.posterior,
        "e": lambda: peer.latents(parallel=True),
    }
    to_arviz(net, test.x, test.lengths, num_samples=few_samples)
    Peer(net, test, 2).everything()
    times: dict[str, list[float]] = {key: [] for key in contenders}
    for _ in range(rounds):
        for key, contender in contenders.items():
            times[key].append(seconds(contender))
            pyro.clear_param_store()
    print(f"{len(test.x)} utterances, {num_samples} draws; {threads} threads; validation {validation}")
    print("  median seconds  " + "  ".join(f"({key}) {statistics.median(t):.2f}" for key, t in times.items()))
    for slow, fast in (("b", "a"), ("d", "c"), ("e", "c"), ("d", "a")):
        ratios = sorted(s / f for s, f in zip(times[slow], times[fast], strict=True))
        print(f"  ({slow}) / ({fast})  {statistics.median(ratios):.1f}  [{ratios[0]:.1f}, {ratios[-1]:.1f}]")


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    main(**parser.parse_args().as_dict())
