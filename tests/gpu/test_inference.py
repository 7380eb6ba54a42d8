"""Every algorithm of the table runs on a GPU, and those that estimate the evidence agree with a CPU."""

import math

import pyro
import pytest
import torch

from zf_pyro import FIVO, ImportanceWeightedELBO, ZForcingELBO
from zf_pyro.evaluation import infer_and_judge, train_and_judge
from zf_pyro.inference import ALGORITHMS, AnnealedImportanceSampling, ParticleFilter, smc_filter

from ..conftest import random_frames, random_net
from ..test_inference_table import COMPILED, DEFAULT_DTYPE, QUICK, lengths_for
from .common import NEEDS_CUDA, assert_agree, on, outcome, twins

pytestmark = NEEDS_CUDA
LENGTHS = torch.tensor([6, 2, 5])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=COMPILED if name.startswith("Jit") else ()) for name in ALGORITHMS]
)
def test_every_algorithm_runs_and_trains_the_model_or_leaves_it(name):
    pyro.set_rng_seed(3)
    dtype = torch.float32 if name in DEFAULT_DTYPE else torch.float64
    net, row = random_net(dtype=dtype).cuda(), ALGORITHMS[name]
    arguments = on("cuda", (random_frames(time=5, dtype=dtype), lengths_for(name, 5)))
    with torch.device("cuda"):  # where Pyro's own guides create their parameters
        call = getattr(row.build(net, **QUICK.get(name, {})), row.call)
        before = [p.detach().clone() for p in net.parameters()]
        call(*arguments)
        call(*arguments)
    changed = any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert changed == row.trains
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_the_particle_filters_evidence_is_a_cpus(proposal):
    found = []
    for device, net in twins(noiseless=False).items():
        given = on(device, (random_frames(time=6), LENGTHS))
        runs = [ParticleFilter(net, 64, proposal=proposal).run(*given) for _ in range(40)]
        found.append(torch.stack([run.log_evidence for run in runs]))
        assert runs[0].smoothed(5).shape == (5, 3, 6, 3)
    assert_agree(*found)


@pytest.mark.parametrize(
    "objective",
    [
        lambda: ImportanceWeightedELBO(8),
        lambda: ImportanceWeightedELBO(8, doubly_reparameterised=True),
        lambda: FIVO(8),
        lambda: FIVO(8, resampling_gradient=True),
        lambda: pyro.infer.RenyiELBO(0, num_particles=8, vectorize_particles=True, max_plate_nesting=1),
    ],
    ids=["importance", "dreg", "fivo", "fivo-resampling", "renyi"],
)
def test_bounds_of_many_particles_and_their_gradients_have_the_means_of_a_cpu(objective):
    found = []
    for device, net in twins(noiseless=False).items():
        elbo, given, rows = objective(), on(device, (random_frames(time=4), LENGTHS.clamp(max=4))), []
        for _ in range(150):
            net.zero_grad()
            loss = elbo.loss_and_grads(net.model, net.guide, *given)
            rows.append(torch.cat([torch.tensor([loss]).double(), net.prior_network.second.bias.grad.cpu()]))
        found.append(torch.stack(rows))
    assert_agree(*found)


def test_pyros_filter_runs_on_the_device():
    net, x = random_net().cuda(), random_frames(time=6).cuda()
    found = smc_filter(net, x, LENGTHS.cuda(), num_particles=32).get_empirical()
    assert set(found) == {"hidden", "cell", "z"}
    assert found["z"].mean.is_cuda


def test_annealed_evidence_lies_above_the_bound():
    net, given = random_net().cuda(), on("cuda", (random_frames(time=4), LENGTHS.clamp(max=4)))
    annealed = AnnealedImportanceSampling(net, num_chains=16, num_temperatures=20, leapfrog_steps=3).run(*given)
    elbo = ZForcingELBO()
    outcome(net, elbo, *given)
    assert annealed.log_evidence.is_cuda
    assert annealed.log_evidence.isfinite().all()
    assert annealed.log_evidence.sum() > elbo.terms.elbo.sum() - 5.0


def test_algorithms_are_judged_on_the_device():
    given = on("cuda", (random_frames(time=4), LENGTHS.clamp(max=4)))
    trained = train_and_judge("ZForcingELBO", random_net().cuda(), [given] * 3, given, num_particles=16, repeats=2)
    inferred = infer_and_judge("ParticleFilter", random_net().cuda(), given, num_particles=16, repeats=2)
    assert all(math.isfinite(found.bound) for found in (trained, inferred))
