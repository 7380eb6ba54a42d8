"""Arguments of every kind: what is understood works in all its forms, and what is not is refused by name."""

import functools
import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import zf_pyro
from zf_pyro import FIVO, Constant, ImportanceWeightedELBO, Linear, State, ZForcing, ZForcingELBO, emissions
from zf_pyro.data import (
    Batch,
    ContextBatch,
    LengthBatches,
    Loader,
    Sequences,
    Utterances,
    Vocabulary,
    Windows,
    arguments_of,
    collate,
    load_vowels,
    pair_of,
    prepare_digits,
    prepare_folder,
    read_record,
)
from zf_pyro.diagnostics import (
    calibrate,
    check_weights,
    compare,
    compare_posteriors,
    latent_use,
    leave_future_out,
    linear_probe,
    mutual_information,
    predictive_check,
    quantiles,
    spectrum,
)
from zf_pyro.diagnostics.plots import plot_khat, plot_kl, plot_traversal
from zf_pyro.emissions import tempered
from zf_pyro.evaluation import (
    active_units,
    bounds,
    count_active,
    encoded_parts,
    evaluate,
    infer_and_judge,
    particle_bound,
    parts,
    prior_mean_log_likelihood,
    ratio,
    report,
    require_evaluation,
    score,
    score_density,
    step_kl,
    summarise,
    train_and_judge,
)
from zf_pyro.experiments import Run
from zf_pyro.experiments.loaders import training_loader
from zf_pyro.experiments.paired import differences
from zf_pyro.generation import drawn, nucleus
from zf_pyro.inference import (
    ALGORITHMS,
    AnnealedImportanceSampling,
    ParticleFilter,
    StepwiseModel,
    check_guide,
    effective_sample_size,
    latent_mcmc,
    log_weights,
    smc_filter,
    stack_latents,
    with_padding_prior,
)
from zf_pyro.models import DeterministicRNN, LinearGaussian
from zf_pyro.objectives import GraphedELBO, SegmentedELBO
from zf_pyro.training import Batches, Training, fit, latest

from .conftest import random_frames, random_net

LENGTHS = torch.tensor([4, 2, 3])
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64)
LABELS = torch.tensor([1, 0, 2])
SIZES = {"embed_dim": 5, "hidden_dim": 4, "latent_dim": 3, "mlp_dim": 6}
TYPES = {"an array": "ndarray", "a list": "list", "a text": "str", "None": "NoneType", "a number": "float"}
NOT_TENSORS = {"an array": np.zeros((3, 4, 2)), "a list": [[[0.0, 0.0]]], "a text": "x", "None": None, "a number": 3.0}


@functools.cache
def net_of(emission="gaussian"):
    return random_net(emission).eval()


def symbols(**settings):
    """Frames of symbols and their network."""
    return random_frames("categorical", **settings), net_of("categorical")


def seeded(function, *arguments, **settings):
    pyro.set_rng_seed(5)
    return function(*arguments, **settings)


