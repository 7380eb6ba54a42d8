"""A second run never harms the first, and no file that this package did not write is deleted."""

import functools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pyro
import pytest
import torch
from torch import nn

pytest.importorskip("lightning")
pytest.importorskip("safetensors")

from zf_pyro import Linear, ZForcing, ZForcingELBO, emissions
from zf_pyro.data import prepare_digits
from zf_pyro.experiments import Preset, Run
from zf_pyro.experiments.command import require_allowed
from zf_pyro.models import DeterministicRNN
from zf_pyro.objectives import GraphedELBO, SegmentedELBO
from zf_pyro.saving import LOCK, RUN, FolderInUseError, data_of, hold, load_net, plain, read_run, remove_partial
from zf_pyro.saving.nets import DESCRIPTION
from zf_pyro.training import Training, fit, latest

from .conftest import random_net
from .training_runs import join, loader, objective, run, start, tiny_net, together, train, weights

ROOT = Path(__file__).parent.parent
ADAM = functools.partial(torch.optim.Adam, lr=1e-2)


def content(folder):
    """Every file below a folder, with its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def short_run(out, max_steps=4, *, net=None, elbo=None, optimiser=ADAM, batches=None, resume=False, **settings):
    """A run without validation; settings of Training and of fit."""
    net = tiny_net() if net is None else net
    names = ("accumulate", "clip_norm", "scale", "plateau", "max_nonfinite", "example", "validation")
    of_module = {name: settings.pop(name) for name in names if name in settings}
    module = Training(net.model, net.guide, elbo or objective(), optimiser, **of_module)
    quiet = {"progress": False, "accelerator": "cpu", "checkpoint_every": 2}
    return fit(
        module,
        loader() if batches is None else batches,
        out=out,
        max_steps=max_steps,
        resume=resume,
        **quiet | settings,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a run of four steps, which tests only read."""
    out = tmp_path_factory.mktemp("finished")
    short_run(out)
    return out


# A run knows what it is ----------------------------------------------------------------------------------------------


def test_a_run_writes_what_it_is(finished):
    record = json.loads((finished / RUN).read_text())
    found = record["configuration"]
    assert record["format"] == "zf_pyro run 1"
    assert record["zf_pyro"]
    assert found["objective"]["class"] == "ZForcingELBO"
    assert found["objective"]["kl_schedule"] == {"class": "Linear", "start": 0.2, "end": 1.0, "num_steps": 9}
    assert (found["optimiser"]["class"], found["optimiser"]["lr"]) == ("Adam", 1e-2)
    (net,) = found["nets"]
    assert (net["class"], net["settings"]["hidden_dim"]) == ("ZForcing", 5)
    assert net["parameters"] == sum(parameter.numel() for parameter in tiny_net().parameters())
    assert (found["accumulate"], found["clip_norm"], found["scale"]) == (1, 100.0, 1.0)
    assert found["batches"] == {"seed": 0, "shuffle": True, "drop_last": False, "sequences": 12, "batch_size": 4}


