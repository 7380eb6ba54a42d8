"""Paired differences between runs on the same sequences."""

import gzip
import math
import re

import pytest
import torch

from zf_pyro.emissions import Gaussian
from zf_pyro.evaluation import Scores
from zf_pyro.experiments.paired import differences, main, titled
from zf_pyro.experiments.sequences_csv import TABLE, read_sequences, shorten_sequences, write_sequences

FRAMES = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)


def table(**columns):
    """Table of a run on three sequences."""
    return {"num_frames": FRAMES, **{name: torch.tensor(nats, dtype=torch.float64) for name, nats in columns.items()}}


def scores(kl=None, **columns):
    nats = {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}
    return Scores("full_density", None, Gaussian(2), FRAMES, nats, kl, None, None)


def folders(tmp_path, **runs):
    for name, columns in runs.items():
        (tmp_path / name).mkdir()
        on_test = {bound: [10.0 * value for value in nats] for bound, nats in columns.items()}
        write_sequences(tmp_path / name / TABLE, {"test": scores(**on_test), "validation": scores(**columns)})
    return {name: str(tmp_path / name) for name in runs}


def test_a_table_comes_back_as_it_was_written(tmp_path):
    nats = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 3.0
    both = {"test": scores(kl=nats, elbo=(-nats).tolist()), "validation": scores(kl=-nats, elbo=nats.tolist())}
    write_sequences(tmp_path / "a.csv", both)
    for split, sign in (("test", 1.0), ("validation", -1.0)):
        found = read_sequences(tmp_path / "a.csv", split)
        assert list(found) == ["num_frames", "elbo", "kl"]
        for name, expected in {"num_frames": FRAMES, "elbo": -sign * nats, "kl": sign * nats}.items():
            assert torch.equal(found[name], expected)


def test_a_difference_is_all_nats_by_all_frames_and_its_error_that_of_the_pairs():
    found = differences([table(elbo=[1.0, 2.0, 30.0])], [table(elbo=[0.0, 4.0, 20.0])])
    assert list(found) == ["elbo"]
    assert found["elbo"].value == pytest.approx((1.0 - 2.0 + 10.0) / 10.0)
    residuals = [1.0 - 0.9 * 2.0, -2.0 - 0.9 * 3.0, 10.0 - 0.9 * 5.0]
    assert found["elbo"].standard_error == pytest.approx(math.sqrt(1.5 * sum(r * r for r in residuals)) / 10.0)


def test_what_two_models_share_does_not_widen_the_error():
    """One sequence is hard for both models: the difference per frame is the same on all."""
    found = differences([table(elbo=[2.0, 3.0, 1005.0])], [table(elbo=[0.0, 0.0, 1000.0])])
    assert found["elbo"].value == pytest.approx(1.0)
    assert found["elbo"].standard_error == pytest.approx(0.0, abs=1e-12)


def test_seeds_are_averaged_sequence_by_sequence():
    found = differences([table(elbo=[0.0, 0.0, 0.0]), table(elbo=[4.0, 6.0, 10.0])], [table(elbo=[0.0, 0.0, 0.0])])
    assert found["elbo"].value == pytest.approx(1.0)
    assert found["elbo"].standard_error == pytest.approx(0.0, abs=1e-12)


def test_every_bound_is_held_against_a_likelihood_and_what_is_no_bound_against_nothing():
    net = table(elbo=[2.0, 3.0, 5.0], particle=[4.0, 6.0, 10.0], prior_mean=[0.0, 0.0, 0.0], kl=[1.0, 1.0, 1.0])
    alone = table(log_likelihood=[0.0, 0.0, 0.0])
    ahead = {name: found.value for name, found in differences([net], [alone]).items()}
    behind = {name: found.value for name, found in differences([alone], [net]).items()}
    assert ahead == pytest.approx({"elbo": 1.0, "particle": 2.0})
    assert behind == pytest.approx({"elbo": -1.0, "particle": -2.0})


def test_other_sequences_are_refused():
    other = table(elbo=[1.0, 2.0, 3.0]) | {"num_frames": torch.tensor([2.0, 3.0], dtype=torch.float64)}
    with pytest.raises(ValueError, match="same sequences, got 3 of 10 frames and 2 of 5"):
        differences([table(elbo=[1.0, 2.0, 3.0])], [other])
    with pytest.raises(ValueError, match="at least one run each, got 0 and 1"):
        differences([], [other])


