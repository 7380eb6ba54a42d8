"""Wav files, PNG grids and training curves, read back from the written files."""

import matplotlib.image
import pytest
import torch

from zf_pyro.experiments.gallery import draw_curves, running_mean, write_grid, write_rolls, write_wav

soundfile = pytest.importorskip("soundfile")


def test_a_wav_file_has_the_raw_samples(tmp_path):
    raw = torch.tensor([[0.0, 100.0, -32767.0], [5.4, 32767.0, -7.0]])
    clipped = write_wav(tmp_path / "a.wav", (raw - 3.0) / 250.0, mean=3.0, scale=250.0, rate=8000)
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert (samples.tolist(), rate, clipped) == ([0, 100, -32767, 5, 32767, -7], 8000, 0)
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"


def test_what_is_too_loud_is_clipped_and_counted(tmp_path):
    assert write_wav(tmp_path / "a.wav", torch.tensor([[1e6, -1e6, 10.0]])) == 2
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [32767, -32767, 10]


def test_samples_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="frames must be finite to be written to"):
        write_wav(tmp_path / "a.wav", torch.tensor([[1.0, float("nan")]]))
    assert not (tmp_path / "a.wav").exists()


def test_a_grid_shows_its_images(tmp_path):
    """A white row and a black row."""
    write_grid(tmp_path / "a.png", [torch.zeros(3, 16), torch.ones(3, 16)], width=4, titles=["blank", "ink"])
    image = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    assert image.shape[1] > image.shape[0]
    top, bottom = image[: len(image) // 2], image[len(image) // 2 :]
    assert top.mean() > 0.9
    assert (bottom == 0.0).all(-1).mean() > 0.3


def test_pixels_that_were_given_are_tinted(tmp_path):
    for seen in (0, 8):
        write_grid(tmp_path / f"{seen}.png", [torch.zeros(2, 16)] * 2, width=4, seen=seen)
    plain, tinted = (matplotlib.image.imread(tmp_path / f"{seen}.png")[..., :3] for seen in (0, 8))
    changed = (plain != tinted).any(-1)
    assert changed[len(changed) // 2 :].any()
    assert not changed[: len(changed) // 2].any(), "the first row is the original"


def test_rows_that_make_no_grid_are_refused(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match="rows must be tensors of one shape"):
        write_grid(path, [torch.zeros(2, 16), torch.zeros(3, 16)], width=4)
    with pytest.raises(ValueError, match="width must divide the 16 pixels of an image, got 5"):
        write_grid(path, [torch.zeros(2, 16)], width=5)
    with pytest.raises(ValueError, match="titles must be 1, one a row, got 2"):
        write_grid(path, [torch.zeros(2, 16)], width=4, titles=["a", "b"])


def test_a_running_mean_looks_back_as_far_as_there_are_values():
    assert running_mean([1.0, 3.0, 5.0, 7.0], 3) == pytest.approx([1.0, 2.0, 3.0, 5.0])
    assert running_mean([1.0, 3.0], 1) == pytest.approx([1.0, 3.0])


def test_curves_are_drawn_from_what_was_logged(tmp_path):
    draw_curves(tmp_path / "none.png", {}, title="a")
    points = [(float(step), float(step % 2)) for step in range(40)]
    draw_curves(tmp_path / "some.png", {"train/elbo": points, "validation/elbo": points[::20]}, title="a")
    none, some = (matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3] for name in ("none", "some"))
    coloured = [(image.max(-1) - image.min(-1) > 0.5).sum() for image in (none, some)]
    assert coloured[0] == 0 < coloured[1]


def test_piano_rolls_show_their_notes_and_tint_what_was_given(tmp_path):
    roll = torch.zeros(20, 88)
    write_rolls(tmp_path / "a.png", {"silence": roll, "all": torch.ones(20, 88)}, given={"silence": 10})
    image = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    silence, full = image[: len(image) // 2], image[len(image) // 2 :]
    assert (full == 0.0).all(-1).mean() > 0.4
    assert (silence == 0.0).all(-1).mean() < 0.05
    coloured = (silence.max(-1) - silence.min(-1) > 0.05).mean()
    assert 0.15 < coloured < 0.45
    with pytest.raises(ValueError, match="rolls must be piano rolls"):
        write_rolls(tmp_path / "b.png", {"a": torch.zeros(0, 88)})
    with pytest.raises(ValueError, match="rolls must be piano rolls"):
        write_rolls(tmp_path / "b.png", {})