OTHERS = {
    "another learning rate": (
        {"optimiser": functools.partial(torch.optim.Adam, lr=1e-3)},
        r"optimiser\.lr 0\.01, .*0\.001",
    ),
    "another optimiser": ({"optimiser": torch.optim.SGD}, r"optimiser\.class 'Adam', this one has 'SGD'"),
    "another optimiser of Pyro's": (
        {"optimiser": pyro.optim.ClippedAdam({"lr": 1e-2})},
        r"optimiser\.class 'Adam', .*Clipped",
    ),
    "another objective": (
        {"elbo": pyro.infer.Trace_ELBO()},
        r"objective\.class 'ZForcingELBO', this one has 'Trace_ELBO'",
    ),
    "another schedule": (
        {"elbo": ZForcingELBO(Linear(0.2, 1.0, 90), aux_weight=Linear(0.1, 0.0, 7))},
        r"objective\.kl_schedule\.num_steps 9, this one has 90",
    ),
    "a weight for a schedule": (
        {"elbo": ZForcingELBO(aux_weight=Linear(0.1, 0.0, 7))},
        r"objective\.kl_schedule .*has 1\.0",
    ),
    "another number of particles": (
        {"elbo": ZForcingELBO(Linear(0.2, 1.0, 9), Linear(0.1, 0.0, 7), num_particles=2)},
        r"objective\.num_particles 1, this one has 2",
    ),
    "free nats": (
        {"elbo": ZForcingELBO(Linear(0.2, 1.0, 9), Linear(0.1, 0.0, 7), free_nats=0.1)},
        r"objective\.free_nats 0\.0, this one has 0\.1",
    ),
    "segments": (
        {"elbo": SegmentedELBO(Linear(0.2, 1.0, 9), Linear(0.1, 0.0, 7), segment=2)},
        r"objective\.class 'ZForcingELBO', this one has 'SegmentedELBO'",
    ),
    "another objective of validation": ({"validation": ZForcingELBO()}, r"has validation None, this one has"),
    "dropout": ({"net": {"dropout": 0.2}}, r"nets\[0\]\.settings\.dropout 0\.0, this one has 0\.2"),
    "accumulation": ({"accumulate": 2}, r"accumulate 1, this one has 2"),
    "no clipping": ({"clip_norm": None}, r"clip_norm 100\.0, this one has 'inf'"),
    "another scale": ({"scale": 0.25}, r"scale 1\.0, this one has 0\.25"),
    "a plateau": ({"plateau": 3}, r"plateau None, this one has 3"),
    "another precision": ({"precision": "64-true"}, r"precision '32-true', this one has '64-true'"),
    "another order of the data": (
        {"batches": lambda: loader(batch_size=4, shuffle=False)},
        r"batches\.shuffle True, .*False",
    ),
    "other batches": ({"batches": lambda: loader(batch_size=6)}, r"batches\.batch_size 4, this one has 6"),
    "what the user said": ({"about": {"corpus": "b"}}, r"about\.corpus 'a', this one has 'b'"),
}


@pytest.mark.parametrize("change", OTHERS)
def test_a_run_does_not_go_on_with_another_setting(change, finished, tmp_path, request):
    settings, message = OTHERS[change]
    settings = dict(settings)
    out = finished
    if "about" in settings:
        out = tmp_path
        short_run(out, 1, about={"corpus": "a"})
    before = content(out)
    if "net" in settings:
        settings["net"] = tiny_net(**settings["net"])
    if "batches" in settings:
        settings["batches"] = settings["batches"]()
    with pytest.raises(ValueError, match=rf"{message}.*Give another out, or"):
        short_run(out, 8, resume=True, **settings)
    assert content(out) == before


def test_schedules_that_are_functions_are_told_apart_by_their_values(tmp_path):
    short_run(tmp_path, 1, elbo=ZForcingELBO(lambda step: 0.5))
    short_run(tmp_path, 2, elbo=ZForcingELBO(lambda step: 0.5), resume=True)
    with pytest.raises(ValueError, match=r"kl_schedule\.at step\.0 0\.5, this one has 0\.6"):
        short_run(tmp_path, 3, elbo=ZForcingELBO(lambda step: 0.6), resume=True)


def test_what_may_change_does_not_stop_a_run(tmp_path):
    short_run(tmp_path)
    before = (tmp_path / RUN).read_bytes()
    harmless = {"checkpoint_every": 3, "keep": 1, "log_every": 2, "validate_every": 7, "patience": 4, "progress": True}
    net = tiny_net(recurrence="reference")
    assert short_run(tmp_path, 6, net=net, resume=True, **harmless).global_step == 6
    graphed = GraphedELBO(objective(), bucket=2)
    assert short_run(tmp_path, 7, elbo=graphed, resume=True, max_nonfinite=3).global_step == 7
    assert (tmp_path / RUN).read_bytes() == before


