"""Training under Lightning equals SVI: the same parameters after the same steps, and logs of the correct values."""

import csv
import functools
import logging
import math
import re
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormal
from torch import nn

pytest.importorskip("lightning")

from zf_pyro import ZForcing, ZForcingELBO
from zf_pyro.training import Batches, NonFiniteError, Training, fit
from zf_pyro.training.optimisers import build, skips_by_itself

from . import training_runs
from .comparing import assert_same
from .training_runs import loader, objective, train, weights

BITWISE = {"rtol": 0.0, "atol": 0.0}


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def tiny_net(seed=1, **settings):
    """A small network that starts at the data, as ``fit`` starts a new one."""
    net = training_runs.tiny_net(seed, **settings)
    net.initialise(loader())
    return net


def batches(count):
    """First batches of a run."""
    return [batch for batch, _ in zip(Batches(loader(), count), range(count), strict=True)]


def by_svi(loss, optimiser, num_steps, seed=1, **settings):
    net = tiny_net(seed, **settings)
    svi = SVI(net.model, net.guide, optimiser, loss)
    losses = [svi.step(*batch) for batch in batches(num_steps)]
    return net, losses


LOSSES = {
    "ZForcingELBO": objective,
    "ZForcingELBO, two particles": lambda: ZForcingELBO(num_particles=2),
    "Trace_ELBO": pyro.infer.Trace_ELBO,
    "TraceMeanField_ELBO": pyro.infer.TraceMeanField_ELBO,
    "TraceGraph_ELBO": pyro.infer.TraceGraph_ELBO,
    "RenyiELBO": lambda: pyro.infer.RenyiELBO(alpha=0.5, num_particles=2),
    "ReweightedWakeSleep": lambda: pyro.infer.ReweightedWakeSleep(num_particles=2, vectorize_particles=False),
    "TraceTailAdaptive_ELBO": lambda: pyro.infer.TraceTailAdaptive_ELBO(
        num_particles=2, vectorize_particles=True, max_plate_nesting=1
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_svi_and_lightning_give_the_same_parameters(name, tmp_path):
    """With validations in between, and for objectives without ``differentiable_loss`` too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TraceTailAdaptive_ELBO", UserWarning)
        warnings.filterwarnings("ignore", "Only a subset of", UserWarning)
        expected, losses = by_svi(LOSSES[name](), pyro.optim.Adam({"lr": 1e-2}), 6)
        net = tiny_net()
        check = ZForcingELBO() if "Tail" in name else None
        unclipped = {"clip_norm": None, "validation": check}
        module = Training(net.model, net.guide, LOSSES[name](), pyro.optim.Adam({"lr": 1e-2}), **unclipped)
        settings = {"progress": False, "accelerator": "cpu", "validate_every": 2}
        trainer = fit(module, loader(), loader(7), out=tmp_path, max_steps=6, **settings)
    assert_same(weights(net), weights(expected), **BITWISE)
    last = losses[-1][0] if isinstance(losses[-1], tuple) else losses[-1]
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(last / 4)


OPTIMISERS = {
    "Pyro's Adam": lambda: pyro.optim.Adam({"lr": 1e-2}),
    "Pyro's ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 1e-2, "clip_norm": 0.5, "lrd": 0.99}),
    "arguments by parameter": lambda: pyro.optim.Adam(
        lambda name: {"lr": 1e-2 if name.startswith("zforcing") and "bias" in name else 1e-3}
    ),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_pyros_optimisers_do_the_same_as_under_svi(name, tmp_path):
    expected, _ = by_svi(objective(), OPTIMISERS[name](), 6, dropout=0.2)
    net = tiny_net(dropout=0.2)
    module = Training(net.model, net.guide, objective(), OPTIMISERS[name](), clip_norm=None)
    train(tmp_path, 6, net=net, module=module)
    assert_same(weights(net), weights(expected), **BITWISE)


def step_down(net):
    """Take one step of gradient descent; the parameters after it."""
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    return weights(net)


def test_clipping_is_by_the_norm_of_all_gradients(tmp_path):
    """Against torch's clipping of one step of gradient descent."""
    net, batch = tiny_net(), batches(1)[0]
    objective().loss_and_grads(net.model, net.guide, *batch)
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 3.0)
    assert norm > 3.0
    expected = step_down(net)
    net = tiny_net()
    optimiser = functools.partial(torch.optim.SGD, lr=0.1)
    train(tmp_path, 1, net=net, module=Training(net.model, net.guide, objective(), optimiser, clip_norm=3.0))
    assert_same(weights(net), expected, **BITWISE)


def test_scale_makes_the_gradient_that_of_the_mean(tmp_path):
    net, batch = tiny_net(), batches(1)[0]
    objective().loss_and_grads(net.model, net.guide, *batch)
    for parameter in net.parameters():
        parameter.grad = None if parameter.grad is None else parameter.grad / 4
    expected = step_down(net)
    net = tiny_net()
    optimiser = functools.partial(torch.optim.SGD, lr=0.1)
    train(tmp_path, 1, net=net, module=Training(net.model, net.guide, objective(), optimiser, scale=0.25))
    assert_same(weights(net), expected, **BITWISE)


def test_accumulated_batches_are_one_step_of_their_sum(tmp_path):
    """Schedules count steps, not batches."""
    expected, elbo = tiny_net(), objective()
    optimiser, given = torch.optim.Adam(expected.parameters(), lr=1e-2), batches(6)
    for step in range(3):
        for batch in given[2 * step : 2 * step + 2]:
            elbo.step = step
            elbo.loss_and_grads(expected.model, expected.guide, *batch)
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)
    net = tiny_net()
    module = Training(
        net.model, net.guide, objective(), functools.partial(torch.optim.Adam, lr=1e-2), accumulate=2, clip_norm=None
    )
    train(tmp_path, 3, net=net, module=module)
    assert module.objective.step == 3
    assert_same(weights(net), weights(expected), **BITWISE)


