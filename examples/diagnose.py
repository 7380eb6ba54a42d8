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
from zf_pyro.diagnostics.plots import (
    plot_check,
    plot_fan,
    plot_khat,
    plot_kl,
    plot_phase,
    plot_rank_ecdf,
    plot_ranks,
    plot_training,
    plot_traversal,
)
from zf_pyro.diagnostics.report import Section, write_report
from zf_pyro.emissions import Gaussian

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def load(run: Path, seed: int) -> dict[str, ZForcing]:
    """Trained models of a quickstart folder, by name."""
    nets = {}
    for name, weights in torch.load(run / "weights.pt", weights_only=True).items():
        pyro.set_rng_seed(seed)
        nets[name] = ZForcing(Gaussian(NUM_CEPSTRA), **SIZES, transition="concatenate").eval()
        nets[name].load_state_dict(weights)
    return nets


def sections(name: str, net: ZForcing, test: Utterances, data: Any, sizes: dict[str, int]) -> tuple[list[Section], str]:
    """Sections of the report on one model, and its verdict."""
    use = diagnostics.latent_use(net, test.x, test.lengths)
    probe = diagnostics.linear_probe(data) if len(test.x) >= 90 else None
    information = diagnostics.mutual_information(net, test.x, test.lengths)
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    plot_kl(use, axes[0])
    strongest = use.kl.nanmean((0, 1)).argsort(descending=True).tolist()
    plot_phase(data, (strongest[0], strongest[1]), ax=axes[1])
    longest = int(test.lengths.argmax())
    plot_traversal(net, test.x[longest : longest + 1, : int(test.lengths[longest])], strongest[0], ax=axes[2])
    text = [use.verdict(), "" if probe is None else probe.summary()]
    text += [
        f"mutual information of x and z_1..z_{information.num_steps}: {information.estimate:.2f} nats of at most "
        f"{information.ceiling:.2f}; KL of the same steps {information.rate:.2f}"
    ]
    parts = [Section(f"{name}: do the latents matter?", "\n".join(text), figure)]

    check = diagnostics.check_weights(data)
    calibration = diagnostics.calibrate(net, sizes["simulations"], num_steps=10)
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    plot_khat(check, axes[0])
    plot_rank_ecdf(calibration, axes[1])
    plot_ranks(calibration, 0, strongest[0], axes[2])
    text = [check.summary(), calibration.summary(), "Samples from the guide are independent: no R-hat is shown."]
    parts.append(Section(f"{name}: is the guide right?", "\n".join(text), figure))

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    plot_fan(data, longest, ax=axes[0])
    lags = diagnostics.predictive_check(data, diagnostics.autocorrelation(5))
    plot_check(lags, range(1, 6), ax=axes[1]).set(xlabel="lag, frames", ylabel="autocorrelation")
    powers = diagnostics.predictive_check(data, diagnostics.spectrum())
    plot_check(powers, torch.linspace(0, 0.5, 8), ax=axes[2]).set(xlabel="cycles per frame", ylabel="log power")
    text = [f"largest surprise, in standard deviations: autocorrelation {abs(lags.surprise).max():.1f}"]
    text += [f"spectrum {abs(powers.surprise).max():.1f}"]
    parts.append(Section(f"{name}: do its samples resemble the data?", ", ".join(text), figure))
    return parts, use.verdict()


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
    sizes = {"draws": 100, "simulations": 400, "utterances": 370}
    if smoke:
        run, sizes = out / "run", {"draws": 25, "simulations": 50, "utterances": 40}
        quickstart(run, seed, smoke=True)
    if not (run / "weights.pt").exists():
        raise FileNotFoundError(f"--run must be a folder with weights.pt, as examples/quickstart.py writes; got {run}")
    out.mkdir(parents=True, exist_ok=True)
    results = json.loads((run / "results.json").read_text())
    test = load_vowels(results["seed"]).test
    test = test.take(torch.linspace(0, len(test.x) - 1, sizes["utterances"]).long())
    parts, verdicts, models = [], {}, {}
    for name, net in load(run, seed).items():
        data = to_arviz(net, test.x, test.lengths, num_samples=sizes["draws"], labels=test.speakers, batch_size=37)
        models[name] = data
        about, verdicts[name] = sections(name, net, test, data, sizes)
        parts += about
        print(f"{name}: {verdicts[name]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about high k-hats, which are in the report
        table = diagnostics.compare(models).to_string()
    print(table)
    curves = {name: (log["validation_step"], log["validation_elbo"]) for name, log in results["histories"].items()}
    axes = plot_training(curves)
    parts.insert(0, Section("Which model is better?", table, axes.figure))
    parts.insert(0, Section("Verdicts", "\n".join(f"{name}: {verdict}" for name, verdict in verdicts.items())))
    write_report(out / "report.html", f"Diagnosis of {run.name}", parts)
    (out / "diagnosis.json").write_text(json.dumps({"run": str(run), "verdicts": verdicts}, indent=1))


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(diagnose, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that it all runs; results are meaningless.")
    diagnose(**parser.parse_args().as_dict())