def tensors_of(result):
    """All tensors in a result, which may be a tuple of tensors, or a number."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, (tuple, list)):
        return [tensor for part in result for tensor in tensors_of(part)]
    return [torch.as_tensor(result, dtype=torch.float64)] if isinstance(result, float | int) else []


def assert_equal(one, other):
    one, other = tensors_of(one), tensors_of(other)
    assert one
    assert len(one) == len(other)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, other, strict=True))


# Batches: x and lengths by position, all else by name -----------------------------------------------------------------


def trained_loss(batch, emission="categorical"):
    """The loss of one step of training on a batch."""
    net = random_net(emission)
    module = Training(net.model, net.guide, ZForcingELBO())
    return seeded(module.gradients, batch)["loss"]


def direct_loss(*arguments, emission="categorical"):
    net = random_net(emission)
    return seeded(ZForcingELBO().loss_and_grads, net.model, net.guide, *arguments)


X, TOKENS = random_frames(), random_frames("categorical")
WITH_CONTEXT = {
    "a NamedTuple": ContextBatch(TOKENS, LENGTHS, LABELS),
    "a dictionary": {"x": TOKENS, "lengths": LENGTHS, "context": LABELS},
    "a dictionary in another order": {"context": LABELS, "lengths": LENGTHS, "x": TOKENS},
}
PLAIN = {
    "a tuple": (TOKENS, LENGTHS),
    "a list, as torch's loader gives": [TOKENS, LENGTHS],
    "a batch of collate": Batch(TOKENS, LENGTHS),
    "a dictionary": {"x": TOKENS, "lengths": LENGTHS},
    "a tuple with a None": (TOKENS, LENGTHS, None),
    "a dictionary with a None": {"x": TOKENS, "lengths": LENGTHS, "context": None},
}
LABELLED = {
    "integer labels": (TOKENS, LENGTHS, LABELS),
    "a list with labels": [TOKENS, LENGTHS, LABELS],
    "labels of floats": (TOKENS, LENGTHS, LABELS.double()),
    "labels as an array": (TOKENS, LENGTHS, LABELS.numpy()),
    "names": (TOKENS, LENGTHS, ["a", "b", "c"]),
    "labels after a None": (TOKENS, LENGTHS, None, LABELS),
}


@pytest.mark.parametrize("form", WITH_CONTEXT)
def test_a_context_by_name_is_the_context_of_training(form):
    assert trained_loss(WITH_CONTEXT[form]).item() == direct_loss(TOKENS, LENGTHS, LABELS)


@pytest.mark.parametrize("form", PLAIN)
def test_batches_of_x_and_lengths_train_alike_in_all_forms(form):
    assert trained_loss(PLAIN[form]).item() == direct_loss(TOKENS, LENGTHS)


@pytest.mark.parametrize("form", LABELLED)
def test_labels_are_no_context(form):
    with pytest.raises(TypeError, match=r"batch must be x, .*whose third element.*may be a label.*ContextBatch"):
        trained_loss(LABELLED[form])
    with pytest.raises(TypeError, match=r"a batch of data must be x, .*may be a label"):
        evaluate(net_of("categorical"), [LABELLED[form]], num_particles=2)


def test_targets_of_the_shape_of_a_frame_are_refused_too():
    with pytest.raises(TypeError, match="may be a label"):
        trained_loss((X, LENGTHS, X[:, 0]), "gaussian")


@pytest.mark.parametrize(
    "batch", [{"x": TOKENS, "label": LABELS}, {"tokens": TOKENS}, "batch", 3, None, {"lengths": LENGTHS}, ()]
)
def test_batches_of_other_forms_are_refused_by_their_fields(batch):
    with pytest.raises(TypeError, match=r"batch must be x, \(x, lengths\), or a dictionary or NamedTuple.*got"):
        trained_loss(batch)


def test_programs_of_the_users_own_get_their_labels():
    """A model whose third parameter is another takes the tuple as it is."""
    seen = []

    def model(x, lengths, labels):
        seen.append(labels)
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide(x, lengths, labels):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    Training(model, guide, pyro.infer.Trace_ELBO()).gradients((TOKENS, LENGTHS, LABELS))
    assert seen
    assert all(labels is LABELS for labels in seen)


@pytest.mark.parametrize("wrap", [with_padding_prior, lambda model: pyro.poutine.scale(model, 0.5)])
def test_programs_around_a_networks_refuse_labels(wrap):
    net = net_of("categorical")
    module = Training(wrap(net.model), net.guide, ZForcingELBO())
    with pytest.raises(TypeError, match="may be a label"):
        module.gradients((TOKENS, LENGTHS, LABELS))


def test_a_stock_loader_with_labels_is_refused_in_training(tmp_path):
    net = random_net("categorical")
    loader = DataLoader(TensorDataset(TOKENS, LENGTHS, LABELS), batch_size=3)
    module = Training(net.model, net.guide, ZForcingELBO())
    settings = {"max_steps": 1, "progress": False, "accelerator": "cpu"}
    with pytest.raises(TypeError, match="got a list of 3, whose third element, Tensor of shape"):
        fit(module, loader, out=tmp_path, **settings)


def test_one_loader_trains_and_validates(tmp_path):
    net, sequences = random_net("categorical"), [*TOKENS, *TOKENS]
    loader = Loader(sequences, LengthBatches([4] * 6, 2))
    module = Training(net.model, net.guide, ZForcingELBO())
    settings = {"max_steps": 4, "validate_every": 2, "progress": False, "accelerator": "cpu"}
    trainer = fit(module, loader, loader, out=tmp_path, **settings)
    assert math.isfinite(trainer.callback_metrics["validation/elbo"])


def test_batches_of_an_experiment_name_their_context():
    [batch] = training_loader(LENGTHED, 3, "first_frame_given")
    assert isinstance(batch, ContextBatch)
    assert trained_loss(batch).item() == direct_loss(batch.x, batch.lengths, batch.context)


@pytest.mark.parametrize("form", PLAIN)
@pytest.mark.parametrize("within", [lambda batch: batch, lambda batch: iter([batch, batch])])
def test_evaluation_takes_one_batch_or_several(form, within):
    x, net = symbols()
    expected = seeded(score, net, x, LENGTHS, num_particles=2)
    found = seeded(score, net, within(PLAIN[form]), num_particles=2)
    assert torch.equal(found.bounds["elbo"][:3], expected.bounds["elbo"])


def test_a_list_of_frames_is_a_list_of_batches():
    """A tensor is a batch, not a pair of its two sequences."""
    x, net = random_frames(batch=2), net_of()
    assert len(score(net, [x], num_particles=2).num_frames) == 2
    assert len(score(net, [x, x], num_particles=2).num_frames) == 4


def test_evaluation_has_no_place_for_a_context():
    with pytest.raises(TypeError, match="a batch of data must hold no context here, got one: leave it out"):
        evaluate(net_of("categorical"), [ContextBatch(TOKENS, LENGTHS, LABELS)])


def test_lengths_are_given_once():
    with pytest.raises(TypeError, match="lengths must be left out where data is a batch"):
        evaluate(net_of("categorical"), (TOKENS, LENGTHS), LENGTHS)
    with pytest.raises(ValueError, match="lengths go with data that is a tensor"):
        evaluate(net_of("categorical"), [(TOKENS, LENGTHS)], LENGTHS)


PAIRS = {
    "active_units": active_units,
    "bounds": functools.partial(bounds, num_particles=2),
    "latent_use": latent_use,
    "leave_future_out": functools.partial(leave_future_out, num_particles=3),
    "mutual_information": functools.partial(mutual_information, num_steps=2),
    "particle_bound": functools.partial(particle_bound, num_particles=2),
    "prior_mean_log_likelihood": prior_mean_log_likelihood,
    "step_kl": step_kl,
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_pair_of_collate_is_x_and_lengths(name):
    batch = collate([X[i, :length] for i, length in enumerate(LENGTHS.tolist())])
    assert_equal(seeded(PAIRS[name], net_of(), batch), seeded(PAIRS[name], net_of(), *batch))


def test_arviz_data_of_the_pair():
    pytest.importorskip("arviz")
    found = seeded(zf_pyro.to_arviz, net_of(), (X, LENGTHS), num_samples=2, groups=("posterior",))
    expected = seeded(zf_pyro.to_arviz, net_of(), X, LENGTHS, num_samples=2, groups=("posterior",))
    assert (
        found["posterior"].to_dataset().equals(expected["posterior"].to_dataset())
        if hasattr(found["posterior"], "to_dataset")
        else found["posterior"].equals(expected["posterior"])
    )


def test_the_linear_model_is_fitted_to_batches_of_all_forms():
    expected = LinearGaussian.fit([(X, LENGTHS)], ridge=1e-3)
    for batches in ((X, LENGTHS), [Batch(X, LENGTHS)], iter([[X, LENGTHS]]), {"x": X, "lengths": LENGTHS}):
        assert torch.equal(LinearGaussian.fit(batches, ridge=1e-3).noise, expected.noise)


def test_arguments_of_a_batch_are_named():
    assert arguments_of(X) == {"x": X}
    assert [*arguments_of(ContextBatch(X, LENGTHS, X[:, 0]))] == ["x", "lengths", "context"]
    assert pair_of(X, LENGTHS.to(torch.int16))[1].dtype == torch.int64


# Lengths of every integer type ----------------------------------------------------------------------------------------

TAKING_LENGTHS = {
    "the ELBO": lambda net, x, lengths: ZForcingELBO().loss(net.model, net.guide, x, lengths),
    "FIVO": lambda net, x, lengths: FIVO(3).loss(net.model, net.guide, x, lengths),
    "importance weights": lambda net, x, lengths: ImportanceWeightedELBO(3).loss(net.model, net.guide, x, lengths),
    "segments": lambda net, x, lengths: SegmentedELBO(segment=2).loss(net.model, net.guide, x, lengths),
    "truncated segments": lambda net, x, lengths: SegmentedELBO(segment=3, truncate=True).loss_and_grads(
        net.model, net.guide, x, lengths
    ),
    "the graphed objective": lambda net, x, lengths: GraphedELBO(ZForcingELBO()).backward(
        net.model, net.guide, x, lengths
    ),
    "Pyro's ELBO": lambda net, x, lengths: pyro.infer.Trace_ELBO().loss(net.model, net.guide, x, lengths),
    "the guide": lambda net, x, lengths: net.guide(x, lengths),
    "backward states": lambda net, x, lengths: net.backward_states(x, lengths),
    "reconstruct": lambda net, x, lengths: net.reconstruct(x, lengths),
    "interpolate": lambda net, x, lengths: net.interpolate(x, x, 3, lengths_a=lengths, lengths_b=lengths),
    "generate": lambda net, x, lengths: net.generate(3, 2, prompt=(x, lengths)),
    "generate with particles": lambda net, x, lengths: net.generate(3, 2, prompt=(x, lengths), prompt_particles=3),
    "evaluate": lambda net, x, lengths: score(net, x, lengths, num_particles=2, filter_particles=2).bounds["particle"],
    "evaluate in chunks": lambda net, x, lengths: score(net, [(x, lengths)], reset_every=3, num_particles=2)[3],
    "the particle filter": lambda net, x, lengths: ParticleFilter(net, 3).run(x, lengths),
    "the bootstrap filter": lambda net, x, lengths: ParticleFilter(net, 3, proposal="prior").run(x, lengths),
    "the smoother": lambda net, x, lengths: ParticleFilter(net, 3).run(x, lengths).smoothed(2),
    "annealing": lambda net, x, lengths: AnnealedImportanceSampling(net, 1, num_temperatures=2, leapfrog_steps=1).run(
        x, lengths
    ),
    "Pyro's filter": lambda net, x, lengths: smc_filter(net, x, lengths, num_particles=3).get_empirical()["z"].variance,
    "log weights": lambda net, x, lengths: log_weights(net.model, net.guide, x, lengths, num_particles=3),
    "leave future out": lambda net, x, lengths: leave_future_out(net, x, lengths, num_particles=3),
    "latent use": latent_use,
    "mutual information": lambda net, x, lengths: mutual_information(net, x, lengths, num_steps=2),
    "a density": lambda net, x, lengths: LinearGaussian.fit([(x, lengths)], ridge=1e-3).log_prob(x, lengths),
    "the LSTM": lambda net, x, lengths: (
        DeterministicRNN(emissions.Gaussian(2), embed_dim=2, hidden_dim=2).double().log_prob(x, lengths)
    ),
}


@pytest.mark.parametrize("name", TAKING_LENGTHS)
def test_lengths_of_every_integer_type_are_the_same(name):
    net = random_net().eval()
    expected = seeded(TAKING_LENGTHS[name], net, X, LENGTHS)
    for dtype in (torch.uint8, torch.uint32):
        pyro.clear_param_store()
        assert_equal(seeded(TAKING_LENGTHS[name], net, X, LENGTHS.to(dtype)), expected)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_lengths_of_every_integer_type_run_in_the_plain_loop(dtype):
    net = random_net(recurrence="reference").eval()
    expected = seeded(net.guide, X, LENGTHS)
    assert_equal(seeded(net.guide, X, LENGTHS.to(dtype)), expected)


def test_lengths_above_127_of_one_byte_are_not_negative():
    x, lengths = random_frames(time=200), torch.tensor([200, 150, 199])
    net = net_of()
    expected = seeded(net.generate, 3, 1, prompt=(x, lengths))
    assert torch.equal(seeded(net.generate, 3, 1, prompt=(x, lengths.to(torch.uint8))), expected)


def test_chains_take_lengths_of_a_narrow_type():
    lengths = torch.full((3,), 4, dtype=torch.int8)
    mcmc = latent_mcmc(net_of(), X, lengths, kernel="hmc", num_samples=1, warmup_steps=1, num_steps=1)
    assert mcmc.get_samples()["z_0"].shape == (1, 3, 3)


@pytest.mark.parametrize("lengths", [LENGTHS.to(torch.complex64), LENGTHS.tolist(), LENGTHS.numpy(), LENGTHS > 1, 4])
@pytest.mark.parametrize("call", ["backward states", "generate", "the guide", "segments", "evaluate", "annealing"])
def test_lengths_that_are_no_integers_are_refused(call, lengths):
    with pytest.raises(TypeError, match=r"lengths must be a (tensor of integers|torch.Tensor), got"):
        TAKING_LENGTHS[call](net_of(), X, lengths)


# Prompts --------------------------------------------------------------------------------------------------------------

PROMPTS = {
    "x alone": TOKENS,
    "a tuple of one": (TOKENS,),
    "a pair with None": (TOKENS, None),
    "a list": [TOKENS, torch.full((3,), 4)],
    "a batch": Batch(TOKENS, torch.full((3,), 4)),
    "a dictionary": {"x": TOKENS},
    "symbols of one byte": TOKENS.to(torch.uint8),
}


@pytest.mark.parametrize("form", PROMPTS)
def test_prompts_of_every_form_are_continued_alike(form):
    _, net = symbols()
    expected = seeded(net.generate, 3, 4, prompt=(TOKENS, None))
    assert torch.equal(seeded(net.generate, 3, 4, prompt=PROMPTS[form]), expected)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (TOKENS.tolist(), "prompt must be a torch.Tensor, got list; convert it with torch.as_tensor"),
        (TOKENS.numpy(), "prompt must be a torch.Tensor, got ndarray; convert it with torch.as_tensor"),
        ((TOKENS.numpy(), None), "prompt must be a torch.Tensor, got ndarray"),
        ([TOKENS[0], TOKENS[1, :2]], "prompt must be a torch.Tensor, got list.*zf_pyro.data.collate"),
        ("once upon", "prompt must be a torch.Tensor, got str"),
        ((TOKENS, LENGTHS, LABELS), "prompt must be x.*may be a label"),
        (ContextBatch(TOKENS, LENGTHS, LABELS), "prompt must hold x and lengths alone here, got context too"),
        ({"tokens": TOKENS}, "prompt must be x"),
    ],
)
def test_prompts_of_other_kinds_are_refused_by_name(prompt, message):
    with pytest.raises(TypeError, match=message):
        symbols()[1].generate(3, 2, prompt=prompt)


# Numbers of numpy work ------------------------------------------------------------------------------------------------

COUNT = np.int64(3)
NUMPY = {
    "sizes": lambda: ZForcing(emissions.Gaussian(np.int32(2)), **{name: np.int64(s) for name, s in SIZES.items()}),
    "sizes of a density": lambda: DeterministicRNN(emissions.Gaussian(2), embed_dim=COUNT, hidden_dim=COUNT),
    "dropout": lambda: ZForcing(emissions.Gaussian(2), **SIZES, dropout=np.float32(0.5)),
    "switches": lambda: ZForcing(emissions.Gaussian(2), **SIZES, z_force=np.bool_(True)),
    "weights": lambda: ZForcingELBO(np.float32(0.5), aux_weight=np.int64(1), free_nats=np.float64(0.1)),
    "schedules": lambda: Linear(np.float32(0.0), np.int64(1), np.int64(5))(3),
    "particles": lambda: ParticleFilter(net_of(), COUNT, threshold=np.float32(0.5)).run(X).smoothed(COUNT),
    "steps of a model": lambda: net_of().model(num_steps=COUNT, batch_shape=np.int64(2)),
    "a batch shape": lambda: net_of().model(num_steps=2, batch_shape=(np.int64(2), COUNT)),
    "generation": lambda: net_of().generate(COUNT, COUNT, temperature=np.float32(0.5), latent_temperature=np.int64(0)),
    "a stop": lambda: net_of("categorical").generate(COUNT, COUNT, stop=np.int64(3), top_p=np.float64(0.5)),
    "interpolation": lambda: net_of().interpolate(X, X, COUNT),
    "bounds": lambda: bounds(net_of(), X, LENGTHS, COUNT, batch_size=COUNT, chunk_particles=COUNT),
    "evaluation": lambda: evaluate(
        net_of(), X, reset_every=COUNT, num_particles=COUNT, filter_particles=COUNT, batch_size=COUNT, scale=COUNT
    ),
    "active units": lambda: active_units(net_of(), X, threshold=np.float32(0.1), batch_size=COUNT),
    "latent use": lambda: latent_use(net_of(), X, threshold=np.float32(1.0), batch_size=COUNT),
    "information": lambda: mutual_information(net_of(), X, num_steps=COUNT, num_sequences=COUNT, chunk=COUNT),
    "forecasts": lambda: leave_future_out(net_of(), X, first=np.int8(1), num_particles=COUNT, batch_size=COUNT),
    "calibration": lambda: calibrate(net_of(), COUNT, COUNT, COUNT, batch_size=COUNT),
    "annealing": lambda: AnnealedImportanceSampling(net_of(), COUNT, num_temperatures=COUNT, leapfrog_steps=COUNT).run(
        X
    ),
    "segments": lambda: SegmentedELBO(segment=COUNT).loss(net_of().model, net_of().guide, X),
    "batches": lambda: list(LengthBatches(np.array([3, 2, 1], np.uint16), COUNT, seed=COUNT, rank=np.int64(0))),
    "a loader": lambda: list(Loader([X[0], X[1]], LengthBatches([4, 4], 2), num_workers=np.int64(0))),
}


@pytest.mark.parametrize("name", NUMPY)
def test_numbers_of_numpy_are_numbers(name):
    assert NUMPY[name]() is not None


def test_a_net_of_numpy_sizes_is_saved_and_loaded(tmp_path):
    net = NUMPY["sizes"]()
    net.save(tmp_path)
    assert ZForcing.load(tmp_path).settings == random_net(dtype=torch.float32).settings


# Refused by name ------------------------------------------------------------------------------------------------------


def built(**settings):
    return lambda: ZForcing(emissions.Gaussian(2), **{**SIZES, **settings})


def generated(emission="gaussian", **settings):
    return lambda: net_of(emission).generate(3, 2, **settings)


def lost(objective, model=None, guide=None, x=X, **settings):
    """Call of an objective's loss."""

    def call():
        net = net_of()
        programs = (net.model if model is None else model), (net.guide if guide is None else guide)
        return objective().loss_and_grads(*programs, x, **settings)

    return call


