"""Small random models and data for all tests. Everything is seeded; no test sees another's parameters."""

import random
from pathlib import Path

import pyro
import pytest
import torch

import zf_pyro
from zf_pyro import emissions
from zf_pyro.recurrence.engine import machines

TRANSITIONS = ("conditional_layer_norm", "concatenate")
FAMILY = {
    "ZForcing": (zf_pyro.ZForcing, {}),
    "ZForcing, latents see the input": (zf_pyro.ZForcing, {"latents_see_input": True}),
    "ZForcing, two layers": (zf_pyro.ZForcing, {"num_layers": 2, "transition": "concatenate"}),
    "ZForcing, three layers that see the input": (zf_pyro.ZForcing, {"num_layers": 3, "latents_see_input": True}),
    "STORN": (zf_pyro.STORN, {}),
    "STORN, trained prior": (zf_pyro.STORN, {"prior": "trained"}),
    "STORN, GRU of two layers": (zf_pyro.STORN, {"cell": "gru", "num_layers": 2}),
    "STORN, LSTM of two layers": (zf_pyro.STORN, {"prior": "trained", "num_layers": 2}),
    "VRNN": (zf_pyro.VRNN, {}),
    "VRNN, linear features": (zf_pyro.VRNN, {"feature_networks": False}),
    "VRNN, GRU of two layers": (zf_pyro.VRNN, {"cell": "gru", "num_layers": 2}),
    "VRNN, LSTM of two layers": (zf_pyro.VRNN, {"num_layers": 2}),
    "SRNN": (zf_pyro.SRNN, {}),
    "SRNN, not residual, LSTM of two layers": (zf_pyro.SRNN, {"residual": False, "cell": "lstm", "num_layers": 2}),
    "SRNN, filtering, LSTM": (zf_pyro.SRNN, {"filtering": True, "cell": "lstm"}),
    "DMM": (zf_pyro.DMM, {}),
    "DMM, ungated of both directions": (zf_pyro.DMM, {"gated": False, "bidirectional": True, "cell": "gru"}),
    "DMM, average of states": (zf_pyro.DMM, {"combiner": "average", "num_layers": 2, "z_force": True}),
    "DMM, autoregressive flow": (zf_pyro.DMM, {"num_flows": 2, "flow_dim": 6}),
}
"""Every model with latents, and its options: class and settings by name."""
FIRST = list({model: name for name, (model, _) in reversed(FAMILY.items())}.values())
"""The first form of each model."""
EMISSIONS = {
    "gaussian": emissions.Gaussian(2),
    "mixture": emissions.GaussianMixture(2, 3),
    "bernoulli": emissions.Bernoulli(3),
    "categorical": emissions.Categorical(4),
}


of_the_sources = pytest.mark.skipif(
    not (Path(__file__).parent.parent / "zf_pyro").is_dir(),
    reason="the sources of zf_pyro are not beside the tests, as where those of the source distribution try a wheel",
)
"""A test about files of the package as they lie in the repository."""

# Tensors of a few elements gain nothing from a second thread, and waiting for it is slow on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(params=["compiled", "plain"])
def each_machine(request, monkeypatch):
    """Run a test on both machines of the fast loops."""
    if request.param == "plain":
        monkeypatch.setattr(machines, "_compiled", None)
    elif machines._compiled is None:
        pytest.skip("no C compiler when zf_pyro was installed")


def random_net(emission="gaussian", *, model=zf_pyro.ZForcing, dtype=torch.float64, spread=0.4, seed=1, **settings):
    """Build a small model with large random weights, so that gates move and some clamps are active."""
    sizes = {"embed_dim": 5, "hidden_dim": 4, "latent_dim": 3, "mlp_dim": 6}
    family = EMISSIONS[emission] if isinstance(emission, str) else emission
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = model(family, **{**sizes, **settings})
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
    return net.to(dtype)


def random_frames(emission="gaussian", batch=3, time=4, *, dtype=torch.float64, seed=2):
    """Sample x (batch, time, ...) from the support of the emission."""
    family = EMISSIONS[emission] if isinstance(emission, str) else emission
    generator = torch.Generator().manual_seed(seed)
    if family.integer:
        return torch.randint(family.num_classes, (batch, time), generator=generator)
    x = torch.randn(batch, time, *family.event_shape, generator=generator, dtype=dtype)
    return (x > 0).to(dtype) if isinstance(family, emissions.Bernoulli) else x


def random_state(net, batch=3, seed=3):
    """Sample an initial state, each field (batch, hidden)."""
    generator = torch.Generator().manual_seed(seed)
    dtype = net.emission_layer.weight.dtype
    hidden, cell = (field.shape[-1] for field in net.initial_state((1,)))
    draw = torch.randn(2, batch, max(hidden, cell), generator=generator, dtype=torch.float64).to(dtype)
    return zf_pyro.State(draw[0, :, :hidden].tanh(), draw[1, :, :cell])


