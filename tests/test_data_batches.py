"""Batches: each sequence once per epoch over all ranks, similar lengths, resumable, the same for any workers."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zf_pyro.data import LengthBatches, Loader, Sequences

from .prepared import SAMPLES, prepare

LENGTHS = torch.randint(1, 400, (500,), generator=torch.Generator().manual_seed(0))


def epoch(batches, number=0):
    batches.set_epoch(number)
    return list(batches)


sizes = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 9),
        "world_size": st.integers(1, 5),
        "shuffle": st.booleans(),
        "seed": st.integers(0, 3),
    }
)


@settings(max_examples=200)
@given(st.lists(st.integers(1, 50), min_size=5, max_size=120), sizes, st.booleans())
def test_ranks_share_each_epoch_without_overlap_in_equal_numbers(lengths, sizes, drop_last):
    share = sizes["batch_size"] * sizes["world_size"]
    if drop_last and len(lengths) < share:
        return
    ranks = [LengthBatches(lengths, rank=rank, drop_last=drop_last, **sizes) for rank in range(sizes["world_size"])]
    handed = [list(batches) for batches in ranks]
    assert {len(rank) for rank in handed} == {len(ranks[0])}
    assert all(1 <= len(batch) <= sizes["batch_size"] for rank in handed for batch in rank)
    seen = sorted(itertools.chain(*itertools.chain(*handed)))
    assert len(set(seen)) == len(seen)
    if drop_last:
        assert len(seen) == len(lengths) // share * share
        assert all(len(batch) == sizes["batch_size"] for rank in handed for batch in rank)
    elif sizes["batch_size"] == 1:
        assert len(seen) > len(lengths) - sizes["world_size"]
    else:
        assert seen == list(range(len(lengths)))


def test_the_order_is_a_function_of_seed_and_epoch():
    first = LengthBatches(LENGTHS, 16, seed=1)
    epochs = [epoch(first, number) for number in range(3)]
    again = LengthBatches(LENGTHS, 16, seed=1)
    assert epoch(again, 2) == epochs[2]
    assert epoch(again, 0) == epochs[0]
    assert epochs[0] != epochs[1]
    assert epoch(LengthBatches(LENGTHS, 16, seed=2)) != epochs[0]
    torch.manual_seed(5)
    assert epoch(LengthBatches(LENGTHS, 16, seed=1)) == epochs[0]


def test_drawing_batches_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    epoch(LengthBatches(LENGTHS, 16, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_hold_sequences_of_like_length():
    """Padding is a small fraction of batches by length, and nearly half of random batches."""

    def padding(batches):
        held = sum(len(batch) * int(LENGTHS[batch].max()) for batch in batches)
        return 1 - int(LENGTHS.sum()) / held

    assert padding(epoch(LengthBatches(LENGTHS, 16))) < 0.06
    assert padding([part.tolist() for part in torch.randperm(500).split(16)]) > 0.4
    assert padding(epoch(LengthBatches(LENGTHS, 16, shuffle=False))) < 0.03


def test_without_shuffling_the_longest_come_first():
    flat = list(itertools.chain(*LengthBatches(LENGTHS, 16, shuffle=False)))
    assert LENGTHS[flat].tolist() == sorted(LENGTHS.tolist(), reverse=True)


def test_a_state_taken_in_mid_epoch_goes_on_there():
    batches = LengthBatches(LENGTHS, 16, seed=3)
    batches.set_epoch(4)
    run = iter(batches)
    for _ in range(7):
        next(run)
    state = batches.state_dict()
    rest = list(run)
    other = LengthBatches(LENGTHS, 16, seed=3)
    other.load_state_dict(state)
    other.set_epoch(4)  # as a resumed training loop does
    assert len(other) == len(batches) == 32
    assert list(other) == rest
    assert len(rest) == 25
    assert epoch(other, 5) == epoch(batches, 5)


def test_after_its_end_an_epoch_starts_anew():
    batches = LengthBatches(LENGTHS, 16)
    assert list(batches) == list(batches)


def test_a_state_of_other_batches_is_refused():
    state = LengthBatches(LENGTHS, 16).state_dict()
    for name, batches in {
        "batch_size": LengthBatches(LENGTHS, 8),
        "seed": LengthBatches(LENGTHS, 16, seed=1),
        "world_size": LengthBatches(LENGTHS, 16, world_size=2),
        "lengths": LengthBatches(LENGTHS + 1, 16),
    }.items():
        with pytest.raises(ValueError, match=f"taken with another {name}"):
            batches.load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"batch_size": 2, "world_size": 0}, "world_size must be a positive integer, got 0"),
        ({"batch_size": 2, "rank": 2, "world_size": 2}, r"rank must be between 0 and 1 \(world_size - 1\), got 2"),
        ({"batch_size": 2, "world_size": 9}, "5 sequences do not make one batch for each of 9 processes"),
        ({"batch_size": 9, "drop_last": True}, "of 9 with drop_last"),
        ({"batch_size": 2, "lengths": []}, r"lengths must be integers of shape \(sequences,\)"),
        ({"batch_size": 2, "lengths": [1.5]}, r"lengths must be integers"),
    ],
)
def test_sizes_that_make_no_batches_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LengthBatches(**{"lengths": [3, 1, 2, 5, 1], **arguments})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Sequences(prepare(tmp_path_factory.mktemp("batches") / "out", SAMPLES * 6), "train")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_gives_the_same_batches_for_any_number_of_workers(data, num_workers):
    expected = [(data[i], i) for batch in LengthBatches(data.lengths, 4) for i in batch]
    rows = []
    for x, lengths in Loader(data, LengthBatches(data.lengths, 4), num_workers=num_workers):
        rows += [row[:length] for row, length in zip(x, lengths, strict=True)]
    assert len(rows) == len(expected) == 30
    assert all(torch.equal(row, item) for row, (item, _) in zip(rows, expected, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loaders_state_counts_what_came_out_of_it(data, num_workers):
    loader = Loader(data, LengthBatches(data.lengths, 4), num_workers=num_workers)
    everything = list(loader)
    assert loader.state_dict()["position"] == len(loader) == 8
    for i, _ in enumerate(loader):
        if i == 2:
            state = loader.state_dict()
            break
    assert state["position"] == 3
    other = Loader(data, LengthBatches(data.lengths, 4), num_workers=num_workers)
    other.load_state_dict(state)
    rest = list(other)
    assert len(rest) == 5
    assert all(torch.equal(a.x, b.x) for a, b in zip(rest, everything[3:], strict=True))
    assert all(torch.equal(a.x, b.x) for a, b in zip(loader, everything[3:], strict=True))
