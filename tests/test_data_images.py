"""MNIST and scikit-learn's digits: files, hashes, splits, binarisation and errors."""

import gzip
import http.server
import lzma
import struct
import threading
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import SVI

from zf_pyro import ZForcing, ZForcingELBO
from zf_pyro.data import Binarized, LengthBatches, Loader, Sequences, load_digits, load_images
from zf_pyro.data.images.amat import SHA256, amat_sha256, read_amat, read_packed, write_packed
from zf_pyro.data.images.digits import prepare_digits
from zf_pyro.data.images.idx import read_idx
from zf_pyro.data.images.mnist import fetch_idx, prepare_mnist
from zf_pyro.data.text.imdb import prepare_imdb
from zf_pyro.emissions import Bernoulli

from .real_data import archive


def idx(array):
    """Encode an array in the IDX format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def amat(pixels):
    """Encode pixels, (images, 784), in Larochelle's text format."""
    return b"".join(b" ".join(b"%d" % pixel for pixel in image) + b"\n" for image in pixels)


def grey_mnist(folder, num_train=12, num_test=3, seed=0):
    """Write a small data set in the IDX files of MNIST."""
    generator = np.random.default_rng(seed)
    folder.mkdir()
    for part, number in (("train", num_train), ("t10k", num_test)):
        images = generator.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(number, dtype=np.uint8)))
    return folder


def binary_mnist(folder, seed=0):
    """Write a small data set in the files of the fixed binarisation."""
    generator = np.random.default_rng(seed)
    folder.mkdir()
    for part, number in (("train", 5), ("valid", 2), ("test", 3)):
        (folder / f"binarized_mnist_{part}.amat").write_bytes(amat(generator.integers(0, 2, (number, 784))))
    return folder


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_idx_arrays_come_back_compressed_or_not(tmp_path, compress):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 2), dtype=np.uint8)
    (tmp_path / "file").write_bytes(compress(idx(images)))
    assert np.array_equal(read_idx(tmp_path / "file", 3), images)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no IDX file: it begins with nothing"),
        (b"<html>Not found</html>", "no IDX file: it begins with 3c 68 74 6d"),
        (idx(np.zeros(3, np.uint8)), "magic number 00 00 08 01, expected 00 00 08 03"),
        (b"\0\0\x0d\x03" + bytes(100), "magic number 00 00 0d 03"),
        (idx(np.zeros((2, 3, 4), np.uint8))[:10], "ends within its IDX header, after 10 bytes"),
        (idx(np.zeros((2, 3, 4), np.uint8))[:-1], "holds 23 numbers, its header says 2 x 3 x 4 = 24"),
        (idx(np.zeros((2, 3, 4), np.uint8)) + b"\0", "holds 25 numbers"),
        (gzip.compress(idx(np.zeros((2, 3, 4), np.uint8)), mtime=0)[:-9], "corrupt gzip data"),
        (gzip.compress(idx(np.zeros((2, 3, 4), np.uint8)), mtime=0)[:-8] + bytes(8), "corrupt gzip data"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 30, "corrupt gzip data"),
    ],
)
def test_what_is_no_idx_file_is_refused_by_name(tmp_path, content, complaint):
    (tmp_path / "images.gz").write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_idx(tmp_path / "images.gz", 3)
    assert str(caught.value).startswith(str(tmp_path / "images.gz"))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([b"\n", b"\r\n", b" \n"]), st.booleans())
def test_amat_text_and_its_compact_form_hold_the_same_pixels(tmp_path_factory, number, seed, end, final):
    folder = tmp_path_factory.mktemp("amat")
    pixels = np.random.default_rng(seed).integers(0, 2, (number, 784)).astype(np.uint8)
    text = amat(pixels).replace(b"\n", end)
    (folder / "a.amat").write_bytes(text if final else text.rstrip())
    write_packed(folder / "a.packbits.npy.xz", pixels)
    assert np.array_equal(read_amat(folder / "a.amat"), pixels)
    assert np.array_equal(read_packed(folder / "a.packbits.npy.xz"), pixels)
    assert left_in(folder) == ["a.amat", "a.packbits.npy.xz"]