def fitted(**settings):
    net = net_of()
    return fit(Training(net.model, net.guide, ZForcingELBO()), [X], out="o", max_steps=1, **settings)


def vocabulary():
    return Vocabulary.of(["a b a b a b a b a b"], 5)


class Plain(nn.Module):
    """A module that is no model."""


OBJECTIVES = {
    "the ELBO": ZForcingELBO,
    "FIVO": lambda: FIVO(2),
    "importance weights": lambda: ImportanceWeightedELBO(2),
    "doubly reparameterised": lambda: ImportanceWeightedELBO(2, doubly_reparameterised=True),
    "segments": lambda: SegmentedELBO(segment=2),
    "graphs": lambda: GraphedELBO(ZForcingELBO()),
}
BORDERS = {
    "model": lambda x: net_of().model(x),
    "guide": lambda x: net_of().guide(x),
    "backward_states": lambda x: net_of().backward_states(x),
    "states": lambda x: net_of().states(x, torch.zeros(3, 4, 3)),
    "reconstruct": lambda x: net_of().reconstruct(x),
    "evaluate": lambda x: evaluate(net_of(), [{"x": x}]),
    "active_units": lambda x: active_units(net_of(), x),
    "step_kl": lambda x: step_kl(net_of(), x),
    "bounds": lambda x: bounds(net_of(), x),
    "latent_use": lambda x: latent_use(net_of(), x),
    "the particle filter": lambda x: ParticleFilter(net_of(), 2).run(x),
    "annealing": lambda x: AnnealedImportanceSampling(net_of(), 2).run(x),
    "chains": lambda x: latent_mcmc(net_of(), x),
    "Pyro's filter": lambda x: smc_filter(net_of(), x),
    "parts": lambda x: list(parts(x, None, None, 2)),
    "encoded_parts": lambda x: list(encoded_parts(net_of(), x, None, 2)),
    "a density": lambda x: DeterministicRNN(emissions.Gaussian(2), embed_dim=2, hidden_dim=2).log_prob(x),
    "the linear model": lambda x: LinearGaussian.fit([{"x": x}]),
    **{name: lambda x, f=f: lost(f, x=x)() for name, f in OBJECTIVES.items()},
}
NETS = {
    "evaluate": lambda net: evaluate(net, X),
    "bounds": lambda net: bounds(net, X),
    "active_units": lambda net: active_units(net, X),
    "to_arviz": lambda net: zf_pyro.to_arviz(net, X),
    "latent_use": lambda net: latent_use(net, X),
    "calibrate": lambda net: calibrate(net),
    "leave_future_out": lambda net: leave_future_out(net, X),
    "require_evaluation": require_evaluation,
    "chains": lambda net: latent_mcmc(net, X),
    "Pyro's filter": lambda net: smc_filter(net, X),
    "a stepwise model": StepwiseModel,
    **{f"the algorithm {name}": lambda net, name=name: ALGORITHMS[name].build(net) for name in ALGORITHMS},
}


