"""Blizzard 2013, the paper's second experiment: many hours of speech from one reader.

    python examples/blizzard.py --data /corpora/BLIZZARD --preset paper --device cuda --out runs/blizzard

``--data`` is the folder of the corpus: ``prompts.gui`` with its wav files, or mp3 files with ``--part unsegmented``.
Audio is resampled to 16 kHz once and then read from disk frame by frame.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Literal

from zf_pyro.data import prepare_blizzard
from zf_pyro.data.speech.synthetic import write_blizzard
from zf_pyro.experiments import Preset, Run, SpeechEmission, command_line, prepared_data, speech_experiment

PRESETS = {
    # Sizes, learning rate and KL weight: the paper's released code. Steps and auxiliary weight: our choice.
    "paper": Preset(
        embed_dim=1024,
        hidden_dim=2048,
        latent_dim=256,
        mlp_dim=1024,
        batch_size=128,
        learning_rate=3e-4,
        max_steps=200_000,
        annealing_steps=16_000,
        aux_weight=(0.0025, 0.0),
        validate_every=2000,
    ),
    "small": Preset(
        embed_dim=128,
        hidden_dim=256,
        latent_dim=64,
        mlp_dim=128,
        batch_size=32,
        learning_rate=1e-3,
        # Schedules and weight as in timit.py, where they were tried. Nothing was run on Blizzard.
        max_steps=2000,
        annealing_steps=1600,
        aux_weight=(0.05, 0.0),
        validate_every=100,
    ),
}
# The released code anneals the auxiliary apart from the KL: over two epochs of 2,040,064 / 128 batches. All else is as
# "paper".
PRESETS["released"] = dataclasses.replace(PRESETS["paper"], aux_steps=31_876)


def blizzard(
    run: Run,
    data: Path | None = None,
    part: Literal["segmented", "unsegmented"] = "segmented",
    protocol: Literal["first_frame_given", "full_density"] = "first_frame_given",
    emission: SpeechEmission = "gaussian",
    components: int = 10,
) -> None:
    """Train a stochastic recurrent network on Blizzard 2013 and report bounds on held-out utterances.

    Args:
        run: Flags shared by all experiments.
        data: Folder of the corpus, or a prepared folder.
        part: Utterances listed in prompts.gui, or whole chapters as mp3.
        protocol: Condition on the first frame of each window, as in the paper's released code, or model it.
        emission: Distribution of a frame: independent Gaussians, a mixture of them over the whole frame (with
            --baseline rnn this is an RNN-GMM), or the probability of each 16-bit sample by a mixture of its own.
        components: Components of a mixture.
    """
    preset = run.choose(PRESETS)
    with tempfile.TemporaryDirectory() as temporary:
        if run.smoke:
            data, part = write_blizzard(Path(temporary)), "segmented"
        if data is None:
            raise SystemExit("blizzard.py needs --data, the corpus: its licence has to be asked for")
        folder = prepared_data(run, data, functools.partial(prepare_blizzard, part=part))
        speech_experiment(run, preset, folder, protocol, emission, components)


if __name__ == "__main__":
    command_line(blizzard)
