"""Shared code of the experiments: objectives by name, presets, loaders for each protocol, logs."""

import dataclasses

import pytest
import torch

from zf_pyro import emissions
from zf_pyro.data import Sequences, collate
from zf_pyro.data.speech.prepare import prepare_blizzard, prepare_timit
from zf_pyro.data.speech.synthetic import write_blizzard, write_timit
from zf_pyro.emissions import Bernoulli, Gaussian
from zf_pyro.experiments import (
    Preset,
    Run,
    count_parameters,
    emission_of,
    evaluation_loader,
    fit_model,
    prepared_data,
    spread,
    training_loader,
)
from zf_pyro.experiments.command import underscored
from zf_pyro.experiments.fitting import build, train
from zf_pyro.experiments.results import logged
from zf_pyro.models import DeterministicRNN
from zf_pyro.objectives import GraphedELBO

PRESET = Preset(
    embed_dim=8,
    hidden_dim=8,
    latent_dim=4,
    mlp_dim=8,
    batch_size=4,
    learning_rate=1e-3,
    max_steps=100,
    annealing_steps=10,
    aux_weight=(0.5, 0.1),
)


class Items(torch.utils.data.Dataset):
    """Sequences of lengths 1 to 9; the values of a frame encode the index of its sequence, and its step."""

    def __init__(self):
        self.lengths, self.epochs = torch.arange(1, 10), []

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        return torch.full((int(self.lengths[index]), 2), float(index)) + torch.arange(index + 1).unsqueeze(1) / 100

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def weights(objective, step):
    objective.step = step
    return objective.kl_weight, objective.aux_weight


def test_objectives_differ_in_their_weights_alone():
    assert weights(PRESET.objective("elbo"), 0) == (1.0, 0.0)
    assert [weights(PRESET.objective("kl_annealing"), s) for s in (0, 10, 50)] == [(0.2, 0.0), (1.0, 0.0), (1.0, 0.0)]
    found = [weights(PRESET.objective("zforcing"), s) for s in (0, 10, 50)]
    assert found == [pytest.approx(pair) for pair in ((0.2, 0.5), (1.0, 0.1), (1.0, 0.1))]
    with pytest.raises(ValueError, match=r"objective must be one of .*elbo.*fivo.*, got 'mle'"):
        PRESET.objective("mle")


def test_flags_choose_the_preset():
    presets = {"paper": dataclasses.replace(PRESET, hidden_dim=1024), "small": PRESET}
    assert Run(preset="paper").choose(presets).hidden_dim == 1024
    assert Run(max_steps=7).choose(presets).max_steps == 7
    tiny = Run(preset="paper", smoke=True).choose(presets)
    assert (tiny.hidden_dim, tiny.max_steps, tiny.annealing_steps) == (8, 3, 10)
    assert (Run().name, Run(baseline="rnn").name) == ("zforcing", "rnn")
    for name in ("devices", "max_steps", "particles", "evaluation_particles", "validation_sequences"):
        with pytest.raises(ValueError, match=f"{name} must be a positive integer, got 0"):
            Run(**{name: 0})
    with pytest.raises(ValueError, match="test_sequences must be an integer of at least 0, got -1"):
        Run(test_sequences=-1)


def test_the_test_set_is_scored_unless_it_is_left_alone():
    assert Run().splits == Run(test_sequences=1).splits == ("validation", "test")
    assert Run(test_sequences=0).splits == ("validation",)


def test_the_rnn_has_as_many_parameters_as_the_net():
    """To within half the parameters of one hidden unit."""
    preset = dataclasses.replace(PRESET, hidden_dim=64, embed_dim=32)
    net, rnn = (build(Run(baseline=baseline), preset, Gaussian(20)) for baseline in (None, "rnn"))
    assert isinstance(rnn, DeterministicRNN)
    unit = DeterministicRNN(Gaussian(20), embed_dim=32, hidden_dim=rnn.hidden_dim + 1).num_parameters
    assert abs(count_parameters(net) - count_parameters(rnn)) <= (unit - rnn.num_parameters) / 2 + 4