@pytest.mark.parametrize("kind", NOT_TENSORS)
@pytest.mark.parametrize("border", BORDERS)
def test_frames_that_are_no_tensor_are_refused_everywhere(border, kind):
    with pytest.raises((TypeError, ValueError), match=rf"x must be a torch.Tensor, got {TYPES[kind]}|where x is None"):
        BORDERS[border](NOT_TENSORS[kind])


@pytest.mark.parametrize("kind", ["an array", "a list", "a number"])
def test_frames_that_are_no_tensor_are_refused_with_what_to_do(kind):
    with pytest.raises(TypeError, match=r"torch\.as_tensor"):
        net_of().guide(NOT_TENSORS[kind])


@pytest.mark.parametrize("net", [None, "net", ZForcing, Plain(), torch.zeros(2)], ids=str)
@pytest.mark.parametrize("border", NETS)
def test_what_is_no_model_is_refused_everywhere(border, net):
    with pytest.raises(TypeError, match=r"net must be a model of zf_pyro.models, got \w+"):
        NETS[border](net)


@pytest.mark.parametrize("program", ["model", "guide"])
@pytest.mark.parametrize("value", ["text", 3, {"a": 1}, torch.zeros(2), ZForcing], ids=str)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_no_program_is_refused_by_every_objective(name, value, program):
    with pytest.raises(TypeError, match=rf"{program} must be a program, such as net.{program}, got \w+"):
        lost(OBJECTIVES[name], **{program: value})()


