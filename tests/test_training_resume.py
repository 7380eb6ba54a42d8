"""An interrupted and resumed run equals an uninterrupted one; damaged checkpoints are refused."""

import csv
import hashlib
import io
import os
import pickle
import random
import signal
import time
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("lightning")

from zf_pyro import Linear, ZForcingELBO
from zf_pyro.training import Batches, CheckpointError, SafeCheckpointIO, Stopwatch, Training, latest
from zf_pyro.training.callbacks import capture, restore
from zf_pyro.training.checkpoints import MAGIC

from .comparing import assert_same
from .conftest import FAMILY, FIRST
from .training_runs import Sequences, final, join, loader, run, start, tiny_net, train, weights

BITWISE = {"rtol": 0.0, "atol": 0.0}
SKIP = pytest.mark.filterwarnings("ignore:.*going back to the one before it")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder and final parameters of an uninterrupted run of ten steps."""
    out = tmp_path_factory.mktemp("whole")
    return out, weights(train(out, 10, keep=10))


def validations(out, start):
    """Step and result of each validation in the table of one start of a run."""
    with open(out / "logs" / f"version_{start}" / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("validation/elbo")]
    return [(row["step"], row["validation/elbo"]) for row in rows]


def test_seconds_are_those_of_all_starts(monkeypatch):
    clock = iter([100.0, 107.0, 500.0, 502.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    first = Stopwatch()
    kept = first.state_dict()
    second = Stopwatch()
    second.load_state_dict(kept)
    assert second.seconds == 9.0


@pytest.mark.parametrize("stop", [3, 5, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (2, 6, 9))])
def test_a_run_in_two_parts_ends_with_the_same_parameters(stop, whole, tmp_path):
    """Stops within an epoch of three batches, at its end, and at a validation (every third step)."""
    train(tmp_path, stop)
    pyro.set_rng_seed(99)
    assert_same(weights(train(tmp_path, 10, resume=True)), whole[1], **BITWISE)
    assert validations(tmp_path, 0) + validations(tmp_path, 1) == validations(whole[0], 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(name for name in FIRST if name != "ZForcing"), "DMM, autoregressive flow"])
def test_a_run_of_any_model_in_two_parts_ends_with_the_same_parameters(name, tmp_path):
    model, settings = FAMILY[name]
    found = []
    for stops in ((10,), (5, 10)):
        for stop in stops:
            net = tiny_net(cls=model, dropout=0.2, **settings)
            module = Training(net.model, net.guide, ZForcingELBO(Linear(0.2, 1.0, 9)), pyro.optim.Adam({"lr": 1e-2}))
            train(tmp_path / str(len(stops)), stop, net=net, module=module, resume=stop != stops[0])
        found.append(weights(net))
    assert_same(*found, **BITWISE)


@pytest.mark.slow
def test_a_run_in_many_parts_ends_with_the_same_parameters(whole, tmp_path):
    for stop in range(1, 10):
        train(tmp_path, stop, resume=True)
    assert_same(weights(train(tmp_path, 10, resume=True)), whole[1], **BITWISE)


def test_a_finished_run_is_not_trained_on(whole):
    out, expected = whole
    assert_same(weights(train(out, 10, resume=True)), expected, **BITWISE)


def test_a_run_does_not_depend_on_what_else_draws_random_numbers_at_start(whole, tmp_path):
    """Two runs with the same seed are equal."""
    assert_same(weights(train(tmp_path, 10)), whole[1], **BITWISE)


@pytest.mark.slow
def test_a_run_does_not_depend_on_the_number_of_workers(whole, tmp_path):
    for workers in (1, 2):
        out = tmp_path / str(workers)
        process = start(run_with_workers, out, workers)
        assert join([process], 120) == [0]
        assert_same(final(out), whole[1], **BITWISE)


def run_with_workers(out, workers):
    run(out, max_steps=4, batches=loader(workers=workers))
    run(out, max_steps=10, batches=loader(workers=workers), resume=True)


def test_the_best_weights_survive_a_break_and_a_move_of_the_folder(whole, tmp_path):
    (tmp_path / "old").mkdir()
    train(tmp_path / "old", 5)
    (tmp_path / "old").rename(tmp_path / "new")
    train(tmp_path / "new", 10, resume=True)
    found = [
        SafeCheckpointIO().load_checkpoint(out / "best.ckpt")["state_dict"] for out in (tmp_path / "new", whole[0])
    ]
    assert_same(*found, **BITWISE)


def test_only_the_latest_checkpoints_are_kept(tmp_path):
    train(tmp_path, 9, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step00000008.ckpt",
        "step00000009.ckpt",
    ]


def draw():
    """Random numbers of every generator, including NumPy's global one."""
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), np.random.randn()  # noqa: NPY002


def test_random_numbers_of_all_kinds_are_restored():
    state = capture()
    drawn = draw()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    restore(torch.load(buffer, weights_only=True))
    assert draw() == drawn


# Damaged checkpoints -------------------------------------------------------------------------------------------------


