"""Exported steps: programs without this package that have the numbers of the filter and of generation."""

import subprocess
import sys

import numpy as np
import pyro
import pytest
import torch

from zf_pyro import ZForcing, export_step
from zf_pyro.inference import ParticleFilter
from zf_pyro.smc import FilterSettings, FilterStep, GenerationStep

from .comparing import EXACT
from .conftest import EMISSIONS, FAMILY, random_frames, random_net
from .own_emissions import OWN

ALL_EMISSIONS = {**EMISSIONS, **OWN}
UNSAMPLED = {"BetaFrames": "_sample_dirichlet", "SimplexFrames": "_sample_dirichlet", "WrappedFrames": "guard"}
"""Emissions whose sampling has no form in torch.export, and what the error names."""
every_model = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in FAMILY])
every_emission = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in ALL_EMISSIONS])


def following(inputs, results, **new):
    """The inputs of the next step."""
    carried = {name.removeprefix("next_"): value for name, value in results.items() if name.startswith("next_")}
    return {**inputs, **carried, **new}


def assert_filters(net, x):
    """Assert that an exported step, on other numbers of sequences than any example, is the filter of the prior."""
    settings = {"num_particles": 5, "threshold": 0.9}
    program = export_step(net, **settings).module()
    filter = ParticleFilter(net, 5, proposal="prior", threshold=0.9)
    pyro.set_rng_seed(3)
    whole = filter.run(x)
    inputs = FilterStep(net, FilterSettings(**settings)).start(len(x))
    pyro.set_rng_seed(3)
    for t in range(x.shape[1]):
        random = {
            name: inputs[name].clone().normal_() if name == "noise" else inputs[name].clone().uniform_()
            for name in ("noise", "uniforms")
        }
        found = program(**{**inputs, **random, "x_t": x[:, t]})
        torch.testing.assert_close(found["log_likelihood"], whole.log_increments[t], **EXACT)
        torch.testing.assert_close(found["ess"], whole.ess[t], **EXACT)
        inputs = following(inputs, found, u=x[:, t])
    torch.testing.assert_close(inputs["log_weights"].T, whole.log_weights, **EXACT)


def assert_generates(net):
    """Assert that an exported step samples what ``net.generate`` does, under the same random numbers."""
    program = export_step(net, "generation").module()
    pyro.set_rng_seed(3)
    expected = net.generate(3, 4)
    inputs, frames = GenerationStep(net).start(3), []
    pyro.set_rng_seed(3)
    for _ in range(4):
        found = program(**{**inputs, "noise": torch.randn_like(inputs["noise"])})
        frames.append(found["x"])
        inputs = following(inputs, found, u=found["x"])
    torch.testing.assert_close(torch.stack(frames, 1), expected, **EXACT)


def test_a_step_of_the_filter_has_its_numbers():
    assert_filters(random_net("gaussian").eval(), random_frames("gaussian", 3, 4))


def test_a_step_of_generation_has_its_numbers():
    assert_generates(random_net("categorical").eval())


@every_model
def test_every_model_filters(name):
    model, settings = FAMILY[name]
    assert_filters(random_net("gaussian", model=model, **settings).eval(), random_frames("gaussian", 3, 4))


@every_model
def test_every_model_generates(name):
    model, settings = FAMILY[name]
    assert_generates(random_net("gaussian", model=model, **settings).eval())


@every_emission
def test_every_emission_filters(name):
    net = random_net(ALL_EMISSIONS[name]).eval()
    assert_filters(net, net.generate(3, 4))


@every_emission
def test_every_emission_generates_or_says_why_not(name):
    net = random_net(ALL_EMISSIONS[name]).eval()
    if name in UNSAMPLED:
        with pytest.raises(TypeError, match=rf"net must be of operations that torch can export.*{UNSAMPLED[name]}"):
            export_step(net, "generation")
    else:
        assert_generates(net)


@pytest.mark.parametrize("resampling", ["stratified", "multinomial"])
@pytest.mark.slow
def test_every_scheme_is_exported(resampling):
    net = random_net("gaussian").eval()
    inputs = FilterStep(net, FilterSettings(5, "prior", resampling, 1.0)).start(3)
    inputs["log_weights"] = torch.randn(3, 5, dtype=torch.float64).log_softmax(-1)
    inputs["frames"], inputs["x_t"] = inputs["frames"] + 1, inputs["u"] + 1.0
    program = export_step(net, num_particles=5, resampling=resampling, threshold=1.0).module()
    expected = FilterStep(net, FilterSettings(5, "prior", resampling, 1.0))(**inputs)
    found = program(**inputs)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, **EXACT)


