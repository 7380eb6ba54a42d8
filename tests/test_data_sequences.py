"""Sequences are read as they were written, whole, in windows, and padded to batches."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from zf_pyro.data import Sequences, Windows, collate
from zf_pyro.data import sequences as module
from zf_pyro.emissions import DiscretizedLogisticMixture

from .prepared import SAMPLES, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "out", names=list("abcde"), labels=[3, 1, 4, 1, 5])


def frames(values, frame=4, mean=1.0, scale=2.0):
    """Expected item, (time, frame) float64."""
    whole = values[: len(values) // frame * frame].astype(np.float64)
    return torch.from_numpy((whole - mean) / scale).view(-1, frame)


def test_items_are_standardised_frames_of_the_stored_values(folder):
    data = Sequences(folder, "train")
    assert len(data) == 5
    assert data.lengths.tolist() == [3, 1, 2, 5, 1]
    assert (data.mean, data.scale, data.frame) == (1.0, 2.0, 4)
    for item, values in zip(data, SAMPLES, strict=True):
        assert item.dtype == torch.float32
        assert torch.equal(item.double(), frames(values))
    assert torch.equal(data[-1], data[4])
    assert data.names == list("abcde")
    assert data.labels.tolist() == [3, 1, 4, 1, 5]


def test_another_frame_can_be_asked_for(folder):
    data = Sequences(folder, "train", frame=2)
    assert data.lengths.tolist() == [6, 2, 4, 11, 2]
    assert torch.equal(data[3].double(), frames(SAMPLES[3], 2))


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_symbols_keep_their_dtype(tmp_path, dtype):
    tokens = [np.array(row, dtype) for row in ([3, 1, 2], [7], [0, 9])]
    data = Sequences(prepare(tmp_path / "out", tokens, dtype=dtype, frame=None), "train")
    assert data.lengths.tolist() == [3, 1, 2]
    for item, row in zip(data, tokens, strict=True):
        assert item.dtype == getattr(torch, dtype)
        assert item.tolist() == row.tolist()


def test_floats_are_stored_as_they_are(tmp_path):
    rows = [torch.randn(n, 3).numpy() for n in (4, 1, 6)]
    data = Sequences(prepare(tmp_path / "out", rows, dtype="float32", frame=3, mean=0.0, scale=1.0), "train")
    assert all(np.array_equal(item.numpy(), row) for item, row in zip(data, rows, strict=True))


def test_changing_an_item_changes_nothing_on_the_disk(folder):
    data = Sequences(folder, "train")
    data[0].zero_()
    assert torch.equal(data[0].double(), frames(SAMPLES[0]))


def test_a_pickle_holds_the_path_and_no_data(folder):
    data = Sequences(folder, "train")
    data[3]
    assert not pickle.loads(pickle.dumps(data))._arrays
    assert torch.equal(pickle.loads(pickle.dumps(data))[3], data[3])


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_worker_processes_read_the_same(folder, start_method):
    data = Sequences(folder, "train")
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=start_method)
    assert all(torch.equal(a, b) for a, b in zip(loader, data, strict=True))


def test_a_mapping_is_given_back_after_so_many_bytes(folder, monkeypatch):
    monkeypatch.setattr(module, "MAPPED", 0)
    data = Sequences(folder, "train")
    assert torch.equal(data[2].double(), frames(SAMPLES[2]))
    assert "values" not in data._arrays
    assert torch.equal(data[3].double(), frames(SAMPLES[3]))


@pytest.mark.parametrize("index", [5, -6])
def test_an_index_beyond_the_sequences_is_refused(folder, index):
    with pytest.raises(IndexError, match=f"index must be between 0 and 4, got {index}"):
        Sequences(folder, "train")[index]


def test_unknown_splits_and_frames_too_long_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"split must be one of train in .*, got 'test'"):
        Sequences(folder, "test")
    with pytest.raises(ValueError, match=r"at most 5, the values of sequence 1 \(b\), got 6"):
        Sequences(folder, "train", frame=6)
    with pytest.raises(ValueError, match="frame must be a positive number of values, got 0"):
        Sequences(folder, "train", frame=0)
    symbols = prepare(tmp_path / "symbols", [np.array([1, 2])], dtype="int64", frame=None)
    with pytest.raises(ValueError, match="None for the symbols of test, got 2"):
        Sequences(symbols, "train", frame=2)


def test_windows_cut_every_sequence_into_pieces_side_by_side(folder):
    data = Sequences(folder, "train")
    for size in (1, 2, 3, 40):
        windows = Windows(data, size)
        pieces = [piece for item in data for piece in item.split(size)]
        assert windows.lengths.tolist() == [len(piece) for piece in pieces]
        assert all(torch.equal(a, b) for a, b in zip(windows, pieces, strict=True))
        assert torch.equal(windows[-1], pieces[-1])


def test_overlapping_windows_share_the_frames_of_their_ends(folder):
    """Every frame but the first of a sequence is once the second or a later frame of a window."""
    data = Sequences(folder, "train")
    for size in (2, 3, 40):
        pieces = []
        for item in data:
            starts = range(0, max(len(item) - 1, 1), size)
            pieces += [item[start : start + size + 1] for start in starts]
        windows = Windows(data, size, overlap=1)
        assert windows.lengths.tolist() == [len(piece) for piece in pieces]
        assert all(torch.equal(a, b) for a, b in zip(windows, pieces, strict=True))
        assert int((windows.lengths - 1).sum()) == int((data.lengths - 1).sum())


def test_windows_outside_are_refused(folder):
    windows = Windows(Sequences(folder, "train"), 2)
    with pytest.raises(IndexError, match="index must be between 0 and 7, got 8"):
        windows[8]
    with pytest.raises(ValueError, match="num_frames must be a positive integer, got 0"):
        Windows(Sequences(folder, "train"), 0)
    with pytest.raises(ValueError, match="overlap must be an integer of at least 0, got -1"):
        Windows(Sequences(folder, "train"), 2, overlap=-1)
    with pytest.raises(ValueError, match="overlap must be below num_frames, 2, got 2"):
        Windows(Sequences(folder, "train"), 2, overlap=2)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.booleans())
def test_collate_pads_with_zeros_and_says_the_lengths(lengths, integers):
    items = [torch.arange(1, n + 1) if integers else torch.rand(n, 2) + 1 for n in lengths]
    x, found = collate(items)
    assert found.tolist() == lengths
    assert x.shape[:2] == (len(lengths), max(lengths))
    for row, item in zip(x, items, strict=True):
        assert torch.equal(row[: len(item)], item)
        assert (row[len(item) :] == 0).all()
        assert x.dtype == item.dtype


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "at least one sequence, got none"),
        ([torch.zeros(2, 3), torch.zeros(0, 3)], r"sequence 1 must hold frames.*\(0, 3\)"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], r"sequence 0 has .*\(2, 3\), sequence 1 .*\(2, 4\)"),
        ([torch.zeros(2), torch.zeros(2).long()], "sequence 1 torch.int64"),
    ],
)
def test_sequences_that_do_not_go_together_are_refused(sequences, message):
    with pytest.raises(ValueError, match=message):
        collate(sequences)


def test_sixteen_bit_samples_can_be_read_as_levels(tmp_path):
    samples = [np.array([-32768, -1, 0, 1, 32767, 12, 5, -7], np.int16)]
    data = Sequences(prepare(tmp_path / "out", samples), "train", levels=True)
    expected = 2 * (samples[0].astype(np.float64) + 32768) / 65535 - 1
    torch.testing.assert_close(data[0].flatten().double(), torch.from_numpy(expected), rtol=0, atol=1e-7)
    assert DiscretizedLogisticMixture(4, 1, bits=16).valid(data[0]).all()
    assert [round(v * data.scale + data.mean) for v in data[0].flatten().double().tolist()] == samples[0].tolist()


def test_levels_of_other_values_than_samples_are_refused(tmp_path):
    values = [np.zeros(8, np.float32)]
    folder = prepare(tmp_path / "out", values, dtype="float32")
    with pytest.raises(ValueError, match=r"levels is for frames of 16-bit samples, and .* stores float32"):
        Sequences(folder, "train", levels=True)
