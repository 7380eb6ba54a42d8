"""Makes the figures and tables of the documentation again, each by the command that its page names.

    python docs/figures.py                  # all of them: about an hour on two cores
    python docs/figures.py docs/series.png  # one
    python docs/figures.py --stale          # names those whose program or data have changed since

``figures.json`` has a fingerprint of the program and data behind each. Comments, docstrings and layout do not count.
"""

import argparse
import ast
import gzip
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "figures.json"


class Made(NamedTuple):
    """How a figure or table is made."""

    command: str
    """Arguments of Python, in the repository's root."""
    sources: tuple[str, ...]
    """Patterns of the files that decide it, beside the package."""
    copied: str | None = None
    """Where the command leaves the figure, if elsewhere."""


NOTEBOOKS = sorted(path.stem for path in (ROOT / "docs" / "tutorials").glob("*.ipynb"))
MECHANISM = "benchmarks/polyphonic/mechanism.json"
DRAWN = "'*_plain' '*_annealed' '*_zforcing' '*_std_bwd' '*_contr_bwd'"
"""Rows of the figures of music: the plain net, annealing alone, the paper's form, and the two that z earns."""
FIGURES = {
    "docs/quickstart.png": Made(
        "examples/quickstart.py --out runs/quickstart", ("examples/quickstart.py",), "runs/quickstart/figure.png"
    ),
    "docs/series.png": Made("examples/series.py --out runs/series", ("examples/series.py",), "runs/series/figure.png"),
    "docs/diagnostics-guide.png": Made(
        "benchmarks/diagnostics_page.py --write true", ("benchmarks/diagnostics_page.py",)
    ),
    "docs/diagnostics-latents.png": Made(
        "benchmarks/diagnostics_page.py --write true", ("benchmarks/diagnostics_page.py",)
    ),
    "docs/results.md": Made(
        "-m zf_pyro.experiments.table benchmarks/polyphonic/plan.json --page docs/results.md",
        ("benchmarks/polyphonic/plan.json", "docs/results/polyphonic/*.*"),
    ),
    "docs/results.md, auxiliary": Made(
        f"-m zf_pyro.experiments.table {MECHANISM} --tables 'jsb, ZForcing*32 units*' --page docs/results.md",
        (MECHANISM, "docs/results/mechanism/m32_zforcing_*.*"),
    ),
    "docs/results.md, auxiliary, SRNN": Made(
        f"-m zf_pyro.experiments.table {MECHANISM} --tables 'jsb, SRNN*' --page docs/results.md",
        (MECHANISM, "docs/results/mechanism/m32_srnn_*.*", "docs/results/mechanism/m32_unresidual_*.*"),
    ),
    "docs/results.md, auxiliary, Piano-midi": Made(
        f"-m zf_pyro.experiments.table {MECHANISM} --tables 'piano-midi*' --page docs/results.md",
        (MECHANISM, "docs/results/mechanism/piano_midi_*.*"),
    ),
    "docs/results.md, auxiliary, Nottingham": Made(
        f"-m zf_pyro.experiments.table {MECHANISM} --tables 'nottingham*' --page docs/results.md",
        (MECHANISM, "docs/results/mechanism/nottingham_*.*"),
    ),
    "docs/mechanism.png": Made(
        f"-m zf_pyro.experiments.figure {MECHANISM} --table 'jsb, ZForcing, 32 units' --rows {DRAWN} "
        "--out docs/mechanism.png",
        (MECHANISM, "docs/results/mechanism/m32_zforcing_*.*"),
    ),
    "docs/mechanism-piano-midi.png": Made(
        f"-m zf_pyro.experiments.figure {MECHANISM} --table 'piano-midi, ZForcing, 64 units' "
        f"--rows {DRAWN} --out docs/mechanism-piano-midi.png",
        (MECHANISM, "docs/results/mechanism/piano_midi_zforcing_*.*"),
    ),
    "docs/mechanism-timit.png": Made(
        "-m zf_pyro.experiments.figure benchmarks/speech/plan.json --table 'TIMIT sample, mixtures' --rows "
        "'timit_gmm_zf_elbo' 'timit_gmm_zf_*annealed' 'timit_gmm_zf_*zforcing' --out docs/mechanism-timit.png",
        ("benchmarks/speech/plan.json", "docs/results/speech/timit_gmm*.*"),
    ),
    "docs/results.md, digits": Made(
        "-m zf_pyro.experiments.table benchmarks/digits/plan.json --tables 'digits*' --page docs/results.md",
        ("benchmarks/digits/plan.json", "docs/results/digits/digits_*.*", "docs/results/digits/pixels_*.*"),
    ),
    "docs/results.md, MNIST": Made(
        "-m zf_pyro.experiments.table benchmarks/digits/plan.json --tables 'MNIST*' --page docs/results.md",
        ("benchmarks/digits/plan.json", "docs/results/digits/mnist_*.*"),
    ),
    "docs/results.md, TIMIT": Made(
        "-m zf_pyro.experiments.table benchmarks/speech/plan.json --tables '*mixtures' --page docs/results.md",
        ("benchmarks/speech/plan.json", "docs/results/speech/timit_gmm*.*", "docs/results/speech/timit_linear*.*"),
    ),
    "docs/results.md, TIMIT, Gaussian frames": Made(
        "-m zf_pyro.experiments.table benchmarks/speech/plan.json --tables '*Gaussian frames' --page docs/results.md",
        ("benchmarks/speech/plan.json", "docs/results/speech/timit_zf_*.*"),
    ),
    "docs/results.md, reviews": Made(
        "-m zf_pyro.experiments.table benchmarks/reviews/plan.json --page docs/results.md",
        ("benchmarks/reviews/plan.json", "docs/results/reviews/*.*"),
    ),
    "docs/inference.md, algorithms": Made(
        "examples/swap_inference.py --inference all --page docs/inference.md", ("examples/swap_inference.py",)
    ),
    "docs/online.md, proposals": Made("benchmarks/proposals.py --page docs/online.md", ("benchmarks/proposals.py",)),
    "docs/inference.md, repairs": Made("benchmarks/refine.py --page docs/inference.md", ("benchmarks/refine.py",)),
    **{
        f"docs/tutorials/{name}.ipynb": Made(f"docs/notebooks.py --only {name}", (f"docs/tutorials/{name}.ipynb",))
        for name in NOTEBOOKS
    },
}
"""What is made, by what: the file, or a part of it."""


