"""Loaders give every sequence once in any nesting, and take tensors, arrays and lists alone."""

import pickle
import re

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, Subset

from zf_pyro.data import LengthBatches, Loader, Sequences, Windows, collate

from .prepared import SAMPLES, prepare

ROWS = [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0]]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Sequences(prepare(tmp_path_factory.mktemp("batches") / "out", SAMPLES * 6), "train")


def loader_of(data, **settings):
    return Loader(data, LengthBatches(data.lengths, 4), **settings)


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a.x, b.x) for a, b in zip(one, other, strict=True))


# Iterations at once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_within_itself_gives_all_batches_each_time(data, num_workers):
    loader = loader_of(data, num_workers=num_workers)
    everything = list(loader)
    outer = []
    for a in loader:
        outer.append(a)
        if len(outer) < 3:
            assert same(list(loader), everything)
    assert same(outer, everything)


def test_batches_within_themselves_are_all_batches_each_time():
    batches = LengthBatches([5, 1, 3, 2, 4], 2)
    everything = list(batches)
    assert [(a, list(batches)) for a in batches] == [(a, everything) for a in everything]
    assert list(zip(batches, batches, strict=True)) == [(a, a) for a in everything]


def test_the_state_is_that_of_the_outer_iteration(data):
    loader = loader_of(data)
    for i, _ in enumerate(loader, 1):
        for _ in loader:
            assert loader.state_dict()["position"] == i
    assert loader.state_dict()["position"] == len(loader)


def test_an_iteration_that_was_broken_off_goes_on_although_another_ran_within_it(data):
    loader = loader_of(data)
    everything = list(loader)
    for i, _ in enumerate(loader):
        list(loader)
        if i == 2:
            break
    assert same(list(loader), everything[3:])
    assert same(list(loader), everything)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_abandoned_iteration_does_not_hold_a_loaded_state_back(data, num_workers):
    loader = loader_of(data, num_workers=num_workers)
    everything, state = list(loader), {**loader.state_dict(), "position": 6}
    abandoned = iter(loader)
    next(abandoned)
    loader.load_state_dict(state)
    assert same(list(loader), everything[6:])
    next(abandoned)
    assert loader.state_dict()["position"] == 8


def test_an_abandoned_iteration_of_another_epoch_does_not_move_the_position():
    batches = LengthBatches([5, 1, 3, 2, 4], 2)
    abandoned = iter(batches)
    next(abandoned)
    batches.set_epoch(1)
    expected = list(LengthBatches([5, 1, 3, 2, 4], 2)), batches.state_dict()["position"]
    next(abandoned)
    assert (len(expected[0]), expected[1], batches.position) == (3, 0, 0)


def test_a_copy_made_within_an_iteration_counts_by_itself():
    batches = LengthBatches([5, 1, 3, 2, 4], 2)
    run = iter(batches)
    next(run)
    copy = pickle.loads(pickle.dumps(batches))
    assert len(list(copy)) == 2
    assert (copy.position, batches.position) == (3, 1)


# Lengths of other data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4, 6, 60])
def test_batches_of_another_number_of_sequences_are_refused(tmp_path, count):
    data = Sequences(prepare(tmp_path / "out"), "train")
    lengths = data.lengths.repeat(12)[:count]
    with pytest.raises(ValueError, match=rf"lengths of all 5 sequences, got {count} lengths: .*Subset for a part"):
        Loader(data, LengthBatches(lengths, 2))


def test_batches_of_sequences_over_their_windows_are_refused(data):
    windows = Windows(data, 2)
    with pytest.raises(ValueError, match=rf"lengths of all {len(windows)} sequences, got 30"):
        Loader(windows, LengthBatches(data.lengths, 2))


def test_a_subset_with_its_own_lengths_is_a_part(data):
    part = Subset(data, [3, 4, 8])
    seen = sum(int(lengths.sum()) for _, lengths in Loader(part, LengthBatches(data.lengths[[3, 4, 8]], 2)))
    assert seen == int(data.lengths[[3, 4, 8]].sum())


@pytest.mark.parametrize("lengths", [[True, False], torch.tensor([True]), torch.ones(2, 2).long(), 1j * torch.ones(2)])
def test_lengths_that_are_no_integers_are_refused_with_their_type(lengths):
    with pytest.raises(ValueError, match=r"lengths must be integers of shape \(sequences,\), got torch\.\w+ of shape"):
        LengthBatches(lengths, 1)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64])
def test_lengths_of_any_integer_type_make_the_same_batches(dtype):
    lengths = np.array([5, 1, 3, 2, 4], dtype)
    assert list(LengthBatches(lengths, 2)) == list(LengthBatches([5, 1, 3, 2, 4], 2))


# Forms of sequences ---------------------------------------------------------------------------------------------------