def test_amat_text_is_read_across_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("zf_pyro.data.images.amat._PIECE", 4000)
    pixels = np.random.default_rng(0).integers(0, 2, (11, 784)).astype(np.uint8)
    (tmp_path / "a.amat").write_bytes(amat(pixels))
    assert np.array_equal(read_amat(tmp_path / "a.amat"), pixels)
    (tmp_path / "a.amat").write_bytes(amat(pixels[:9]) + amat(pixels[9:]).replace(b"1", b"7", 1))
    with pytest.raises(ValueError, match=r"a\.amat, line 10: '7' is no pixel"):
        read_amat(tmp_path / "a.amat")


LINE = b"0 " * 783 + b"1\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (LINE + b"0 1 2" + LINE[5:], "line 2: '2' is no pixel, expected 0 or 1"),
        (LINE + b"10 1 1" + LINE[6:], "line 2: '10' is no pixel"),
        (b"0.0 " + LINE[2:], "line 1: '0.0' is no pixel"),
        (LINE * 2 + LINE[:100], "line 3: 50 pixels, expected 784"),
        (LINE + b"\n" + LINE, "line 2: 0 pixels"),
        (b"0 " + LINE, "line 1: 785 pixels"),
        (gzip.compress(LINE, mtime=0)[:-4], "corrupt gzip data"),
    ],
)
def test_what_is_no_binarised_image_is_refused_by_line(tmp_path, content, complaint):
    (tmp_path / "a.amat").write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_amat(tmp_path / "a.amat")
    assert str(caught.value).startswith(str(tmp_path / "a.amat"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "corrupt"),
        (lzma.compress(b"something else"), "corrupt"),
        (lzma.compress(b"x" * 1000)[:-20], "corrupt"),
    ],
)
def test_a_corrupt_compact_file_is_refused(tmp_path, content, complaint):
    (tmp_path / "a.packbits.npy.xz").write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        read_packed(tmp_path / "a.packbits.npy.xz")


def test_compact_files_hold_bits_of_784_pixels(tmp_path):
    np.save(tmp_path / "a.packbits.npy", np.zeros((3, 97), np.uint8))
    with pytest.raises(ValueError, match=r"uint8 of shape \(3, 97\), expected uint8 of shape \(images, 98\)"):
        read_packed(tmp_path / "a.packbits.npy")
    with pytest.raises(ValueError, match="zeros and ones"):
        write_packed(tmp_path / "b.xz", np.full((3, 784), 2))
    assert left_in(tmp_path) == ["a.packbits.npy"]


# Preparation ----------------------------------------------------------------------------------------------------------


def test_grey_mnist_becomes_three_parts_with_labels(tmp_path):
    source = grey_mnist(tmp_path / "source")
    record = prepare_mnist(tmp_path / "out", source, binarization="epoch", check_hashes=False)
    assert {name: part.num_sequences for name, part in record.splits.items()} == {
        "train": 10,
        "validation": 2,
        "test": 3,
    }
    grey = Sequences(tmp_path / "out", "validation")
    official = read_idx(source / "train-images-idx3-ubyte.gz", 3)[10:]
    assert torch.equal(torch.stack(list(grey)), torch.from_numpy(official.reshape(2, 784, 1) / np.float32(255)))
    assert grey.labels.tolist() == [10, 11]
    assert load_images(tmp_path / "out").test.labels.tolist() == [0, 1, 2]


def test_a_threshold_is_half_the_greatest_grey_level(tmp_path):
    source = grey_mnist(tmp_path / "source")
    prepare_mnist(tmp_path / "out", source, binarization="threshold", check_hashes=False)
    x = torch.stack(list(load_images(tmp_path / "out", frame=784).test)).squeeze(1)
    grey = read_idx(source / "t10k-images-idx3-ubyte.gz", 3).reshape(3, 784)
    assert torch.equal(x, torch.from_numpy((grey > 127).astype(np.float32)))