def test_a_finished_run_under_another_objective_is_refused_though_nothing_is_left_to_train(finished):
    with pytest.raises(ValueError, match=r"objective\.class"):
        short_run(finished, 4, elbo=pyro.infer.Trace_ELBO(), resume=True)


def test_layers_of_a_plain_module_are_compared(tmp_path):
    def rnn(dropout):
        pyro.clear_param_store()
        return DeterministicRNN(emissions.Gaussian(2), embed_dim=3, hidden_dim=4, dropout=dropout)

    short_run(tmp_path, 2, net=rnn(0.1), elbo=pyro.infer.Trace_ELBO())
    with pytest.raises(ValueError, match=r"layers\[\d\] 'Dropout\(p=0\.1.*'Dropout\(p=0\.3"):
        short_run(tmp_path, 4, net=rnn(0.3), elbo=pyro.infer.Trace_ELBO(), resume=True)


def test_a_frozen_layer_is_another_run(tmp_path):
    short_run(tmp_path, 2)
    net = tiny_net()
    net.emission_layer.requires_grad_(False)
    with pytest.raises(ValueError, match=r"nets\[0\]\.trained \d+, this one has"):
        short_run(tmp_path, 4, net=net, resume=True)


def test_a_run_of_an_older_version_goes_on_with_one_warning(tmp_path):
    short_run(tmp_path)
    (tmp_path / RUN).unlink()
    with pytest.warns(UserWarning, match=r"no run\.json, so its settings are not known") as caught:
        short_run(tmp_path, 5, resume=True)
    assert len([w for w in caught if "run.json" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*run.json.*")
        short_run(tmp_path, 6, resume=True)
    with pytest.raises(ValueError, match=r"optimiser\.lr"):
        short_run(tmp_path, 7, optimiser=functools.partial(torch.optim.Adam, lr=1.0), resume=True)


def test_an_older_run_that_does_not_fit_is_not_given_a_record(tmp_path):
    """Or the settings that do fit would be refused the next time."""
    short_run(tmp_path)
    (tmp_path / RUN).unlink()
    with pytest.warns(UserWarning, match="no run.json"), pytest.raises(RuntimeError, match="Missing key"):
        short_run(tmp_path, 5, net=tiny_net(transition="concatenate"), resume=True)
    assert not (tmp_path / RUN).exists()


def test_a_start_that_failed_does_not_bind_the_next(tmp_path):
    """A record alone is no run."""
    with pytest.raises(ValueError, match="data must hold at least one batch"):
        short_run(tmp_path, batches=[torch.zeros(0)][:0])
    with pytest.raises(RuntimeError):
        short_run(tmp_path, batches=[(torch.zeros(2, 3, 2), torch.tensor([3, 2]))], elbo=Failing())
    assert (tmp_path / RUN).exists()
    assert short_run(tmp_path, 2).global_step == 2
    assert read_run(tmp_path)["configuration"]["objective"]["class"] == "ZForcingELBO"


class Failing(ZForcingELBO):
    """Objective that fails at once."""

    def backward(self, *_, **__):
        raise RuntimeError("the first step failed")


def test_a_record_that_is_not_ours_is_not_replaced(tmp_path):
    (tmp_path / RUN).write_text('{"distance": 10}')
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="is no record of a run of zf_pyro"):
            short_run(tmp_path, resume=resume)
    assert content(tmp_path) == {Path(RUN): b'{"distance": 10}'}


def test_the_record_of_another_version_is_refused(tmp_path, finished):
    (tmp_path / RUN).write_text((finished / RUN).read_text().replace("zf_pyro run 1", "zf_pyro run 2"))
    with pytest.raises(ValueError, match="is of the format 'zf_pyro run 2'"):
        short_run(tmp_path, resume=True)


def test_the_data_is_known_by_its_record(tmp_path):
    """By its content, in whatever folder it lies, and under windows, subsets and loaders."""
    pytest.importorskip("sklearn")
    from zf_pyro.data import load_images
    from zf_pyro.experiments import evaluation_loader

    for name, way in (("a", "threshold"), ("b", "threshold"), ("c", "epoch")):
        prepare_digits(tmp_path / name, binarization=way)
    one, same, other = (data_of(evaluation_loader(load_images(tmp_path / n).train, 8, 20)) for n in "abc")
    assert one == same
    assert one != other
    assert data_of([torch.zeros(3)]) is None


def test_settings_of_all_kinds_become_json():
    values = [
        float("inf"),
        torch.tensor([1, 2]),
        {1: (2, 3)},
        torch.float64,
        Path("a"),
        nn.Linear,
        len,
        {3, 1},
        object(),
    ]
    assert json.loads(json.dumps(plain(values), allow_nan=False)) == [
        "inf", [1, 2], {"1": [2, 3]}, "torch.float64", "a", "Linear", "len", ["1", "3"], "object",
    ]  # fmt: skip


# A new run in a used folder ------------------------------------------------------------------------------------------


def test_a_new_run_in_a_used_folder_is_refused_before_anything_is_written(finished):
    before = content(finished)
    with pytest.raises(FileExistsError, match=r"holds a run already .*resume=True \(--resume\), or give another out"):
        short_run(finished, 2)
    assert content(finished) == before


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints/step00000007.ckpt",
        "checkpoints/step00000007.refused",
        "best.ckpt",
        "results.json",
        "logs/version_3/metrics.csv",
    ],
)
def test_whatever_a_run_leaves_makes_a_folder_used(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("of an earlier run")
    with pytest.raises(FileExistsError, match=name):
        short_run(tmp_path)
    assert content(tmp_path) == {Path(name): b"of an earlier run"}


def test_a_folder_with_other_files_is_free(tmp_path):
    for name in ("notes.txt", "checkpoints/mine.ckpt", "data/train.npy", "logs/notes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    assert short_run(tmp_path, 4, keep=1).global_step == 4
    assert all((tmp_path / name).read_text() == "mine" for name in ("notes.txt", "checkpoints/mine.ckpt", "logs/notes"))


def test_only_checkpoints_that_the_run_wrote_are_pruned(tmp_path):
    short_run(tmp_path, 4)
    mine = tmp_path / "checkpoints" / "step00000001.ckpt"
    mine.write_text("put there by hand")
    short_run(tmp_path, 10, keep=2, resume=True)
    assert mine.read_text() == "put there by hand"
    names = sorted(path.name for path in mine.parent.iterdir())
    assert names == [mine.name, "step00000008.ckpt", "step00000010.ckpt"], "its own of before the break are pruned"


def test_a_refused_checkpoint_does_not_replace_an_earlier_one(tmp_path):
    short_run(tmp_path, 4)
    folder = tmp_path / "checkpoints"
    for _ in range(2):
        (folder / "step00000004.ckpt").write_bytes(b"damaged")
        with pytest.warns(UserWarning, match="going back"):
            latest(folder)
    assert len([*folder.glob("step00000004*.refused")]) == 2


# Two runs at once ----------------------------------------------------------------------------------------------------


class Slow:
    """Batches that come slowly, and a file that says that training is under way."""

    def __init__(self, out, seconds=0.5):
        self.out, self.seconds = out, seconds

    def __iter__(self):
        for batch in loader(shuffle=False):
            Path(self.out, "under_way").touch()
            time.sleep(self.seconds)
            yield batch


def slow_run(out, **settings):
    short_run(out, 200, batches=Slow(out), **settings)


@pytest.fixture
def busy(tmp_path):
    """Folder of a run that another process is training, and the process."""
    process = start(slow_run, tmp_path)
    wait_for(tmp_path / "under_way", process)
    yield tmp_path, process
    process.kill()
    process.join()


def wait_for(path, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


@pytest.mark.slow
def test_a_second_run_at_the_same_time_is_refused_and_a_killed_one_blocks_nothing(busy):
    out, process = busy
    before = (out / LOCK).read_bytes()
    for resume in (False, True):
        with pytest.raises(FolderInUseError, match=rf"in use by the run of process {process.pid} on .* began at"):
            short_run(out, 6, batches=Slow(out, 0.0), resume=resume)
    assert (out / LOCK).read_bytes() == before
    assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.5)  # not joined: the process is a zombie
    assert short_run(out, 6, batches=Slow(out, 0.0), resume=True).global_step == 6
    assert not (out / LOCK).exists()


def test_a_finished_or_failed_run_leaves_no_lock(tmp_path):
    short_run(tmp_path, 2)
    assert not (tmp_path / LOCK).exists()
    with pytest.raises(ValueError, match="accumulate"):
        short_run(tmp_path, 4, accumulate=2, resume=True)
    assert not (tmp_path / LOCK).exists()


def locked(folder, **changes):
    """Write the lock of this process with changes; it is not held."""
    with hold(folder):
        owner = json.loads((folder / LOCK).read_text())
    (folder / LOCK).write_text(json.dumps(owner | changes))


DEAD = {
    "another process with the same id": {"process": os.getppid(), "process_started": "1"},
    "a process before the system's start": {"process": os.getppid(), "boot": "another"},
    "a process that has ended": {"process": 2**22 + 1},
    "an id that is none": {"process": "x"},
}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times are Linux's")
@pytest.mark.parametrize("kind", DEAD)
def test_the_lock_of_a_dead_process_is_taken_over(kind, tmp_path):
    locked(tmp_path, **DEAD[kind])
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_the_lock_of_another_host_stays_and_the_message_says_what_to_remove(tmp_path):
    locked(tmp_path, host="elsewhere", process=1)
    before = content(tmp_path)
    with pytest.raises(FolderInUseError, match=rf"process 1 on elsewhere.* remove .*{LOCK}"), hold(tmp_path):
        pass
    assert content(tmp_path) == before


def test_a_lock_that_was_cut_short_is_taken_over_and_a_file_of_the_user_is_not(tmp_path):
    (tmp_path / LOCK).touch()
    with hold(tmp_path):
        pass
    (tmp_path / LOCK).write_text("my notes")
    with pytest.raises(FolderInUseError, match="is no lock of zf_pyro"), hold(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == "my notes"


def test_one_thread_holds_a_lock_twice_and_another_does_not(tmp_path):
    found = []

    def other():
        try:
            with hold(tmp_path):
                found.append("held")
        except FolderInUseError as error:
            found.append(error)

    with hold(tmp_path):
        with hold(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert isinstance(found[0], FolderInUseError)


def test_a_folder_removed_under_a_lock_raises_nothing(tmp_path):
    with hold(tmp_path / "out"):
        shutil.rmtree(tmp_path / "out")
    with hold(tmp_path / "out"):
        pass


def test_of_many_threads_one_holds_the_lock_at_a_time(tmp_path):
    inside, most, failed = [], [], []

    def take_once():
        for _ in range(50):
            try:
                with hold(tmp_path):
                    inside.append(None)
                    most.append(len(inside))
                    inside.pop()
            except FolderInUseError as error:
                failed.append(error)

    threads = [threading.Thread(target=take_once) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) + len(failed) == 300
    assert not (tmp_path / LOCK).exists()


def test_a_lock_that_finds_the_disk_full_leaves_nothing(tmp_path, monkeypatch):
    def full(handle, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"), hold(tmp_path):
        pass
    assert not content(tmp_path)


def test_a_forked_process_does_not_hold_the_lock_of_its_parent(tmp_path):
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # threads and fork
        with hold(tmp_path):
            process = context.Process(target=fails_to_hold, args=(tmp_path,))
            process.start()
            process.join(30)
            assert process.exitcode == 0
            assert (tmp_path / LOCK).exists()


def fails_to_hold(folder):
    try:
        with hold(folder):
            os._exit(1)
    except FolderInUseError:
        os._exit(0)


def take(folder, log):
    """Take a lock, count, and die without giving it back."""
    while True:
        try:
            with hold(folder):
                with open(log, "a") as file:
                    file.write("in\n")
                time.sleep(0.02)
                with open(log, "a") as file:
                    file.write("out\n")
                os.kill(os.getpid(), signal.SIGKILL)
        except FolderInUseError:
            time.sleep(0.002)


@pytest.mark.slow
def test_of_many_processes_one_takes_over_at_a_time(tmp_path):
    """Eight processes, each killed while it holds the lock."""
    processes = [start(take, tmp_path, tmp_path / "log") for _ in range(8)]
    assert join(processes) == [-signal.SIGKILL] * 8
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 8


def shared(out, *, devices, **settings):
    batches = loader(batch_size=2, rank=int(os.environ["LOCAL_RANK"]), world_size=devices)
    train(Path(out), batches=batches, devices=devices, **settings)


@pytest.mark.slow
def test_processes_of_one_run_share_its_lock_and_its_record(tmp_path):
    assert join(together(shared, tmp_path, max_steps=2)) == [0, 0]
    assert not (tmp_path / LOCK).exists()
    assert join(together(shared, tmp_path, max_steps=4, resume=True)) == [0, 0]
    assert join(
        together(shared, tmp_path, max_steps=6, resume=True, net=None, module=None, precision="64-true"), 30
    ) == [1, 1]
    assert latest(tmp_path / "checkpoints").name == "step00000004.ckpt"


# Files of the user ---------------------------------------------------------------------------------------------------


def test_saving_deletes_only_the_weights_that_it_replaces(tmp_path):
    mine = [tmp_path / name for name in ("weights-final.safetensors", f"weights-{'0' * 16}.safetensors")]
    for path in mine:
        path.write_text("mine")
    random_net("gaussian").save(tmp_path)
    first = json.loads((tmp_path / DESCRIPTION).read_text())["weights"]["file"]
    random_net("gaussian", seed=5).save(tmp_path)
    assert all(path.read_text() == "mine" for path in mine)
    assert not (tmp_path / first).exists()
    assert len([*tmp_path.iterdir()]) == 4
    random_net("gaussian", seed=5).save(tmp_path)
    ZForcing.load(tmp_path)


@pytest.mark.parametrize("text", ['{"format": "mine"}', "[1]", "no JSON", '{"format": 3, "weights": {"file": "a"}}'])
def test_saving_does_not_replace_a_file_that_is_no_net(text, tmp_path):
    (tmp_path / DESCRIPTION).write_text(text)
    with pytest.raises(FileExistsError, match="save into another folder"):
        random_net("gaussian").save(tmp_path)
    assert content(tmp_path) == {Path(DESCRIPTION): text.encode()}


def test_a_net_that_was_cut_short_can_be_saved_again(tmp_path):
    for length in (0, 60):
        net = random_net("gaussian", seed=length)
        net.save(tmp_path)
        path = tmp_path / DESCRIPTION
        path.write_text(path.read_text()[:length])
        net.save(tmp_path)
        ZForcing.load(tmp_path)


@pytest.mark.parametrize("name", ["../outside.txt", "other.txt", "weights-../../x.safetensors", 3, None])
def test_saving_deletes_nothing_that_a_changed_description_names(name, tmp_path):
    folder = tmp_path / "net"
    random_net("gaussian").save(folder)
    (tmp_path / "outside.txt").write_text("mine")
    (folder / "other.txt").write_text("mine")
    path = folder / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": {"file": name}}))
    random_net("gaussian", seed=2).save(folder)
    assert (tmp_path / "outside.txt").exists()
    assert (folder / "other.txt").exists()


def test_only_partial_files_of_this_package_are_removed(tmp_path):
    kept = [".notes.partial", ".step00000001.ckpt.partial", ".step1.ckpt.ABC.partial", ".step1.txt.abcdefgh.partial"]
    for name in [*kept, ".step00000001.ckpt.abcdefg_.partial"]:
        (tmp_path / name).write_text("half")
    (tmp_path / ".step00000002.ckpt.abcdefgh.partial").mkdir()
    remove_partial(tmp_path, r"step(\d+)\.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, ".step00000002.ckpt.abcdefgh.partial"])


def test_a_resumed_run_sweeps_its_own_partial_files_and_no_others(tmp_path):
    short_run(tmp_path, 2)
    own = [tmp_path / "checkpoints" / ".step00000003.ckpt.abcdefgh.partial", tmp_path / ".best.ckpt.abcdefgh.partial"]
    mine = [tmp_path / "checkpoints" / ".download.partial", tmp_path / ".thesis.partial"]
    for path in (*own, *mine):
        path.write_text("half")
    short_run(tmp_path, 4, resume=True)
    assert not any(path.exists() for path in own)
    assert all(path.exists() for path in mine)


# Classes of saved nets -----------------------------------------------------------------------------------------------


class Louder(ZForcing):
    """A subclass with other programs."""


class Other(nn.Module):
    """A class that takes the arguments of a net."""

    normalisation = None

    def __init__(self, emission, name=None, **settings):
        super().__init__()


def small(cls):
    return cls(emissions.Gaussian(2), embed_dim=3, hidden_dim=3, latent_dim=2, mlp_dim=3)


def test_a_net_of_a_subclass_loads_as_itself_alone(tmp_path):
    small(Louder).save(tmp_path)
    with pytest.raises(ValueError, match=r"a net of the class '.*Louder', not '.*ZForcing'.*by Louder\.load\("):
        ZForcing.load(tmp_path)
    assert type(Louder.load(tmp_path)) is Louder


def test_a_net_of_the_base_does_not_load_as_a_subclass(tmp_path):
    small(ZForcing).save(tmp_path)
    with pytest.raises(ValueError, match=r"by ZForcing\.load\("):
        Louder.load(tmp_path)
    with pytest.raises(ValueError, match=r"by ZForcing\.load\("):
        load_net(Other, tmp_path)


def test_a_subclass_with_the_name_of_its_base_is_another_class(tmp_path):
    impostor = type("ZForcing", (ZForcing,), {"__module__": "my_models"})
    small(impostor).save(tmp_path)
    with pytest.raises(ValueError, match=r"a net of the class 'my_models\.ZForcing'"):
        ZForcing.load(tmp_path)
    assert type(impostor.load(tmp_path)) is impostor


def test_a_class_loads_after_its_script_became_a_module(tmp_path):
    small(type("Mine", (ZForcing,), {"__module__": "__main__"})).save(tmp_path)
    moved = type("Mine", (ZForcing,), {"__module__": "project.models"})
    assert type(moved.load(tmp_path)) is moved


def test_a_net_saved_before_classes_were_recorded_loads_as_before(tmp_path):
    small(Louder).save(tmp_path)
    path = tmp_path / DESCRIPTION
    description = json.loads(path.read_text())
    del description["class"]
    path.write_text(json.dumps(description))
    assert type(ZForcing.load(tmp_path)) is ZForcing


@pytest.mark.parametrize("found", ["os.system", {"module": "os"}, {"module": 1, "name": 2}, ["os", "system"]])
def test_a_class_that_is_no_class_is_refused_and_never_imported(found, tmp_path):
    small(ZForcing).save(tmp_path)
    path = tmp_path / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class": found}))
    with pytest.raises(ValueError, match="does not describe a net: its class is"):
        ZForcing.load(tmp_path)


def test_the_class_of_a_description_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "trap_of_a_net.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    small(ZForcing).save(tmp_path)
    path = tmp_path / DESCRIPTION
    found = {"class": {"module": "trap_of_a_net", "name": "ZForcing"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | found))
    with pytest.raises(ValueError, match="trap_of_a_net"):
        ZForcing.load(tmp_path)
    assert "trap_of_a_net" not in sys.modules
    assert not (tmp_path / "executed").exists()


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["keep", "checkpoint_every", "devices", "num_nodes", "patience", "log_every", "validate_every"]
)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_counts_are_checked_by_name(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, got {value!r}"):
        short_run(tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


# Experiments ---------------------------------------------------------------------------------------------------------


def digits(out, *flags):
    script = ROOT / "examples" / "sequential_mnist.py"
    command = [sys.executable, str(script), "--smoke", "--out", str(out), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.slow
def test_an_experiment_is_resumed_with_the_flags_it_began_with_alone(tmp_path):
    pytest.importorskip("jsonargparse")
    first = digits(tmp_path)
    assert first.returncode == 0, first.stderr
    before = content(tmp_path)
    for flags, message in {
        (): "holds a run already",
        ("--resume", "--objective", "elbo"): "about.objective 'zforcing', this one has 'elbo'",
        ("--resume", "--baseline", "rnn"): "about.objective 'zforcing', this one has None",
        ("--resume", "--seed", "1"): "about.seed 0, this one has 1",
        ("--resume", "--binarization", "epoch"): "about.binarization None, this one has 'epoch'",
    }.items():
        again = digits(tmp_path, *flags)
        assert again.returncode != 0
        assert message in again.stderr
        assert content(tmp_path) == before, flags
    again = digits(tmp_path, "--resume", "--max-steps", "4", "--particles", "3")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "results.json").read_text())["flags"]["max_steps"] == 4


PRESET = Preset(
    embed_dim=4, hidden_dim=4, latent_dim=2, mlp_dim=4, batch_size=4, learning_rate=1e-3, max_steps=2,
    annealing_steps=10, aux_weight=(0.5, 0.1),
)  # fmt: skip


def test_results_of_another_run_are_not_replaced(tmp_path):
    pytest.importorskip("sklearn")
    from zf_pyro.data import read_record
    from zf_pyro.experiments import write_results

    prepare_digits(tmp_path / "data", binarization="threshold")
    record = read_record(tmp_path / "data")
    short_run(tmp_path / "run", 1, about=Run(out=tmp_path / "run").about)
    (tmp_path / "run" / "results.json").write_text("of the run")
    run = Run(out=tmp_path / "run", objective="elbo", resume=True)
    for refused in (lambda: require_allowed(run), lambda: write_results(run, PRESET, record, {}, None)):
        with pytest.raises(ValueError, match=r"about\.objective 'zforcing', this one has 'elbo'"):
            refused()
    assert (tmp_path / "run" / "results.json").read_text() == "of the run"


def test_a_baseline_without_training_is_a_run_too(tmp_path):
    """The linear-Gaussian one is fitted in closed form, and leaves only results."""
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"results\.json"):
        require_allowed(Run(out=tmp_path, baseline="linear_gaussian"))


def test_evaluation_settings_may_change_when_a_run_is_resumed():
    first = Run(particles=8, test_sequences=3, max_steps=5, device="cpu", devices=2)
    assert first.about == Run().about
    assert Run(baseline="rnn", objective="elbo").about == Run(baseline="rnn").about
    assert Run(seed=1).about != Run().about
    assert Run(initialisation="released").about != Run().about


def test_a_resumed_run_still_ends_as_the_undisturbed_one(tmp_path):
    whole = weights(train(tmp_path / "whole", 6))
    run(start_of(tmp_path), max_steps=3)
    assert all(torch.equal(a, whole[n]) for n, a in weights(train(start_of(tmp_path), 6, resume=True)).items())


def start_of(folder):
    folder = folder / "parts"
    folder.mkdir(exist_ok=True)
    return folder