@pytest.mark.slow
def test_a_saved_program_runs_without_this_package(tmp_path):
    net = random_net("gaussian").eval()
    program = export_step(net, num_particles=4)
    torch.export.save(program, tmp_path / "step.pt2")
    inputs = FilterStep(net, FilterSettings(4)).start(3)
    inputs["x_t"] = inputs["u"] + 0.5
    torch.save(inputs, tmp_path / "inputs.pt")
    code = f"""
import sys, torch
program = torch.export.load({str(tmp_path / "step.pt2")!r}).module()
found = program(**torch.load({str(tmp_path / "inputs.pt")!r}))
assert not any(name.startswith(("zf_pyro", "pyro")) for name in sys.modules)
torch.save(found, {str(tmp_path / "found.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = FilterStep(net, FilterSettings(4))(**inputs)
    for name, value in torch.load(tmp_path / "found.pt").items():
        torch.testing.assert_close(value, expected[name], **EXACT)


@pytest.mark.slow
def test_a_fixed_number_of_sequences_is_held():
    net = random_net("gaussian").eval()
    program = export_step(net, "generation", batch_size=1)
    assert program.module()(**GenerationStep(net).start(1))["x"].shape == (1, 2)
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.name == "noise"]
    assert shapes == [(1, 3)]


def test_later_training_changes_no_program():
    net = random_net("gaussian")
    program, inputs = export_step(net, "generation", batch_size=2).module(), GenerationStep(net).start(2)
    before = program(**inputs)["next_hidden"]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2.0)
    torch.testing.assert_close(program(**inputs)["next_hidden"], before, rtol=0.0, atol=0.0)


def test_the_mode_of_the_network_is_kept_and_dropout_is_off():
    net = random_net("gaussian", dropout=0.5).train()
    program = export_step(net, "generation", batch_size=2).module()
    assert net.training
    inputs = GenerationStep(net).start(2)
    first, second = (program(**inputs)["next_hidden"] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0.0, atol=0.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize("kind", ["filter", "generation"])
@pytest.mark.parametrize("name", ["ZForcing", "VRNN", "STORN", "SRNN", "DMM", "DMM, autoregressive flow"])
def test_onnx_has_the_same_numbers(name, kind, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, settings = FAMILY[name]
    net = random_net("gaussian", model=model, dtype=torch.float32, **settings).eval()
    export_step(net, kind, num_particles=5, format="onnx").save(tmp_path / "step.onnx")
    session = runtime.InferenceSession(str(tmp_path / "step.onnx"), providers=["CPUExecutionProvider"])
    step = FilterStep(net, FilterSettings(5, "prior")) if kind == "filter" else GenerationStep(net)
    inputs = step.start(3)
    if kind == "filter":
        inputs["log_weights"] = torch.tensor([[0.9, 0.02, 0.02, 0.03, 0.03]]).log().expand(3, 5)
        inputs |= {"frames": inputs["frames"] + 1, "x_t": torch.ones(3, 2)}
    read = {given.name for given in session.get_inputs()}
    given = {name: value.numpy() for name, value in inputs.items() if name in read}
    found = dict(zip([out.name for out in session.get_outputs()], session.run(None, given), strict=True))
    with torch.no_grad():
        expected = step(**inputs)
    assert found.keys() == expected.keys()
    for key in found.keys() - {"x"}:
        np.testing.assert_allclose(found[key], expected[key].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_says_what_it_lacks():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    net = random_net(OWN["StudentT"], dtype=torch.float32).eval()
    with pytest.raises(TypeError, match=r"net must be of operations that onnx can export as a filter step.*lgamma"):
        export_step(net, format="onnx")


def test_bad_arguments_are_refused_by_name(monkeypatch):
    net = random_net("gaussian")
    for settings, error, message in (
        ({"net": net.model}, TypeError, "net must be a model of zf_pyro.models"),
        ({"kind": "guide"}, ValueError, r"kind must be one of \['filter', 'generation'\], got 'guide'"),
        ({"format": "tflite"}, ValueError, r"format must be one of \['onnx', 'torch'\], got 'tflite'"),
        ({"num_particles": 0}, ValueError, "num_particles must be a positive integer"),
        ({"resampling": "residual"}, ValueError, "resampling must be one of"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer"),
    ):
        with pytest.raises(error, match=message):
            export_step(**{"net": net, **settings})
    monkeypatch.setattr("zf_pyro.smc.exporting.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"format='onnx' needs onnx and onnxscript: pip install zf-pyro\[export\]"):
        export_step(net, format="onnx")


@pytest.mark.slow
def test_the_steps_are_of_the_models_own_functions():
    class Own(ZForcing):
        def transition(self, past, u_t, z_t):
            return super().transition(past, u_t, 2.0 * z_t)

    assert_generates(random_net("gaussian", model=Own).eval())
