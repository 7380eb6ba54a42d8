"""Sequences of 784 steps, on which importance sampling degenerates and a particle filter does not."""

import pyro
import pytest
import torch
from pyro.infer import SVI

from zf_pyro import Linear, ZForcing, ZForcingELBO, emissions
from zf_pyro.inference import ParticleFilter

NUM_STEPS, NUM_PARTICLES, REPETITIONS = 784, 32, 40


def jumps(batch, num_steps):
    """Sample x_t = 0.8 x_{t-1} + sign + 0.1 noise with a random sign; (batch, num_steps, 1).

    A Gaussian emission cannot express the sign, so the latents have to.
    """
    frames = [torch.zeros(batch)]
    for _ in range(num_steps):
        frames.append(0.8 * frames[-1] + torch.randn(batch).sign() + 0.1 * torch.randn(batch))
    return torch.stack(frames[1:], dim=1).unsqueeze(-1)


@pytest.mark.slow
def test_on_784_steps_a_guided_filter_spreads_less_than_importance_sampling():
    """Equal numbers of particles, on a briefly trained model; -s prints the values that docs/inference.md reports."""
    pyro.set_rng_seed(0)
    net = ZForcing(emissions.Gaussian(1), embed_dim=16, hidden_dim=32, latent_dim=4, mlp_dim=16)
    elbo = ZForcingELBO(kl_weight=Linear(0.1, 1.0, 150))
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-2}), loss=elbo)
    for _ in range(250):
        svi.step(jumps(16, 49))
    print(f"KL per step: {elbo.terms.kl.mean().item() / 49:.2f} nats")
    x = jumps(1, NUM_STEPS).repeat(REPETITIONS, 1, 1)
    spread = {}
    for name, settings in {
        "importance sampling": {"threshold": 0.0},
        "guided filter": {},
        "bootstrap filter": {"proposal": "prior"},
    }.items():
        estimates = ParticleFilter(net, NUM_PARTICLES, **settings).run(x).log_evidence
        spread[name] = estimates.std().item()
        print(f"{name}: mean {estimates.mean().item():.2f}, standard deviation {spread[name]:.2f} nats")
    assert spread["guided filter"] < spread["importance sampling"]