def table(out):
    """Rows of a run's table: those of training steps, and those of validations."""
    with open(out / "logs" / "version_0" / "metrics.csv") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if "train/loss" in row], [row for row in rows if "validation/elbo" in row]


def test_every_part_of_the_objective_is_logged_at_every_step(tmp_path):
    net = tiny_net()
    elbo, expected = objective(), []
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-2}), elbo)
    for batch in batches(8):
        weight = {"kl_weight": elbo.kl_weight, "aux_weight": elbo.aux_weight}
        loss = svi.step(*batch) / 4
        parts = {name: term.mean().item() for name, term in elbo.terms._asdict().items()}
        bound = parts["log_likelihood"] - parts["kl"]
        expected.append({"loss": loss, "elbo": bound, **parts, **weight})
    net = tiny_net()
    train(tmp_path, 8, net=net, module=Training(net.model, net.guide, objective(), pyro.optim.Adam({"lr": 1e-2})))
    steps, validations = table(tmp_path)
    assert [row["step"] for row in steps] == list(range(1, 9))
    assert [row["step"] for row in validations] == [3, 6]
    for row, values in zip(steps, expected, strict=True):
        for name, value in values.items():
            assert row[f"train/{name}"] == pytest.approx(value, rel=1e-5, nan_ok=True), name
        assert row["train/grad_norm"] > 0
        assert row["train/skipped"] == 0
        assert row["train/lr"] == pytest.approx(1e-2)
    assert all(row["train/steps_per_second"] > 0 for row in steps[1:])
    assert math.isnan(steps[-1]["train/auxiliary"]), "its weight is 0 and it is not computed"


def test_validation_is_the_exact_mean_over_all_sequences_and_moves_nothing(tmp_path):
    """Validations of the same weights use the same random numbers, for batches of any sizes."""
    net = tiny_net()
    module = Training(net.model, net.guide, ZForcingELBO(), functools.partial(torch.optim.SGD, lr=0.0))
    fit(module, loader(), loader(7, 5), out=tmp_path, max_steps=4, validate_every=2, progress=False, accelerator="cpu")
    first, second = (row["validation/elbo"] for row in table(tmp_path)[1])
    assert first == second
    pyro.set_rng_seed(1)  # the seed of the network
    elbo, total = ZForcingELBO(), 0.0
    with torch.no_grad():
        for batch in loader(7, 5):
            total -= elbo.loss(net.eval().model, net.guide, *batch)
    assert first == pytest.approx(total / 12, rel=1e-5)


