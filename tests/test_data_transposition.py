"""Transposition of pieces: every key, another one in every epoch, and no note lost."""

from collections import Counter

import pytest
import torch

from zf_pyro.data import Transposed, Windows, load_polyphonic
from zf_pyro.experiments import training_loader


@pytest.fixture(scope="module")
def pieces():
    return load_polyphonic("jsb").train


def test_a_shifted_piece_has_every_interval_of_the_piece(pieces):
    shifted = Transposed(pieces, seed=1)
    for index in range(0, len(pieces), 20):
        piece, semitones = pieces[index], shifted.shift(index)
        assert -5 <= semitones <= 6
        steps, notes = piece.nonzero(as_tuple=True)
        expected = torch.zeros_like(piece)
        expected[steps, notes + semitones] = 1.0
        assert torch.equal(shifted[index], expected)


def test_every_shift_comes_equally_often():
    """Of 3,000 draws 250 for each of twelve shifts, with a standard deviation of 15."""
    piece = torch.zeros(2, 88)
    piece[0, 40] = 1.0
    shifted = Transposed(Pieces([piece] * 3000))
    counts = Counter(shifted.shift(index) for index in range(3000))
    assert sorted(counts) == list(range(-5, 7))
    assert all(190 < count < 310 for count in counts.values())


def test_no_note_leaves_the_keyboard():
    low, high, wide, silent = torch.zeros(4, 3, 88).unbind()
    low[0, 2], high[1, 85] = 1.0, 1.0
    wide[0, 0] = wide[2, 87] = 1.0
    shifted = Transposed(Pieces([low, high, wide, silent]))
    found = {index: set() for index in range(4)}
    for epoch in range(200):
        shifted.set_epoch(epoch)
        for index, shifts in found.items():
            shifts.add(shifted.shift(index))
            assert shifted[index].sum() == Pieces.sums[index]
    assert found == {0: set(range(-2, 7)), 1: set(range(-5, 3)), 2: {0}, 3: set(range(-5, 7))}


def test_a_piece_that_no_shift_fits_stays_where_it_is():
    piece = torch.zeros(1, 88)
    piece[0, 87] = 1.0
    assert Transposed(Pieces([piece]), low=3, high=6).shift(0) == 0


def test_a_shift_depends_on_seed_epoch_and_index_alone(pieces):
    first, again, other = Transposed(pieces, seed=3), Transposed(pieces, seed=3), Transposed(pieces, seed=4)
    in_order = [first.shift(index) for index in range(30)]
    assert [again.shift(index) for index in reversed(range(30))] == in_order[::-1]
    assert [other.shift(index) for index in range(30)] != in_order
    assert first.shift(-1) == first.shift(len(pieces) - 1)
    first.set_epoch(1)
    assert [first.shift(index) for index in range(30)] != in_order
    first.set_epoch(0)
    assert [first.shift(index) for index in range(30)] == in_order


@pytest.mark.slow
def test_the_training_loader_tells_it_the_epoch_and_a_resumed_one_repeats_its_batches(pieces):
    def batches(epoch, done=0):
        loader = training_loader(Transposed(Windows(pieces, 20), seed=5), 64, seed=5)
        loader.batch_sampler.set_epoch(epoch)
        loader.load_state_dict({**loader.state_dict(), "epoch": epoch, "position": done})
        return [batch.x for batch in loader]

    whole = batches(2)
    assert all(map(torch.equal, batches(2, done=4), whole[4:]))
    assert not all(torch.equal(a, b) for a, b in zip(batches(3), whole, strict=True))


def test_what_is_no_data_set_of_pieces_is_refused(pieces):
    with pytest.raises(TypeError, match="sequences must be a data set of pieces with lengths, got list"):
        Transposed([torch.zeros(2, 88)])
    with pytest.raises(ValueError, match="low must be between -60 and 60, got -61"):
        Transposed(pieces, low=-61)
    with pytest.raises(ValueError, match="high must be between low, 3, and 60, got 2"):
        Transposed(pieces, low=3, high=2)
    with pytest.raises(ValueError, match="epoch must be"):
        Transposed(pieces).set_epoch(-1)


class Pieces:
    """Pieces in memory."""

    sums = (1, 1, 2, 0)

    def __init__(self, rolls):
        self.rolls, self.lengths = rolls, torch.tensor([len(roll) for roll in rolls])

    def __len__(self):
        return len(self.rolls)

    def __getitem__(self, index):
        return self.rolls[index]