def fingerprint(made: Made) -> str:
    """A hash of the command and of the meaning of its sources."""
    found = hashlib.sha256(made.command.encode())
    for pattern in made.sources:
        for path in sorted(ROOT.glob(pattern)):
            found.update(meaning(path).encode())
    return found.hexdigest()[:16]


def meaning(path: Path) -> str:
    """What a file does: code without comments and docstrings, a notebook's code cells, other files as they are."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes()).decode()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    if path.suffix != ".py":
        return text
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [part for part in body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))]
            node.body = kept  # type: ignore[attr-defined]
    return ast.dump(tree)


def stale() -> list[str]:
    """Figures and tables whose program or data have changed since they were made."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return [name for name, made in FIGURES.items() if record.get(name) != fingerprint(made)]


def make(name: str) -> None:
    """Run the command of a figure, and note what made it."""
    made = FIGURES[name]
    print(f"{name}: python {made.command}", flush=True)
    subprocess.run([sys.executable, *shlex.split(made.command)], cwd=ROOT, check=True)
    if made.copied is not None:
        shutil.copy(ROOT / made.copied, ROOT / name)
    note([name])


def note(names: list[str]) -> None:
    """Record that figures are those of today's programs and data."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    record |= {name: fingerprint(FIGURES[name]) for name in names}
    RECORD.write_text(json.dumps({name: record[name] for name in FIGURES if name in record}, indent=1) + "\n")


def main() -> None:
    """Make figures, or name the stale ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *FIGURES], help="Figures and tables; all by default.")
    parser.add_argument("--stale", action="store_true", help="Only name those that should be made again.")
    given = parser.parse_args()
    if given.stale:
        print("\n".join(stale()))
        sys.exit(bool(stale()))
    for name in given.names or FIGURES:
        make(name)


if __name__ == "__main__":
    main()
