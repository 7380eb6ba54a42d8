"""Repair of the posterior of given sequences: gain and cost of refine and of fit_guide.

    python examples/quickstart.py --out runs/quickstart
    python benchmarks/refine.py --weights runs/quickstart/weights.pt --threads 1 --json benchmarks/refine.json
    python benchmarks/refine.py --page docs/inference.md

The networks are the quickstart's, the sequences the 370 test utterances of Japanese Vowels (7 to 29 frames). Each
network is judged with its own guide, with a refined guide, and with its guide fitted to these utterances. The model is
the same in all three.

    evidence   the importance-weighted estimate of log p(x) from ``--num_samples`` samples, nats per sequence
    gap        evidence of the particle filter (``--num_particles``, guide as trained) less that estimate
    efficiency median over sequences of the effective sample size, as a share of the samples
    bad        sequences with a k-hat of the weights above the threshold of PSIS
    steps      steps that check_steps flags (100 samples, 4 continuations of each), in all sequences
    seconds    time of refine, or of fit_guide; and the processor time in it, which a busy machine does not lengthen
"""

import copy
import time
import warnings
from json import dumps, loads
from pathlib import Path
from typing import Any

import jsonargparse
import pyro
import torch

from zf_pyro import ZForcing, to_arviz
from zf_pyro.data import NUM_CEPSTRA, load_vowels
from zf_pyro.diagnostics import check_steps, check_weights
from zf_pyro.emissions import Gaussian
from zf_pyro.experiments.table import replaced
from zf_pyro.inference import ParticleFilter, fit_guide, refine

SIZES = {"embed_dim": 64, "hidden_dim": 64, "latent_dim": 16, "mlp_dim": 64}
"""Sizes of the quickstart."""
NUMBERS = Path(__file__).with_suffix(".json")
GUIDES = {"trained": "as trained", "refined": "`refine`, 100 steps", "fitted": "`fit_guide` on them, 300 steps"}
"""Names of the guides on the page."""


def table(rows: list[dict[str, Any]]) -> str:
    """The numbers in Markdown."""
    titles = ("guide", "filter", "evidence", "gap", "median effective share", "k-hat too high", "steps flagged")
    lines = [(*titles, "seconds"), ("---",) * (len(titles) + 1)]
    for row in rows:
        figures = (f"{row[name]:.2f}" for name in ("filter", "evidence", "gap"))
        flagged = f"{row['bad']} of 370", f"{row['flagged_steps']:,} of {row['steps']:,}"
        seconds = f"{row['processor']:.0f}" if row["processor"] else ""
        share = f"{100 * row['efficiency']:.1f} %"
        lines.append((f"{row['net']}, {GUIDES[row['guide']]}", *figures, share, *flagged, seconds))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def judged(net: ZForcing, data: Any, guide: Any, evidence: torch.Tensor, num_samples: int) -> dict[str, float]:
    """Statistics of the importance weights of a guide, of whole sequences and by step."""
    samples = to_arviz(
        net, data.x, data.lengths, posterior=guide, num_samples=num_samples, groups=("sample_stats",), batch_size=64
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ warns of a high k-hat
        check = check_weights(samples, evidence)
    refined = None if guide == "guide" else guide
    steps = check_steps(net, data.x, data.lengths, num_samples=min(num_samples, 100), batch_size=64, guide=refined)
    return {
        "evidence": round(float(check.importance_weighted.mean()), 2),
        "gap": round(float(check.remaining.mean()), 2),
        "efficiency": round(float(torch.as_tensor(check.efficiency).median()), 4),
        "bad": len(check.bad_tails()),
        "flagged_steps": int(steps.flagged().sum()),
        "steps": int(steps.efficiency.notnull().sum()),
    }


def main(
    weights: Path | None = None,
    nets: list[str] | None = None,
    num_sequences: int = 370,
    num_particles: int = 2048,
    num_samples: int = 256,
    steps: int = 100,
    fit_steps: int = 300,
    threads: int = 2,
    smoke: bool = False,
    json: Path | None = None,
    page: Path | None = None,
) -> None:
    """Print the table.

    Args:
        weights: Weights that the quickstart wrote; None for one untrained network.
        nets: Names of the networks among these weights; all if None.
        num_sequences: Test utterances.
        num_particles: Of the filter.
        num_samples: Of each sequence, for the weights.
        steps: Of refine.
        fit_steps: Of fit_guide.
        threads: Threads of PyTorch.
        smoke: Only check that everything runs, at tiny sizes; the results are meaningless.
        json: File for the numbers.
        page: Only write the table of the committed numbers into this page.
    """
    if page is not None:
        page.write_text(replaced(page.read_text(encoding="utf-8"), "repairs", table(loads(NUMBERS.read_text()))))
        return
    torch.set_num_threads(threads)
    if smoke:
        num_sequences, num_particles, num_samples, steps, fit_steps = 4, 8, 30, 4, 2
    states = {"untrained": None} if weights is None else torch.load(weights)
    test = load_vowels().test
    test = test.take(torch.arange(min(num_sequences, len(test.x))))
    rows = []
    print(f"{len(test.x)} utterances, filter of {num_particles} particles, {num_samples} samples; {threads} threads")
    head = f"{'':>14} {'guide':>8} {'filter':>8} {'evidence':>9} {'gap':>7} {'efficiency':>11} {'bad':>5} {'steps':>6}"
    print(f"{head} {'seconds':>8} {'processor':>10}")
    for name in nets or states:
        state = states[name]
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        net = ZForcing(Gaussian(NUM_CEPSTRA), **SIZES, transition="concatenate")
        if state is not None:
            net.load_state_dict(state)
        net.eval()
        evidence = ParticleFilter(net, num_particles).run(test.x, test.lengths).log_evidence
        fitted = copy.deepcopy(net)
        guide: Any = "guide"
        for stage, of in (("trained", net), ("refined", net), ("fitted", fitted)):
            start, used = time.perf_counter(), time.process_time()
            if stage == "refined":
                guide = refine(net, test.x, test.lengths, steps=steps)
            elif stage == "fitted":
                fit_guide(fitted, test.x, test.lengths, steps=fit_steps)
            seconds, used = time.perf_counter() - start, time.process_time() - used
            posterior = guide if stage == "refined" else "guide"
            found = judged(of, test, posterior, evidence, num_samples)
            row = {"net": name, "guide": stage, "filter": round(float(evidence.mean()), 2), **found}
            rows.append(row | {"seconds": round(seconds, 1), "processor": round(used, 1)})
            print(
                f"{name:>14} {stage:>8} {row['filter']:8.2f} {row['evidence']:9.2f} {row['gap']:7.2f} "
                f"{row['efficiency']:11.3f} {row['bad']:5d} {row['flagged_steps']:6d} {seconds:8.1f} {used:10.1f}",
                flush=True,
            )
            if json is not None:
                json.write_text("[\n" + ",\n".join(map(dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser(description=__doc__)
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    main(**parser.parse_args().as_dict())
