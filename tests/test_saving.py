"""A saved model loads unchanged or is refused; nothing in a saved folder is ever executed."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

from zf_pyro import VRNN, ZForcing, emissions
from zf_pyro.saving.files import remove_partial, write_atomically
from zf_pyro.saving.nets import DESCRIPTION

from .conftest import EMISSIONS, random_frames, random_net

pytest.importorskip("safetensors")


@pytest.fixture
def saved(tmp_path):
    net = random_net("gaussian", dropout=0.1)
    net.save(tmp_path)
    return net, tmp_path


def weights_file(folder):
    return next(folder.glob("*.safetensors"))


def rewritten(folder, **changes):
    """Change some entries of the description."""
    path = folder / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("emission", EMISSIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loaded_model_is_the_saved_one(emission, dtype, transition, tmp_path):
    net = random_net(emission, dtype=dtype, transition=transition, z_force=True)
    net.save(tmp_path)
    loaded = ZForcing.load(tmp_path)
    x = random_frames(emission, dtype=dtype)
    assert loaded.emission_family == net.emission_family
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    draws = []
    for program in (net.eval(), loaded):
        pyro.set_rng_seed(0)
        draws.append(program.guide(x))
    assert torch.equal(*draws)


def test_a_loaded_model_trains(saved):
    loaded = ZForcing.load(saved[1]).train()
    before = [parameter.detach().clone() for parameter in loaded.parameters()]
    svi = pyro.infer.SVI(loaded.model, loaded.guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.TraceMeanField_ELBO())
    svi.step(random_frames())
    assert any(not torch.equal(old, new) for old, new in zip(before, loaded.parameters(), strict=True))


def test_normalisation_is_saved_with_the_model(saved, tmp_path):
    net, _ = saved
    mean, scale = torch.randn(2), np.array([0.1, 1e-7], dtype=np.float32)
    net.save(tmp_path / "new", {"mean": mean, "scale": scale})
    loaded = ZForcing.load(tmp_path / "new")
    assert torch.equal(loaded.normalisation["mean"], mean)
    assert torch.equal(loaded.normalisation["scale"], torch.from_numpy(scale))
    loaded.save(tmp_path / "again")
    assert torch.equal(ZForcing.load(tmp_path / "again").normalisation["mean"], mean)
    assert ZForcing.load(saved[1]).normalisation is None


def test_loading_leaves_the_random_state_unchanged(saved):
    before = torch.get_rng_state()
    ZForcing.load(saved[1])
    assert torch.equal(before, torch.get_rng_state())


def test_saving_again_replaces_the_model_and_leaves_nothing_else(saved):
    _, folder = saved
    other = random_net("gaussian", seed=5)
    other.save(folder)
    assert len([*folder.iterdir()]) == 2
    loaded = ZForcing.load(folder)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), other.parameters(), strict=True))


def test_a_subclass_loads_as_itself(tmp_path):
    class Own(ZForcing):
        pass

    Own(emissions.Gaussian(2), embed_dim=3, hidden_dim=3, latent_dim=2, mlp_dim=3).save(tmp_path)
    assert type(Own.load(tmp_path)) is Own


def test_a_family_that_loading_could_not_rebuild_is_refused(tmp_path):
    class Own(emissions.Gaussian):
        pass

    net = ZForcing(Own(2), embed_dim=3, hidden_dim=3, latent_dim=2, mlp_dim=3)
    with pytest.raises(TypeError, match="emission must be registered for its model to be saved"):
        net.save(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no net\.json"):
        ZForcing.load(tmp_path)


def test_missing_weights_are_refused(saved):
    weights_file(saved[1]).unlink()
    with pytest.raises(FileNotFoundError):
        ZForcing.load(saved[1])


@pytest.mark.parametrize("position", [0, 8, 200, -1])
def test_a_flipped_bit_is_refused(saved, position):
    path = weights_file(saved[1])
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="another sha256"):
        ZForcing.load(saved[1])


def test_truncated_files_are_refused(saved):
    path = weights_file(saved[1])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short or changed"):
        ZForcing.load(saved[1])
    description = saved[1] / DESCRIPTION
    description.write_text(description.read_text()[:-20])
    with pytest.raises(ValueError, match=r"is no JSON .* cut short or changed"):
        ZForcing.load(saved[1])


CHANGES = {
    "another version": ({"format": "zf_pyro net 99"}, "is of the format 'zf_pyro net 99'"),
    "an unknown family": ({"emission": {"family": "Emission"}}, "does not describe a net"),
    "a family's import path": ({"emission": {"family": "os.system", "frame_dim": 2}}, "does not describe a net"),
    "an unknown argument": ({"arguments": {"surprise": 1}}, "does not describe a net"),
    "sizes out of range": ({"arguments": {"embed_dim": -1}}, "does not describe a net"),
    "weights elsewhere": ({"weights": {"file": "../x.safetensors", "bytes": 3, "sha256": ""}}, "does not write"),
    "no weights": ({"weights": {}}, "does not say what its weights are"),
    "an endless size": (
        {"weights": {"file": f"weights-{'0' * 16}.safetensors", "bytes": 1 << 60, "sha256": ""}},
        "does not write",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_description_that_does_not_fit_is_refused(saved, change):
    changes, message = CHANGES[change]
    rewritten(saved[1], **changes)
    with pytest.raises(ValueError, match=message):
        ZForcing.load(saved[1])


def test_sizes_are_checked_before_memory_is_allocated(saved):
    """A description of a model of some petabytes is refused after reading only the header of the weights."""
    arguments = {**saved[0].settings, "hidden_dim": 1 << 24, "mlp_dim": 1 << 24}
    rewritten(saved[1], arguments=arguments)
    with pytest.raises(ValueError, match=r"is of another net: .* expected"):
        ZForcing.load(saved[1])


def test_weights_of_another_model_are_refused(saved):
    rewritten(saved[1], arguments={**saved[0].settings, "transition": "concatenate"})
    with pytest.raises(ValueError, match=r"is of another net: .* missing, .* unknown"):
        ZForcing.load(saved[1])


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_never_executed(saved):
    folder = saved[1]
    mark = folder / "executed"
    pickled = pickle.dumps(Payload(mark))
    path = weights_file(folder)
    path.write_bytes(pickled)
    with pytest.raises(ValueError, match="cut short or changed"):
        ZForcing.load(folder)
    digest = hashlib.sha256(pickled).hexdigest()
    rewritten(folder, weights={"file": path.name, "bytes": len(pickled), "sha256": digest})
    with pytest.raises(ValueError, match="no safetensors file"):
        ZForcing.load(folder)
    (folder / DESCRIPTION).write_bytes(pickled)
    with pytest.raises(ValueError, match="no JSON"):
        ZForcing.load(folder)
    assert not mark.exists()
    pickle.loads(pickled)
    assert mark.exists(), "the payload does not run: the test would have no power"


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_partial_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".step.ckpt.abcdefg1.partial").write_text("half")
    (tmp_path / ".other.ckpt.abcdefg1.partial").write_text("of something else")
    (tmp_path / "step.ckpt").write_text("whole")
    remove_partial(tmp_path, r"step\.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.ckpt.abcdefg1.partial", "step.ckpt"]


@pytest.mark.parametrize("kind", [ZForcing, VRNN])
def test_a_network_that_reads_covariates_and_gaps_is_loaded_under_validation(kind, tmp_path):
    sizes = {"embed_dim": 4, "hidden_dim": 5, "latent_dim": 2, "mlp_dim": 4}
    net = kind(emissions.Gaussian(3), **sizes, covariate_dim=2, missing="fill")
    net.save(tmp_path)
    with pyro.validation_enabled(True):
        loaded = kind.load(tmp_path)
    assert (loaded.covariate_dim, loaded.missing, loaded.flag_dim) == (2, "fill", 3)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(net.parameters(), loaded.parameters(), strict=True))
