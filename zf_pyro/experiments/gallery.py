"""Audio and figures of the examples: wav files, grids of images, piano rolls, training curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..checks import require_count, require_number, require_path, require_tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL_SCALE = 32_767
"""Largest magnitude of 16-bit samples."""


def write_wav(path: Path, frames: Tensor, *, mean: float = 0.0, scale: float = 1.0, rate: int = 16_000) -> int:
    """Write frames as a mono wav file of 16-bit samples, with the normalisation undone and samples clipped.

    Args:
        path: the file to write.
        frames: (time, frame) normalised samples.
        mean: mean of the samples in 16-bit units, as ``record.mean`` of prepared data.
        scale: their standard deviation, as ``record.scale``.
        rate: sample rate in Hz.

    Returns:
        Number of clipped samples.

    Raises:
        ImportError: soundfile is not installed.
        ValueError: samples that are not finite.
    """
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("wav files are written by soundfile: pip install zf-pyro[data]") from error
    path, rate = require_path("path", path), require_count("rate", rate)
    mean, scale = require_number("mean", mean, "a finite number"), require_number("scale", scale, "a finite number")
    if require_tensor("frames", frames).is_complex() or not frames.numel():
        raise ValueError(f"frames must hold real samples, got {frames.dtype} of shape {tuple(frames.shape)}")
    samples = (frames.detach().double().cpu().flatten().numpy() * scale + mean).round()
    if not np.isfinite(samples).all():
        raise ValueError(f"frames must be finite to be written to {path}, got NaN or infinite samples")
    clipped = int((np.abs(samples) > FULL_SCALE).sum())
    soundfile.write(path, samples.clip(-FULL_SCALE, FULL_SCALE).astype(np.int16), rate, subtype="PCM_16")
    return clipped


def write_grid(path: Path, rows: Sequence[Tensor], *, width: int, titles: Sequence[str] = (), seen: int = 0) -> None:
    """Write rows of images as one PNG, each row with its title; pixels given as a prompt are tinted.

    Args:
        path: the file to write.
        rows: the images of each row, (images, pixels) in [0, 1], pixels in row-major order; all of one size.
        width: width of an image in pixels.
        titles: a name per row; none if empty.
        seen: number of first pixels of each image that were given, in all rows but the first.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: rows of different sizes, a width that does not divide them, or a wrong number of titles.
    """
    path, width, seen = require_path("path", path), require_count("width", width), require_count("seen", seen, least=0)
    shapes = {tuple(require_tensor("a row of rows", row).shape) for row in rows}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"rows must be tensors of one shape (images, pixels), got {sorted(shapes)}")
    count, pixels = shapes.pop()
    if pixels % width:
        raise ValueError(f"width must divide the {pixels} pixels of an image, got {width}")
    if titles and len(titles) != len(rows):
        raise ValueError(f"titles must be {len(rows)}, one a row, got {len(titles)}")
    figure = _figure(1.0 + 0.6 * count, 0.7 * len(rows))
    axes = figure.subplots(len(rows), count, squeeze=False)
    for number, row in enumerate(rows):
        for axis, image in zip(axes[number], row.detach().float().cpu(), strict=True):
            paper = 1.0 - image.clamp(0.0, 1.0).view(-1, width, 1).expand(-1, -1, 3).numpy()
            if number and seen:
                paper = paper.copy()
                paper.reshape(-1, 3)[:seen] *= (0.8, 0.9, 1.0)
            axis.imshow(paper, interpolation="nearest", vmin=0.0, vmax=1.0)
            axis.set(xticks=(), yticks=())
        if titles:
            axes[number][0].set_ylabel(titles[number], rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(path, dpi=110)


def write_rolls(
    path: Path, rolls: Mapping[str, Tensor], *, lowest_note: int = 21, given: Mapping[str, int] | None = None
) -> None:
    """Write piano rolls as one PNG, one above the other, with time to the right and pitch upwards.

    Args:
        path: the file to write.
        rolls: piano rolls by title, each (time, notes) zeros and ones.
        lowest_note: MIDI note of the first of the notes.
        given: number of first steps that were given as a prompt, by title; they are tinted.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no rolls, or one that is not (time, notes).
    """
    path, given = require_path("path", path), given or {}
    shapes = {title: tuple(require_tensor(f"rolls[{title!r}]", roll).shape) for title, roll in rolls.items()}
    if not shapes or any(len(shape) != 2 or 0 in shape for shape in shapes.values()):
        raise ValueError(f"rolls must be piano rolls (time, notes) by title, got shapes {shapes}")
    figure = _figure(8.0, 1.5 * len(rolls))
    axes = figure.subplots(len(rolls), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (title, roll) in zip(axes, rolls.items(), strict=True):
        steps, notes = roll.shape
        ends = (-0.5, steps - 0.5, lowest_note - 0.5, lowest_note + notes - 0.5)
        ink = roll.detach().float().cpu().T.numpy()
        axis.imshow(
            ink, cmap="Greys", origin="lower", aspect="auto", interpolation="nearest", extent=ends, vmin=0.0, vmax=1.0
        )
        if title in given:
            axis.axvspan(-0.5, given[title] - 0.5, color="C0", alpha=0.15)
        axis.set_title(title, fontsize=8, loc="left")
        axis.set_ylabel("note", fontsize=8)
    axes[-1].set_xlabel("step")
    figure.savefig(path, dpi=110)


def draw_curves(path: Path, logged: Mapping[str, Sequence[tuple[float, float]]], *, title: str) -> None:
    """Plot training curves as one PNG: the bound in training and validation, and the KL.

    Training values are smoothed by a running mean over a twentieth of their number.

    Args:
        path: the file to write.
        logged: (step, value) by the names in the logs of :class:`zf_pyro.training.Training`, in nats per sequence.
            Missing names are skipped.
        title: name of the trained model.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure(9.0, 3.4)
    bound, divergence = figure.subplots(1, 2)
    shown = {
        "train/elbo": (bound, "training"),
        "validation/elbo": (bound, "validation"),
        "train/kl": (divergence, "KL"),
    }
    for name, (axis, label) in shown.items():
        points = logged.get(name, ())
        if points:
            steps, values = [step for step, _ in points], [value for _, value in points]
            if name.startswith("train/"):  # the bound of a batch varies with its lengths
                values = running_mean(values, max(1, len(values) // 20))
            axis.plot(steps, values, lw=1.0, label=label, marker="." if len(points) < 2 else None)
    bound.set(title=f"{title}: bound", xlabel="training step", ylabel="nats / sequence")
    divergence.set(title="KL(q || p)", xlabel="training step", ylabel="nats / sequence")
    validated = [value for _, value in logged.get("validation/elbo", ())]
    if len(validated) > 1:
        low, high = min(validated), max(validated)
        bound.set_ylim(low - 0.2 * (high - low) - 1.0, high + 0.2 * (high - low) + 1.0)
    if bound.lines:
        bound.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Running mean over at most ``window`` values, up to and including each value."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(sums))
    starts = np.maximum(0, ends - window)
    means: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means


def _figure(width: float, height: float) -> "Figure":
    """New figure of a size in inches, without a window."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures are drawn by matplotlib: pip install zf-pyro[examples]") from error
    return Figure(figsize=(width, height), layout="constrained")
