"""Japanese Vowels: the official files, their split and standardisation."""

import sys

import pytest
import torch

from zf_pyro.data.vowels import Utterances, Vowels, load, load_vowels


@pytest.fixture(scope="module")
def vowels() -> Vowels:
    return load_vowels(seed=0)


def real_frames(utterances: Utterances) -> torch.Tensor:
    return torch.cat([x[:length] for x, length in zip(utterances.x, utterances.lengths, strict=True)])


def test_the_official_split_has_its_published_sizes() -> None:
    train, test = load("train"), load("test")
    assert train.x.shape == (270, 26, 12)
    assert test.x.shape == (370, 29, 12)
    assert train.speakers.bincount().tolist() == [30] * 9
    assert test.speakers.bincount().tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    lengths = torch.cat([train.lengths, test.lengths])
    assert (int(lengths.min()), int(lengths.max())) == (7, 29)


def test_types_are_those_the_model_takes() -> None:
    train = load("train")
    assert (train.x.dtype, train.lengths.dtype, train.speakers.dtype) == (torch.float32, torch.int64, torch.int64)


def test_an_utterance_is_read_as_published() -> None:
    """The first frame of ae.train."""
    first = load("train").x[0, 0]
    expected = [1.860936, -0.207383, 0.261557, -0.214562, -0.171253, -0.118167, -0.277557, 0.025668, 0.126701]
    torch.testing.assert_close(first[:9], torch.tensor(expected))


def test_beyond_its_length_an_utterance_is_zero(vowels: Vowels) -> None:
    for part in (load("test"), vowels.train, vowels.validation, vowels.test):
        for x, length in zip(part.x, part.lengths, strict=True):
            assert (x[length:] == 0).all()
            assert (x[length - 1] != 0).any()


def test_validation_takes_as_many_of_every_speaker(vowels: Vowels) -> None:
    assert vowels.train.speakers.bincount().tolist() == [24] * 9
    assert vowels.validation.speakers.bincount().tolist() == [6] * 9
    assert load_vowels(0, validation_per_speaker=2).validation.speakers.bincount().tolist() == [2] * 9


def test_training_and_validation_together_are_the_official_training_set(vowels: Vowels) -> None:
    parts = (vowels.train, vowels.validation)
    frames = torch.cat([real_frames(part) for part in parts]) * vowels.scale + vowels.mean
    official = real_frames(load("train"))
    assert frames.shape == official.shape
    torch.testing.assert_close(frames.sum(-1).sort().values, official.sum(-1).sort().values, atol=1e-5, rtol=0)


def test_test_utterances_are_the_official_ones_in_order(vowels: Vowels) -> None:
    official = load("test")
    assert torch.equal(vowels.test.lengths, official.lengths)
    torch.testing.assert_close(real_frames(vowels.test) * vowels.scale + vowels.mean, real_frames(official))


def test_training_frames_have_mean_0_and_deviation_1(vowels: Vowels) -> None:
    frames = real_frames(vowels.train)
    torch.testing.assert_close(frames.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(frames.std(0), torch.ones(12))


@pytest.mark.slow
def test_the_seed_decides_the_split(vowels: Vowels) -> None:
    assert torch.equal(load_vowels(0).validation.x, vowels.validation.x)
    assert load_vowels(1).validation.x.shape != vowels.validation.x.shape or not torch.equal(
        load_vowels(1).validation.x, vowels.validation.x
    )


def test_taking_utterances_cuts_the_padding_to_the_longest(vowels: Vowels) -> None:
    shortest = vowels.test.lengths.argsort()[:3]
    taken = vowels.test.take(shortest)
    assert taken.x.shape == (3, int(vowels.test.lengths[shortest].max()), 12)
    assert torch.equal(taken.speakers, vowels.test.speakers[shortest])


def test_another_device_holds_all_of_it(vowels: Vowels) -> None:
    moved = vowels.to("meta")
    assert {moved.train.x.device.type, moved.test.lengths.device.type, moved.mean.device.type} == {"meta"}


def test_another_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"split must be 'train' or 'test', got 'validation'"):
        load("validation")


@pytest.mark.parametrize("count", [0, 30, -1])
def test_an_empty_training_or_validation_set_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"validation_per_speaker must be between 1 and 29 .* got {count}"):
        load_vowels(0, validation_per_speaker=count)


def test_without_sktime_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sktime.datasets", None)
    with pytest.raises(ImportError, match=r"pip install zf-pyro\[examples\]"):
        load("train")
