"""The model on a GPU: generation, streaming, Predictive, refused input, saving and loading."""

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive

from zf_pyro import ZForcing, ZForcingELBO
from zf_pyro.objectives import SegmentedELBO

from ..comparing import EXACT, assert_same
from ..conftest import EMISSIONS, random_frames, random_net, random_state
from ..test_streaming import density, last
from .common import NEEDS_CUDA, assert_agree, on, outcome, twins

pytestmark = NEEDS_CUDA
LENGTHS = torch.tensor([6, 2, 5])


@pytest.mark.parametrize("emission", EMISSIONS)
def test_the_model_generates_on_its_device_with_the_moments_of_a_cpu(emission, transition):
    drawn = []
    for net in twins(emission, transition=transition).values():
        x = net.model(num_steps=3, batch_shape=(4000,))
        assert x.device == net.emission_layer.weight.device
        drawn.append(x.double().cpu())
    assert_agree(*drawn)


@pytest.mark.parametrize("emission", EMISSIONS)
def test_generate_has_the_moments_of_the_model(emission):
    net = random_net(emission).cuda()
    assert_agree(net.generate(4000, 3).double(), net.model(num_steps=3, batch_shape=(4000,)).double())


@pytest.mark.parametrize("emission", EMISSIONS)
def test_deterministic_results_are_those_of_a_cpu(emission, transition):
    """Reconstructions with and without teacher forcing, interpolations, and greedy generation."""
    found = []
    for device, net in twins(emission, transition=transition).items():
        x, lengths, other = on(device, (random_frames(emission, time=6), LENGTHS, random_frames(emission, seed=8)))
        between = net.interpolate(x, other, 4, lengths_a=lengths)
        prompt = x, lengths
        values = {
            "forced": net.reconstruct(x, lengths),
            "free": net.reconstruct(x, lengths, teacher_forcing=False),
            "between": between.x,
            "lengths": between.lengths,
            "greedy": net.generate(3, 4, greedy=True, latent_temperature=0.0, prompt=prompt),
            "kept": net.generate(3, 4, greedy=True, latent_temperature=0.0, context=x[:, 0]),
        }
        found.append({name: value.double().cpu() for name, value in values.items()})
    assert_same(*found)


def test_symbols_are_sampled_from_the_nucleus_until_the_end_token():
    net = random_net("categorical").cuda()
    x = net.generate(64, 12, top_p=0.8, temperature=0.7, stop=2)
    ended = (x == 2).cummax(1).values
    assert ended.any()
    assert (x[ended] == 2).all()
    x = net.generate(5, 3, prompt=(random_frames("categorical", batch=1).cuda(), None), prompt_particles=4)
    assert x.shape == (5, 3)


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_two_chunks_have_the_density_of_the_whole(emission, transition):
    net, x = random_net(emission, transition=transition).cuda(), random_frames(emission, time=6).cuda()
    z = torch.randn(3, 6, 3, dtype=torch.float64, device="cuda")
    carried = last(net.states(x[:, :4], z[:, :4]))
    second = density(net, x[:, 4:], z[:, 4:], context=x[:, 3], initial_state=carried)
    torch.testing.assert_close(density(net, x[:, :4], z[:, :4]) + second, density(net, x, z), **EXACT)


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_draws_on_the_device(parallel):
    net, x = random_net().cuda(), random_frames().cuda()
    drawn = Predictive(net.model, guide=net.guide, num_samples=5, parallel=parallel)(x)
    assert drawn["z_3"].shape[-2:] == (3, 3)
    assert all(value.is_cuda and value.isfinite().all() for name, value in drawn.items() if name.startswith("z_"))


def test_svi_takes_the_steps_of_a_cpu(transition):
    losses = []
    for device, net in twins(transition=transition).items():
        pyro.clear_param_store()
        svi = SVI(net.model, net.guide, pyro.optim.ClippedAdam({"lr": 0.01}), ZForcingELBO(0.7, 0.3, 0.2))
        losses.append([svi.step(*on(device, (random_frames(time=6), LENGTHS))) for _ in range(5)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-7)


def test_gradients_in_evaluation_mode_are_those_of_training_without_dropout(transition):
    net, given = random_net(transition=transition).cuda(), on("cuda", (random_frames(time=6), LENGTHS))
    found = [outcome(mode, ZForcingELBO(0.7, 0.3, 0.2), *given) for mode in (net.train(), net.eval())]
    assert_same(*found)
    assert not net.backward_rnn.lstm.training


@pytest.mark.parametrize("truncate", [False, True])
def test_segments_give_the_outcome_of_a_cpu(truncate):
    settings = {"segment": 4, "truncate": truncate}
    found = []
    for device, net in twins().items():
        given = on(device, (random_frames(time=11), torch.tensor([11, 4, 5])))
        found.append(outcome(net, SegmentedELBO(0.7, 0.3, 0.2, **settings), *given))
        if device == "cuda" and not truncate:
            assert_same(found[-1], outcome(net, ZForcingELBO(0.7, 0.3, 0.2), *given))
    assert_same(*found)


@pytest.mark.parametrize("name", ["x", "lengths", "context", "initial_state"])
def test_an_argument_on_another_device_is_refused_by_name(name):
    net, x = random_net().cuda(), random_frames()
    given = {"x": x, "lengths": LENGTHS.clamp(max=4), "context": x[:, 0], "initial_state": random_state(random_net())}
    given = {key: value if key == name else on("cuda", value) for key, value in given.items()}
    for program in (net.model, net.guide):
        with pytest.raises(ValueError, match=rf"{name}.* must be .*on cuda:0.* got .*cpu"):
            program(**given)


def test_a_model_is_saved_and_loaded_from_either_device(tmp_path):
    pytest.importorskip("safetensors")
    net, x = random_net().cuda(), random_frames()
    net.save(tmp_path, {"mean": torch.ones(2, device="cuda"), "scale": torch.tensor(2.0)})
    loaded = ZForcing.load(tmp_path)
    assert loaded.emission_layer.weight.device.type == "cpu"
    assert loaded.normalisation["mean"].tolist() == [1.0, 1.0]
    torch.testing.assert_close(loaded.reconstruct(x), net.reconstruct(x.cuda()).cpu(), **EXACT)
    again = loaded.cuda()
    torch.testing.assert_close(again.reconstruct(x.cuda()), net.reconstruct(x.cuda()), **EXACT)
    state = torch.load(_written(net, tmp_path / "state.pt"), map_location="cpu", weights_only=True)
    random_net().load_state_dict(state)


def _written(net, path):
    torch.save(net.state_dict(), path)
    return path
