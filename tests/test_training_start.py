"""A new run starts at the data; networks that are trained, loaded or set are never changed by the start."""

import copy
import functools
import io
import json
import logging
import pickle
import random

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from torch import nn
from torch.optim.swa_utils import AveragedModel

pytest.importorskip("lightning")

from zf_pyro import ZForcing, ZForcingELBO, emissions
from zf_pyro.data import ContextBatch, LengthBatches, Loader
from zf_pyro.models import DeterministicRNN
from zf_pyro.saving import RUN
from zf_pyro.training import Training, fit
from zf_pyro.training.initialisation import initialise

from .comparing import assert_same
from .training_runs import SIZES, Sequences, join, loader, objective, tiny_net, together, train, weights

BITWISE = {"rtol": 0.0, "atol": 0.0}


def module_of(net, objective=ZForcingELBO):
    """Training whose steps change nothing, so that the network has the weights that it started with."""
    return Training(net.model, net.guide, objective(), functools.partial(torch.optim.SGD, lr=0.0))


def started(out, net=None, batches=None, **settings):
    """The network of a run of one step that changes nothing."""
    net = tiny_net() if net is None else net
    quiet = {"progress": False, "accelerator": "cpu", "max_steps": 1}
    fit(module_of(net), loader() if batches is None else batches, out=out, **quiet | settings)
    return net


def what_starts(net, batches=None):
    """Start the network of a run as ``fit`` does; the sentence that says how."""
    (said,) = initialise(module_of(net), loader() if batches is None else batches, "data")
    return said


def at_the_data(data=None, **settings):
    net = tiny_net(**settings)
    net.initialise(loader() if data is None else data)
    return net


# A new network starts at the data -----------------------------------------------------------------------------------


def test_a_new_network_starts_as_initialise_leaves_it(tmp_path):
    assert_same(weights(started(tmp_path)), weights(at_the_data()), **BITWISE)


def test_the_baseline_starts_at_the_data_too():
    torch.manual_seed(0)
    rnn = DeterministicRNN(emissions.Gaussian(2), embed_dim=3, hidden_dim=4)
    expected = copy.deepcopy(rnn)
    expected.initialise(loader())
    initialise(module_of(rnn, pyro.infer.Trace_ELBO), loader(), "data")
    assert_same(weights(rnn), weights(expected), **BITWISE)


def test_the_log_and_the_record_say_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="zf_pyro.training"):
        started(tmp_path)
    frames = int(Sequences().lengths.sum())
    expected = f"starts at the marginals of {frames} frames of the training data"
    assert expected in caplog.text
    record = json.loads((tmp_path / RUN).read_text())
    assert record["configuration"]["initialisation"] == "data"
    assert expected in record["starts"][0]


def test_released_leaves_the_weights_as_built(tmp_path):
    net = started(tmp_path, initialisation="released")
    assert_same(weights(net), weights(tiny_net()), **BITWISE)
    assert "initialisation is 'released'" in json.loads((tmp_path / RUN).read_text())["starts"][0]


@pytest.mark.parametrize("value", ["random", None, True])
def test_another_start_is_refused(value, tmp_path):
    with pytest.raises(ValueError, match=r"initialisation must be one of \['data', 'released'\], got"):
        started(tmp_path, initialisation=value)


def test_a_net_under_a_handler_starts_at_the_data():
    net = tiny_net()
    module = Training(poutine.scale(net.model, 0.5), poutine.scale(net.guide, 0.5), ZForcingELBO())
    initialise(module, loader(), "data")
    assert_same(weights(net), weights(at_the_data()), **BITWISE)


class Wider(ZForcing):
    """A subclass that replaces a layer and adds one after its parent is built."""

    def __init__(self, emission, **settings):
        super().__init__(emission, **settings)
        self.emission_layer = nn.Linear(self.hidden_dim, emission.num_parameters)
        self.more = nn.Parameter(torch.zeros(3))


def test_a_subclass_with_layers_of_its_own_is_new_too():
    net = tiny_net(cls=Wider)
    assert net.as_built
    what_starts(net)
    assert_same(weights(net), weights(at_the_data(cls=Wider)), **BITWISE)


