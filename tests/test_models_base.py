"""The base of models names what a subclass lacks, and takes a model of a user's own."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from zf_pyro import State, emissions
from zf_pyro.models import StochasticRNN, ZForcing
from zf_pyro.recurrence import reference_posterior_scan, reference_state_scan

from .conftest import random_frames, random_net
from .handlers import BATCH, HANDLERS, REDRAWN, TIME
from .test_paths_equivalence import arguments, assert_equivalent


class WithoutPosterior(ZForcing):
    posterior = StochasticRNN.posterior


class RandomWalk(StochasticRNN):
    """A user's own model of what the base asks for and no more: z_t ~ N(z_{t-1}, 1), q(z_t | z_{t-1}, x_t)."""

    has_auxiliary = False

    def __init__(self, emission, *, embed_dim, hidden_dim, latent_dim, mlp_dim, name=None):
        sizes = {"embed_dim": embed_dim, "hidden_dim": hidden_dim, "latent_dim": latent_dim, "mlp_dim": mlp_dim}
        super().__init__(emission, sizes, name)
        self.hidden_dim = self.latent_dim = latent_dim
        self.read = nn.Linear(latent_dim + emission.event_shape.numel(), 2 * latent_dim)
        self.emission_layer = nn.Linear(latent_dim, emission.num_parameters)

    @property
    def backward_dim(self):
        return self.emission_family.event_shape.numel()

    def prior(self, past):
        return dist.Normal(past.hidden, 1.0).to_event(1)

    def posterior(self, past, b_t):
        shape = torch.broadcast_shapes(past.hidden.shape[:-1], b_t.shape[:-1])
        seen = torch.cat([past.hidden.expand(*shape, -1), b_t.expand(*shape, -1)], dim=-1)
        loc, log_scale = self.read(seen).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.clamp(-2.0, 2.0).exp()).to_event(1)

    def transition(self, past, u_t, z_t):
        return State(z_t, past.cell.expand_as(z_t))

    def emission(self, state):
        return self.emission_family.distribution(self.emission_layer(state.hidden))

    def scan_backward(self, x, mask, lengths):
        return x

    def scan_posterior(self, state, u, b, noise):
        return reference_posterior_scan(self.past, self.posterior, self.transition, state, u, b, noise)

    def scan_states(self, state, u, z):
        return reference_state_scan(self.past, self.transition, state, u, z)


def test_the_base_alone_is_no_model():
    missing = "emission, posterior, prior, scan_backward, scan_posterior, scan_states, transition"
    with pytest.raises(TypeError, match=f"StochasticRNN must define {missing}"):
        StochasticRNN(emissions.Gaussian(2), {})


def test_a_model_without_a_step_function_is_refused_by_its_name():
    with pytest.raises(TypeError, match="WithoutPosterior must define posterior"):
        WithoutPosterior(emissions.Gaussian(2), embed_dim=3, hidden_dim=4, latent_dim=2, mlp_dim=3)


@pytest.mark.parametrize("handler", ["replay", "particles", "another value for z_2", "generation", "condition on z_0"])
def test_a_model_of_the_users_own_is_the_textbook_program(handler):
    net, x = random_net("gaussian", model=RandomWalk), random_frames("gaussian", BATCH, TIME)
    assert_equivalent(net, HANDLERS[handler], x, arguments("all", net, "gaussian"), REDRAWN.get(handler, TIME))


def test_a_model_of_the_users_own_starts_at_the_data():
    net, x = random_net("gaussian", model=RandomWalk, spread=0.0), 5.0 + random_frames("gaussian")
    assert net.initialise(x) == 12
    loc = net.emission(State(torch.zeros(1, 3, dtype=x.dtype), torch.zeros(1, 0))).mean
    torch.testing.assert_close(loc[0], x.flatten(0, 1).mean(0))
