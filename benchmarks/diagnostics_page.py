"""Numbers and pictures of the diagnostics on networks of the package, for README.md and docs/diagnostics.md.

    python benchmarks/diagnostics_page.py --write true

The networks are those of ``zf_pyro.pretrained``, the sequences the 370 test utterances of Japanese Vowels. The numbers
go to benchmarks/diagnostics_page.json, and from there between the markers of the pages. ``--render true`` writes the
pages from the file alone. The pictures are docs/diagnostics-guide.png and docs/diagnostics-latents.png.
"""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import jsonargparse
import matplotlib
import pyro
import torch

from zf_pyro import diagnostics, pretrained, to_arviz
from zf_pyro.data import NUM_CEPSTRA, load_vowels
from zf_pyro.diagnostics import plots
from zf_pyro.experiments.table import replaced

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
NUMBERS = Path(__file__).with_suffix(".json")
NETS = {"vowels-elbo": "plain ELBO", "vowels-annealing": "KL annealing", "vowels": "Z-Forcing"}
"""Names of the networks, and of their objectives on the pages."""
CEPSTRA = [f"cepstrum {number}" for number in range(1, NUM_CEPSTRA + 1)]
STEP_UTTERANCES = 37
"""Utterances of the check by step, evenly spread: its work grows with the square of the length."""
Numbers = dict[str, dict[str, float]]


def measured(name: str, num_utterances: int = 370, num_samples: int = 100) -> dict[str, float]:
    """Figures of one network, under a fixed seed; nats per sequence where not said otherwise."""
    pyro.set_rng_seed(0)
    net, test = pretrained(name), load_vowels(0).test
    test = test.take(torch.linspace(0, len(test.x) - 1, num_utterances).long())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of high k-hats, which are among the figures
        use = diagnostics.latent_use(net, test.x, test.lengths)
        data = to_arviz(
            net,
            test.x,
            test.lengths,
            num_samples=num_samples,
            labels=test.speakers,
            groups=("posterior", "sample_stats", "log_likelihood", "constant_data"),
        )
        weights, evidence = diagnostics.check_weights(data), diagnostics.evidence(data)
        few = test.take(torch.linspace(0, len(test.x) - 1, min(STEP_UTTERANCES, len(test.x))).long())
        steps = diagnostics.check_steps(net, few.x, few.lengths, num_samples=num_samples)
        shared = diagnostics.mutual_information(net, test.x, test.lengths)
        probe = diagnostics.linear_probe(data) if len(test.x) >= 90 else None
    return {
        "used": float(use.used),
        "kl": use.total_kl,
        "lost_at_prior_mean": use.lost_at_prior_mean,
        "lost_by_shuffling": use.lost_by_shuffling,
        "active_units": use.active_units,
        "auxiliary_r2": use.auxiliary_r2,
        "auxiliary": use.auxiliary,
        "earned": use.earned,
        "probe": float("nan") if probe is None else probe.accuracy,
        "information": shared.estimate,
        "rate": shared.rate,
        "sequences": len(test.x),
        "bad_sequences": len(weights.bad_tails()),
        "good_k": weights.good_k,
        "elbo": float(weights.elbo.mean()),
        "evidence": float(evidence["elpd"]) / len(test.x),
        "mcse": float(evidence["mcse"]) / len(test.x),
        "steps": int(steps.efficiency.notnull().sum()),
        "flagged_steps": int(steps.flagged().sum()),
    }


def draw(num_utterances: int = 370, num_samples: int = 100, simulations: int = 400) -> dict[str, Any]:
    """Pictures of the page by file name: the use of the latents of all networks, and the guide of the last."""
    pyro.set_rng_seed(0)
    test = load_vowels(0).test
    test = test.take(torch.linspace(0, len(test.x) - 1, num_utterances).long())
    longest = int(test.lengths.argmax())
    latents, rows = plt.subplots(3, 3, figsize=(13, 10.8), layout="constrained")
    for (name, title), (left, middle, right) in zip(NETS.items(), rows, strict=True):
        net = pretrained(name)
        names = {"feature": CEPSTRA}
        data = to_arviz(net, test.x, test.lengths, num_samples=num_samples, labels=test.speakers, coords=names)
        use = diagnostics.latent_use(net, test.x, test.lengths)
        strongest = use.kl.nanmean((0, 1)).argsort(descending=True).tolist()
        plots.plot_kl(use, left).set_title(f"{title}: KL {use.total_kl:.1f} nats a sequence")
        plots.plot_phase(data, (strongest[0], strongest[1]), ax=middle, labels_of="speaker")
        frames = test.x[longest, None, : int(test.lengths[longest])]
        plots.plot_traversal(net, frames, strongest[0], ax=right, name=CEPSTRA[0])
    guide, ((khat, steps, ranks), (fan, lags, powers)) = plt.subplots(2, 3, figsize=(13, 7.2), layout="constrained")
    few = test.take(torch.linspace(0, len(test.x) - 1, min(STEP_UTTERANCES, len(test.x))).long())
    checked = diagnostics.check_steps(net, few.x, few.lengths, num_samples=num_samples)
    plots.plot_khat(diagnostics.check_weights(data), khat)
    plots.plot_steps(checked, "efficiency", steps)
    plots.plot_rank_ecdf(diagnostics.calibrate(net, simulations, num_steps=10), ranks)
    plots.plot_fan(data, longest, ax=fan)
    autocorrelation = diagnostics.predictive_check(data, diagnostics.autocorrelation(5))
    plots.plot_check(autocorrelation, range(1, 6), ax=lags).set(xlabel="lag, frames", ylabel="autocorrelation")
    spectrum = diagnostics.predictive_check(data, diagnostics.spectrum())
    plots.plot_check(spectrum, torch.linspace(0, 0.5, 8), ax=powers).set(xlabel="cycles per frame", ylabel="log power")
    return {"diagnostics-latents.png": latents, "diagnostics-guide.png": guide}


