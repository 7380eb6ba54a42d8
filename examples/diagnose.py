"""Report on the models of a quickstart run: accuracy of the guide, use of the latents, comparison of models.

    python examples/quickstart.py --out runs/quickstart
    python examples/diagnose.py --run runs/quickstart --out runs/diagnosis

writes runs/diagnosis/report.html, with embedded figures, and diagnosis.json. It prints the verdicts. The sequences are
the official test utterances. About a minute on one CPU core.
"""

import json
import warnings
from pathlib import Path

import jsonargparse
import matplotlib
import pyro
import torch
from quickstart import SIZES, quickstart

from zf_pyro import ZForcing, diagnostics, to_arviz
from zf_pyro.data import NUM_CEPSTRA, load_vowels
from zf_pyro.diagnostics import Given, ReportSizes, model_sections, write_report
from zf_pyro.diagnostics.plots import plot_training
from zf_pyro.diagnostics.report import Section, Verdict, remedies
from zf_pyro.emissions import Gaussian

matplotlib.use("Agg")

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
    sizes, utterances = ReportSizes(), 370
    if smoke:
        run, sizes, utterances = out / "run", ReportSizes(draws=25, simulations=50, by_step=4), 40
        quickstart(run, seed, smoke=True)
    if not (run / "weights.pt").exists():
        raise FileNotFoundError(f"--run must be a folder with weights.pt, as examples/quickstart.py writes; got {run}")
    out.mkdir(parents=True, exist_ok=True)
    results = json.loads((run / "results.json").read_text())
    test = load_vowels(results["seed"]).test
    test = test.take(torch.linspace(0, len(test.x) - 1, utterances).long())
    names = [f"speaker {speaker}, row {row}" for row, speaker in enumerate(test.speakers.tolist())]
    parts, verdicts, models, measured, top = [], {}, {}, {}, []
    for name, net in load(run, seed).items():
        coords = {"sequence": names, "feature": CEPSTRA}
        data = to_arviz(
            net, test.x, test.lengths, num_samples=sizes.draws, labels=test.speakers, coords=coords, batch_size=37
        )
        models[name] = data
        given, probe = Given(test.x, test.lengths), len(test.x) >= 90
        about = model_sections(name, net, data, given, sizes=sizes, feature=CEPSTRA[0], probe=probe)
        parts += about.sections
        measured[name], verdicts[name] = about.measurements, about.use.verdict()
        top.append(about.verdict)
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