def test_the_learning_rate_is_halved_on_a_plateau_and_training_stops_early(tmp_path):
    net = tiny_net()
    module = Training(net.model, net.guide, ZForcingELBO(), functools.partial(torch.optim.SGD, lr=1e-12), plateau=2)
    settings = {"validate_every": 1, "patience": 5, "progress": False, "accelerator": "cpu"}
    trainer = fit(module, loader(), loader(7), out=tmp_path, max_steps=50, **settings)
    rates = [row["train/lr"] for row in table(tmp_path)[0]]
    assert rates == pytest.approx([1e-12, 1e-12, 1e-12, 5e-13, 5e-13, 2.5e-13])
    assert trainer.global_step == 6


class Poisoned:
    """Loader with an infinite value in some batches."""

    def __init__(self, *places):
        self.places = places

    def __iter__(self):
        for i, (x, lengths) in enumerate(Batches(loader(), 10)):
            if i in self.places:
                x[0, 0, 0] = float("inf")
            yield x, lengths


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_steps_that_are_not_finite_are_skipped_counted_and_logged(tmp_path):
    pyro.enable_validation(False)
    expected = tiny_net()
    svi = SVI(expected.model, expected.guide, pyro.optim.Adam({"lr": 1e-2}), ZForcingELBO())
    for i, batch in enumerate(batches(8)):
        if i in (2, 3, 5):
            ZForcingELBO().loss(expected.model, expected.guide, *batch)  # advances the random state as a step does
        else:
            svi.step(*batch)
    net = tiny_net()
    module = Training(net.model, net.guide, ZForcingELBO(), pyro.optim.Adam({"lr": 1e-2}), max_nonfinite=3)
    train(tmp_path, 8, net=net, module=module, batches=Poisoned(2, 3, 5))
    assert [row["train/skipped"] for row in table(tmp_path)[0]] == [0, 0, 1, 2, 2, 3, 3, 3]
    assert_same(weights(net), weights(expected), **BITWISE)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_too_many_in_a_row_stop_the_run_and_save_the_batch(tmp_path):
    pyro.enable_validation(False)
    net = tiny_net()
    module = Training(net.model, net.guide, ZForcingELBO(), max_nonfinite=3)
    with pytest.raises(NonFiniteError, match=r"3 steps in a row up to step 7 .* latest batch is in .*nonfinite-step7"):
        train(tmp_path, 10, net=net, module=module, batches=Poisoned(1, 4, 5, 6))
    x, lengths = torch.load(tmp_path / "nonfinite-step7.pt", weights_only=True)
    assert x[0, 0, 0] == float("inf")
    assert lengths.shape == (4,)
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def scalar_model(data):
    loc = pyro.param("loc", lambda: torch.tensor(0.5))
    scale = pyro.param("scale", lambda: torch.tensor(2.0), constraint=dist.constraints.positive)
    z = pyro.sample("z", dist.Normal(loc, 1.0))
    with pyro.plate("data", len(data)):
        pyro.sample("x", dist.Normal(z, scale), obs=data)


def scalar_guide(data):
    pyro.sample("z", dist.Normal(pyro.param("mean", lambda: torch.tensor(0.0)), 1.0))


DATA = [torch.randn(5, generator=torch.Generator().manual_seed(i)) for i in range(4)]


def params():
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


