"""Contenders of the benchmarks compute the loss and the gradients of the package, parameter by parameter."""

import importlib
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

from zf_pyro import DMM, SRNN, STORN, VRNN, ZForcing, ZForcingELBO, emissions

from .conftest import random_frames, random_net

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FULL, ELBO = (0.7, 0.1, 0.3), (1.0, 0.0, 0.0)
"""Weights of KL, auxiliary and backward terms."""
WIDE = emissions.Gaussian(7)
"""Frames larger than their embedding, which are embedded first."""


@pytest.fixture
def peers(monkeypatch):
    """Import a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(BENCHMARKS) in str(sys.modules[name].__file__):
            del sys.modules[name]


def gradients(net):
    """Gradients by name, zeros for parameters that have none."""
    found = {
        name: (torch.zeros_like(part) if part.grad is None else part.grad).numpy().copy()
        for name, part in net.named_parameters()
    }
    net.zero_grad()
    return found


def case(model, emission, weights, dtype=torch.float64):
    """A network, frames, noise, and the package's loss and gradients under that noise."""
    net, x = random_net(emission, model=model, dtype=dtype), random_frames(emission, dtype=dtype)
    pyro.set_rng_seed(2)
    noise = torch.stack([torch.empty(3, 3, dtype=dtype).normal_() for _ in range(4)])
    pyro.set_rng_seed(2)
    loss = ZForcingELBO(*weights).loss_and_grads(net.model, net.guide, x)
    return net, x, noise, loss, gradients(net)


def require_equal(found, loss, dtype=torch.float64):
    """Hold a loss and gradients by name to those of the package."""
    value, by_name = found
    assert float(value) == pytest.approx(loss[0], rel=1e-9 if dtype == torch.float64 else 1e-5)
    bounds = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    assert by_name.keys() == loss[1].keys()
    for name, gradient in loss[1].items():
        np.testing.assert_allclose(by_name[name], gradient, err_msg=name, **bounds)


def by_backward(loss, net):
    """A loss and its gradients."""
    loss.backward()
    return loss.item(), gradients(net)


@pytest.mark.parametrize("emission", ["gaussian", "bernoulli", WIDE], ids=["gaussian", "bernoulli", "wide"])
@pytest.mark.parametrize("model", [VRNN, SRNN, STORN, DMM])
def test_loops_written_by_hand_have_the_bound_and_gradients_of_the_package(peers, model, emission):
    net, x, noise, *loss = case(model, emission, ELBO)
    by_hand = peers("hand_written").LOSSES[model.__name__](net, x, noise)
    require_equal(by_backward(by_hand, net), loss)


@pytest.mark.parametrize("weights", [FULL, ELBO], ids=["full", "elbo"])
@pytest.mark.parametrize("emission", ["gaussian", "bernoulli", WIDE], ids=["gaussian", "bernoulli", "wide"])
def test_the_careful_loop_has_the_objective_and_gradients_of_the_package(peers, emission, weights):
    net, x, noise, *loss = case(ZForcing, emission, weights)
    careful = peers("hand_written").loss_of(peers("careful").ZFORCING, net, x, noise, None, *weights)
    require_equal(by_backward(careful, net), loss)


def test_the_loop_of_the_released_form_has_the_objective_and_gradients_of_the_package(peers):
    net, x, noise, *loss = case(ZForcing, "gaussian", FULL)
    released = peers("released_form").released_form_loss(net, x, noise, *FULL)
    require_equal(by_backward(released, net), loss)


def test_peers_agree_in_single_precision(peers):
    net, x, noise, *loss = case(ZForcing, WIDE, FULL, torch.float32)
    careful = peers("hand_written").loss_of(peers("careful").ZFORCING, net, x, noise, None, *FULL)
    require_equal(by_backward(careful, net), loss, torch.float32)


# Compiled loops -----------------------------------------------------------------------------------------------------

COMPILED = [(ZForcing, FULL), (VRNN, ELBO), (SRNN, ELBO), (DMM, ELBO)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler looks at it
@pytest.mark.parametrize("form", ["loop", "step"])
@pytest.mark.parametrize(("model", "weights"), COMPILED, ids=[model.__name__ for model, _ in COMPILED])
def test_compiled_loops_have_the_objective_and_gradients_of_the_package(peers, model, weights, form):
    net, x, noise, *loss = case(model, "gaussian", weights)
    parts = {**peers("hand_written").PARTS, "ZForcing": peers("careful").ZFORCING}[model.__name__]
    compiled = peers("compiled").compiled_loss(parts, form, "aot_eager")
    found = compiled(net, x, noise, *(weights if model is ZForcing else ()))
    require_equal(by_backward(found, net), loss)


@pytest.mark.parametrize(
    ("results", "form", "text"),
    [
        ({"loop": 3.0}, "loop", "the whole time loop is compiled, in 3 s"),
        (
            {"loop": "not within 9 s", "step": 2.0},
            "step",
            "the whole time loop: not within 9 s; one step of the loop is compiled, in 2 s",
        ),
        (
            {"loop": "not within 9 s", "step": "failed: x"},
            None,
            "the whole time loop: not within 9 s; one step of the loop: failed: x",
        ),
    ],
)
def test_the_first_form_that_compiles_in_time_is_taken(peers, monkeypatch, results, form, text):
    compiled = peers("compiled")
    monkeypatch.setattr(compiled, "compile_seconds", lambda make, form, limit: results[form])
    assert compiled.choose(never, 9.0) == (form, text)


def never(form):
    """A step that takes too long to make."""
    time.sleep(600)


def failing(form):
    """A step that cannot be made."""
    raise RuntimeError("no compiler\nand more")


@pytest.mark.slow
def test_the_limit_ends_a_compilation_and_its_process(peers):
    start = time.perf_counter()
    assert peers("compiled").compile_seconds(never, "loop", 1.0) == "not within 1 s"
    assert time.perf_counter() - start < 60.0
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_compilation_that_fails_says_why(peers):
    assert peers("compiled").compile_seconds(failing, "loop", 100.0) == "failed: no compiler"


# JAX ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def jax_step(peers):
    """A training step in JAX at double precision."""
    jax = pytest.importorskip("jax", reason="jax is not installed: it is in the extra benchmarks")
    with jax.enable_x64():
        yield peers("jax_models").training_step


@pytest.mark.slow
@pytest.mark.parametrize("emission", ["gaussian", "bernoulli"])
@pytest.mark.parametrize(("model", "weights"), COMPILED, ids=[model.__name__ for model, _ in COMPILED])
def test_loops_in_jax_have_the_objective_and_gradients_of_the_package(jax_step, model, weights, emission):
    net, x, noise, *loss = case(model, emission, weights)
    found = jax_step(model.__name__, net, x, noise, *(weights if model is ZForcing else ()))()
    require_equal(found, loss)


@pytest.mark.slow
def test_jax_agrees_in_single_precision(peers):
    pytest.importorskip("jax", reason="jax is not installed: it is in the extra benchmarks")
    net, x, noise, *loss = case(ZForcing, WIDE, FULL, torch.float32)
    require_equal(peers("jax_models").training_step("ZForcing", net, x, noise, *FULL)(), loss, torch.float32)