@pytest.mark.parametrize("form", ["amat", "gz", "xz"])
def test_the_fixed_binarisation_comes_in_any_of_its_forms(tmp_path, form):
    source = binary_mnist(tmp_path / "source")
    expected = read_amat(source / "binarized_mnist_valid.amat")
    for path in list(source.glob("*.amat")):
        if form == "gz":
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        if form == "xz":
            write_packed(path.with_suffix(".packbits.npy.xz"), read_amat(path))
        if form != "amat":
            path.unlink()
    record = prepare_mnist(tmp_path / "out", source, check_hashes=False)
    assert [part.num_sequences for part in record.splits.values()] == [5, 2, 3]
    sets = load_images(tmp_path / "out", frame=28)
    assert torch.equal(torch.stack(list(sets.validation)), torch.from_numpy(expected.reshape(2, 28, 28)).float())


@pytest.mark.parametrize("binarization", ["fixed", "epoch"])
def test_files_of_another_hash_are_refused_and_nothing_is_left(tmp_path, binarization):
    source = (binary_mnist if binarization == "fixed" else grey_mnist)(tmp_path / "source")
    with pytest.raises(ValueError, match="does not hold what was published: its content has the sha256") as caught:
        prepare_mnist(tmp_path / "out", source, binarization=binarization)
    assert str(source) in str(caught.value)
    assert left_in(tmp_path) == ["source"]


def test_missing_or_unequal_files_are_named(tmp_path):
    source = grey_mnist(tmp_path / "source")
    with pytest.raises(FileNotFoundError, match=r"holds no binarized_mnist_train\.amat or .*leave the source out"):
        prepare_mnist(tmp_path / "out", source)
    (source / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, np.uint8)))
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte has 2 labels for 3 images"):
        prepare_mnist(tmp_path / "out", source, binarization="epoch", check_hashes=False)
    with pytest.raises(ValueError, match="binarization must be one of fixed, epoch, threshold, got 'grey'"):
        prepare_mnist(tmp_path / "out", source, binarization="grey")
    assert left_in(tmp_path) == ["source"]


def test_a_repeated_preparation_is_recognised_and_another_one_refused(tmp_path):
    source = binary_mnist(tmp_path / "source")
    record = prepare_mnist(tmp_path / "out", source, check_hashes=False)
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert prepare_mnist(tmp_path / "out", source, check_hashes=False) == record
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == stamps
    other = binary_mnist(tmp_path / "other", seed=1)
    with pytest.raises(FileExistsError, match="sha256_of_pixels"):
        prepare_mnist(tmp_path / "out", other, check_hashes=False)
    changed = prepare_mnist(tmp_path / "out", other, check_hashes=False, overwrite=True)
    assert changed.settings != record.settings


@pytest.mark.parametrize("frame", [0, 3, 100, 785, -28])
def test_a_frame_that_does_not_divide_784_is_refused(tmp_path, frame):
    prepare_mnist(tmp_path / "out", binary_mnist(tmp_path / "source"), check_hashes=False)
    with pytest.raises(
        ValueError, match=rf"frame must divide the 784 pixels of an image, got {frame}: take one of 1, 2"
    ):
        load_images(tmp_path / "out", frame=frame)


