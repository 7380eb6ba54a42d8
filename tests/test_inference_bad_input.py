"""Invalid input to inference raises an error that names the argument and the expected values."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal

from zf_pyro.inference import (
    ALGORITHMS,
    StepwiseGuide,
    StepwiseModel,
    check_guide,
    latent_mcmc,
    log_weights,
    smc_filter,
    stack_latents,
)

from .conftest import random_frames, random_net

LENGTHS = torch.tensor([4, 2, 3])


def called(name, lengths=None, **settings):
    """Call of an algorithm, built on a small network."""

    def call():
        row = ALGORITHMS[name]
        return getattr(row.build(random_net(), **settings), row.call)(random_frames(), lengths)

    return call


def without_the_third(x, lengths=None):
    with pyro.plate("sequences", x.shape[0], dim=-1):
        for t in (0, 1, 3):
            pyro.sample(f"z_{t}", dist.Normal(torch.zeros(3, dtype=x.dtype), 1.0).to_event(1))


def without_any(x, lengths=None):
    return None


def joint_weights():
    net = random_net(dtype=torch.float32)
    x = random_frames(dtype=torch.float32)
    return log_weights(net.model, AutoDiagonalNormal(net.model), x)


def several_dreams():
    svi = ALGORITHMS["ReweightedWakeSleep-sleep"].build(random_net(), num_sleep_particles=3)
    svi.step(random_frames(), LENGTHS)


MISSES = r"guide must have a sample statement for every latent of the model, and has none for "
SHORT = r"lengths must all be 4 \(the time size of x\) for MCMC, got 2 at sequence 1.*no density.*one length at a time"
BAD = [
    ("an unknown name", lambda: ALGORITHMS["nuts"], KeyError, r"one of Trace_ELBO, .*NUTS.*got 'nuts'"),
    *(
        (
            f"zero particles for {name}",
            called(name, num_particles=0),
            ValueError,
            "num_particles must be a positive int",
        )
        for name in ("Trace_ELBO", "TraceEnum_ELBO", "RenyiELBO", "ImportanceWeightedELBO", "FIVO", "ParticleFilter")
    ),
    *(
        (f"zero particles for {name}", called(name, num_particles=0), ValueError, "integer of at least 2, got 0")
        for name in ("ReweightedWakeSleep", "ReweightedWakeSleep-sleep")
    ),
    ("zero particles for a filter", called("SMCFilter", num_particles=0), ValueError, "a positive integer, got 0"),
    ("no chains to anneal", called("AnnealedImportanceSampling", num_chains=0), ValueError, "num_chains must be"),
    ("one particle for SVGD", called("SVGD", num_particles=1), ValueError, "integer of at least 2, got 1"),
    ("half a particle", called("RenyiELBO", num_particles=0.5), ValueError, "num_particles must be a positive integer"),
    ("no samples", called("Importance", num_samples=0), ValueError, "num_samples must be a positive integer, got 0"),
    ("no predictions", called("Predictive", num_samples=0), ValueError, "num_samples must be a positive integer"),
    ("no particles to weigh", lambda: log_weights(None, None, num_particles=0), ValueError, "num_particles must be"),
    ("a guide that misses a site", called("Trace_ELBO", guide=without_the_third), ValueError, MISSES + "z_2: add it"),
    ("the same for importance", called("Importance", guide=without_the_third), ValueError, MISSES + "z_2"),
    ("the same for our objective", called("ZForcingELBO", guide=without_the_third), ValueError, MISSES + "z_2"),
    (
        "a guide that misses most sites",
        lambda: check_guide(random_net().model, without_any, random_frames(time=9)),
        ValueError,
        MISSES + "z_0, z_1, z_2, z_3, z_4 and 4 more",
    ),
    ("NUTS on variable lengths", called("NUTS", LENGTHS), ValueError, SHORT),
    ("HMC on variable lengths", called("HMC", LENGTHS), ValueError, SHORT),
    ("a length out of range", called("NUTS", torch.tensor([4, 5, 4])), ValueError, "lengths must be between 1 and 4"),
    ("an unknown kernel", lambda: latent_mcmc(random_net(), random_frames(), kernel="sgld"), ValueError, "hmc.*nuts"),
    (
        "no samples of a chain",
        called("NUTS", num_samples=0),
        ValueError,
        "num_samples must be a positive integer, got 0",
    ),
    ("no chains", called("NUTS", num_chains=0), ValueError, "num_chains must be a positive integer, got 0"),
    ("frames of another dtype", lambda: latent_mcmc(random_net(), random_frames().float()), TypeError, "x must be"),
    (
        "looped tail adaptation",
        called("TraceTailAdaptive_ELBO", vectorize_particles=False),
        NotImplementedError,
        "only implemented for vectorize_particles==True",
    ),
    ("several dreams at once", several_dreams, ValueError, "num_sleep_particles=1 or vectorize_particles=False"),
    (
        "an unknown proposal",
        lambda: smc_filter(random_net(), random_frames(), proposal="b"),
        ValueError,
        "proposal must",
    ),
    ("a filter's step before its start", lambda: StepwiseModel(random_net()).step({}, 0), RuntimeError, "init"),
    ("a proposal before its start", lambda: StepwiseGuide(random_net()).step({}, 0), RuntimeError, "init"),
    ("weights of a joint guide", joint_weights, ValueError, "every site in a plate at dim -1.*'_AutoDiagonalNormal"),
    ("latents with a gap", lambda: stack_latents({"z_0": torch.zeros(1), "z_2": torch.zeros(1)}), ValueError, "gap"),
    ("no latents", lambda: stack_latents({}), ValueError, "without a gap"),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_gets_a_clear_error(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_checking_a_guide_leaves_the_random_numbers_alone():
    net, x = random_net(), random_frames()
    before = torch.get_rng_state()
    check_guide(net.model, net.guide, x, LENGTHS)
    assert torch.equal(before, torch.get_rng_state())


def test_a_latent_that_is_given_need_not_be_guided():
    net, x = random_net(), random_frames()
    given = poutine.condition(net.model, data={"z_2": torch.zeros(3, 3, dtype=torch.float64)})
    check_guide(given, without_the_third, x)
    assert ALGORITHMS["Trace_ELBO"].build(net, model=given, guide=without_the_third).step(x) > 0
