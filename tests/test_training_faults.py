"""Training in killed processes: it always resumes, and ends with exactly the same parameters."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from zf_pyro.data import Loader
from zf_pyro.training import latest

from .comparing import assert_same
from .training_runs import final, join, loader, run, start, together, train, weights

BITWISE = {"rtol": 0.0, "atol": 0.0}
STEPS = 40


def run_killed_at_call(out, name, call, **settings):
    """:func:`run`, killed at a call of a function of ``os``: before, within or after writing a checkpoint."""
    function, calls = getattr(os, name), []

    def killing(*arguments):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    setattr(os, name, killing)
    run(out, **settings)


def kill_within(process, out, draw):
    """Kill a run: one in four soon after its start, the others soon after a checkpoint."""
    if draw.random() < 0.25:
        process.join(draw.uniform(0.2, 1.5))
    else:
        deadline, before = time.monotonic() + 60.0, set((out / "checkpoints").glob("*.ckpt"))
        while (
            process.is_alive() and set((out / "checkpoints").glob("*.ckpt")) <= before and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        process.join(draw.uniform(0.0, 0.3))
    process.kill()


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_ends_with_the_same_parameters(tmp_path):
    expected = weights(train(tmp_path / "whole", STEPS))
    out, settings = tmp_path / "killed", {"max_steps": STEPS, "checkpoint_every": 1, "resume": True}
    draw, kills, progress = random.Random(0), 0, set()
    while kills < 20:
        if kills % 2:
            name, call = draw.choice(["fsync", "replace"]), draw.randint(1, 6)
            process = start(run_killed_at_call, out, name, call, **settings)
        else:
            process = start(run, out, **settings)
            kill_within(process, out, draw)
        (code,) = join([process])
        assert code in (0, -signal.SIGKILL), f"resuming failed after {kills} kills"
        if code == 0:  # it finished before it was killed: start again
            assert_same(final(out), expected, **BITWISE)
            shutil.rmtree(out)
            continue
        kills += 1
        found = latest(out / "checkpoints")
        progress.add(None if found is None else found.name)
    assert len(progress) > 10, "the kills were not spread over the run"
    assert join([start(run, out, **settings)]) == [0]
    assert_same(final(out), expected, **BITWISE)
    assert not [*(out / "checkpoints").glob(".*")], "nothing half-written stays"


def run_on_small_files(out, limit, **settings):
    """:func:`run` with files of at most ``limit`` bytes: writing more fails, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    run(out, **settings)


@pytest.mark.slow
def test_a_disk_that_takes_no_more_ends_the_run_with_an_error(tmp_path):
    """By the system's limit on file sizes, in the middle of a checkpoint."""
    expected = weights(train(tmp_path / "whole", 10))
    out = tmp_path / "small"
    train(out, 4)
    size = latest(out / "checkpoints").stat().st_size
    (code,) = join([start(run_on_small_files, out, size // 2, max_steps=10, resume=True)])
    assert code == 1
    assert latest(out / "checkpoints").name == "step00000004.ckpt"
    assert not [*(out / "checkpoints").glob(".*")]
    assert_same(weights(train(out, 10, resume=True)), expected, **BITWISE)


@pytest.mark.slow
def test_a_full_file_system_ends_the_run_with_an_error(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("no right to mount a small file system")
    try:
        (code,) = join([start(run, disk / "run", max_steps=40, keep=40, checkpoint_every=1)])
        assert code == 1
        assert latest(disk / "run" / "checkpoints") is not None
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def shared_run(out, *, devices, die_at=None, **settings):
    """Train in several processes, each with its share of the data; rank 1 may be killed."""
    rank = int(os.environ["LOCAL_RANK"])
    batches = loader(batch_size=2, rank=rank, world_size=devices)
    run_out = Path(out)
    if rank == 1 and die_at is not None:
        batches = Dying(batches.dataset, batches.batches)
        batches.at = die_at
    # As built, so that batches are fetched for training alone.
    net = train(run_out, batches=batches, devices=devices, initialisation="released", **settings)
    if rank == 0:
        torch.save(weights(net), run_out / "final.pt")


class Dying(Loader):
    """Loader that kills its process while the ``at``-th batch is fetched."""

    at = 0
    count = 0

    def __iter__(self):
        for batch in super().__iter__():
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


@pytest.mark.slow
def test_when_one_of_two_processes_dies_the_other_ends_within_a_minute_and_the_run_resumes(tmp_path):
    assert join(together(shared_run, tmp_path / "whole", max_steps=8)) == [0, 0]
    begun = time.monotonic()
    codes = join(together(shared_run, tmp_path / "broken", max_steps=8, die_at=6), 60)
    assert time.monotonic() - begun < 60
    assert codes == [1, -signal.SIGKILL]
    assert latest(tmp_path / "broken" / "checkpoints").name == "step00000004.ckpt"
    assert join(together(shared_run, tmp_path / "broken", max_steps=8, resume=True)) == [0, 0]
    assert_same(final(tmp_path / "broken"), final(tmp_path / "whole"), **BITWISE)


@pytest.mark.slow
def test_an_interrupt_of_two_processes_stops_both_at_the_same_step(tmp_path):
    """Even if only one of them receives the signal."""
    assert join(together(shared_run, tmp_path / "whole", max_steps=60)) == [0, 0]
    processes = together(shared_run, tmp_path / "broken", max_steps=60, checkpoint_every=1000)
    table = tmp_path / "broken" / "logs" / "version_0"
    while not table.exists():
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(processes[1].pid, signal.SIGINT)
    assert join(processes) == [1, 1]
    saved = latest(tmp_path / "broken" / "checkpoints")
    assert 0 < int(saved.stem.removeprefix("step")) < 60
    assert join(together(shared_run, tmp_path / "broken", max_steps=60, resume=True)) == [0, 0]
    assert_same(final(tmp_path / "broken"), final(tmp_path / "whole"), **BITWISE)
