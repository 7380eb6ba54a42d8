"""Japanese Vowels with three objectives: plain ELBO, KL annealing and Z-Forcing, on one model under one seed.

Trains ``ZForcing`` on 216 utterances (12 cepstra per frame), with early stopping by the ELBO of 54 held-out ones. Then
compares bounds on the 370 official test utterances. About two minutes on one CPU core:

    python examples/quickstart.py --out runs/quickstart

All bounds are in nats per sequence (7 to 29 frames), over cepstra standardised by the training utterances.
"""

import copy
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jsonargparse
import matplotlib
import pyro
import torch
from jsonargparse.typing import PositiveInt
from pyro.infer import SVI
from pyro.optim import ClippedAdam
from tqdm import tqdm

from zf_pyro import Linear, ZForcing, ZForcingELBO
from zf_pyro.data import NUM_CEPSTRA, Utterances, Vowels, load_vowels
from zf_pyro.emissions import Gaussian
from zf_pyro.evaluation import active_units, bounds, step_kl

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIZES = {"embed_dim": 64, "hidden_dim": 64, "latent_dim": 16, "mlp_dim": 64}
BATCH_SIZE = 54
SMOOTHING = 15


def objectives(max_steps: int) -> dict[str, ZForcingELBO]:
    """Three objectives by name, which differ only in their weights."""
    annealing = max(1, max_steps // 2)
    kl_weight = Linear(0.2, 1.0, annealing)
    return {
        "plain ELBO": ZForcingELBO(),
        "KL annealing": ZForcingELBO(kl_weight),
        "Z-Forcing": ZForcingELBO(kl_weight, aux_weight=Linear(0.05, 0.0, annealing)),
    }


@dataclass
class History:
    """Training curves for the figure, in nats per sequence."""

    step: list[int] = field(default_factory=list)
    elbo: list[float] = field(default_factory=list)
    """ELBO of each training batch, with all weights 1."""
    kl: list[float] = field(default_factory=list)
    """KL of each training batch."""
    validation_step: list[int] = field(default_factory=list)
    validation_elbo: list[float] = field(default_factory=list)
    best_step: int = 0
    """Step of the weights that were kept."""


def batches(data: Utterances) -> Iterator[Utterances]:
    """Endless batches; each pass over the data has a new order."""
    while True:
        for rows in torch.randperm(len(data.x)).split(BATCH_SIZE):
            yield data.take(rows)


def train(name: str, net: ZForcing, elbo: ZForcingELBO, vowels: Vowels, max_steps: int, patience: int) -> History:
    """Fit ``net``, then load the weights of the best validation ELBO.

    Only weights trained on the full bound count: those after the KL weight has reached 1.
    """
    svi = SVI(net.model, net.guide, ClippedAdam({"lr": 3e-3, "clip_norm": 10.0}), elbo)
    history, best, weights = History(), -float("inf"), net.state_dict()
    every = max(1, max_steps // 30)
    with tqdm(total=max_steps, desc=f"{name:>12}") as progress:
        for batch in itertools.islice(batches(vowels.train), max_steps):
            loss = svi.step(batch.x, batch.lengths) / len(batch.x)
            parts = {name: term.mean().item() for name, term in elbo.terms._asdict().items()}
            history.step.append(elbo.step)
            history.elbo.append(parts["log_likelihood"] - parts["kl"])
            history.kl.append(parts["kl"])
            shown = {"loss": loss, "KL": parts["kl"], "auxiliary": parts["auxiliary"]}
            progress.set_postfix(
                {key: f"{value:.1f}" for key, value in shown.items() if not math.isnan(value)}, refresh=False
            )
            progress.update()
            if elbo.step % every == 0 or elbo.step == max_steps:
                score = bounds(net, vowels.validation.x, vowels.validation.lengths, num_particles=4).elbo.mean().item()
                history.validation_step.append(elbo.step)
                history.validation_elbo.append(score)
                if elbo.kl_weight < 1.0:
                    continue
                if score > best:
                    best, history.best_step, weights = score, elbo.step, copy.deepcopy(net.state_dict())
                elif elbo.step - history.best_step >= patience:
                    break
    net.load_state_dict(weights)
    return history


def table(rows: dict[str, dict[str, float]], num_particles: int) -> str:
    """Format the rows as a text table."""
    columns = {"elbo": "ELBO", "importance_weighted": f"IW-{num_particles}", "kl": "KL", "active_units": "active units"}
    columns |= {"best_step": "best step", "seconds": "seconds"}
    head = "".join(f"{title:>14}" for title in ("", *columns.values()))
    return "\n".join(
        [head, *(f"{name:>14}" + "".join(f"{row[c]:14.1f}" for c in columns) for name, row in rows.items())]
    )


@torch.no_grad()
def draw(path: Path, nets: dict[str, ZForcing], histories: dict[str, History], test: Utterances) -> None:
    """Plot training curves, KL per frame, and an utterance reconstructed and one generated by the last model."""
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.4), layout="constrained")
    curves, divergences, frames = axes[0]
    reached = int(test.lengths.sort().values[-10])  # a mean over fewer than ten utterances shows single ones
    for colour, (name, history) in zip(("C0", "C1", "C2"), histories.items(), strict=True):
        curves.plot(history.validation_step, history.validation_elbo, color=colour, label=name)
        curves.plot(history.step, smooth(history.elbo), color=colour, lw=0.8, ls=":")
        curves.axvline(history.best_step, color=colour, lw=0.8, ls="--")
        divergences.plot(history.step, smooth(history.kl), color=colour)
        frames.plot(
            range(1, reached + 1), step_kl(nets[name], test.x, test.lengths).nanmean(0)[:reached].cpu(), color=colour
        )
    best = max(max(history.validation_elbo) for history in histories.values())
    curves.set(title="ELBO: validation; dotted: training", ylim=(best - 100, best + 50))
    curves.set(xlabel="training step (dashed: weights kept)", ylabel="nats / utterance")
    curves.legend(loc="lower right")
    divergences.set(title="KL(q || p) during training", xlabel="training step", ylabel="nats / utterance")
    frames.set(title="KL(q || p) by frame, test utterances", xlabel="frame t", ylabel="nats / frame", ylim=(0, None))

    name, net = list(nets.items())[-1]
    utterance = int(test.lengths.argmax())
    x = test.x[utterance : utterance + 1, : int(test.lengths[utterance])]
    net.eval()
    rebuilt = net.emission(net.states(x, net.guide(x))).mean.transpose(0, 1)
    generated = net.model(num_steps=x.shape[1], batch_shape=(1,))
    titles = ("test utterance", f"{name}: reconstruction", f"{name}: generated")
    for axis, title, cepstra in zip(axes[1], titles, (x, rebuilt, generated), strict=True):
        image = axis.imshow(
            cepstra[0].T.cpu().numpy(),
            aspect="auto",
            cmap="RdBu_r",
            vmin=-3,
            vmax=3,
            extent=(0.5, x.shape[1] + 0.5, NUM_CEPSTRA + 0.5, 0.5),
        )
        axis.set(title=title, xlabel="frame t", ylabel="cepstrum")
    figure.colorbar(image, ax=axes[1], label="standard deviations")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def smooth(values: list[float]) -> list[float]:
    """Running means over the last SMOOTHING values, since batches differ in their utterances."""
    windows = (values[max(0, stop - SMOOTHING) : stop] for stop in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def quickstart(
    out: Path = Path("runs/quickstart"),
    seed: int = 0,
    device: str = "cpu",
    max_steps: PositiveInt = 550,
    smoke: bool = False,
) -> None:
    """Train one stochastic recurrent network on Japanese Vowels with three objectives, and compare test bounds.

    Args:
        out: Folder for figure.png, results.json and weights.pt (one state_dict per objective).
        seed: Random seed of the validation split, the initial weights and all samples, the same for each objective.
        device: Device for training: cpu or cuda.
        max_steps: Training steps per objective. The KL weight is annealed over the first half of them.
        smoke: Only check that everything runs, in a few seconds; the results are meaningless.
    """
    torch.set_num_threads(1)  # a second thread gains nothing for matrices this small, and slows down a busy machine
    num_particles = 64
    if smoke:
        max_steps, num_particles = 6, 2
    out.mkdir(parents=True, exist_ok=True)
    vowels = load_vowels(seed).to(device)
    nets, histories, rows = {}, {}, {}
    for name, elbo in objectives(max_steps).items():
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        start = time.perf_counter()
        nets[name] = ZForcing(Gaussian(NUM_CEPSTRA), **SIZES, transition="concatenate").to(device)
        histories[name] = train(name, nets[name], elbo, vowels, max_steps, patience=max(1, max_steps // 4))
        seconds = time.perf_counter() - start
        rows[name] = {"best_step": histories[name].best_step, "seconds": round(seconds, 1)}
    for name, net in nets.items():
        scores = bounds(net, vowels.test.x, vowels.test.lengths, num_particles)
        rows[name] |= {bound: value.mean().item() for bound, value in scores._asdict().items()}
        rows[name]["active_units"] = active_units(net, vowels.test.x, vowels.test.lengths)
    print("Test utterances, nats per sequence")
    print(table(rows, num_particles))
    torch.save({name: net.state_dict() for name, net in nets.items()}, out / "weights.pt")
    record = {"seed": seed, "max_steps": max_steps, "num_particles": num_particles, "test": rows}
    record["histories"] = {name: asdict(history) for name, history in histories.items()}
    (out / "results.json").write_text(json.dumps(record, indent=1))
    draw(out / "figure.png", nets, histories, vowels.test)


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(quickstart, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that it all runs; results are meaningless.")
    quickstart(**parser.parse_args().as_dict())
