"""Bounds, baselines and diagnostics on a GPU, against a CPU."""

import math

import numpy as np
import pytest
import torch

from zf_pyro import diagnostics, to_arviz
from zf_pyro.data import LengthBatches, Loader
from zf_pyro.evaluation import active_units, bounds, evaluate, particle_bound, score, score_density, step_kl
from zf_pyro.models import DeterministicRNN, LinearGaussian

from ..comparing import EXACT, assert_same
from ..conftest import EMISSIONS, random_frames, random_net
from .common import NEEDS_CUDA, assert_agree, on, twins

pytestmark = NEEDS_CUDA
LENGTHS = torch.tensor([6, 2, 5])


@pytest.mark.parametrize("emission", EMISSIONS)
def test_bounds_of_the_same_samples_are_those_of_a_cpu(emission, transition):
    found = []
    for device, net in twins(emission, transition=transition).items():
        given = on(device, (random_frames(emission, time=6), LENGTHS))
        values = bounds(net, *given, 4)._asdict() | {"kl of steps": step_kl(net, *given).nan_to_num(nan=-1.0)}
        values["units"] = torch.tensor(active_units(net, *given))
        found.append(on("cpu", values))
    assert_same(*found)


@pytest.mark.parametrize("reset_every", [None, 3])
def test_scores_of_batches_on_the_host_are_those_of_a_cpu(reset_every):
    """A loader yields batches on the CPU, and the scores are on the CPU too."""
    found = []
    items = [torch.randn(n, 2, generator=torch.Generator().manual_seed(n)).double() for n in (6, 4, 5, 2, 7)]
    for net in twins().values():
        batches = Loader(items, LengthBatches([len(item) for item in items], 2, shuffle=False))
        settings = {"protocol": "first_frame_given", "reset_every": reset_every}
        scores = score(net, batches, num_particles=3, **settings)
        assert scores.num_frames.device.type == "cpu"
        found.append({**scores.bounds, "kl": scores.kl, "frames": scores.num_frames})
    assert_same(*found)


def test_particle_bounds_agree_with_a_cpu():
    found = []
    for device, net in twins(noiseless=False).items():
        given = on(device, (random_frames(time=6), LENGTHS))
        found.append(torch.stack([particle_bound(net, *given, 16) for _ in range(60)]))
        evaluation = evaluate(net, *given, num_particles=4, filter_particles=4)
        assert all(math.isfinite(bound.nats_per_frame.value) for bound in evaluation.bounds.values())
    assert_agree(*found)


@pytest.mark.parametrize("emission", EMISSIONS)
def test_the_rnn_has_the_density_of_a_cpu(emission):
    torch.manual_seed(0)
    rnn = DeterministicRNN(random_net(emission).emission_family, embed_dim=5, hidden_dim=6).double()
    x = random_frames(emission, time=6)
    expected = rnn.log_prob(x, LENGTHS)
    torch.testing.assert_close(rnn.cuda().log_prob(*on("cuda", (x, LENGTHS))).cpu(), expected, **EXACT)
    scores = score_density(rnn, x, LENGTHS)
    torch.testing.assert_close(scores.bounds["log_likelihood"], expected.detach(), **EXACT)


def test_the_linear_baseline_has_the_density_of_a_cpu():
    x, lengths, found = random_frames(batch=9, time=6), torch.tensor([6, 2, 5] * 3), []
    for device in ("cpu", "cuda"):
        fitted = LinearGaussian.fit([on(device, (x, lengths))])
        found.append({"nats": score_density(fitted, x, lengths).bounds["log_likelihood"]})
    assert_same(*found)


@pytest.mark.parametrize("posterior", ["guide", "importance", "smoother"])
def test_to_arviz_takes_a_model_on_the_device(posterior):
    means = []
    for device, net in twins(noiseless=False).items():
        given = on(device, (random_frames(time=6), LENGTHS))
        settings = {"posterior": posterior, "num_samples": 400, "num_particles": 500, "hidden": True}
        data = to_arviz(net.eval(), *given, labels=on(device, torch.arange(3)), **settings)
        z = torch.from_numpy(np.asarray(data["posterior"]["z"])[0])
        assert z.isnan().any()
        assert np.isfinite(np.asarray(data["log_likelihood"]["x"])).all()
        means.append(z.nan_to_num())
    if posterior == "guide":
        assert_agree(*means)


def test_diagnostics_take_a_model_on_the_device():
    net, given = random_net().cuda().eval(), on("cuda", (random_frames(batch=6, time=6), LENGTHS.repeat(2)))
    use = diagnostics.latent_use(net, *given)
    assert math.isfinite(use.total_kl)
    assert math.isfinite(use.lost_at_prior_mean)
    information = diagnostics.mutual_information(net, *given, num_sequences=6)
    assert math.isfinite(information.estimate)
    assert information.rate > 0.0
    forecasts = diagnostics.leave_future_out(net, *given, num_particles=16)
    assert forecasts.per_sequence.isfinite().all()
    ranks = diagnostics.calibrate(net, 16, 3, 7).ranks
    assert ranks.shape[:2] == (16, 3)
    assert ((ranks >= 0) & (ranks <= 7)).all()
    data = to_arviz(net, *given, num_samples=50)
    checked = diagnostics.check_weights(data, torch.zeros(6, device="cuda"))
    assert np.isfinite(checked.gap).all()
    assert (checked.evidence == 0.0).all()
