"""Time of a training step whose C loops multiply in bfloat16, against the same step in float32.

    python benchmarks/bfloat16.py --work timit --rounds 9
    python benchmarks/bfloat16.py --work training --steps 400

Contender (d) of train_step.py, the full objective, under ``torch.set_float32_matmul_precision`` of "highest" and
"medium" in turn, and the careful loop (f) under "medium", which lets PyTorch's own products round, too. Medians of the
ratios within a round are printed with their quartiles, and the losses.

``training`` trains a network of 128 units on the JSB chorales in each precision, from each of three seeds, and prints
the validation ELBO in nats per frame. The bound itself is computed in float32.
"""

import statistics

import jsonargparse
import pyro
import torch
from contenders import TINY, WORKS, Peer, contenders
from measuring import seconds
from pyro.infer import SVI
from pyro.optim import ClippedAdam

from zf_pyro import Linear, ZForcing, ZForcingELBO, emissions, show_config
from zf_pyro.data import LengthBatches, Loader, collate, load_polyphonic

SETTINGS = ("highest", "medium")


def trained(setting: str, seed: int, steps: int, hidden: int) -> float:
    """Validation ELBO, nats per frame, of a network trained in one precision."""
    chorales = load_polyphonic("jsb")
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    sizes = {"embed_dim": hidden, "hidden_dim": hidden, "latent_dim": 32, "mlp_dim": hidden}
    net = ZForcing(emissions.Bernoulli(88), **sizes, transition="concatenate")
    net.initialise(Loader(chorales.train, LengthBatches(chorales.train.lengths, 32)))
    elbo = ZForcingELBO(Linear(0.2, 1.0, steps))
    svi = SVI(net.model, net.guide, ClippedAdam({"lr": 2e-3, "clip_norm": 100.0}), elbo)
    torch.set_float32_matmul_precision(setting)
    done = 0
    while done < steps:
        for x, lengths in Loader(chorales.train, LengthBatches(chorales.train.lengths, 32, seed=seed + done)):
            svi.step(x, lengths)
            done += 1
    torch.set_float32_matmul_precision("highest")
    x, lengths = collate([chorales.validation[i] for i in range(len(chorales.validation))])
    pyro.set_rng_seed(0)
    with torch.no_grad():
        return -ZForcingELBO().loss(net.eval().model, net.guide, x, lengths) / int(lengths.sum())


def main(work: str = "all", rounds: int = 9, steps: int = 400, smoke: bool = False) -> None:
    """Print a line for each work.

    Args:
        work: a workload (timit, mnist_128, mnist_512), "all" of them, or "training".
        rounds: rounds of one step in each precision.
        steps: training steps, rounded up to whole epochs.
        smoke: two rounds at a tiny size.
    """
    if work not in (*WORKS, "all", "training"):
        raise ValueError(f"work must be one of {[*WORKS, 'all', 'training']}, got {work!r}")
    pyro.enable_validation(False)
    if work == "training":
        for seed in range(1 if smoke else 3):
            exact, other = (trained(setting, seed, 2 if smoke else steps, 8 if smoke else 128) for setting in SETTINGS)
            print(f"seed {seed}: ELBO {exact:.3f} in float32, {other:.3f} in bfloat16, nats per frame", flush=True)
        return
    for name in WORKS if work == "all" else (work,):
        steps = contenders(TINY if smoke else WORKS[name], "cpu", Peer(None))
        runs = [("d", setting) for setting in SETTINGS] + [("f", SETTINGS[-1])]
        found: dict[tuple[str, str], list[float]] = {run: [] for run in runs}
        losses, products = {}, {}
        for k in range((2 if smoke else rounds) + 1):
            for run in runs[:: 1 if k % 2 else -1]:
                contender, setting = run
                torch.set_float32_matmul_precision(setting)
                products[setting] = (show_config("dict") or {})["products"]
                steps["clear"]()
                pyro.set_rng_seed(k)
                time = seconds(lambda: losses.update({run: steps[contender]()}), "cpu")  # noqa: B023
                if k:  # the first round warms up
                    found[run].append(time)
        torch.set_float32_matmul_precision("highest")
        exact, other, careful = (found[run] for run in runs)
        print(
            f"{name}: {statistics.median(exact):.3f} s with products in {products['highest']}, "
            f"{statistics.median(other):.3f} s in {products['medium']}, ratio {quartiles(exact, other)}; "
            f"last losses {losses[runs[0]]:.4f} and {losses[runs[1]]:.4f}; the careful loop, allowed the same: "
            f"{statistics.median(careful):.3f} s, ratio {quartiles(careful, other)}",
            flush=True,
        )


def quartiles(slower: list[float], faster: list[float]) -> str:
    """Median of the ratios within a round, and their quartiles."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(slower, faster, strict=True)], n=4)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at a tiny size.")
    main(**parser.parse_args().as_dict())
