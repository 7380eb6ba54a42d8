"""Every inference algorithm on one model: continue training with each, or infer latents with each.

    python examples/swap_inference.py --inference all --out runs/swap_inference
    python examples/swap_inference.py --inference RenyiELBO --data my_sequences.npz

A model is first trained briefly with the paper's objective. All algorithms start from its weights:

- Those that train on new sequences at every call continue for some steps. They are scored on held-out sequences.
- All others infer the latents of a few held-out sequences of one length, with the model fixed.

The data are Japanese Vowels by default. ``all`` takes less than five minutes on one CPU core.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jsonargparse
import matplotlib
import numpy as np
import pyro
import torch
from jsonargparse.typing import PositiveInt
from pyro.infer import SVI
from pyro.optim import ClippedAdam
from torch import Tensor
from tqdm import tqdm

from zf_pyro import Linear, ZForcing, ZForcingELBO
from zf_pyro.data import load_vowels
from zf_pyro.emissions import Categorical, Emission, Gaussian
from zf_pyro.evaluation import Outcome, infer_and_judge, train_and_judge
from zf_pyro.inference import ALGORITHMS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIZES = {"embed_dim": 64, "hidden_dim": 64, "latent_dim": 16, "mlp_dim": 64}
BATCH_SIZE = 32
MARKERS = "<!-- inference table -->\n", "<!-- end of inference table -->"


class Sequences(NamedTuple):
    """Padded sequences."""

    x: Tensor
    """(n, time, frame) floats or (n, time) integers."""
    lengths: Tensor
    """Frames of each without padding, (n,)."""

    def take(self, rows: Tensor) -> "Sequences":
        """Sequences at the indices ``rows`` (rows,), padded to the longest of them."""
        lengths = self.lengths[rows]
        return Sequences(self.x[rows, : int(lengths.max())], lengths)

    def of_one_length(self, count: int) -> "Sequences":
        """The first ``count`` sequences of the most common length."""
        return self.take((self.lengths == self.lengths.mode().values).nonzero().squeeze(-1)[:count])

    def batches(self, steps: int, size: int = BATCH_SIZE) -> list["Sequences"]:
        """Random batches."""
        return [self.take(torch.randperm(len(self.x))[:size]) for _ in range(steps)]


@dataclass
class Budget:
    """Steps, sequences and samples per algorithm."""

    warm_up: int = 150
    steps: int = 30
    fit_steps: int = 100
    held_out: int = 64
    few: int = 4
    particles: int = 64
    repeats: int = 4

    def settings(self, name: str, few: Sequences) -> dict[str, Any]:
        """Arguments of an algorithm, beside the model, for a run of seconds."""
        smoke = self.steps < 3
        if name in ("NUTS", "HMC"):
            path = (
                {"max_tree_depth": 2 if smoke else 5}
                if name == "NUTS"
                else {"trajectory_length": 0.2 if smoke else 1.0}
            )
            return path | {"num_samples": 5 if smoke else 50, "warmup_steps": 3 if smoke else 30}
        if name == "AnnealedImportanceSampling":
            return {"num_chains": 4, "num_temperatures": 3 if smoke else 20}
        if ALGORITHMS[name].trains:
            coupled = name in (
                "AutoMultivariateNormal",
                "AutoLowRankMultivariateNormal",
                "AutoIAFNormal",
                "AutoStructured",
            )
            rate = 1e-3 if ALGORITHMS[name].amortised else 5e-3 if coupled else 0.03
            wide = {"hidden_dim": [few.x[..., 0].numel() * SIZES["latent_dim"]]} if name == "AutoIAFNormal" else {}
            return {"optim": ClippedAdam({"lr": rate, "clip_norm": 10.0})} | wide
        return {}


def load(path: Path | None, seed: int) -> tuple[Sequences, Sequences]:
    """Training and held-out sequences: the vowels, or those of a file, with every fifth held out."""
    if path is None:
        vowels = load_vowels(seed)
        return Sequences(*vowels.train[:2]), Sequences(*vowels.test[:2])
    if path.suffix not in (".npz", ".pt"):
        raise ValueError(
            f"data must be an .npz or .pt file that holds x and, unless all are whole, lengths; got {path}"
        )
    held = np.load(path) if path.suffix == ".npz" else torch.load(path, weights_only=True)
    x = torch.as_tensor(held["x"])
    lengths = torch.as_tensor(held["lengths"]) if "lengths" in held else torch.full((len(x),), x.shape[1])
    data = Sequences(x.float() if x.is_floating_point() else x.long(), lengths.long())
    out = torch.arange(len(x)) % 5 == 4
    return data.take((~out).nonzero().squeeze(-1)), data.take(out.nonzero().squeeze(-1))


def new_net(family: Emission, seed: int, weights: dict[str, Tensor] | None = None) -> ZForcing:
    """A model with the given weights (their usual shapes), an empty parameter store and a reset random seed."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    net = ZForcing(family, **SIZES, transition="concatenate")
    if weights is not None:
        net.load_state_dict(weights)
    return net


def warm_up(net: ZForcing, train: Sequences, steps: int) -> dict[str, Tensor]:
    """Train the initial weights of every algorithm."""
    elbo = ZForcingELBO(Linear(0.2, 1.0, steps), aux_weight=Linear(0.05, 0.0, steps))
    svi = SVI(net.model, net.guide, ClippedAdam({"lr": 3e-3, "clip_norm": 10.0}), elbo)
    for batch in tqdm(train.batches(steps), desc="warm-up"):
        svi.step(*batch)
    return net.state_dict()


