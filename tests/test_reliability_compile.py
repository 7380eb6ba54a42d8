"""Under ``torch.compile`` the Pyro programs and scans run as they are, with the same numbers, within seconds."""

import subprocess
import sys
import time
import types

import pyro
import pytest
import torch
from pyro import poutine

from zf_pyro import ZForcingELBO
from zf_pyro.models import DeterministicRNN
from zf_pyro.networks import runs_eagerly

from .conftest import EMISSIONS, random_frames, random_net
from .linear_gaussian import LinearGaussian, simulated

SECONDS = 60.0
"""Far above the seconds that a result takes on a busy machine, far below the minutes of a compiled program."""
# The compiler itself uses deprecated parts of torch, and says that it breaks a graph at functions left alone.
pytestmark = pytest.mark.filterwarnings("ignore")


def seeded(function, *arguments):
    """The result of a function that draws random numbers, and the seconds it took."""
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    start = time.perf_counter()
    return function(*arguments), time.perf_counter() - start


def density(net, x):
    """The log-density of model and guide at the guide's latents, a scalar."""
    guide = poutine.trace(net.guide).get_trace(x)
    return poutine.trace(poutine.replay(net.model, guide)).get_trace(x).log_prob_sum() - guide.log_prob_sum()


CALLS = {
    "model": lambda net: net.model,
    "guide": lambda net: net.guide,
    "backward states": lambda net: net.backward_states,
    "states": lambda net: lambda x: net.states(x, 0.3 * torch.ones(*x.shape[:2], 3, dtype=x.dtype)).hidden,
    "generate": lambda net: lambda x: net.generate(len(x), 4),
    "a loss": lambda net: lambda x: ZForcingELBO(aux_weight=0.1).differentiable_loss(net.model, net.guide, x),
    "a function of the guide": lambda net: lambda x: 2.0 * net.guide(x + 1.0).sum(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_function_of_a_network_gives_the_same_numbers_within_seconds(name):
    net, x = random_net(), random_frames(time=7)
    expected, _ = seeded(CALLS[name](net), x)
    found, seconds = seeded(torch.compile(CALLS[name](net), backend="eager"), x)
    assert torch.equal(found, expected)
    assert seconds < SECONDS


def test_programs_of_a_compiled_network_are_those_of_the_network():
    net, x = random_net(), random_frames(time=7)
    compiled = torch.compile(net, backend="eager")
    for program in (lambda one: one.guide(x), lambda one: one.model(x), lambda one: density(one, x)):
        expected, _ = seeded(program, net)
        found, seconds = seeded(program, compiled)
        assert torch.equal(found, expected)
        assert seconds < SECONDS
    losses = [seeded(ZForcingELBO().loss_and_grads, one.model, one.guide, x)[0] for one in (net, compiled)]
    assert losses[0] == losses[1]


def test_a_compiled_network_that_is_called_says_that_it_is_no_function():
    with pytest.raises(NotImplementedError, match='missing the required "forward" function'):
        torch.compile(random_net(), backend="eager")(random_frames())


def test_a_model_with_step_functions_of_its_own_compiles_too():
    net, x = LinearGaussian(), simulated(3, 6)
    expected, _ = seeded(net.guide, x)
    found, seconds = seeded(torch.compile(net.guide, backend="eager"), x)
    assert torch.equal(found, expected)
    assert seconds < SECONDS


def test_the_network_without_latents_compiles_too():
    torch.manual_seed(1)
    net, x = DeterministicRNN(EMISSIONS["gaussian"], embed_dim=3, hidden_dim=4).double(), random_frames(time=7)
    expected = net.log_prob(x)
    found, seconds = seeded(torch.compile(net.log_prob, backend="eager"), x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert seconds < SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("program", ["guide", "model"])
def test_the_compilers_own_backend_gives_the_same_numbers_within_seconds(program):
    net, x = random_net(), random_frames(time=9)
    expected, _ = seeded(getattr(net, program), x)
    found, seconds = seeded(torch.compile(getattr(net, program)), x)
    assert torch.equal(found, expected)
    assert seconds < SECONDS


def test_a_function_left_alone_and_all_that_it_calls_run_outside_of_compiled_code():
    seen = []

    def inner(x):
        seen.append(torch.compiler.is_compiling())
        return x + 1.0

    @runs_eagerly
    def outer(x, *, factor):
        seen.append(torch.compiler.is_compiling())
        return factor * inner(x)

    x = torch.randn(3)
    found = torch.compile(lambda x: outer(x.sin(), factor=2.0).cos(), backend="eager")(x)
    torch.testing.assert_close(found, (2.0 * (x.sin() + 1.0)).cos())
    assert seen == [False, False]


def test_functions_left_alone_keep_their_name_documentation_and_owner():
    net = random_net()
    assert isinstance(net.guide, types.MethodType)
    assert net.guide.__self__ is net
    assert net.guide.__name__ == "guide"
    assert net.guide.__doc__.startswith("The inference program")


@pytest.mark.slow
def test_importing_the_package_and_running_a_network_import_no_compiler():
    program = """
import sys, torch, zf_pyro
assert "torch._dynamo" not in sys.modules
sizes = dict(embed_dim=2, hidden_dim=3, latent_dim=2, mlp_dim=2)
net = zf_pyro.ZForcing(zf_pyro.emissions.Gaussian(2), **sizes)
net.guide(torch.zeros(2, 3, 2)), net.model(torch.zeros(2, 3, 2))
assert "torch._inductor" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
