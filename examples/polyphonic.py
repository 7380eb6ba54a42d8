"""Polyphonic music: chorales and piano pieces as frames of 88 notes, scored as in the literature.

Without ``--data`` it runs on the JSB chorales, which the package holds:

    python examples/polyphonic.py --model zforcing --emission nade --objective fivo --particles 8 --out runs/jsb

Other corpora are prepared once, from a file of piano rolls or a folder of MIDI files:

    python -m zf_pyro.data.prepare polyphonic --source nottingham.npz --out prepared/nottingham
    python examples/polyphonic.py --corpus nottingham --data prepared/nottingham --out runs/nottingham

Every frame is scored; figures are nats per frame, the sum over all frames divided by their number. ``--out`` then holds
results.json, figure.png, the model, and in samples/ MIDI files to hear and piano rolls to see.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch

from zf_pyro.data import PolyphonicSets, Transposed, Windows, collate, load_polyphonic, prepare_polyphonic, write_midi
from zf_pyro.emissions import NADE, Bernoulli, Emission
from zf_pyro.evaluation import Evaluation, Scores, active_units, summarise
from zf_pyro.experiments import (
    Fitted,
    Preset,
    Run,
    command_line,
    evaluation_loader,
    fit_model,
    prepared_data,
    save,
    scores_of,
    spread,
    training_loader,
    write_results,
)
from zf_pyro.experiments.gallery import write_rolls
from zf_pyro.models import StochasticRNN

PRESETS = {
    # Sizes of the published VRNN for JSB chorales (FIVO, https://arxiv.org/abs/1705.09279); the rest is our choice.
    "small": Preset(
        embed_dim=32,
        hidden_dim=32,
        latent_dim=32,
        mlp_dim=32,
        batch_size=32,
        learning_rate=3e-3,
        max_steps=2000,
        annealing_steps=500,
        aux_weight=(0.02, 0.0),
        transition="concatenate",
        validate_every=50,
    ),
    "large": Preset(
        embed_dim=128,
        hidden_dim=128,
        latent_dim=32,
        mlp_dim=128,
        batch_size=32,
        learning_rate=2e-3,
        max_steps=2000,
        annealing_steps=500,
        aux_weight=(0.02, 0.0),
        transition="concatenate",
        dropout=0.3,
        validate_every=25,
    ),
}
PUBLISHED_SIZE = 64
"""Published size for the corpora other than JSB, in ``--preset small``."""
PARTICLES = (5, 8)
"""Numbers of particles of published bounds. ``--evaluation-particles`` comes on top."""
STEPS_PER_QUARTER = {"jsb": 1}
"""Frames per quarter note, of the samples to hear. Four where it is not known."""
NAMES = ("jsb", "nottingham", "piano_midi", "musedata")


def polyphonic(
    run: Run,
    data: Path | None = None,
    corpus: Literal["jsb", "nottingham", "piano_midi", "musedata", "other"] = "jsb",
    emission: Literal["bernoulli", "nade"] = "bernoulli",
    nade_dim: int = 100,
    transpose: bool = False,
    window: int | None = None,
) -> None:
    """Train a stochastic recurrent network on polyphonic music and report bounds on the test pieces.

    Args:
        run: Flags shared by all experiments.
        data: Prepared folder, .npz file of piano rolls, or folder of MIDI files. Only JSB chorales need none.
        corpus: Corpus; with --data its name alone, or other.
        emission: Distribution of a frame's notes: independent of each other, or autoregressive within the frame.
        nade_dim: Hidden units of the autoregressive distribution.
        transpose: Train on every piece in other keys, -5 to 6 semitones away, sampled in every epoch.
        window: Train on windows of this many frames in place of whole pieces.
    """
    preset = run.choose(PRESETS)
    if corpus != "jsb" and run.preset == "small" and not run.smoke:
        sizes = dict.fromkeys(("embed_dim", "hidden_dim", "latent_dim", "mlp_dim"), PUBLISHED_SIZE)
        preset = dataclasses.replace(preset, **{k: size for k, size in sizes.items() if k not in run.changes})
    sets = load(run, data, corpus)
    family: Emission = Bernoulli(sets.num_notes)
    if emission == "nade":
        family = NADE(sets.num_notes, nade_dim)
    pieces: Any = sets.train if window is None else Windows(sets.train, window)
    fitted = fit_model(
        run,
        preset,
        family,
        training_loader(
            Transposed(pieces, run.seed) if transpose else pieces, preset.batch_size, seed=run.seed, share=run.share
        ),
        training_loader(
            spread(sets.validation, run.validation_sequences), preset.batch_size, shuffle=False, share=run.share
        ),
        evaluation_loader(sets.train, preset.batch_size),
    )
    evaluations, scores = bounds_of(run, fitted, sets)
    more = fitted.facts
    if isinstance(fitted.model, StochasticRNN) and "test" in run.splits:
        shown = spread(sets.test, 32)
        x, lengths = collate([shown[i] for i in range(len(shown))])
        device = fitted.model.emission_layer.weight.device
        more["active_units"] = active_units(fitted.model, x.to(device), lengths.to(device))
        per_quarter = STEPS_PER_QUARTER.get(corpus, sets.record.settings.get("steps_per_quarter") or 4)
        write_samples(fitted.model, sets, run.out / "samples", per_quarter)
    save(fitted.model, run.out / "net")
    write_results(run, preset, sets.record, evaluations, scores, value="note", **more)


def load(run: Run, data: Path | None, corpus: str) -> PolyphonicSets:
    """The corpus, prepared in ``out`` if it is not.

    Raises:
        FileNotFoundError: a corpus that the package does not hold, without ``data``.
        ValueError: ``data`` is another published corpus than ``corpus``.
    """
    if data is None:
        return load_polyphonic(corpus)
    sets = load_polyphonic(prepared_data(run, data, prepare_polyphonic))
    found = Path(str(sets.record.sources[0][0])).stem
    if found in NAMES and found != corpus:
        raise ValueError(f"corpus must be {found!r}, as {data} was prepared from that, got {corpus!r}")
    return sets


def bounds_of(run: Run, fitted: Fitted, sets: PolyphonicSets) -> tuple[dict[str, Evaluation], dict[str, Scores]]:
    """Evaluations of the test and the validation set, by name, and scores of each by the most published particles.

    For a baseline there is one of each, its exact log-likelihood.
    """
    numbers = sorted({run.evaluation_particles} if run.smoke else {*PARTICLES, run.evaluation_particles})
    kept = numbers[0] if run.smoke else max(PARTICLES)
    exact = not isinstance(fitted.model, StochasticRNN)
    found: dict[str, Evaluation] = {}
    by_sequence: dict[str, Scores] = {}
    for split, pieces, count in (
        ("test", sets.test, 4 if run.smoke else run.test_sequences),
        ("validation", sets.validation, 4 if run.smoke else run.validation_sequences),
    ):
        if split not in run.splits:
            continue
        for number in numbers[:1] if exact else numbers:
            scores = scores_of(run, fitted.model, evaluation_loader(pieces, 32, count), particles=number)
            if exact or number == kept:
                by_sequence[split] = scores
            found[split if exact else f"{split}, {number} particles"] = summarise(scores)
    return found, by_sequence


def write_samples(net: StochasticRNN, sets: PolyphonicSets, out: Path, per_quarter: int, count: int = 3) -> None:
    """Write test pieces, reconstructions, continuations of their first halves, and new pieces: MIDI and piano rolls.

    Args:
        net: the trained model.
        sets: the corpus.
        out: the folder; created.
        per_quarter: frames per quarter note.
        count: test pieces, evenly spread.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = net.emission_layer.weight.device
    shown = spread(sets.test, count)
    for i in range(len(shown)):
        x = shown[i][:128].unsqueeze(0).to(device)
        half = max(1, x.shape[1] // 2)
        rest = net.generate(1, max(1, x.shape[1] - half), prompt=(x[:, :half], None))
        music = {
            "original": x,
            "reconstruction": net.reconstruct(x),
            "from_latents": net.reconstruct(x, teacher_forcing=False),
            "continued": torch.cat([x[:, :half], rest], dim=1),
            "generated": net.generate(1, x.shape[1]),
        }
        for name, frames in music.items():
            write_midi(out / f"{i}_{name}.mid", frames[0], steps_per_quarter=per_quarter, lowest_note=sets.lowest_note)
        rolls = {name: frames[0] for name, frames in music.items()}
        write_rolls(out / f"{i}.png", rolls, lowest_note=sets.lowest_note, given={"continued": half})


if __name__ == "__main__":
    command_line(polyphonic)