@pytest.mark.parametrize("kind", ["pyro.param", "autoguide"])
def test_any_pyro_program_trains_as_under_svi(kind, tmp_path):
    def guide_of():
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        return scalar_guide if kind == "pyro.param" else AutoNormal(scalar_model)

    guide = guide_of()
    guide(DATA[0])
    pyro.set_rng_seed(4)
    svi = SVI(scalar_model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    for data in DATA:
        svi.step(data)
    expected = params()
    guide = guide_of()
    module = Training(scalar_model, guide, pyro.infer.Trace_ELBO(), pyro.optim.Adam({"lr": 0.1}), example=DATA[0])
    pyro.set_rng_seed(4)
    fit(module, DATA, out=tmp_path, max_steps=4, progress=False, accelerator="cpu")
    assert_same(params(), expected, **BITWISE)


def test_parameters_of_pyro_param_are_part_of_the_saved_state(tmp_path):
    found = {}
    for name, stops in (("whole", (4,)), ("broken", (2, 4))):
        for stop in stops:
            pyro.clear_param_store()
            pyro.set_rng_seed(4)
            module = Training(scalar_model, scalar_guide, pyro.infer.Trace_ELBO(), example=DATA[0])
            settings = {"progress": False, "accelerator": "cpu", "resume": stop == 4}
            fit(module, DATA, out=tmp_path / name, max_steps=stop, **settings)
        found[name] = params()
    assert_same(found["broken"], found["whole"], **BITWISE)


def test_parameters_that_nobody_announced_are_refused(tmp_path):
    module = Training(scalar_model, scalar_guide, pyro.infer.Trace_ELBO(), functools.partial(torch.optim.Adam, lr=0.1))
    module.nets.append(nn.Linear(1, 1))  # an optimiser needs at least one parameter
    with pytest.raises(ValueError, match=r"such as 'mean': give Training an example= batch"):
        fit(module, DATA, out=tmp_path, max_steps=4, progress=False, accelerator="cpu")


REFUSED = {
    "accumulate must be a positive integer": {"accumulate": 0},
    "max_nonfinite must be a positive integer": {"max_nonfinite": 1.5},
    "plateau must be a positive integer": {"plateau": 0},
    "scale must be positive": {"scale": 0.0},
    "clip_norm must be positive": {"clip_norm": -1.0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings_out_of_range_are_refused(message):
    net = tiny_net()
    with pytest.raises(ValueError, match=message):
        Training(net.model, net.guide, ZForcingELBO(), **REFUSED[message])


def test_clipping_and_schedules_of_pyros_optimisers_are_refused(tmp_path):
    net = tiny_net()
    for optimiser, message in (
        (pyro.optim.Adam({"lr": 1e-2}, {"clip_norm": 1.0}), "give clip_norm to Training"),
        (pyro.optim.ExponentialLR({"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.1}, "gamma": 0.1}), "plateau="),
    ):
        with pytest.raises(ValueError, match=message):
            train(tmp_path, 1, net=net, module=Training(net.model, net.guide, ZForcingELBO(), optimiser))


@pytest.mark.parametrize("make", [functools.partial(torch.optim.Adam, lr=0.1), pyro.optim.Adam({"lr": 0.1})])
def test_a_fused_adam_leaves_out_a_step_by_itself(make):
    """As on a GPU: the kernel reads the flag ``found_inf`` without the CPU."""
    parameter = nn.Parameter(torch.ones(3))
    optimiser = build(make, {"weight": parameter}, fused=True)
    assert skips_by_itself(optimiser)
    assert all(group["fused"] for group in optimiser.param_groups)
    for bad, moved in ((1.0, False), (0.0, True)):
        parameter.grad, optimiser.found_inf = torch.ones(3), torch.tensor(bad)
        optimiser.step()
        assert bool((parameter != 1.0).all()) == moved


def test_an_optimiser_told_how_to_run_stays_as_it_is():
    optimiser = build(functools.partial(torch.optim.Adam, fused=False), {"w": nn.Parameter(torch.ones(3))}, fused=True)
    assert not skips_by_itself(optimiser)


def test_the_example_in_the_docs_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / "docs" / "training.md").read_text()
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(block.group(1).replace("max_steps=1000", "max_steps=3"), {})
    assert isinstance(ZForcing.load("runs/mine/net"), ZForcing)


def test_the_bar_shows_nats_and_steps_of_the_whole_run(tmp_path, capsys):
    train(tmp_path, 6, progress=True)
    shown = capsys.readouterr()
    last = (shown.out + shown.err).split("training:")[-1]
    assert "6/6" in last
    assert all(f"{name}=" in last for name in ("loss", "elbo", "kl", "steps_per_second", "validation/elbo"))


@pytest.mark.parametrize("given", [None, "csv", "own"])
def test_loggers_are_chosen(given, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    logger = ["csv", CSVLogger(tmp_path / "mine", "logs")] if given == "own" else given
    train(tmp_path / "out", max_steps=2, logger=logger)
    assert list(tmp_path.glob("out/logs/version_0/metrics.csv"))
    assert bool(list(tmp_path.glob("mine/logs/version_0/metrics.csv"))) == (given == "own")


@pytest.mark.parametrize(("given", "message"), [(3, "logger must be 'csv'"), ("wandb", "logger must be one of")])
def test_what_is_no_logger_is_refused(given, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        train(tmp_path, max_steps=2, logger=given)