def run(name: str, net: ZForcing, train: Sequences, held_out: Sequences, few: Sequences, budget: Budget) -> Outcome:
    """Train or infer with one algorithm, and score the result."""
    judging: dict[str, Any] = {"num_particles": budget.particles, "repeats": budget.repeats}
    settings = budget.settings(name, few)
    if ALGORITHMS[name].trains and ALGORITHMS[name].amortised:
        compiled = name.startswith("Jit")  # for one shape, that of the first batch
        batches = [train.of_one_length(BATCH_SIZE)] * budget.steps if compiled else train.batches(budget.steps)
        return train_and_judge(name, net, batches, held_out, **judging, **settings)
    return infer_and_judge(name, net, few, steps=budget.fit_steps, **judging, **settings)


def table(outcomes: dict[str, Outcome | str]) -> str:
    """Format the outcomes as a markdown table; a failure shows its message."""
    head = "| algorithm | bound | importance-weighted | effective sample size | seconds | paths scored |\n"
    lines = []
    for name, outcome in outcomes.items():
        if isinstance(outcome, str):
            lines.append(f"| {name} | failed: {outcome} | | | | |")
            continue
        bound = "" if math.isnan(outcome.bound) else f"{outcome.bound:.2f} ± {outcome.error:.2f}"
        ess = "" if math.isnan(outcome.ess) else f"{outcome.ess:.1f} of {outcome.draws}"
        scored = ALGORITHMS[name].scoring
        lines.append(f"| {name} | {bound} | {outcome.yardstick:.2f} | {ess} | {outcome.seconds:.1f} | {scored} |")
    return head + "|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n"


def draw(path: Path, outcomes: dict[str, Outcome | str]) -> None:
    """Plot the bounds of training and of inference algorithms, with the importance-weighted bounds."""
    done = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Outcome)}
    kinds = {"held-out sequences, after training": [], "a few sequences, model fixed": []}
    training, inferring = kinds
    for name in done:
        kinds[training if ALGORITHMS[name].trains and ALGORITHMS[name].amortised else inferring].append(name)
    shown = {kind: names for kind, names in kinds.items() if names}
    height = 1.5 + 0.28 * max(map(len, shown.values()), default=1)
    figure, axes = plt.subplots(1, max(1, len(shown)), figsize=(6 * max(1, len(shown)), height), layout="constrained")
    for axis, (kind, names) in zip(np.atleast_1d(axes), shown.items(), strict=False):
        rows = range(len(names))
        axis.errorbar(
            [done[n].bound for n in names], rows, xerr=[done[n].error for n in names], fmt="o", label="its own bound"
        )
        axis.plot([done[n].yardstick for n in names], rows, "k|", ms=10, label="importance-weighted bound")
        axis.set(title=kind, xlabel="nats / sequence", yticks=list(rows), yticklabels=names)
        if kind == inferring:
            axis.set_xscale("asinh", linear_width=20.0)  # guides that are not yet fitted lie far below
        axis.invert_yaxis()
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def swap_inference(
    inference: str = "all",
    data: Path | None = None,
    out: Path = Path("runs/swap_inference"),
    page: Path | None = None,
    seed: int = 0,
    steps: PositiveInt = 30,
    smoke: bool = False,
) -> None:
    """Train or infer with one algorithm or all, from the same weights, and compare the results.

    Args:
        inference: A name in zf_pyro.inference.ALGORITHMS, or all.
        data: An .npz or .pt file: x, (n, time, frame) floats or (n, time) integers, and lengths, (n,). None: vowels.
        out: Folder for table.md and figure.png.
        page: File to update with the table, between its inference table markers.
        seed: Random seed of weights and samples, reset for each algorithm.
        steps: Training steps of each algorithm that trains.
        smoke: Only check that everything runs, in seconds; the results are meaningless.
    """
    torch.set_num_threads(1)  # a second thread gains nothing for matrices this small
    names = list(ALGORITHMS) if inference == "all" else [inference]
    for name in names:
        ALGORITHMS[name]  # raises for an unknown name before anything is trained
    budget = Budget(2, 2, 2, 6, 2, 4, 2) if smoke else Budget(steps=steps)
    out.mkdir(parents=True, exist_ok=True)
    train, test = load(data, seed)
    family: Emission = Gaussian(train.x.shape[-1]) if train.x.dim() == 3 else Categorical(int(train.x.max()) + 1)
    held_out, few = test.take(torch.arange(len(test.x))[: budget.held_out]), test.of_one_length(budget.few)
    weights = {k: v.clone() for k, v in warm_up(new_net(family, seed), train, budget.warm_up).items()}
    outcomes: dict[str, Outcome | str] = {}
    progress = tqdm(names)
    for name in progress:
        progress.set_description(name)
        try:
            outcomes[name] = run(name, new_net(family, seed, weights), train, held_out, few, budget)
        except Exception as error:  # becomes a line of the table
            if inference != "all":
                raise
            outcomes[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    text = table(outcomes)
    print(text)
    (out / "table.md").write_text(text)
    if page is not None:
        before, _, rest = page.read_text().partition(MARKERS[0])
        page.write_text(before + MARKERS[0] + text + MARKERS[1] + rest.partition(MARKERS[1])[2])
    draw(out / "figure.png", outcomes)


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(swap_inference, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that it all runs; results are meaningless.")
    swap_inference(**parser.parse_args().as_dict())
