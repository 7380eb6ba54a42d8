"""Speech experiments, TIMIT and Blizzard: windows of frames in training, whole utterances in evaluation."""

from pathlib import Path
from typing import Literal, get_args

import torch

from ..checks import require_choice, require_count
from ..data import Sequences, Windows, collate
from ..emissions import DiscretizedLogisticMixture, Emission, Gaussian, GaussianMixture
from ..evaluation import PROTOCOLS, Evaluation, Protocol, Scores, active_units, summarise
from ..models import StochasticRNN
from .fitting import fit_model, save, scores_of
from .gallery import write_wav
from .loaders import Scored, evaluation_loader, spread, training_loader
from .presets import Preset
from .results import write_results
from .settings import Run

SpeechEmission = Literal["gaussian", "gaussian_mixture", "discretized_logistic_mixture"]
"""Distribution of the samples of a frame: independent Gaussians; a mixture of them over the whole frame; or the exact
probability of each 16-bit sample, a mixture of logistic densities of its own."""
WINDOW = 40
"""Scored frames of a training window: half a second at 16 kHz and 200 samples per frame."""


def emission_of(name: SpeechEmission, frame_dim: int, components: int) -> Emission:
    """The emission of that name.

    Args:
        name: see :data:`SpeechEmission`.
        frame_dim: samples in a frame.
        components: of a mixture.

    Raises:
        TypeError, ValueError: an unknown name, or a count that is not positive.
    """
    require_choice("emission", name, get_args(SpeechEmission))
    components = require_count("components", components)
    if name == "gaussian":
        return Gaussian(frame_dim)
    if name == "gaussian_mixture":
        return GaussianMixture(frame_dim, components)
    return DiscretizedLogisticMixture(frame_dim, components, bits=16)


def speech_experiment(
    run: Run,
    preset: Preset,
    folder: Path,
    protocol: Protocol,
    emission: SpeechEmission = "gaussian",
    components: int = 10,
) -> None:
    """Train on windows, evaluate on the utterances of test and validation, and write results and samples.

    Args:
        run: the flags.
        preset: sizes and schedules.
        folder: prepared speech.
        protocol: whether the first frame of a window, and of a test utterance, is given or modelled. Test utterances
            are scored three times: whole, with states reset after each window, and whole under the other protocol. The
            first two are the two definitions of the released scripts; they score the same frames. Validation
            utterances are scored whole.
        emission: distribution of a frame. Figures named "raw waveform" are comparable between them: per 16-bit sample,
            a probability for discretized_logistic_mixture, a density with respect to its unit for the others.
        components: of a mixture.
    """
    levels = emission == "discretized_logistic_mixture"
    train, validation, test = (Sequences(folder, split, levels=levels) for split in ("train", "validation", "test"))
    given = int(protocol == "first_frame_given")
    windows = Windows(train, WINDOW, overlap=given)
    checks = spread(Windows(validation, WINDOW, overlap=given), run.validation_sequences)
    fitted = fit_model(
        run,
        preset,
        emission_of(emission, int(train.frame or 0), components),
        training_loader(windows, preset.batch_size, protocol, seed=run.seed, share=run.share),
        training_loader(checks, preset.batch_size, protocol, shuffle=False, share=run.share),
        evaluation_loader(train, preset.batch_size),
    )
    other: Protocol = PROTOCOLS[1 - PROTOCOLS.index(protocol)]
    evaluations: dict[str, Evaluation] = {}
    kept: dict[str, Scores] = {}
    for split, scored, reset_every in (
        ("test", protocol, None),
        ("test", protocol, WINDOW),
        ("test", other, None),
        ("validation", protocol, None),
    ):
        if split not in run.splits:
            continue
        data, count = (test, run.test_sequences) if split == "test" else (validation, run.validation_sequences)
        batches = evaluation_loader(Scored(data, scored), preset.batch_size, count)
        scores = scores_of(run, fitted.model, batches, protocol=scored, reset_every=reset_every)
        name = f"{split}, {scored}, {'whole' if reset_every is None else f'reset every {reset_every}'}"
        evaluations[name] = summarise(scores)
        kept.setdefault(split, scores)
        if (split, scored, reset_every) == ("test", protocol, None):
            evaluations[f"{name}, raw waveform"] = summarise(scores, scale=None if levels else test.scale)
    more = fitted.facts
    if isinstance(fitted.model, StochasticRNN) and "test" in run.splits:
        x, lengths = collate([test[i] for i in range(min(len(test), 32))])
        device = fitted.model.emission_layer.weight.device
        more["active_units"] = active_units(fitted.model, x.to(device), lengths.to(device))
        write_samples(fitted.model, test, run.out / "samples", protocol)
    save(fitted.model, run.out / "net", mean=test.mean, scale=test.scale)
    write_results(run, preset, test.record, evaluations, kept, value="audio sample", **more)


def write_samples(net: StochasticRNN, test: Sequences, out: Path, protocol: Protocol) -> None:
    """Write wav files of three test utterances, with reconstructions, continuations of their halves, and new sounds.

    Args:
        net: the trained model.
        test: the test utterances.
        out: the folder; created.
        protocol: protocol of training.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = net.emission_layer.weight.device
    given = int(protocol == "first_frame_given")
    rate = int(test.record.settings["rate"])
    for i in range(min(3, len(test))):
        x = test[i][:400].unsqueeze(0).to(device)
        half = max(1 + given, x.shape[1] // 2)
        first, rest = (x[:, 0] if given else None), x[:, given:]
        prompt = x[:, given:half], None
        sounds = {
            "original": rest,
            "reconstruction": net.reconstruct(rest, context=first),
            "from_latents": net.reconstruct(rest, context=first, teacher_forcing=False),
            "continued": torch.cat(
                [x[:, :half], net.generate(1, max(1, x.shape[1] - half), prompt=prompt, context=first)], dim=1
            ),
            "generated": net.generate(1, x.shape[1], context=first),
        }
        for name, frames in sounds.items():
            write_wav(out / f"{i}_{name}.wav", frames[0], mean=test.mean, scale=test.scale, rate=rate)
