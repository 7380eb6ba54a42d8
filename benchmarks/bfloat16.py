"""Time of a training step whose C loops multiply in bfloat16, against the same step in float32.

    python benchmarks/bfloat16.py --work timit --rounds 9

Contender (d) of train_step.py, the full objective, under ``torch.set_float32_matmul_precision`` of "highest" and
"medium" in turn. Medians of the ratios within a round are printed with their quartiles, and the losses.
"""

import statistics

import jsonargparse
import pyro
import torch
from contenders import TINY, WORKS, Peer, contenders
from measuring import seconds

from zf_pyro import show_config

SETTINGS = ("highest", "medium")


def main(work: str = "all", rounds: int = 9, smoke: bool = False) -> None:
    """Print a line for each work.

    Args:
        work: a workload (timit, mnist_128, mnist_512) or "all".
        rounds: rounds of one step in each precision.
        smoke: two rounds at a tiny size.
    """
    if work not in (*WORKS, "all"):
        raise ValueError(f"work must be one of {[*WORKS, 'all']}, got {work!r}")
    pyro.enable_validation(False)
    for name in WORKS if work == "all" else (work,):
        steps = contenders(TINY if smoke else WORKS[name], "cpu", Peer(None))
        found: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
        losses, products = {}, {}
        for k in range((2 if smoke else rounds) + 1):
            for setting in SETTINGS[:: 1 if k % 2 else -1]:
                torch.set_float32_matmul_precision(setting)
                products[setting] = (show_config("dict") or {})["products"]
                steps["clear"]()
                pyro.set_rng_seed(k)
                time = seconds(lambda: losses.update({setting: steps["d"]()}), "cpu")  # noqa: B023
                if k:  # the first round warms up
                    found[setting].append(time)
        torch.set_float32_matmul_precision("highest")
        exact, other = (found[setting] for setting in SETTINGS)
        low, middle, high = statistics.quantiles([a / b for a, b in zip(exact, other, strict=True)], n=4)
        print(
            f"{name}: {statistics.median(exact):.3f} s with products in {products['highest']}, "
            f"{statistics.median(other):.3f} s in {products['medium']}, ratio {middle:.2f} [{low:.2f}, {high:.2f}]; "
            f"last losses {losses['highest']:.4f} and {losses['medium']:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at a tiny size.")
    main(**parser.parse_args().as_dict())