@pytest.mark.parametrize("frame", [1, 14, 28, 784])
def test_any_frame_holds_the_same_pixels_in_the_same_order(tmp_path, frame):
    prepare_mnist(tmp_path / "out", binary_mnist(tmp_path / "source"), check_hashes=False)
    sets = load_images(tmp_path / "out", frame=frame)
    assert sets.train[0].shape == (784 // frame, frame)
    assert sets.train.lengths.tolist() == [784 // frame] * 5
    assert torch.equal(sets.train[0].flatten(), load_images(tmp_path / "out").train[0].flatten())


def test_text_is_refused_as_images(tmp_path):
    (tmp_path / "reviews.txt").write_text("Good.\n" * 3)
    prepare_imdb(tmp_path / "text", tmp_path / "reviews.txt")
    with pytest.raises(ValueError, match="holds imdb, no images"):
        load_images(tmp_path / "text")


# Binarisation in every epoch ------------------------------------------------------------------------------------------


def drawn(images, epoch, indices=range(6)):
    images.set_epoch(epoch)
    return torch.stack([images[index] for index in indices])


def test_draws_are_a_function_of_seed_epoch_and_index(tmp_path):
    prepare_mnist(tmp_path / "out", grey_mnist(tmp_path / "source"), binarization="epoch", check_hashes=False)
    images = load_images(tmp_path / "out").train
    first = drawn(images, 0)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(drawn(images, 1), first)
    assert torch.equal(drawn(images, 0, range(5, -1, -1)).flip(0), first)
    assert torch.equal(images[-10], images[0])
    assert torch.equal(drawn(load_images(tmp_path / "out", frame=28).train, 0).reshape(first.shape), first)
    assert not torch.equal(drawn(load_images(tmp_path / "out", seed=1).train, 0), first)


def test_draws_have_the_grey_levels_as_probabilities(tmp_path):
    prepare_mnist(tmp_path / "out", grey_mnist(tmp_path / "source"), binarization="epoch", check_hashes=False)
    images = load_images(tmp_path / "out", frame=784).train
    grey = images.images[3]
    number = 400
    frequency = torch.stack([drawn(images, epoch, [3])[0] for epoch in range(number)]).mean(0)
    z = (frequency - grey)[(grey > 0.05) & (grey < 0.95)] / (grey * (1 - grey) / number).sqrt()[
        (grey > 0.05) & (grey < 0.95)
    ]
    assert z.abs().max() < 5
    assert z.std() == pytest.approx(1.0, abs=0.15)
    assert (frequency[grey == 0] == 0).all()
    assert (frequency[grey == 1] == 1).all()


def test_loader_workers_draw_what_one_process_draws(tmp_path):
    prepare_mnist(tmp_path / "out", grey_mnist(tmp_path / "source"), binarization="epoch", check_hashes=False)
    images = load_images(tmp_path / "out", frame=28).train
    for epoch in (0, 3):
        images.set_epoch(epoch)
        batches = LengthBatches(images.lengths, 4)
        batches.set_epoch(epoch)
        alone = [batch.x for batch in Loader(images, batches)]
        together = [batch.x for batch in Loader(images, batches, num_workers=2)]
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_negative_seeds_and_epochs_are_refused(tmp_path):
    images = load_digits(tmp_path / "out", binarization="epoch").train
    with pytest.raises(ValueError, match="epoch must not be negative, got -1"):
        images.set_epoch(-1)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        Binarized(images.images, seed=-1)


# scikit-learn's digits ------------------------------------------------------------------------------------------------


def test_the_digits_need_no_network_and_have_a_fixed_split_in_their_record(tmp_path):
    from sklearn.datasets import load_digits as bundled

    pixels, labels = bundled(return_X_y=True)
    sets = load_digits(tmp_path / "out")
    assert [len(part) for part in sets[:3]] == [1257, 180, 360]
    names = [name for split in sets.record.splits.values() for name in split.names]
    assert sorted(map(int, names)) == list(range(1797))
    chosen = [int(name) for name in sets.record.splits["test"].names]
    assert chosen[:5] == [8, 9, 13, 17, 29]
    assert torch.equal(torch.stack(list(sets.test)).squeeze(-1), torch.from_numpy(pixels[chosen] >= 8).float())
    assert sets.test.labels.tolist() == labels[chosen].tolist()
    assert sets.train[0].shape == (64, 1)
    assert load_digits(tmp_path / "out", frame=8).train[0].shape == (8, 8)


def test_the_digits_in_grey_levels_are_drawn_in_every_epoch(tmp_path):
    sets = load_digits(tmp_path / "out", binarization="epoch")
    grey = sets.train.images[0]
    assert grey.max() <= 1
    assert torch.equal(grey * 16, (grey * 16).round())
    assert not torch.equal(drawn(sets.train, 0), drawn(sets.train, 1))
    with pytest.raises(ValueError, match="binarization must be threshold or epoch, got 'fixed'"):
        prepare_digits(tmp_path / "other", binarization="fixed")
    with pytest.raises(FileExistsError, match="binarization 'epoch' there, 'threshold' now"):
        load_digits(tmp_path / "out")


def test_digits_without_scikit_learn_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install zf-pyro\[data\]"):
        load_digits(tmp_path / "out")
    assert left_in(tmp_path) == []


# The real files -------------------------------------------------------------------------------------------------------


def test_the_fixed_binarisation_has_its_published_hashes_and_sizes(tmp_path):
    source = archive("mnist/binarized_mnist_train.packbits.npy.xz").parent
    pixels = {part: read_packed(source / f"binarized_mnist_{part}.packbits.npy.xz") for part in SHA256}
    assert {part: len(images) for part, images in pixels.items()} == {"train": 50_000, "valid": 10_000, "test": 10_000}
    assert {part: amat_sha256(images) for part, images in pixels.items()} == SHA256


def test_the_real_text_reads_back(tmp_path):
    """The test part, written in Larochelle's text format."""
    import hashlib

    pixels = read_packed(archive("mnist/binarized_mnist_test.packbits.npy.xz"))
    text = np.full((len(pixels), 1568), ord(" "), np.uint8)
    text[:, ::2], text[:, -1] = pixels + ord("0"), ord("\n")
    (tmp_path / "binarized_mnist_test.amat").write_bytes(text.tobytes())
    assert hashlib.sha256(text.tobytes()).hexdigest() == SHA256["test"]
    assert np.array_equal(read_amat(tmp_path / "binarized_mnist_test.amat"), pixels)


@pytest.mark.slow
def test_the_real_fixed_binarisation_is_prepared_whole(tmp_path):
    source = archive("mnist/binarized_mnist_train.packbits.npy.xz").parent
    prepare_mnist(tmp_path / "out", source)
    sets = load_images(tmp_path / "out", frame=28)
    assert [len(part) for part in sets[:3]] == [50_000, 10_000, 10_000]
    assert sets.test[0].shape == (28, 28)


@pytest.mark.slow
def test_the_real_grey_levels_are_prepared_whole_and_damage_is_refused(tmp_path):
    source = archive("mnist/train-images-idx3-ubyte.gz").parent
    record = prepare_mnist(tmp_path / "out", source, binarization="epoch")
    assert [part.num_sequences for part in record.splits.values()] == [50_000, 10_000, 10_000]
    assert load_images(tmp_path / "out").train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in source.glob("*ubyte.gz"):
        (copy / path.name).write_bytes(path.read_bytes())
    whole = (copy / "t10k-images-idx3-ubyte.gz").read_bytes()
    (copy / "t10k-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is corrupt gzip data"):
        prepare_mnist(tmp_path / "other", copy, binarization="epoch")
    assert left_in(tmp_path) == ["copy", "out"]


@pytest.fixture
def server():
    """Yield a function that serves the files of a folder over HTTP on the local machine."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    def serve(folder):
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield serve
    for each in servers:
        each.shutdown()
        each.server_close()


def test_a_download_is_checked_and_kept(tmp_path, server):
    source = archive("mnist/train-images-idx3-ubyte.gz").parent
    folder = fetch_idx(tmp_path / "cache", server(source))
    assert left_in(folder) == sorted(path.name for path in source.glob("*ubyte.gz"))
    assert fetch_idx(tmp_path / "cache", "http://127.0.0.1:9/") == folder


def test_a_download_of_something_else_is_refused_and_not_kept(tmp_path, server):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "train-images-idx3-ubyte.gz").write_bytes(b"<html>moved</html>")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz"):
        fetch_idx(tmp_path / "cache", server(tmp_path / "page"))
    assert left_in(tmp_path / "cache") == []
    with pytest.raises(ConnectionError, match=r"could not be downloaded .*--source"):
        fetch_idx(tmp_path / "cache", "http://127.0.0.1:9/")


def test_prepared_digits_train_a_net(tmp_path):
    sets = load_digits(tmp_path / "out", binarization="epoch", frame=8)
    net = ZForcing(Bernoulli(8), embed_dim=4, hidden_dim=5, latent_dim=2, mlp_dim=4)
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-2}), loss=ZForcingELBO())
    batches = LengthBatches(sets.train.lengths, 128)
    losses = []
    for epoch in range(2):
        sets.train.set_epoch(epoch)
        batches.set_epoch(epoch)
        losses += [svi.step(x, lengths) / len(x) for x, lengths in Loader(sets.train, batches)]
    assert losses[-1] < losses[0], "nats an image"