FORMS = {
    "tensors": [torch.tensor(row) for row in ROWS],
    "arrays": [np.array(row, np.float32) for row in ROWS],
    "big-endian arrays": [np.array(row, ">f4") for row in ROWS],
    "strided arrays": [np.array(row, np.float32)[:, ::-1][:, ::-1] for row in ROWS],
    "lists": ROWS,
    "tuples": [tuple(map(tuple, row)) for row in ROWS],
    "lists of arrays": [[np.array(frame, np.float32) for frame in row] for row in ROWS],
    "lists of tensors": [[torch.tensor(frame) for frame in row] for row in ROWS],
    "a tuple of arrays": tuple(np.array(row, np.float32) for row in ROWS),
    "an array of objects": np.array([np.array(row, np.float32) for row in ROWS], dtype=object),
}


@pytest.mark.parametrize("form", FORMS)
def test_sequences_of_every_form_make_the_same_batch(form):
    expected = collate(FORMS["tensors"])
    found = collate(FORMS[form])
    assert found.x.dtype == torch.float32
    assert torch.equal(found.x, expected.x)
    assert torch.equal(found.lengths, expected.lengths)


@pytest.mark.parametrize("form", FORMS)
def test_a_loader_takes_sequences_of_every_form(form):
    [(x, lengths)] = Loader(FORMS[form], LengthBatches([3, 1], 2))
    assert (x.shape, lengths.tolist()) == ((2, 3, 2), [3, 1])


def test_an_array_of_equal_sequences_is_a_batch():
    values = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    assert torch.equal(collate(values).x, torch.from_numpy(values))


def test_symbols_may_be_lists_and_arrays():
    for form in ([[3, 1, 2], [7]], [np.array([3, 1, 2]), np.array([7])]):
        assert collate(form).x.tolist() == [[3, 1, 2], [7, 0, 0]]
        assert collate(form).x.dtype == torch.int64


def test_an_array_stays_as_it_is_when_the_batch_is_changed():
    row = np.ones((2, 3), np.float32)
    row.flags.writeable = False
    collate([row]).x.zero_()
    assert (row == 1).all()


class Table:
    """Stand-in for a data frame: columns, and a method that gives the values."""

    columns = ("a", "b")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise KeyError(index)

    def to_numpy(self):
        return np.zeros((2, 2))


@pytest.mark.parametrize(
    ("sequence", "got"),
    [
        ({"x": torch.zeros(2)}, "got dict: give its values as an array"),
        (Table(), r"got Table: .*for example data.to_numpy\(\)"),
        ((torch.zeros(3).long(), torch.tensor(1)), "got a tuple of 2: give sequences alone, .*labels beside"),
        ((np.zeros(3), 3, 1), "got a tuple of 3: give sequences alone"),
        ("words", "got str"),
        (3.0, "got float"),
        (None, "got NoneType"),
        ([[1.0, 2.0], [3.0]], "numbers, as many in every frame, got list"),
        (["a", "b"], "numbers, as many in every frame, got list"),
        (np.array(["a", "b"]), "numbers, as many in every frame, got ndarray"),
        (np.array([[1.0], None], dtype=object), "numbers, as many in every frame, got ndarray"),
        ([np.zeros(2), np.zeros(3)], "numbers, as many in every frame, got list"),
    ],
)
def test_a_sequence_of_another_kind_is_refused_by_its_place_and_type(sequence, got):
    with pytest.raises(TypeError, match=rf"sequence 1 must .*{got}"):
        collate([torch.zeros(3), sequence])


@pytest.mark.parametrize("sequences", [{"a": torch.zeros(2)}, Table(), iter([torch.zeros(2)]), 3])
def test_sequences_that_are_no_list_are_refused(sequences):
    with pytest.raises(TypeError, match=rf"sequences must be a list of sequences, got {type(sequences).__name__}"):
        collate(sequences)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([torch.zeros(2)] * 2)


@pytest.mark.parametrize("sequences", [{0: torch.zeros(2), 1: torch.zeros(2)}, Table(), Stream(), iter([1, 2])])
def test_a_loader_of_what_is_no_list_is_refused(sequences):
    name = re.escape(type(sequences).__name__)
    with pytest.raises(TypeError, match=rf"sequences must be a data set or a list, .* got {name}: give a list"):
        Loader(sequences, LengthBatches([2, 2], 1))


def test_a_data_frame_is_refused_by_its_name():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    with pytest.raises(TypeError, match=r"sequence 0 must .* got DataFrame: .*to_numpy"):
        collate([table])
    with pytest.raises(TypeError, match=r"sequences must be .* got DataFrame"):
        Loader(table, LengthBatches([2, 2], 1))
    with pytest.raises(TypeError, match=r"sequence 0 must .* got Series: .*to_numpy"):
        collate([table["a"]])


def test_a_loader_of_pairs_with_labels_names_the_pair():
    pairs = [(torch.zeros(3, 2), 1), (torch.zeros(2, 2), 0)]
    with pytest.raises(TypeError, match=r"sequence 0 must .* got a tuple of 2: .*without lengths or labels"):
        list(Loader(pairs, LengthBatches([3, 2], 2)))