ARVIZ = {
    "check_weights": check_weights,
    "compare_posteriors": lambda data: compare_posteriors(data, data),
    "linear_probe": lambda data: linear_probe(data, [0, 1]),
    "predictive_check": lambda data: predictive_check(data, quantiles()),
    "compare": lambda data: compare({"a": data, "b": data}),
}


@pytest.mark.parametrize("data", [None, "data", {"posterior": 1}, X])
@pytest.mark.parametrize("name", ARVIZ)
def test_what_is_no_arviz_data_is_refused(name, data):
    with pytest.raises(TypeError, match=r"data must be a result of zf_pyro.to_arviz, got \w+"):
        ARVIZ[name](data)


NAN, INF = math.nan, math.inf
FRAMES = [X[0], X[1]]
BATCHES = LengthBatches([4, 4], 2)


class Lengthed(list):
    """A data set of sequences of equal length."""

    lengths = torch.tensor([4, 4, 4])


LENGTHED = Lengthed(TOKENS)
REFUSED = {
    # constructors
    "a dropout in words": (built(dropout="0.1"), ValueError, r"dropout must be a probability in \[0, 1\), got '0.1'"),
    "a dropout of True": (built(dropout=True), ValueError, "dropout must be a probability"),
    "a dropout of one tensor": (built(dropout=torch.tensor(0.1)), ValueError, "dropout must be .* got Tensor of shape"),
    "no transition": (built(transition=None), ValueError, "transition must be one of .*got None"),
    "a list for a transition": (built(transition=[]), ValueError, r"transition must be one of .*got \[\]"),
    "a recurrence of True": (built(recurrence=True), ValueError, "recurrence must be one of .*got True"),
    "a name of 3": (built(name=3), TypeError, "name must be a string, got 3"),
    "an empty name": (built(name=""), ValueError, "name must not be empty"),
    "z_force in words": (built(z_force="no"), TypeError, "z_force must be True or False, got 'no'"),
    "auxiliary_l2 of 1": (built(auxiliary_l2=1), TypeError, "auxiliary_l2 must be True or False, got 1"),
    "a size above all": (
        built(hidden_dim=10**30),
        ValueError,
        r"hidden_dim must be a positive integer and below 2\^63",
    ),
    "a size of an array": (built(hidden_dim=np.array(4)), ValueError, "hidden_dim must be a positive integer, got nd"),
    "a size of a numpy float": (
        built(mlp_dim=np.float64(4)),
        ValueError,
        "mlp_dim must be a positive integer, got 4.0",
    ),
    "symbols of nan": (lambda: emissions.Categorical(NAN), ValueError, "num_classes must be a positive integer"),
    "no emission": (lambda: DeterministicRNN(None), TypeError, "emission must be one of zf_pyro.emissions"),
    "a class for an emission": (
        lambda: DeterministicRNN.of_size(emissions.Gaussian, 100, embed_dim=2),
        TypeError,
        "emission must be one of",
    ),
    "a number of parameters in words": (
        lambda: DeterministicRNN.of_size(emissions.Gaussian(2), "1", embed_dim=2),
        ValueError,
        "num_parameters must be a positive integer",
    ),
    "no matrices": (lambda: LinearGaussian(None, None, None, None, None), TypeError, "mean must be a torch.Tensor"),
    "another ridge": (lambda: LinearGaussian.fit([X], ridge="0"), ValueError, "ridge must be at least 0, got '0'"),
    "symbols for a linear model": (
        lambda: LinearGaussian.fit([TOKENS]),
        TypeError,
        "x must hold floats, got torch.int",
    ),
    # schedules and objectives
    "a schedule from nothing": (lambda: Linear(None, 1, 5), ValueError, "start must be a finite number .* got None"),
    "a schedule in words": (
        lambda: Linear(0.0, "1", 5),
        ValueError,
        "end must be a finite number of at least 0, got '1'",
    ),
    "a weight of True": (lambda: Constant(True), ValueError, "value must be a finite number of at least 0, got True"),
    "a weight as a tensor": (lambda: Constant(torch.tensor(1.0)), ValueError, "value must be .*got Tensor"),
    "free nats in words": (lambda: ZForcingELBO(free_nats="1"), ValueError, "free_nats must be a finite number"),
    "particles vectorised in words": (
        lambda: ZForcingELBO(vectorize_particles="yes"),
        TypeError,
        "vectorize_particles must be True or False",
    ),
    "a nesting in words": (
        lambda: ImportanceWeightedELBO(2, max_plate_nesting="1"),
        ValueError,
        "max_plate_nesting must be an integer of at least 0",
    ),
    "a switch of FIVO": (lambda: FIVO(2, resampling_gradient=1), TypeError, "resampling_gradient must be True or Fal"),
    "a threshold in words": (
        lambda: FIVO(2, threshold="0.5"),
        ValueError,
        "threshold must be a share of the particles",
    ),
    "a resampling of a list": (lambda: FIVO(2, resampling=[]), ValueError, "resampling must be one of"),
    "no state": (
        lambda: ZForcingELBO().load_state_dict({}),
        ValueError,
        r"state must be that of state_dict\(\).*got {}",
    ),
    "a state of None": (lambda: FIVO(2).load_state_dict(None), ValueError, "state must be that of state_dict"),
    "a step in words": (lambda: ZForcingELBO().load_state_dict({"step": "1"}), ValueError, "step must be an integer"),
    "segments in words": (
        lambda: SegmentedELBO(segment="2"),
        ValueError,
        "segment must be a positive integer, got '2'",
    ),
    "graphs of nothing": (lambda: GraphedELBO(None), TypeError, "objective must be a ZForcingELBO to be captured"),
    "graphs of FIVO": (lambda: GraphedELBO(FIVO(2)), TypeError, "objective must be a ZForcingELBO .*got FIVO"),
    "a module of no programs": (lambda: ZForcingELBO()(None, None), TypeError, "model must be a program"),
    # the model
    "frames of one sequence": (
        lambda: net_of().backward_states(X[0]),
        ValueError,
        r"x must have shape \(batch, time, 2\)",
    ),
    "a pair for x": (lambda: net_of().guide((X, LENGTHS)), TypeError, r"x must be .* got tuple; give the parts .* \*x"),
    "a state of 3": (lambda: net_of().model(X, None, None, 3), TypeError, "initial_state must be a zf_pyro.State"),
    "a state of lists": (
        lambda: net_of().model(X, None, None, State([0.0], [0.0])),
        TypeError,
        "initial_state.hidden must be a torch.Tensor, got list",
    ),
    "a state of a pair": (
        lambda: net_of().states(X, X.new_zeros(3, 4, 3), None, (1, 2)),
        TypeError,
        r"initial_state must be a zf_pyro.State\(hidden, cell\), got tuple",
    ),
    "backward states as an array": (
        lambda: net_of().guide(X, b=np.zeros((4, 3, 4))),
        TypeError,
        "b must be a torch.Tensor, got ndarray",
    ),
    "a batch shape of True": (
        lambda: net_of().model(num_steps=2, batch_shape=(True,)),
        ValueError,
        "batch_shape must be a tuple of positive sizes",
    ),
    # generation
    "a temperature in words": (
        generated(temperature="hot"),
        ValueError,
        "temperature must be above 0, got 'hot'; greedy",
    ),
    "no temperature": (generated(temperature=None), ValueError, "temperature must be above 0, got None"),
    "an infinite temperature": (generated(temperature=INF), ValueError, "temperature must be above 0, got inf"),
    "infinite latents": (
        generated(latent_temperature=INF),
        ValueError,
        "latent_temperature must be a finite number of at least 0, got inf",
    ),
    "latents of nan": (
        generated(latent_temperature=NAN),
        ValueError,
        "latent_temperature must be a finite number of at least 0, got nan",
    ),
    "top_p in words": (generated("categorical", top_p="0.9"), ValueError, "top_p must be a probability"),
    "top_p of True": (generated("categorical", top_p=True), ValueError, "top_p must be a probability"),
    "greedy in words": (generated(greedy="no"), TypeError, "greedy must be True or False, got 'no'"),
    "a stop of a half": (generated("categorical", stop=0.5), ValueError, "stop must be a symbol"),
    "a stop in words": (generated("categorical", stop="end"), ValueError, "stop must be a symbol .*got 'end'"),
    "a stop of True": (generated("categorical", stop=True), ValueError, "stop must be a symbol"),
    "forcing in words": (
        lambda: net_of().reconstruct(X, teacher_forcing="no"),
        TypeError,
        "teacher_forcing must be True",
    ),
    "an array to interpolate": (
        lambda: net_of().interpolate(X, X.numpy()),
        TypeError,
        "x_b must be a torch.Tensor, got nd",
    ),
    "lengths to interpolate": (
        lambda: net_of().interpolate(X, X, lengths_b=[4, 2, 3]),
        TypeError,
        "lengths_b must be a tensor of integers, got list; convert them",
    ),
    "tempered by nothing": (lambda: tempered(dist.Normal(0.0, 1.0), None), ValueError, "temperature must be above 0"),
    "a nucleus above 1": (
        lambda: nucleus(dist.Categorical(torch.ones(3)), 2.0),
        ValueError,
        "top_p must be a probabil",
    ),
    "drawn from nothing": (lambda: drawn(None), TypeError, "distribution must be a distribution, got NoneType"),
    # inference
    "an optimiser of torch": (
        lambda: ALGORITHMS["Trace_ELBO"].build(net_of(), optim=torch.optim.Adam),
        TypeError,
        "optim must be an optimiser of pyro.optim",
    ),
    "a guide in words": (
        lambda: ALGORITHMS["Importance"].build(net_of(), guide="net.guide"),
        TypeError,
        "guide must be a program",
    ),
    "an algorithm of a list": (lambda: ALGORITHMS[["NUTS"]], KeyError, r"inference must be one of .*got \['NUTS'\]"),
    "a share in words": (
        lambda: smc_filter(net_of(), X, ess_threshold="half"),
        ValueError,
        "ess_threshold must be a share of the particles",
    ),
    "progress in words": (lambda: latent_mcmc(net_of(), X, progress="no"), TypeError, "progress must be True or False"),
    "an acceptance of 1": (
        lambda: AnnealedImportanceSampling(net_of(), target_acceptance=np.float64(1.0)),
        ValueError,
        r"target_acceptance must be a probability in \(0, 1\), got 1.0",
    ),
    "weights of an array": (
        lambda: effective_sample_size(np.zeros(3)),
        TypeError,
        "log_weights must be a torch.Tensor",
    ),
    "weights of integers": (lambda: effective_sample_size(LENGTHS), TypeError, "log_weights must hold floats"),
    "another dimension": (lambda: effective_sample_size(X, 3), ValueError, "dim must be a dimension of log_weights"),
    "latents of a list": (
        lambda: stack_latents([X]),
        TypeError,
        "draws must be a dictionary of samples by site, got list",
    ),
    "weights of no program": (lambda: log_weights(None, None, X), TypeError, "model must be a program"),
    "a check of no guide": (lambda: check_guide(net_of().model, None, X), TypeError, "guide must be a program"),
    "padding for nothing": (lambda: with_padding_prior(None), TypeError, "model must be a program"),
    # evaluation and diagnostics
    "an array to evaluate": (
        lambda: evaluate(net_of(), X.numpy()),
        TypeError,
        "data must be x, a batch.*torch.as_tensor",
    ),
    "nothing to evaluate": (
        lambda: evaluate(net_of(), None),
        TypeError,
        "data must be x, a batch, or a loader .*NoneType",
    ),
    "words to evaluate": (
        lambda: evaluate(net_of(), "data"),
        TypeError,
        "data must be x, a batch, or a loader .*got str",
    ),
    "arrays to evaluate": (
        lambda: evaluate(net_of(), [X.numpy()]),
        TypeError,
        "a batch of data must be x.*torch.as_tensor",
    ),
    "a data set to evaluate": (
        lambda: evaluate(net_of(), torch.utils.data.Subset([X], [0])),
        TypeError,
        "data must be x, a batch, or a loader .*got Subset: give a loader",
    ),
    "sequences to evaluate": (lambda: evaluate(net_of(), [X[0], X[1]]), ValueError, r"x must have shape \(batch, time"),
    "no data": (lambda: evaluate(net_of(), []), ValueError, "data must hold at least one sequence, got no batches"),
    "frames without data": (lambda: evaluate(net_of(), X.to("meta")), ValueError, "x must be on cpu.*got meta"),
    "a protocol of a list": (lambda: evaluate(net_of(), X, protocol=[]), ValueError, "protocol must be one of"),
    "a scale in words": (
        lambda: summarise(score(net_of(), X, num_particles=1), scale="2"),
        ValueError,
        "scale must be a",
    ),
    "a summary of nothing": (lambda: summarise(None), TypeError, "scores must be those of zf_pyro.evaluation.score"),
    "a report of nothing": (lambda: report([1]), TypeError, "evaluations must be a dictionary of results .*got list"),
    "a density of latents": (
        lambda: score_density(net_of(), X),
        TypeError,
        "density must have log_prob and an emission",
    ),
    "NaN under a density": (
        lambda: DeterministicRNN(emissions.Gaussian(2), embed_dim=2, hidden_dim=2).log_prob(torch.full((1, 2, 2), NAN)),
        ValueError,
        "x must hold finite numbers",
    ),
    "NaN to fit": (lambda: LinearGaussian.fit([X * NAN]), ValueError, "x must hold finite numbers"),
    "a threshold of active units": (
        lambda: active_units(net_of(), X, threshold=None),
        ValueError,
        "threshold must be a variance of at least 0, got None",
    ),
    "means of one frame": (
        lambda: count_active(torch.zeros(3)),
        ValueError,
        r"means must have shape \(frames, latent\)",
    ),
    "ratios of two shapes": (
        lambda: ratio(torch.ones(3), torch.ones(2)),
        ValueError,
        "numerators and denominators must have one shape",
    ),
    "nothing to judge": (
        lambda: train_and_judge("Trace_ELBO", net_of(), [X], None),
        TypeError,
        "held_out must be a torch.Tensor, got NoneType",
    ),
    "an array to judge": (
        lambda: infer_and_judge("ParticleFilter", net_of(), X.numpy()),
        TypeError,
        "sequences must be a torch.Tensor, got ndarray",
    ),
    "groups of numbers": (lambda: zf_pyro.to_arviz(net_of(), X, groups=3), TypeError, "groups must be some of"),
    "a group of nan": (lambda: zf_pyro.to_arviz(net_of(), X, groups=[NAN]), ValueError, "groups must be some of"),
    "hidden in words": (lambda: zf_pyro.to_arviz(net_of(), X, hidden="no"), TypeError, "hidden must be True or False"),
    "labels of two": (
        lambda: zf_pyro.to_arviz(net_of(), X, labels=[0, 1], groups=("posterior",)),
        ValueError,
        r"labels must be one a sequence, \(3,\), got shape \(2,\)",
    ),
    "ragged labels": (
        lambda: zf_pyro.to_arviz(net_of(), X, labels=[[0], [1, 2], 3]),
        TypeError,
        "labels must be a tensor, an array or a list of values",
    ),
    "a chunk of None": (lambda: mutual_information(net_of(), X, chunk=None), ValueError, "chunk must be a positive"),
    "a posterior in words": (lambda: calibrate(net_of(), posterior="guide"), TypeError, "posterior must be a function"),
    "samples of a list": (
        lambda: calibrate(net_of(), 2, 2, 2, posterior=lambda x, n: [0.0]),
        TypeError,
        "posterior's result must be a torch.Tensor, got list",
    ),
    "models in a list": (lambda: compare([1, 2]), TypeError, "models must be a dictionary of results"),
    "a use of a dictionary": (lambda: plot_kl({}), TypeError, "use must be a result of .*latent_use, got dict"),
    "a check of None": (lambda: plot_khat(None), TypeError, "check must be a result of .*check_weights, got NoneType"),
    "a traversal by one value": (lambda: plot_traversal(net_of(), X[:1], 0, 1.0), TypeError, "values must be some num"),
    "a traversal of a half": (
        lambda: plot_traversal(net_of(), X[:1], 0.5),
        ValueError,
        "latent must be between 0 and 2",
    ),
    "a feature beyond the frame": (
        lambda: plot_traversal(net_of(), X[:1], 0, feature=2),
        ValueError,
        "feature must be",
    ),
    "no folder of checkpoints": (lambda: latest(None), TypeError, "folder must be a path"),
    "levels of nan": (lambda: quantiles((0.5, NAN)), ValueError, r"levels must be probabilities in \[0, 1\]"),
    "a level": (lambda: quantiles(0.5), TypeError, "levels must be some probabilities, got 0.5"),
    "no frequencies": (lambda: spectrum(0), ValueError, "num_frequencies must be a positive integer"),
    # data
    "lengths in words": (lambda: LengthBatches("abc", 2), ValueError, "lengths must be integers .*got str"),
    "no lengths": (lambda: LengthBatches(None, 2), ValueError, "lengths must be integers .*got NoneType"),
    "a seed of a half": (
        lambda: LengthBatches([1, 2], 2, seed=0.5),
        ValueError,
        "seed must be an integer of at least 0",
    ),
    "shuffled in words": (lambda: LengthBatches([1, 2], 2, shuffle="no"), TypeError, "shuffle must be True or False"),
    "a rank of nan": (lambda: LengthBatches([1, 2], 2, rank=NAN), ValueError, "rank must be between 0 and 0"),
    "an epoch in words": (lambda: BATCHES.set_epoch("1"), ValueError, "epoch must be an integer of at least 0"),
    "an empty state": (lambda: BATCHES.load_state_dict({}), ValueError, r"state must be that of state_dict\(\)"),
    "batches of a list": (lambda: Loader(FRAMES, [[0, 1]]), TypeError, "batches must be zf_pyro.data.LengthBatches"),
    "workers in words": (
        lambda: Loader(FRAMES, BATCHES, num_workers="2"),
        ValueError,
        "num_workers must be an integer",
    ),
    "a folder of None": (lambda: Sequences(None, "train"), TypeError, "folder must be a path, .*got None"),
    "a record of nothing": (lambda: read_record(3), TypeError, "folder must be a path, .*got 3"),
    "windows of a list": (lambda: Windows([X], 2), TypeError, "sequences must be zf_pyro.data.Sequences, got list"),
    "vowels in words": (lambda: load_vowels("0"), ValueError, "seed must be an integer of at least 0"),
    "digits of a list": (lambda: prepare_digits("d", binarization=[]), ValueError, "binarization must be threshold or"),
    "audio into nothing": (lambda: prepare_folder(None, "source"), TypeError, "out must be a path"),
    "a seed of an experiment": (lambda: Run(seed=10**23), ValueError, "seed must be an integer from 0 to 4294967295"),
    "an objective of an experiment": (lambda: Run(objective="mle"), ValueError, "objective must be one of .*'mle'"),
    "a device in words": (lambda: Run(device="tpu"), ValueError, "device must be one of .*got 'tpu'"),
    "smoke of 1": (lambda: Run(smoke=1), TypeError, "smoke must be True or False, got 1"),
    "resuming in words": (lambda: Run(resume="no"), TypeError, "resume must be True or False, got 'no'"),
    "a loader of a list": (
        lambda: training_loader([X], 2),
        TypeError,
        "data must be a data set with lengths",
    ),
    "a protocol of training": (lambda: training_loader(LENGTHED, 2, "both"), ValueError, "protocol must be one of"),
    "a share of 1": (lambda: training_loader(LENGTHED, 2, share=1), TypeError, "share must be a pair.*got 1"),
    "runs by name": (lambda: differences("a", "b"), TypeError, "of must be a list of tables with a column num_frames"),
    "no tokenizer": (lambda: Vocabulary(("a", "b")), TypeError, "tokenizer must be a tokenizers.Tokenizer, got tuple"),
    "a text for sentences": (lambda: vocabulary().encode("a b"), TypeError, r"sentences must be .*got str: give \[sen"),
    "numbers for sentences": (lambda: vocabulary().encode([1]), TypeError, "sentences must be .*got int at 0"),
    "symbols of floats": (lambda: vocabulary().decode([1.7]), TypeError, "symbols must be integers of shape"),
    "a batch of symbols": (lambda: vocabulary().decode(TOKENS), TypeError, "symbols must be integers of shape"),
    "an utterance's speaker": (
        lambda: evaluate(net_of(), Utterances(X, LENGTHS, LABELS)),
        TypeError,
        "data must be x.*got the field 'speakers'",
    ),
    # training
    "no callbacks": (lambda: fitted(callbacks=None), TypeError, "callbacks must be a list of Lightning's callbacks"),
    "a function for a callback": (lambda: fitted(callbacks=[print]), TypeError, "callbacks must be a list"),
    "settings in words": (lambda: fitted(about="seed 1"), TypeError, "about must be a dictionary of settings by name"),
    "a validation in words": (
        lambda: Training(net_of().model, net_of().guide, ZForcingELBO(), validation="elbo"),
        TypeError,
        "validation must be a loss of SVI.*got str",
    ),
    "batches of a tensor": (lambda: Batches(X, 2), TypeError, "loader must be an iterable of batches, got Tensor"),
    "half a batch": (lambda: Batches([X], 0.5), ValueError, "num_batches must be a positive integer, got 0.5"),
    "a loss of a class": (
        lambda: Training(net_of().model, net_of().guide, ZForcingELBO),
        TypeError,
        "objective must be a loss of SVI.*got the class ZForcingELBO",
    ),
    "no loss": (lambda: Training(net_of().model, net_of().guide, None), TypeError, "objective must be a loss of SVI"),
    "the net for its model": (lambda: Training(net_of(), net_of().guide, None), TypeError, "objective|model must be"),
    "an optimiser in words": (
        lambda: Training(net_of().model, net_of().guide, ZForcingELBO(), "adam"),
        TypeError,
        "optimiser must be one of pyro.optim, or a function",
    ),
    "a scale of a list": (
        lambda: Training(net_of().model, net_of().guide, ZForcingELBO(), scale=[1.0]),
        ValueError,
        r"scale must be positive, got \[1.0\]",
    ),
    "an infinite norm": (
        lambda: Training(net_of().model, net_of().guide, ZForcingELBO(), clip_norm=INF),
        ValueError,
        "clip_norm must be positive, or None for no bound, got inf",
    ),
    "a net to fit": (lambda: fit(net_of(), [X], out="o", max_steps=1), TypeError, "module must be a zf_pyro.training"),
    "one batch to fit": (
        lambda: fit(Training(net_of().model, net_of().guide, ZForcingELBO()), X, out="o", max_steps=1),
        TypeError,
        "train must be a loader of batches, got one Tensor: give it in a list",
    ),
    # files
    "a folder of 3": (lambda: net_of().save(3), TypeError, "folder must be a path, as a string or pathlib.Path, got 3"),
    "a net from nothing": (lambda: ZForcing.load(None), TypeError, "folder must be a path"),
    "statistics of a list": (lambda: net_of().save("n", [1.0]), TypeError, "normalisation must be a dictionary"),
    "statistics of words": (lambda: net_of().save("n", {"mean": "0"}), TypeError, r"normalisation\['mean'\] must be"),
    "statistics of nan": (
        lambda: net_of().save("n", {"mean": NAN}),
        ValueError,
        r"normalisation\['mean'\] must hold fin",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused_by_name(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call()
    assert not list(tmp_path.iterdir())  # nothing was written


# Files with odd content -----------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    net_of().save(tmp_path, {"mean": torch.tensor(1.0)})
    return tmp_path / "net.json"


@pytest.mark.parametrize("value", [[1.0], 3, "mean", {"mean": "one"}, {"mean": {}}, {"mean": [1.0, [2.0]]}])
def test_statistics_of_another_form_are_refused(saved, value):
    saved.write_text(json.dumps({**json.loads(saved.read_text()), "normalisation": value}))
    with pytest.raises(ValueError, match=r"net.json does not describe a net"):
        ZForcing.load(saved.parent)


@pytest.mark.parametrize("field", ["emission", "arguments", "normalisation"])
def test_a_description_nested_without_end_is_refused(saved, field):
    described = json.loads(saved.read_text())
    text = json.dumps({**described, field: "HERE"}).replace('"HERE"', "[" * 100_000 + "]" * 100_000)
    saved.write_text(text)
    with pytest.raises(ValueError, match=r"net.json (is no JSON|does not describe a net)"):
        ZForcing.load(saved.parent)


@pytest.mark.parametrize("field", ["emission", "arguments", "weights"])
@pytest.mark.parametrize("value", [None, [], 3, "text"])
def test_fields_of_another_form_are_refused(saved, field, value):
    saved.write_text(json.dumps({**json.loads(saved.read_text()), field: value}))
    with pytest.raises(ValueError, match=r"net.json does not (describe a net|say what its weights are)"):
        ZForcing.load(saved.parent)


def test_shared_weights_are_not_saved_as_two(tmp_path):
    net = random_net()
    net.backward_emission_layer.weight = net.emission_layer.weight
    with pytest.raises(
        ValueError, match=r"emission_layer.weight and backward_emission_layer.weight share .*torch.save"
    ):
        net.save(tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_weights_that_are_views_are_saved(tmp_path):
    net, other = random_net(), torch.randn(20, 9, dtype=torch.float64)
    weight = net.emission_layer.weight
    weight.data = other[: weight.shape[0], : weight.shape[1]].t().contiguous().t()[:, :]
    net.emission_layer.bias.data = other.flatten()[5 : 5 + len(net.emission_layer.bias)]
    net.save(tmp_path)
    loaded = ZForcing.load(tmp_path)
    assert torch.equal(loaded.emission_layer.bias, net.emission_layer.bias)