@pytest.fixture(autouse=True)
def _clean_slate():
    """Start each test with the same seed, an empty parameter store and validation on."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield
    pyro.clear_param_store()


QUICK = {name for name in FIRST if name != "ZForcing"}
"""Members in the default suite. All other tests are of ZForcing."""


@pytest.fixture(params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILY])
def member(request):
    """Run a test with each model of the family: arguments of :func:`random_net`."""
    model, settings = FAMILY[request.param]
    return {"model": model, **settings}


@pytest.fixture(params=TRANSITIONS)
def transition(request):
    """Run a test with each transition, by name."""
    return request.param


DEFAULT_CASES = {
    "test_smc.py::test_the_evidence_estimate_is_unbiased": 6,
    "test_smc.py::test_smoothed_paths_have_the_moments_of_the_posterior": 3,
    "test_inference_annealing.py::test_the_evidence_estimate_is_unbiased": 3,
    "test_paths_lifetime.py::test_a_step_frees_its_memory_without_the_garbage_collector": 3,
    "test_models_pretrained.py::test_the_models_have_the_bounds_of_the_quickstart": 1,
    "test_objectives_fivo.py::test_the_objective_lies_below_the_evidence": 3,
    "test_objectives_importance.py::test_both_gradients_are_those_of_the_exact_expectation": 2,
    "test_models_exact.py::test_importance_estimates_agree_with_the_evidence": 4,
    "test_models_family.py::test_every_handler_sees_the_textbook_program": 52,
    "test_paths_equivalence.py::test_every_handler_sees_the_textbook_program": 52,
    "test_inference_table.py::test_every_algorithm_is_scored_as_its_row_says": 18,
}
"""Cases of tests with many that run by default, evenly spread. The others are slow: the suite has five minutes."""

SLOW_CASES = {
    "test_benchmarks.py::test_a_benchmark_prints_its_table": 2,
    "test_benchmarks_peers.py::test_compiled_loops_have_the_objective_and_gradients_of_the_package": 1,
    "test_benchmarks_peers.py::test_loops_in_jax_have_the_objective_and_gradients_of_the_package": 3,
    "test_diagnostics_page.py::test_the_committed_numbers_are_those_of_the_code": 1,
    "test_examples_polyphonic.py::test_every_model_runs_under_every_objective": 3,
    "test_imports_broken.py::test_a_broken_rule_fails_its_test": 1,
    "test_imports_broken.py::test_a_broken_rule_of_importing_fails_its_test": 1,
    "test_inference_exact.py::test_chains_have_the_exact_moments": 0,
    "test_inference_table.py::test_every_algorithm_runs_on_every_model": 50,
    "test_models_family.py::test_every_handler_sees_the_textbook_program": 30,
    "test_models_family.py::test_svi_lowers_the_loss": 10,
    "test_models_gaps.py::test_every_handler_sees_the_textbook_program": 30,
    "test_models_covariates.py::test_every_handler_sees_the_textbook_program": 30,
    "test_notebooks.py::test_a_notebook_runs_at_small_size_and_stays_as_it_is": 3,
    "test_paths_lifetime.py::test_a_thousand_steps_leave_no_growing_set_of_tensors": 1,
    "test_recurrence_compilers.py::test_a_build_without_openmp_links_no_threads_and_does_not_fail": 0,
    "test_recurrence_compilers.py::test_every_compiler_gives_the_same_values_and_gradients": 1,
    "test_smc_exporting.py::test_every_model_filters": 4,
    "test_smc_exporting.py::test_every_model_generates": 4,
    "test_smc_exporting.py::test_every_emission_filters": 4,
    "test_smc_exporting.py::test_every_emission_generates_or_says_why_not": 5,
}
"""Cases of slow tests that continuous integration runs, drawn at random once. The others are exhaustive."""
MOST_SLOW_CASES = 10
"""The same of every other test. Each draws its own, so every member, emission and option stands in many of them."""


@pytest.hookimpl(tryfirst=True)  # before slow tests are left out
def pytest_collection_modifyitems(items):
    cases = {}
    for item in items:
        cases.setdefault(f"{item.path.name}::{getattr(item, 'originalname', '')}", []).append(item)
    for name, count in DEFAULT_CASES.items():
        found = [item for item in cases.get(name, []) if item.get_closest_marker("slow") is None]
        kept = {round(i * len(found) / count) for i in range(min(count, len(found)))}
        for i, item in enumerate(found):
            if i not in kept:
                item.add_marker(pytest.mark.slow)
    for name, all_cases in cases.items():
        found = [item for item in all_cases if item.get_closest_marker("slow") is not None]
        count = min(SLOW_CASES.get(name, MOST_SLOW_CASES), len(found))
        kept = set(random.Random(name).sample(range(len(found)), count))
        for i, item in enumerate(found):
            if i not in kept:
                item.add_marker(pytest.mark.exhaustive)
