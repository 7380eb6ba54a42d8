"""Proposals of the online particle filter on the vowels: log-likelihood of test utterances, and effective sample size.

    python benchmarks/proposals.py                          # prints the table
    python benchmarks/proposals.py --page docs/online.md    # and writes it into the page

The net is the trained one of the package. Frame by frame its guide reads x_t alone, as at the end of a sequence. The
last row is a filter over sequences that are there as a whole.
"""

from pathlib import Path

import jsonargparse
import pyro
import torch
from torch import Tensor

from zf_pyro import pretrained
from zf_pyro.data import load_vowels
from zf_pyro.experiments.table import replaced
from zf_pyro.inference import ParticleFilter

ONLINE = {"prior": ("prior", "the frames before"), "posterior": ("guide, one frame at a time", "x_t")}
"""Name on the page of each proposal that needs no later frame, and what it reads."""


def online(particles: ParticleFilter, x: Tensor, proposal: str) -> tuple[Tensor, Tensor]:
    """Log-likelihoods and effective sample sizes, each (batch, time), of a filter that takes x frame by frame."""
    run = particles.start(len(x), proposal=proposal)
    steps = [run.step(x[:, t]) for t in range(x.shape[1])]
    return torch.stack([step.log_likelihood for step in steps], 1), torch.stack([step.ess for step in steps], 1)


def main(
    num_sequences: int = 60, num_particles: int = 64, seeds: int = 5, smoke: bool = False, page: Path | None = None
) -> None:
    """Print the table.

    Args:
        num_sequences: Test utterances.
        num_particles: Of the filter.
        seeds: Runs of each filter, over which the numbers are means.
        smoke: Only check that everything runs, at tiny sizes; the results are meaningless.
        page: File in which the table is written.
    """
    if smoke:
        num_sequences, num_particles, seeds = 2, 4, 1
    net, test = pretrained("vowels"), load_vowels().test
    x, lengths = test.x[:num_sequences], test.lengths[:num_sequences]
    seen = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}

    def note(row: tuple[str, str], increments: Tensor, sizes: Tensor) -> None:
        total = increments[seen].sum() / len(x)
        found.setdefault(row, []).append((float(total), float(sizes[seen].mean())))

    with torch.no_grad():
        for seed in range(seeds):
            for proposal, row in ONLINE.items():
                pyro.set_rng_seed(seed)
                note(row, *online(ParticleFilter(net, num_particles), x, proposal))
            pyro.set_rng_seed(seed)
            whole = ParticleFilter(net, num_particles).run(x, lengths)
            note(("guide of whole sequences", "all frames"), whole.log_increments.T, whole.ess.T)
    lines = ["| proposal | reads | nats per utterance | effective sample size |", "|---|---|---|---|"]
    for (name, reads), runs in found.items():
        nats, sizes = (torch.tensor(column) for column in zip(*runs, strict=True))
        spread = f" ± {nats.std():.1f}" if seeds > 1 else ""
        lines.append(f"| {name} | {reads} | {nats.mean():.1f}{spread} | {sizes.mean():.1f} of {num_particles} |")
    table = "\n".join(lines)
    print(table)
    if page is not None and not smoke:
        page.write_text(replaced(page.read_text(encoding="utf-8"), "proposals", table), encoding="utf-8")


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser(description=__doc__)
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    main(**parser.parse_args().as_dict())