def test_bounds_of_different_numbers_of_particles_are_refused(tmp_path):
    found = []
    for number in (5, 8):
        values = scores(elbo=[1.0, 2.0, 3.0], particle=[1.0, 2.0, 3.0])._replace(filter_particles=number)
        write_sequences(tmp_path / f"{number}.csv", {"test": values})
        found.append(read_sequences(tmp_path / f"{number}.csv", "test"))
    assert titled("particle", found) == "particle, 5"
    assert titled("elbo", found) == "elbo"
    assert list(differences(found[:1], found[:1])) == ["elbo", "particle"]
    with pytest.raises(ValueError, match="as many particles behind particle, got 5 and 8"):
        differences(found[:1], found[1:])


WHOLE = gzip.compress(b"split,num_frames,elbo\ntest,3,-1.5\n", mtime=0)  # the time would make other names of tests


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", b""),
        ("blank.csv", b"split,elbo\n\n"),
        ("words.csv", b"split,elbo\ntest,x\n"),
        ("short.csv", b"split,num_frames,elbo\ntest,3\n"),
        ("no_text.csv", b"\xff\xfe"),
        ("empty.csv.gz", b""),
        ("cut.csv.gz", WHOLE[:-6]),
        ("spoiled.csv.gz", WHOLE[:20] + b"\xff\xff" + WHOLE[22:]),
        ("plain.csv.gz", b"split,elbo\ntest,1\n"),
    ],
)
def test_what_is_no_table_of_sequences_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(name)} is no table of sequences .*run the experiment again"):
        read_sequences(tmp_path / name, "test")


def test_the_small_table_has_the_test_sequences_to_six_digits(tmp_path):
    both = {"test": scores(elbo=[1.0 / 3.0, -2e5 / 3.0, 0.0]), "validation": scores(elbo=[1.0, 2.0, 3.0])}
    write_sequences(tmp_path / TABLE, both)
    shorten_sequences(tmp_path / TABLE, tmp_path / "small.csv.gz")
    assert read_sequences(tmp_path / "small.csv.gz", "test")["elbo"].tolist() == [0.333333, -66666.7, 0.0]
    with pytest.raises(ValueError, match="no sequences of split 'validation'"):
        read_sequences(tmp_path / "small.csv.gz", "validation")


def test_the_command_line_tells_the_mean_and_each_pair(tmp_path, capsys):
    runs = folders(
        tmp_path,
        a0={"elbo": [2.0, 3.0, 5.0]},
        a1={"elbo": [4.0, 6.0, 10.0]},
        b0={"log_likelihood": [0.0, 0.0, 0.0]},
        b1={"log_likelihood": [-2.0, -3.0, -5.0]},
    )
    main(["--of", runs["a0"], runs["a1"], "--against", runs["b0"], runs["b1"]])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["elbo", "+2", "±", "0"] in lines
    assert ["elbo", "+1", "+3"] in lines


def test_the_command_reads_the_validation_set_unless_told_and_says_which(tmp_path, capsys):
    runs = folders(tmp_path, a={"elbo": [2.0, 3.0, 5.0]}, b={"elbo": [0.0, 0.0, 0.0]})
    for flags, first, difference in (
        ([], "on the validation set", "+1"),
        (["--split", "validation"], "on the validation set", "+1"),
        (["--split", "test"], "on the test set: for models whose settings are chosen, never to choose them", "+10"),
    ):
        main(["--of", runs["a"], "--against", runs["b"], *flags])
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == first
        assert ["elbo", difference, "±", "0"] in [line.split() for line in lines]


def test_a_table_without_the_split_is_named(tmp_path):
    write_sequences(tmp_path / TABLE, {"test": scores(elbo=[1.0, 2.0, 3.0])})
    with pytest.raises(SystemExit, match=r"sequences\.csv has no sequences of split 'validation': run the experiment"):
        main(["--of", str(tmp_path), "--against", str(tmp_path)])
    (tmp_path / TABLE).write_text("num_frames,elbo\n2,1.0\n")
    with pytest.raises(SystemExit, match="has no sequences of split 'test'"):
        main(["--of", str(tmp_path), "--against", str(tmp_path), "--split", "test"])


def test_a_run_without_its_table_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*nowhere"):
        main(["--of", str(tmp_path / "nowhere"), "--against", str(tmp_path)])
