"""The log of the auxiliary at work: its values, its lack of effect, and its two warnings."""

import csv
import logging
import math
import warnings

import pyro
import pytest
import torch

pytest.importorskip("lightning")

from zf_pyro import Linear, ZForcingELBO
from zf_pyro.objectives import Auxiliary, mechanism
from zf_pyro.training import Batches, CrowdingAuxiliaryWarning, MechanismLog, Training, UnearnedAuxiliaryWarning, fit

from .comparing import assert_same
from .training_runs import loader, objective, tiny_net, train, weights


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def lines(out):
    """Measurements in the tables of a run, by step: {name: value}."""
    found = {}
    for table in sorted(out.glob("logs/version_*/metrics.csv")):
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                values = {name[10:]: float(v) for name, v in row.items() if name.startswith("mechanism/") and v}
                if values:
                    found[int(row["step"])] = values
    return found


def module_of(net, elbo=None, **settings):
    return Training(net.model, net.guide, elbo or objective(), pyro.optim.Adam({"lr": 1e-2}), **settings)


def test_a_measurement_has_its_own_line_every_so_many_steps(tmp_path):
    net = tiny_net()
    train(tmp_path, 10, net=net, module=module_of(net, scale=0.25), callbacks=[MechanismLog(4)])
    found = lines(tmp_path)
    assert list(found) == [0, 4, 8]
    every = {"earned", "spread", "grad_norm_log_likelihood", "grad_norm_kl", "grad_norm_auxiliary"}
    assert set(found[0]) == set(found[4]) == every
    assert set(found[8]) == {"grad_norm_log_likelihood", "grad_norm_kl"}, "the auxiliary has no weight after step 7"
    assert all(math.isfinite(value) for values in found.values() for value in values.values())


def test_the_first_line_is_the_measurement_of_the_first_batch(tmp_path):
    net = tiny_net()
    module = module_of(net, scale=0.25)
    train(tmp_path, 1, net=net, module=module, initialisation="released", callbacks=[MechanismLog(4)])
    net = tiny_net()
    batch = next(iter(Batches(loader(), 1)))
    pyro.set_rng_seed(1)
    tiny_net()  # the random state after building the network
    expected = mechanism(objective(), net.model, net.guide, *batch)
    found = lines(tmp_path)[0]
    assert found["spread"] == pytest.approx(expected.spread.item())
    assert found["earned"] == pytest.approx(expected.terms.earned.mean().item(), rel=1e-4)
    for name, norm in expected.gradient_norms.items():
        assert found[f"grad_norm_{name}"] == pytest.approx(0.25 * norm.item(), rel=1e-4)


def test_measuring_changes_no_weight(tmp_path):
    found = []
    for i, log in enumerate((MechanismLog(1000), MechanismLog(1))):
        found.append(weights(train(tmp_path / str(i), 3, callbacks=[log])))
    assert_same(*found, rtol=0.0, atol=0.0)


def test_fit_looks_at_the_auxiliary_by_itself_and_only_while_it_has_a_weight(tmp_path, monkeypatch):
    monkeypatch.setattr("zf_pyro.training.run.LOOK_EVERY", 3)
    train(tmp_path / "auxiliary", 7)
    assert {step: set(values) for step, values in lines(tmp_path / "auxiliary").items()} == {
        step: {"earned", "spread"} for step in (0, 3, 6)
    }
    net = tiny_net()
    train(tmp_path / "none", 1, net=net, module=module_of(net, ZForcingELBO()))
    assert lines(tmp_path / "none") == {}
    net = tiny_net()
    train(tmp_path / "other", 1, net=net, module=module_of(net, pyro.infer.Trace_ELBO()))
    assert lines(tmp_path / "other") == {}


@pytest.mark.slow
def test_a_run_with_every_form_of_the_auxiliary_in_two_parts_ends_with_the_same_parameters(tmp_path):
    found = []
    for stops in ((8,), (5, 8)):
        for stop in stops:
            net = tiny_net(dropout=0.2)
            form = Auxiliary(standardised=True, contrastive=True)
            elbo = ZForcingELBO(Linear(0.2, 1.0, 9), Linear(0.5, 0.1, 4), 0.3, auxiliary=form)
            out, log = tmp_path / str(len(stops)), [MechanismLog(3)]
            train(out, stop, net=net, module=module_of(net, elbo), callbacks=log, resume=stop != stops[0])
        found.append((weights(net), lines(out)))
    assert_same(found[0][0], found[1][0], rtol=0.0, atol=0.0)
    assert found[0][1] == found[1][1]


