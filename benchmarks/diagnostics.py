"""Time of to_arviz against Pyro's Predictive over the textbook program: 100 draws for 370 test utterances.

    python benchmarks/diagnostics.py
    python benchmarks/diagnostics.py --rounds 5 --threads 2

In one process, interleaved and paired round by round, on Japanese Vowels with the quickstart's sizes:

    (a) to_arviz, all groups
    (b) the same numbers by Predictive: posterior, posterior predictive, prior, and traces for the densities
    (c) to_arviz, the groups posterior and posterior_predictive alone
    (d) the same two groups by Predictive, looped over draws as it is by default
    (e) the posterior draws alone by Predictive(parallel=True), all draws in one run

What is printed are medians, and medians of ratios within a round.
"""

import statistics
import time
from collections.abc import Callable

import pyro
import pyro.poutine as poutine
import torch
from jsonargparse import auto_cli
from pyro.infer import Predictive
from textbook import Textbook
from torch import Tensor
from torch.distributions import kl_divergence

from zf_pyro import ZForcing, to_arviz
from zf_pyro.data import NUM_CEPSTRA, Utterances, load_vowels
from zf_pyro.emissions import Gaussian


class Peer:
    """What one would write with Pyro alone."""

    def __init__(self, net: ZForcing, data: Utterances, num_samples: int) -> None:
        self.net, self.data, self.num_samples = net, data, num_samples
        self.textbook = Textbook(net)

    def generative(self) -> None:
        """The model without data, step by step."""
        count, steps = self.data.x.shape[:2]
        state, u_t = self.net.initial_state((count,)), torch.zeros_like(self.data.x[:, 0])
        with pyro.plate("sequences", count, dim=-1):
            for t in range(steps):
                z_t = pyro.sample(f"z_{t}", self.net.prior(state))
                state = self.net.transition(state, u_t, z_t)
                u_t = pyro.sample(f"x_{t}", self.net.emission(state))

    def latents(self, parallel: bool = False) -> dict[str, Tensor]:
        """Posterior draws alone."""
        predictive = Predictive(self.textbook.guide, num_samples=self.num_samples, parallel=parallel)
        return predictive(self.data.x, self.data.lengths)

    def posterior(self) -> dict[str, Tensor]:
        """Posterior draws, and frames redrawn at them."""
        z = self.latents()
        return {**z, **Predictive(poutine.uncondition(self.textbook.model), z)(self.data.x, self.data.lengths)}

    def everything(self) -> None:
        """All that to_arviz gives."""
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
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.no_grad()
def main(rounds: int = 3, num_samples: int = 100, threads: int = 2, validation: bool = True) -> None:
    """Compare the conversion with Pyro's Predictive.

    Args:
        rounds: counted rounds, after a short one to warm up.
        num_samples: draws.
        threads: of PyTorch.
        validation: whether Pyro validates every distribution, as it does by default. to_arviz checks what it is given
            once, and nothing again.
    """
    torch.set_num_threads(threads)
    pyro.enable_validation(validation)
    pyro.set_rng_seed(0)
    sizes = {"embed_dim": 64, "hidden_dim": 64, "latent_dim": 16, "mlp_dim": 64}
    net = ZForcing(Gaussian(NUM_CEPSTRA), **sizes, transition="concatenate").eval()
    test = load_vowels().test
    peer = Peer(net, test, num_samples)
    few = ("posterior", "posterior_predictive")
    contenders: dict[str, Callable[[], object]] = {
        "a": lambda: to_arviz(net, test.x, test.lengths, num_samples=num_samples),
        "b": peer.everything,
        "c": lambda: to_arviz(net, test.x, test.lengths, num_samples=num_samples, groups=few),
        "d": peer.posterior,
        "e": lambda: peer.latents(parallel=True),
    }
    to_arviz(net, test.x, test.lengths, num_samples=10)
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
    auto_cli(main)
