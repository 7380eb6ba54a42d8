"""Report on the models of a quickstart run: accuracy of the guide, use of the latents, comparison of models.

    python examples/quickstart.py --out runs/quickstart
    python examples/diagnose.py --run runs/quickstart --out runs/diagnosis

writes runs/diagnosis/report.html, with embedded figures, and diagnosis.json. It prints the verdicts. The sequences are
the official test utterances. About a minute on one CPU core.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import jsonargparse
import matplotlib
import pyro
import torch
from quickstart import SIZES, quickstart

from zf_pyro import ZForcing, diagnostics, to_arviz
from zf_pyro.data import NUM_CEPSTRA, Utterances, load_vowels
from zf_pyro.diagnostics import LatentUse
from zf_pyro.diagnostics.measurements import Measurement, measurements
from zf_pyro.diagnostics.plots import (
    plot_check,
    plot_fan,
    plot_khat,
    plot_kl,
    plot_phase,
    plot_rank_ecdf,
    plot_steps,
    plot_training,
    plot_traversal,
)
from zf_pyro.diagnostics.report import Section, Verdict, remedies, write_report
from zf_pyro.emissions import Gaussian

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CEPSTRA = [f"cepstrum {number}" for number in range(1, NUM_CEPSTRA + 1)]
"""Names of the features."""


def load(run: Path, seed: int) -> dict[str, ZForcing]:
    """Trained models of a quickstart folder, by name."""
    nets = {}
    for name, weights in torch.load(run / "weights.pt", weights_only=True).items():
        pyro.set_rng_seed(seed)
        nets[name] = ZForcing(Gaussian(NUM_CEPSTRA), **SIZES, transition="concatenate").eval()
        nets[name].load_state_dict(weights)
    return nets


def sections(
    name: str, net: ZForcing, test: Utterances, data: Any, sizes: dict[str, int]
) -> tuple[list[Section], list[Measurement], LatentUse]:
    """Sections of the report on one model, all their measurements, and the use of its latents."""
    use = diagnostics.latent_use(net, test.x, test.lengths)
    found: list[Any] = [use, diagnostics.mutual_information(net, test.x, test.lengths)]
    if len(test.x) >= 90:
        found.append(diagnostics.linear_probe(data))
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    plot_kl(use, axes[0])
    strongest = use.kl.nanmean((0, 1)).argsort(descending=True).tolist()
    plot_phase(data, (strongest[0], strongest[1]), ax=axes[1])
    longest = int(test.lengths.argmax())
    frames = test.x[longest : longest + 1, : int(test.lengths[longest])]
    plot_traversal(net, frames, strongest[0], ax=axes[2], name=CEPSTRA[0])
    first = [one for result in found for one in measurements(result)]
    caption = (
        f"Left: KL by step and latent. Middle: paths of the two latents with the most KL, {strongest[0]} and "
        f"{strongest[1]}. Right: the longest utterance while latent {strongest[0]} is moved by up to three deviations."
    )
    parts = [Section(f"{name}: do the latents matter?", use.verdict(), first, figure, caption)]

    check = diagnostics.check_weights(data)
    few = test.take(torch.linspace(0, len(test.x) - 1, sizes["by_step"]).long())
    steps = diagnostics.check_steps(net, few.x, few.lengths, num_samples=sizes["draws"])
    calibration = diagnostics.calibrate(net, sizes["simulations"], num_steps=10)
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    plot_khat(check, axes[0])
    plot_steps(steps, "efficiency", ax=axes[1])
    plot_rank_ecdf(calibration, axes[2])
    second = [one for result in (check, steps, calibration) for one in measurements(result)]
    text = (
        f"Weights are those of {sizes['draws']} samples from the guide. Steps are those of {len(few.x)} utterances, "
        f"and ranks those of {sizes['simulations']} sequences of the model itself. Samples from the guide are "
        "independent, so there is no R-hat."
    )
    caption = "Left: k-hat of each utterance. Middle: effective share of the samples by step. Right: ECDF of ranks."
    parts.append(Section(f"{name}: is the guide right?", text, second, figure, caption))

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    plot_fan(data, longest, ax=axes[0])
    lags = diagnostics.predictive_check(data, diagnostics.autocorrelation(5))
    plot_check(lags, range(1, 6), ax=axes[1]).set(xlabel="lag, frames", ylabel="autocorrelation")
    powers = diagnostics.predictive_check(data, diagnostics.spectrum())
    plot_check(powers, torch.linspace(0, 0.5, 8), ax=axes[2]).set(xlabel="cycles per frame", ylabel="log power")
    third = [
        Measurement(
            f"largest surprise of the {what}", f"{abs(one.surprise).max():.1f}", "standard deviations", "about 2"
        )
        for what, one in (("autocorrelation", lags), ("spectrum", powers))
    ]
    caption = (
        "Left: the first cepstrum of the longest utterance under the posterior predictive. Middle and right: of the "
        "first cepstrum of real utterances, against what the model generates by itself."
    )
    parts.append(Section(f"{name}: do its samples resemble the data?", "", third, figure, caption))
    return parts, first + second, use


def diagnose(
    run: Path = Path("runs/quickstart"),
    out: Path = Path("runs/diagnosis"),
    seed: int = 0,
    smoke: bool = False,
) -> None:
    """Write a report on the trained models of a quickstart folder.

    Args:
        run: Folder written by the quickstart, with weights.pt and results.json.
        out: Folder for report.html and diagnosis.json.
        seed: Random seed of all samples.
        smoke: Only check that everything runs, with six training steps and few draws; the results are meaningless.
    """
    torch.set_num_threads(1)
    sizes = {"draws": 100, "simulations": 400, "utterances": 370, "by_step": 20}
    if smoke:
        run, sizes = out / "run", {"draws": 25, "simulations": 50, "utterances": 40, "by_step": 4}
        quickstart(run, seed, smoke=True)
    if not (run / "weights.pt").exists():
        raise FileNotFoundError(f"--run must be a folder with weights.pt, as examples/quickstart.py writes; got {run}")
    out.mkdir(parents=True, exist_ok=True)
    results = json.loads((run / "results.json").read_text())
    test = load_vowels(results["seed"]).test
    test = test.take(torch.linspace(0, len(test.x) - 1, sizes["utterances"]).long())
    utterances = [f"speaker {speaker}, row {row}" for row, speaker in enumerate(test.speakers.tolist())]
    parts, verdicts, models, measured, top = [], {}, {}, {}, []
    for name, net in load(run, seed).items():
        coords = {"sequence": utterances, "feature": CEPSTRA}
        data = to_arviz(
            net, test.x, test.lengths, num_samples=sizes["draws"], labels=test.speakers, coords=coords, batch_size=37
        )
        models[name] = data
        about, measured[name], use = sections(name, net, test, data, sizes)
        parts += about
        verdicts[name] = use.verdict()
        failed = [one.name for one in measured[name] if one.good is False]
        latents = "the latents are used" if use.used else "the latents have collapsed"
        checks = "all checks passed" if not failed else f"failed: {'; '.join(failed)}"
        top.append(Verdict(name, f"{latents}; {checks}.", not failed))
        print(f"{name}: {verdicts[name]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about high k-hats, which are in the report
        ranking = diagnostics.compare(models)
    left_out = [column for column in ("p", "p_loo", "scale") if column in ranking]
    table = ranking.drop(columns=left_out).round(2).to_string()
    print(table)
    top.insert(0, Verdict("Best by its evidence", f"{ranking.index[0]}.", True))
    curves = {name: (log["validation_step"], log["validation_elbo"]) for name, log in results["histories"].items()}
    axes = plot_training(curves)
    text = "Ranked by the evidence of the sequences, in nats; dse is the standard error of the difference to the first."
    caption = "ELBO of the validation utterances in training, nats per utterance."
    better = Section("Which model is better?", text, (), axes.figure, caption, table)
    title = f"Diagnosis of {run.name}"
    write_report(out / "report.html", title, [*remedies(measured), better, *parts], top)
    (out / "diagnosis.json").write_text(json.dumps({"run": str(run), "verdicts": verdicts}, indent=1))


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(diagnose, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that it all runs; results are meaningless.")
    diagnose(**parser.parse_args().as_dict())