# The warning ----------------------------------------------------------------------------------------------------------


def constant_target(net):
    """Take the frames out of b_t, so that it is the same for all sequences; the auxiliary then need not read z."""
    with torch.no_grad():
        for name, parameter in net.backward_rnn.lstm.named_parameters():
            if "weight" in name:
                parameter.zero_().requires_grad_(False)
    return net


def told(log, out, steps=14, **settings):
    """Warnings of a run in which the auxiliary of a constant target is trained fast."""
    net = constant_target(tiny_net())
    module = Training(net.model, net.guide, ZForcingELBO(1.0, 1.0), pyro.optim.Adam({"lr": 5e-2}), clip_norm=None)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UnearnedAuxiliaryWarning)
        fit(module, loader(), out=out, max_steps=steps, progress=False, accelerator="cpu", callbacks=[log], **settings)
    return [warning for warning in found if warning.category is UnearnedAuxiliaryWarning]


def test_an_auxiliary_earned_without_z_is_told_once_and_a_resumed_run_remembers(tmp_path):
    logs = [MechanismLog(2, gradient_norms=False, rise=5.0) for _ in range(2)]
    found = told(logs[0], tmp_path, checkpoint_every=5)
    assert len(found) == 1
    assert "the auxiliary rose by" in str(found[0].message)
    assert "it is earned without z" in str(found[0].message)
    assert told(logs[1], tmp_path, steps=18, resume=True) == []
    assert (logs[1].first, logs[1].warned) == (logs[0].first, True)


def test_an_auxiliary_that_z_earns_is_no_matter():
    log = MechanismLog(rise=100.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log._judge(0, -50.0, 0.0)
        log._judge(5, 49.0, 0.0)  # a rise of 99
        log._judge(10, 950.0, 100.0)  # a tenth of 1000
    with pytest.warns(UnearnedAuxiliaryWarning, match="rose by 1000 nats per sequence from step 0 to 15, .* 99.9"):
        log._judge(15, 950.0, 99.9)


def test_an_auxiliary_that_crowds_out_the_likelihood_is_told_once_and_a_resumed_run_remembers(tmp_path):
    def warned(steps, resume):
        net = tiny_net()
        module = module_of(net, ZForcingELBO(1.0, 1e4))
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", CrowdingAuxiliaryWarning)
            log = [MechanismLog(1, rise=1e9)]
            settings = {"progress": False, "accelerator": "cpu", "callbacks": log, "resume": resume}
            fit(module, loader(), out=tmp_path, max_steps=steps, **settings)
        return [str(each.message) for each in found if each.category is CrowdingAuxiliaryWarning]

    assert warned(3, False) == [], "two measurements after the first step"
    (message,) = warned(6, True)
    assert (
        "at step 3, and was above 5 at 3 measurements in a row: it crowds out the likelihood. Lower aux_weight"
        in message
    )
    assert warned(9, True) == []


def test_a_gradient_that_is_large_now_and_then_is_no_matter():
    log = MechanismLog()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step, ratio in enumerate((9.0, 9.0, 5.0, 9.0, 9.0, 0.1)):
            log._compare(step, ratio * 7.0, 7.0)
    log._compare(6, 50.0, 5.0)
    log._compare(7, 50.0, 5.0)
    with pytest.warns(CrowdingAuxiliaryWarning, match="is 12 times that of the likelihood at step 8"):
        log._compare(8, 60.0, 5.0)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"every": 0}, "every must be a positive integer"),
        ({"rise": 0.0}, "rise must be a positive number of nats"),
        ({"gradient_norms": 1}, "gradient_norms must be True or False"),
    ],
)
def test_bad_settings_are_refused(settings, match):
    with pytest.raises((TypeError, ValueError), match=match):
        MechanismLog(**settings)