@pytest.mark.parametrize("change", [copy.deepcopy, copy.copy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_of_a_new_network_is_new(change):
    assert change(tiny_net()).as_built


def test_a_new_network_in_another_mode_or_precision_is_new():
    assert tiny_net().double().as_built
    assert tiny_net().eval().as_built
    assert tiny_net().to("cpu").as_built


def test_running_a_network_leaves_it_new():
    net = tiny_net()
    ZForcingELBO().loss(net.model, net.guide, *next(iter(loader())))
    net.register()
    assert net.as_built


# What is never changed ----------------------------------------------------------------------------------------------


def by_one_step(net):
    SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), objective()).step(*next(iter(loader())))


def by_one_element(net):
    with torch.no_grad():
        net.prior_network.second.weight[0, 0] += 1e-6


def by_the_bias(net):
    with torch.no_grad():
        net.emission_layer.bias.copy_(torch.arange(4.0))


def by_data(net):
    net.embedding[0].weight.data.mul_(2.0)


def by_order(net):
    with torch.no_grad():
        net.emission_layer.bias.copy_(net.emission_layer.bias.flip(0))


def by_a_state_dict(net):
    net.load_state_dict(tiny_net(2).state_dict())


def by_assignment(net):
    net.load_state_dict(tiny_net(2).state_dict(), assign=True)


def by_a_layer(net):
    net.emission_layer = nn.Linear(5, 4)


def by_a_parametrisation(net):
    nn.utils.parametrizations.weight_norm(net.emission_layer)


def by_initialise(net):
    net.initialise([torch.randn(3, 4, 2) + 9.0])


def by_freezing(net):
    net.emission_layer.requires_grad_(False)


def by_pyro(net):
    net.register()
    pyro.param("zforcing$$$emission_layer.bias").data.fill_(0.25)


CHANGES = (
    by_one_step,
    by_one_element,
    by_the_bias,
    by_data,
    by_order,
    by_a_state_dict,
    by_assignment,
    by_a_layer,
    by_a_parametrisation,
    by_initialise,
    by_freezing,
    by_pyro,
)


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_trained_loaded_or_set_stays(change):
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    net = ZForcing(emissions.Gaussian(2), **SIZES, name="zforcing")
    change(net)
    before = weights(net)
    assert "starts as it is" in what_starts(net)
    assert_same(weights(net), before, **BITWISE)


@pytest.mark.parametrize("change", [by_one_step, by_initialise])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_of_a_changed_network_is_changed(change, copied):
    net = tiny_net()
    change(net)
    assert not copied(net).as_built


def test_an_average_of_weights_is_changed():
    net = tiny_net()
    averaged = AveragedModel(net)
    averaged.update_parameters(net)
    by_one_step(net)
    averaged.update_parameters(net)
    assert not averaged.module.as_built


def test_a_loaded_network_stays_as_it_was_saved(tmp_path):
    """Even one that was saved before training: it cannot be told from a trained one."""
    tiny_net().save(tmp_path)
    net = ZForcing.load(tmp_path)
    before = weights(net)
    assert "starts as it is" in what_starts(net)
    assert_same(weights(net), before, **BITWISE)


def test_torch_save_keeps_what_is_new_and_what_is_not():
    for change, new in ((lambda net: None, True), (by_one_step, False)):
        net, buffer = tiny_net(), io.BytesIO()
        change(net)
        torch.save(net, buffer)
        buffer.seek(0)
        assert torch.load(buffer, weights_only=False).as_built == new


@pytest.mark.slow
def test_a_second_run_of_a_network_goes_on_from_the_first(tmp_path):
    net = train(tmp_path / "one", 2)
    before = weights(net)
    assert_same(weights(started(tmp_path / "two", net)), before, **BITWISE)


def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path, caplog):
    train(tmp_path, 2)
    with caplog.at_level(logging.INFO, logger="zf_pyro.training"):
        train(tmp_path, 4, resume=True)
    assert "resuming from" in caplog.text
    assert "starts" not in caplog.text


def test_a_resumed_run_must_start_as_it_began(tmp_path):
    train(tmp_path, 2, initialisation="released")
    with pytest.raises(ValueError, match="has initialisation 'released', this one has 'data'"):
        train(tmp_path, 4, resume=True)


def test_a_run_that_begins_with_resume_starts_at_the_data(tmp_path):
    assert_same(weights(started(tmp_path, resume=True)), weights(at_the_data()), **BITWISE)