def tables(numbers: Numbers) -> dict[str, str]:
    """Tables of docs/diagnostics.md, by the name of their markers."""
    use = [
        "| | verdict | KL | lost at prior mean | lost by shuffling | active units | R² of the auxiliary | auxiliary | "
        "z earns of it | speaker by linear probe | information of x and z (KL of the same steps) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    right = [
        "| | sequences with a bad k-hat | ELBO | evidence, 100 samples | its Monte Carlo error | steps flagged |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in numbers.items():
        nats = (found[key] for key in ("kl", "lost_at_prior_mean", "lost_by_shuffling"))
        use.append(
            f"| {NETS[name]} | {'used' if found['used'] else 'collapsed'} | {' | '.join(f'{v:.1f}' for v in nats)} | "
            f"{found['active_units']:.0f} of 16 | {found['auxiliary_r2']:.2f} | {found['auxiliary']:.0f} | "
            f"{found['earned']:.0f} | {100 * found['probe']:.0f} % | {found['information']:.2f} ({found['rate']:.2f}) |"
        )
        right.append(
            f"| {NETS[name]} | {found['bad_sequences']:.0f} of {found['sequences']:.0f} | {found['elbo']:.1f} | "
            f"{found['evidence']:.1f} | {found['mcse']:.2f} | {found['flagged_steps']:.0f} of {found['steps']:.0f} |"
        )
    return {"latent use": "\n".join(use), "weights": "\n".join(right)}


def pages(numbers: Numbers) -> dict[Path, str]:
    """The pages with these figures."""
    page = ROOT / "docs" / "diagnostics.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables(numbers).items():
        text = replaced(text, name, table)
    readme, found = ROOT / "README.md", numbers["vowels"]
    comments = {
        "use.verdict()": f"{'used' if found['used'] else 'collapsed'}: KL {found['kl']:.1f} nats a sequence; "
        f"{found['lost_at_prior_mean']:.1f} nats of log-likelihood lost ...",
        "diagnostics.check_weights(data).summary()": f"{found['bad_sequences']:.0f} of {found['sequences']:.0f} "
        f"sequences with k-hat above {found['good_k']:.2f}; ...",
    }
    front = readme.read_text(encoding="utf-8")
    for call, comment in comments.items():
        front = re.sub(rf"(?m)^(print\({re.escape(call)}\))  # .*$", lambda m, c=comment: f"{m[1]}  # {c}", front)
    return {page: text, readme: front}


def main(write: bool = False, render: bool = False, smoke: bool = False) -> None:
    """Measure all networks and print the tables.

    Args:
        write: Write the numbers and the pages.
        render: Write the pages from the numbers of the file.
        smoke: Few sequences and samples; nothing is written.
    """
    torch.set_num_threads(1)
    if render:
        numbers: Any = json.loads(NUMBERS.read_text())
    else:
        sizes = (20, 25) if smoke else (370, 100)
        numbers = {name: measured(name, *sizes) for name in NETS}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of high k-hats
            pictures = draw(*sizes, 40 if smoke else 400)
    for name, table in tables(numbers).items():
        print(f"{name}\n{table}")
    if write and not (smoke or render):
        NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n")
        for name, figure in pictures.items():
            figure.savefig(ROOT / "docs" / name, dpi=77, pil_kwargs={"optimize": True})
    if (write or render) and not smoke:
        for page, text in pages(numbers).items():
            page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser(description=__doc__)
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Few sequences and samples; nothing is written.")
    main(**parser.parse_args().as_dict())
