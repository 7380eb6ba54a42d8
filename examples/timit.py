"""TIMIT, the paper's first experiment: speech as frames of 200 raw samples.

Without ``--data``, NLTK's sample of TIMIT is downloaded (160 utterances, non-commercial licence):

    python examples/timit.py --objective zforcing --out runs/timit

With the LDC corpus, at the paper's sizes:

    python examples/timit.py --data /corpora/TIMIT --preset paper --device cuda --out runs/timit_paper

``--out`` then holds results.json, figure.png, generated audio, and the model for ``ZForcing.load``.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Literal

from zf_pyro.data import prepare_timit
from zf_pyro.data.speech.synthetic import write_timit
from zf_pyro.experiments import Preset, Run, SpeechEmission, command_line, prepared_data, speech_experiment

PRESETS = {
    # Sizes, learning rate and KL weight: the paper's released code. Steps and auxiliary weight: our choice.
    "paper": Preset(
        embed_dim=512,
        hidden_dim=1024,
        latent_dim=256,
        mlp_dim=512,
        batch_size=32,
        learning_rate=1e-3,
        max_steps=40_000,
        annealing_steps=16_000,
        aux_weight=(0.0025, 0.0),
    ),
    "small": Preset(
        embed_dim=64,
        hidden_dim=128,
        latent_dim=32,
        mlp_dim=64,
        batch_size=32,
        learning_rate=2e-3,
        # Schedules that last until the latents carry something, and a weight that z earns: see docs/results.md.
        max_steps=3000,
        annealing_steps=2400,
        aux_weight=(0.05, 0.0),
        validate_every=50,
    ),
}
# The released code anneals the auxiliary apart from the KL: from 0.0025 down by 5e-5 per step, so that it is gone
# after 50 steps. All else is as "paper".
PRESETS["released"] = dataclasses.replace(PRESETS["paper"], aux_steps=50)


def timit(
    run: Run,
    data: Path | None = None,
    protocol: Literal["first_frame_given", "full_density"] = "first_frame_given",
    emission: SpeechEmission = "gaussian",
    components: int = 10,
    sa: bool = True,
) -> None:
    """Train a stochastic recurrent network on TIMIT and report bounds on the test speakers' utterances.

    Args:
        run: Flags shared by all experiments.
        data: Folder of TIMIT, or a prepared folder. By default, NLTK's sample is downloaded.
        protocol: Condition on the first frame of each window, as in the paper's released code, or model it.
        emission: Distribution of a frame: independent Gaussians, a mixture of them over the whole frame (with
            --baseline rnn this is an RNN-GMM), or the probability of each 16-bit sample by a mixture of its own.
        components: Components of a mixture.
        sa: Include the two sentences that all speakers read.
    """
    preset = run.choose(PRESETS)
    with tempfile.TemporaryDirectory() as temporary:
        if run.smoke:
            data = write_timit(Path(temporary))
        folder = prepared_data(run, data, functools.partial(prepare_timit, sa=sa))
        speech_experiment(run, preset, folder, protocol, emission, components)


if __name__ == "__main__":
    command_line(timit)