# The data of the start ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_start_changes_neither_order_nor_random_numbers(tmp_path):
    """The first step of a run is that of one whose network was started before, with every generator."""

    class Random(Sequences):
        def __getitem__(self, index):
            noise = torch.rand(1) + float(np.random.rand()) + random.random()  # noqa: NPY002
            return super().__getitem__(index) + 0.0 * noise

    data = Random()
    batches = Loader(data, LengthBatches(data.lengths, 4))
    by_itself = train(tmp_path / "itself", 3, batches=batches)
    expected = at_the_data(dropout=0.2)
    train(tmp_path / "before", 3, net=expected, batches=Loader(data, LengthBatches(data.lengths, 4)))
    assert_same(weights(by_itself), weights(expected), **BITWISE)


def test_an_iterator_is_not_used_up(tmp_path):
    net = started(tmp_path, batches=iter([*loader()]), max_steps=3)
    assert_same(weights(net), weights(tiny_net()), **BITWISE)
    assert "can be read once only" in json.loads((tmp_path / RUN).read_text())["starts"][0]


FORMS = {
    "tuples": lambda x, lengths: (x, lengths),
    "dictionaries": lambda x, lengths: {"x": x, "lengths": lengths},
    "contexts": lambda x, lengths: ContextBatch(x, lengths, torch.full((len(x), 2), 100.0)),
    "lists with int32 lengths": lambda x, lengths: [x, lengths.int()],
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_every_form_start_a_network(form):
    net = tiny_net()
    what_starts(net, [FORMS[form](*batch) for batch in loader()])
    assert_same(weights(net), weights(at_the_data([tuple(batch) for batch in loader()])), **BITWISE)


def test_a_loader_with_contexts_starts_at_the_scored_frames():
    from zf_pyro.experiments import training_loader

    data = Sequences()
    scored = [item[1:].unsqueeze(0) for item in data.items]
    net = tiny_net()
    what_starts(net, training_loader(data, 4, "first_frame_given"))
    expected = at_the_data(scored)
    torch.testing.assert_close(net.emission_layer.bias, expected.emission_layer.bias)


def test_float64_data_start_a_network_that_is_trained_in_float64(tmp_path):
    batches = [(x.double(), lengths) for x, lengths in loader()]
    net = started(tmp_path, batches=batches, precision="64-true")
    assert net.emission_layer.weight.dtype == torch.float64
    expected = at_the_data([tuple(batch) for batch in loader()])
    torch.testing.assert_close(net.emission_layer.bias, expected.emission_layer.bias.double())


def test_frames_without_a_density_are_refused_before_training(tmp_path):
    batches = [(torch.full((2, 3, 2), torch.nan), torch.tensor([3, 2]))]
    with pytest.raises(ValueError, match="x must hold finite numbers") as found:
        started(tmp_path, batches=batches)
    assert "initialisation='released'" in found.value.__notes__[0]
    assert not (tmp_path / RUN).exists()


def test_without_validation_frames_that_are_not_finite_do_not_count(tmp_path, caplog):
    x = torch.randn(1, 4, 2)
    broken = torch.cat([x, torch.full((1, 1, 2), torch.inf)], 1)
    expected = at_the_data(x)
    net = tiny_net()
    pyro.enable_validation(False)
    assert net.initialise([broken]) == 4
    assert_same(weights(net), weights(expected), **BITWISE)
    assert "1 of 5 frames are not finite" in caplog.text


# Programs without a network, and several processes ------------------------------------------------------------------


def test_programs_without_a_network_have_no_start():
    def model(data):
        loc = pyro.param("loc", lambda: torch.tensor(0.5))
        with pyro.plate("data", len(data)):
            pyro.sample("x", pyro.distributions.Normal(loc, 1.0), obs=data)

    pyro.clear_param_store()
    data = [torch.randn(3)]
    module = Training(model, lambda data: None, pyro.infer.Trace_ELBO(), example=data[0])
    assert initialise(module, data, "data") == []
    assert pyro.param("loc") == 0.5


def share(out, *, devices, plain):
    """One process with weights of its own seed, and its share of the data."""
    import os

    rank = int(os.environ["LOCAL_RANK"])
    batches = loader(batch_size=2, rank=rank, world_size=devices)
    net = started(out, tiny_net(1 + rank), [*batches] if plain else batches, devices=devices)
    torch.save(weights(net), out / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_all_processes_start_with_the_weights_of_the_first(plain, tmp_path):
    """At all the data of a Loader, or at the first process's share of other loaders."""
    assert join(together(share, tmp_path, plain=plain)) == [0, 0]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    first = at_the_data([*loader(batch_size=2, rank=0, world_size=2)] if plain else loader())
    assert_same(one, two, **BITWISE)
    assert_same(one, weights(first), **BITWISE)