def copied(whole, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for path in (whole[0] / "checkpoints").iterdir():
        if int(path.stem.removeprefix("step")) <= 8:
            (folder / path.name).write_bytes(path.read_bytes())
    (tmp_path / "run.json").write_bytes((whole[0] / "run.json").read_bytes())
    return folder


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    content = bytearray(content)
    content[len(content) // 3] ^= 4
    return bytes(content)


def emptied(content):
    return b""


@SKIP
@pytest.mark.parametrize("damage", [cut, flipped, emptied])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(damage, whole, tmp_path):
    folder = copied(whole, tmp_path)
    path = folder / "step00000008.ckpt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="is no checkpoint of" if damage is emptied else "cut short or changed"):
        SafeCheckpointIO().load_checkpoint(path)
    with pytest.warns(UserWarning, match=r"step00000008.*going back to the one before it"):
        assert latest(folder).name == "step00000006.ckpt"
    assert path.with_suffix(".refused").exists()
    assert_same(weights(train(tmp_path, 10, resume=True)), whole[1], **BITWISE)


@SKIP
def test_where_no_checkpoint_is_whole_the_run_does_not_start_over_unasked(whole, tmp_path):
    folder = copied(whole, tmp_path)
    for path in folder.iterdir():
        path.write_bytes(cut(path.read_bytes()))
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no checkpoint that is whole"):
            latest(folder)


def test_without_checkpoints_resuming_starts_the_run(whole, tmp_path):
    assert latest(tmp_path) is None
    assert_same(weights(train(tmp_path, 10, resume=True)), whole[1], **BITWISE)


def test_what_is_no_checkpoint_file_is_left_alone(whole, tmp_path):
    folder = copied(whole, tmp_path)
    (folder / "notes.ckpt").write_text("mine")
    assert latest(folder).name == "step00000008.ckpt"
    assert (folder / "notes.ckpt").exists()


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@SKIP
@pytest.mark.parametrize("signed", [False, True])
def test_a_malicious_pickle_is_never_executed(signed, whole, tmp_path):
    """Not even one with a valid checksum."""
    folder, mark = copied(whole, tmp_path), tmp_path / "executed"
    content = pickle.dumps(Payload(mark))
    if signed:
        buffer = io.BytesIO()
        torch.save({"state_dict": {}, "payload": Payload(mark)}, buffer)
        content = buffer.getvalue()
        content = MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content
    path = folder / "step00000008.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="was not executed" if signed else "is no checkpoint of"):
        SafeCheckpointIO().load_checkpoint(path)
    if signed:
        with pytest.raises(CheckpointError, match="was not executed"):
            train(tmp_path, 10, resume=True)
    else:
        with pytest.warns(UserWarning, match="going back to the one before it"):
            assert latest(folder).name == "step00000006.ckpt"
    assert not mark.exists()


# Full disks and interrupts -------------------------------------------------------------------------------------------


def test_a_full_disk_stops_training_and_leaves_the_last_good_checkpoint(whole, tmp_path, monkeypatch):
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 10:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path, 10)
    monkeypatch.undo()
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    assert not [*(tmp_path / "checkpoints").glob(".*")], "nothing half-written stays"
    assert_same(weights(train(tmp_path, 10, resume=True)), whole[1], **BITWISE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_goes_on(number, whole, tmp_path):
    handler, net = signal.getsignal(number), tiny_net(dropout=0.2)
    net.initialise(loader())  # so that the batches are fetched for training alone
    with pytest.raises(SystemExit):
        train(tmp_path, 10, net=net, batches=Interrupting(number, 5), checkpoint_every=100)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step00000005.ckpt"]
    assert signal.getsignal(number) is handler
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it before the process ends
    going_on = train(tmp_path, 10, batches=Interrupting(number, None), resume=True)
    assert_same(weights(going_on), whole[1], **BITWISE)


class Interrupting:
    """The usual batches, with a signal while the ``at``-th is fetched."""

    def __init__(self, number, at):
        self.number, self.at = number, at

    def __iter__(self):
        for i, batch in enumerate(Batches(loader(), 10), 1):
            if i == self.at:
                os.kill(os.getpid(), self.number)
                time.sleep(0.01)
            yield batch


# Position in the data ------------------------------------------------------------------------------------------------


def order(batches, count):
    return [batch.lengths.tolist() for batch, _ in zip(batches, range(count), strict=False)]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4, 7])
def test_batches_go_on_anywhere(stop, workers):
    expected = order(Batches(loader(), 9), 9)
    first = Batches(loader(workers=workers), 9)
    given = order(first, stop)
    state = {**first.state_dict(), "given": stop}
    second = Batches(loader(workers=workers), 9)
    second.load_state_dict(state)
    assert given + order(second, 9 - stop) == expected


def test_an_unshuffled_loader_is_read_up_to_its_position():
    plain = [torch.tensor([i]) for i in range(4)]
    batches = Batches(plain, 11)
    batches.load_state_dict({"given": 6, "positions": {6: (1, 2)}, "settings": {}})
    assert [int(batch) for batch in batches] == [2, 3, 0, 1, 2]


def test_a_loader_that_shuffles_by_global_random_numbers_is_refused():
    with pytest.raises(ValueError, match=r"use zf_pyro\.data\.Loader"):
        Batches(DataLoader(Sequences(), batch_size=2, shuffle=True), 3)


def test_a_loader_without_batches_is_refused():
    with pytest.raises(ValueError, match="gave no batches"):
        next(iter(Batches([], 3)))


def test_other_data_than_the_checkpoints_are_refused(tmp_path):
    train(tmp_path, 4)
    with pytest.raises(ValueError, match="with another lengths"):
        train(tmp_path, 6, batches=loader(seed=3), resume=True)


def test_reading_on_draws_no_random_numbers():
    before = torch.get_rng_state()
    order(Batches(loader(), 7), 7)
    assert torch.equal(before, torch.get_rng_state())


def test_a_checkpoint_of_another_net_is_refused(tmp_path):
    train(tmp_path, 2)
    with pytest.raises(ValueError, match=r"transition 'conditional_layer_norm', this one has 'concatenate'"):
        train(tmp_path, 4, net=tiny_net(transition="concatenate"), resume=True)
