"""Time of a training step of DMM with flows on its posterior, against one without: the plain loop against the fast one.

    python benchmarks/flows.py

Rounds are interleaved. Medians of the ratios within a round are printed, with their quartiles.
"""

import statistics

import jsonargparse
import pyro
import torch
from measuring import seconds

from zf_pyro import DMM, ZForcingELBO
from zf_pyro.emissions import Gaussian


def main(flows: int = 2, rounds: int = 15, threads: int = 1, smoke: bool = False) -> None:
    """Print the times and their ratio.

    Args:
        flows: Flows on the posterior of the slower net.
        rounds: Steps of each net.
        threads: Threads of PyTorch.
        smoke: Only check that everything runs, at tiny sizes; the results are meaningless.
    """
    torch.set_num_threads(threads)
    batch, time, units, rounds = (2, 3, 4, 2) if smoke else (16, 60, 64, rounds)
    pyro.set_rng_seed(0)
    x, elbo = torch.randn(batch, time, 12), ZForcingELBO()
    sizes = {"embed_dim": units, "hidden_dim": units, "latent_dim": units // 4, "mlp_dim": units}
    nets = [DMM(Gaussian(12), **sizes, num_flows=count) for count in (flows, 0)]
    times: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for net, taken in zip(nets, times, strict=True):
            pyro.clear_param_store()
            net.zero_grad()
            taken.append(seconds(lambda net=net: elbo.loss_and_grads(net.model, net.guide, x), "cpu"))
    slow, fast = (taken[1:] for taken in times)  # the first round allocates
    low, middle, high = statistics.quantiles([a / b for a, b in zip(slow, fast, strict=True)])
    print(f"{batch} sequences of {time} frames, {units} units, threads {threads}")
    print(f"{flows} flows {statistics.median(slow) * 1e3:.1f} ms, none {statistics.median(fast) * 1e3:.1f} ms")
    print(f"ratio {middle:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser(description=__doc__)
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    main(**parser.parse_args().as_dict())
