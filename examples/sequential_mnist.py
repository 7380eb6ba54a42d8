"""Sequential MNIST, the paper's third experiment: handwritten digits, pixel by pixel.

Without flags it runs on scikit-learn's 8 x 8 digits, 64 steps each, which need no download:

    python examples/sequential_mnist.py --out runs/digits

MNIST, 784 steps, in Larochelle's fixed binarisation (downloaded without ``--data``):

    python examples/sequential_mnist.py --corpus mnist --preset paper --device cuda --out runs/mnist

Row by row, 8 or 28 steps, the latents are worth keeping, and take a slow schedule for that (docs/results.md):

    python examples/sequential_mnist.py --frame 8 --annealing_steps 1200 --kl_weight 0 --out runs/rows

``--out`` then holds results.json, figure.png, grids of completed and of new digits, and the model.
"""

import functools
import math
from pathlib import Path
from typing import Literal

import torch

from zf_pyro.data import collate, load_images, prepare_digits, prepare_mnist
from zf_pyro.emissions import Bernoulli
from zf_pyro.evaluation import active_units, summarise
from zf_pyro.experiments import (
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
from zf_pyro.experiments.gallery import write_grid
from zf_pyro.models import StochasticRNN

PRESETS = {
    # The paper's sizes for MNIST could not be checked. Sizes: half of TIMIT's. KL weight: the released code.
    "paper": Preset(
        embed_dim=256,
        hidden_dim=512,
        latent_dim=128,
        mlp_dim=256,
        batch_size=64,
        learning_rate=1e-3,
        max_steps=80_000,
        annealing_steps=16_000,
        aux_weight=(0.0025, 0.0),
        validate_every=780,
    ),
    "small": Preset(
        embed_dim=32,
        hidden_dim=64,
        latent_dim=16,
        mlp_dim=32,
        batch_size=32,
        learning_rate=2e-3,
        max_steps=2000,
        annealing_steps=300,
        aux_weight=(0.005, 0.0),
        validate_every=100,
    ),
}


def sequential_mnist(
    run: Run,
    data: Path | None = None,
    corpus: Literal["digits", "mnist"] = "digits",
    binarization: Literal["fixed", "epoch", "threshold"] | None = None,
    frame: int = 1,
) -> None:
    """Train a stochastic recurrent network on handwritten digits and report bounds on the test images.

    Args:
        run: Flags shared by all experiments.
        data: Folder of MNIST's files, or a prepared folder. By default, MNIST is downloaded.
        corpus: The 8 x 8 digits of scikit-learn, or MNIST.
        binarization: fixed: as published (MNIST only). epoch: sampled in every epoch. threshold: 1 from half the
            greatest grey level. Default: fixed for MNIST, threshold for the digits.
        frame: Pixels per step, a divisor of the number of pixels.
    """
    preset = run.choose(PRESETS)
    prepare = functools.partial(prepare_mnist, binarization=binarization or "fixed")
    if corpus == "digits":
        prepare = lambda out, _: prepare_digits(out, binarization=binarization or "threshold")  # noqa: E731
    images = load_images(prepared_data(run, data, prepare), frame=8 if run.smoke else frame, seed=run.seed)
    count = 8 if run.smoke else run.test_sequences
    checks = spread(images.validation, run.validation_sequences)
    fitted = fit_model(
        run,
        preset,
        Bernoulli(images.test[0].shape[1]),
        training_loader(images.train, preset.batch_size, seed=run.seed, share=run.share),
        training_loader(checks, preset.batch_size, shuffle=False, share=run.share),
        evaluation_loader(images.train, preset.batch_size),
    )
    scores = {
        split: scores_of(run, fitted.model, evaluation_loader(data, preset.batch_size, count))
        for split, data, count in (("test", images.test, count), ("validation", checks, 8 if run.smoke else None))
        if split in run.splits
    }
    more = fitted.facts
    if isinstance(fitted.model, StochasticRNN) and "test" in run.splits:
        shown = spread(images.test, 10)  # in sets sorted by digit, the first are all zeros
        x = collate([shown[i] for i in range(10)]).x.to(fitted.model.emission_layer.weight.device)
        more["active_units"] = active_units(fitted.model, x)
        draw(fitted.model, x, run.out)
    save(fitted.model, run.out / "net")
    write_results(
        run,
        preset,
        images.record,
        {split: summarise(found) for split, found in scores.items()},
        scores,
        value="pixel",
        **more,
    )


def draw(net: StochasticRNN, x: torch.Tensor, out: Path) -> None:
    """Write test digits x (batch, time, frame) with three sampled lower halves, and new digits by temperature."""
    steps, seen = x.shape[1], x.shape[1] // 2
    width = math.isqrt(x[0].numel())
    upper = x[:, :seen]
    lower = [net.generate(len(x), steps - seen, prompt=(upper, None)) for _ in range(3)]
    rows = [x.flatten(1), *(torch.cat([upper, half], dim=1).flatten(1) for half in lower)]
    titles = ["test", *["completed"] * 3]
    write_grid(out / "completed.png", rows, width=width, titles=titles, seen=seen * x.shape[2])
    temperatures = (1.0, 0.7, 0.4)
    rows = [net.generate(len(x), steps, temperature=t).flatten(1) for t in temperatures]
    write_grid(out / "generated.png", rows, width=width, titles=[f"temperature {t}" for t in temperatures])


if __name__ == "__main__":
    command_line(sequential_mnist)
