"""The base of models names what a subclass lacks."""

import pytest

from zf_pyro import emissions
from zf_pyro.models import StochasticRNN, ZForcing


class WithoutPosterior(ZForcing):
    posterior = StochasticRNN.posterior


def test_the_base_alone_is_no_model():
    missing = "emission, posterior, prior, scan_backward, scan_posterior, scan_states, transition"
    with pytest.raises(TypeError, match=f"StochasticRNN must define {missing}"):
        StochasticRNN(emissions.Gaussian(2), {})


def test_a_model_without_a_step_function_is_refused_by_its_name():
    with pytest.raises(TypeError, match="WithoutPosterior must define posterior"):
        WithoutPosterior(emissions.Gaussian(2), embed_dim=3, hidden_dim=4, latent_dim=2, mlp_dim=3)