def test_one_seed_makes_one_net():
    first, again, other = (build(Run(seed=seed), PRESET, Gaussian(3)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_net_is_trained_under_an_objective_that_a_gpu_captures(monkeypatch):
    """With the state of the plain objective, which checkpoints hold. The objective of the RNN is not captured."""
    from zf_pyro import training

    modules = []

    def fit(module, *_, **__):
        modules.append(module)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", fit)
    for baseline in (None, "rnn"):
        run = Run(baseline=baseline, initialisation="released")
        with pytest.raises(KeyboardInterrupt):
            train(run, PRESET, build(run, PRESET, Gaussian(2)), None, None)
    of_net, of_rnn = (module.objective for module in modules)
    assert isinstance(of_net, GraphedELBO)
    assert not isinstance(of_rnn, GraphedELBO)
    plain = PRESET.objective("zforcing")
    assert of_net.state_dict() == plain.state_dict()
    assert weights(of_net, 5) == weights(plain, 5)


def test_the_linear_baseline_is_for_real_numbers():
    run = Run(baseline="linear_gaussian")
    with pytest.raises(ValueError, match="linear_gaussian is for real-valued frames, not Bernoulli"):
        fit_model(run, PRESET, Bernoulli(2), None, None, [])
    items = Items()
    fitted = fit_model(run, PRESET, Gaussian(2), None, None, evaluation_loader(items, 4))
    real = torch.cat([items[i] for i in range(len(items))]).double()
    torch.testing.assert_close(fitted.model.mean, real.mean(0))


def test_where_the_first_frame_is_given_it_is_the_context():
    items, seen = Items(), []
    for x, lengths, context in training_loader(items, 3, "first_frame_given"):
        for row, length, first in zip(x, lengths.tolist(), context, strict=True):
            index = int(first[0])
            torch.testing.assert_close(torch.cat([first.unsqueeze(0), row[:length]]), items[index])
            seen.append(index)
    assert sorted(seen) == list(range(1, 9)), "the sequence of one frame has nothing to score"


def test_where_every_frame_is_modelled_batches_are_the_sequences():
    batches = list(training_loader(Items(), 4))
    assert sorted(n for batch in batches for n in batch.lengths.tolist()) == list(range(1, 10))


def test_data_that_is_drawn_anew_in_each_epoch_is_told_the_epoch():
    items = Items()
    loader = training_loader(items, 4)
    for epoch in (0, 1, 5):
        loader.batch_sampler.set_epoch(epoch)
    assert items.epochs == [0, 1, 5]


@pytest.mark.parametrize(("count", "expected"), [(None, 9), (20, 9), (3, 3), (1, 1)])
def test_evaluation_meets_each_sequence_once(count, expected):
    lengths = [n for batch in evaluation_loader(Items(), 2, count) for n in batch.lengths.tolist()]
    assert len(lengths) == len(set(lengths)) == expected
    if count == 3:
        assert sorted(lengths) == [1, 5, 9]


@pytest.mark.parametrize(("count", "expected"), [(None, range(1, 10)), (9, range(1, 10)), (3, (1, 5, 9))])
def test_fewer_sequences_are_spread_over_all(count, expected):
    chosen = spread(Items(), count)
    assert chosen.lengths.tolist() == [len(chosen[i]) for i in range(len(chosen))] == list(expected)


def test_what_was_logged_before_a_restart_gives_way_to_what_came_after(tmp_path):
    for version, text in enumerate(("step,a,b\n1,1.0,\n2,2.0,5\n", "step,a\n2,7.0\n3,nan\n4,9.0\n")):
        folder = tmp_path / "logs" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(text)
    assert logged(tmp_path) == {"a": [(1.0, 1.0), (2.0, 7.0), (4.0, 9.0)], "b": [(2.0, 5.0)]}


def test_prepared_data_is_taken_as_it_is_and_other_data_prepared(tmp_path):
    run = Run(out=tmp_path)
    made = prepared_data(run, write_timit(tmp_path / "corpus"), prepare_timit)
    assert made == tmp_path / "data"
    assert prepared_data(run, made, lambda out, data: pytest.fail("prepared again")) == made


def test_synthetic_corpora_are_what_the_loaders_expect(tmp_path):
    record = prepare_timit(tmp_path / "a", write_timit(tmp_path / "timit"))
    assert {name: split.num_sequences for name, split in record.splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 4,
    }
    prepare_blizzard(tmp_path / "b", write_blizzard(tmp_path / "blizzard"))
    x, _ = collate([Sequences(tmp_path / "b", "train")[0]])
    assert x.shape == (1, 64, 200)


def test_a_dash_in_a_flag_is_as_good_as_an_underscore():
    given = ["--max-steps", "5", "--test-sequences=3", "--out", "a-b", "--data=c-d", "-h"]
    assert underscored(given) == ["--max_steps", "5", "--test_sequences=3", "--out", "a-b", "--data=c-d", "-h"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gaussian", emissions.Gaussian(200)),
        ("gaussian_mixture", emissions.GaussianMixture(200, 3)),
        ("discretized_logistic_mixture", emissions.DiscretizedLogisticMixture(200, 3, bits=16)),
    ],
)
def test_speech_has_an_emission_by_name(name, expected):
    assert emission_of(name, 200, 3) == expected


def test_an_unknown_emission_of_speech_is_refused():
    with pytest.raises(ValueError, match=r"emission must be one of .*gaussian_mixture.*got 'mixture'"):
        emission_of("mixture", 200, 3)
    with pytest.raises(ValueError, match="components must be a positive integer, got 0"):
        emission_of("gaussian_mixture", 200, 0)
