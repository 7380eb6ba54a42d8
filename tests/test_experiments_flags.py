"""Flags of the experiments: models, objectives, values of the preset, and what a resumed run must repeat."""

import dataclasses
import inspect
import runpy
import sys
import typing
from pathlib import Path

import pytest
import torch

from zf_pyro import FIVO, ImportanceWeightedELBO, Linear, ZForcing
from zf_pyro.data import LengthBatches, Loader, Transposed
from zf_pyro.emissions import Bernoulli, Gaussian
from zf_pyro.experiments import MODELS, Preset, Run, command_line, fit_model, training_loader
from zf_pyro.experiments.choices import CHOICES
from zf_pyro.experiments.command import preset_flags
from zf_pyro.experiments.fitting import build, optimiser
from zf_pyro.experiments.presets import CHANGEABLE
from zf_pyro.experiments.results import logged
from zf_pyro.models import DeterministicRNN
from zf_pyro.models.deterministic_rnn import LayerNormLSTM
from zf_pyro.objectives import Auxiliary
from zf_pyro.training import SafeCheckpointIO, latest

EXAMPLES = Path(__file__).parent.parent / "examples"
PRESET = Preset(
    embed_dim=6,
    hidden_dim=8,
    latent_dim=4,
    mlp_dim=8,
    batch_size=4,
    learning_rate=1e-2,
    max_steps=8,
    annealing_steps=10,
    aux_weight=(0.5, 0.1),
    validate_every=2,
)


def parsed(monkeypatch, tmp_path, *arguments):
    """The run that a command line describes."""
    runs = []

    def experiment(run: Run) -> None:
        """Do nothing."""
        runs.append(run)

    monkeypatch.setattr(sys, "argv", ["experiment.py", "--out", str(tmp_path / "run"), *arguments])
    command_line(experiment)
    return runs[0]


def test_choices_are_those_of_the_flags_types():
    hints = typing.get_type_hints(Run)
    for name, values in CHOICES.items():
        kind = hints[name]
        kind = typing.get_args(kind)[0] if type(None) in typing.get_args(kind) else kind
        assert typing.get_args(kind) == values, name
    assert CHOICES["model"] == tuple(MODELS)


def test_each_value_of_a_preset_is_a_flag_with_a_description():
    flags = preset_flags()
    assert set(flags) == {field.name for field in dataclasses.fields(Preset)} - {"max_steps"} == set(CHANGEABLE)
    assert all(len(text) > 10 for _, text in flags.values())


def test_descriptions_of_flags_do_not_depend_on_how_python_indents_a_docstring(monkeypatch):
    """Python 3.13 takes the indentation of docstrings away, others leave it."""
    found = preset_flags()
    monkeypatch.setattr(Preset, "__doc__", inspect.cleandoc(Preset.__doc__))
    assert preset_flags() == found


def test_a_command_line_chooses_model_objective_particles_and_sizes(monkeypatch, tmp_path):
    given = "--model zforcing --objective fivo --particles 5 --hidden-dim 12 --aux_weight [0.1,0.0] --anneal"
    run = parsed(monkeypatch, tmp_path, *given.split(), "--options.z_force", "true", "--max-steps", "3")
    assert (run.model, run.objective, run.particles, run.anneal) == ("zforcing", "fivo", 5, True)
    assert run.changes == {"hidden_dim": 12, "aux_weight": [0.1, 0.0], "options": {"z_force": True}}
    preset = run.choose({"small": PRESET})
    assert (preset.hidden_dim, preset.aux_weight, preset.max_steps, preset.embed_dim) == (12, (0.1, 0.0), 3, 6)
    net = build(run, preset, Bernoulli(3))
    assert (net.hidden_dim, net.z_force) == (12, True)
    objective = preset.objective(run.objective, run.particles, anneal=run.anneal)
    assert isinstance(objective, FIVO)
    assert (objective.num_particles, objective.kl_weight) == (5, 0.2)


def test_bounds_of_particles_are_not_annealed_unless_asked_to():
    for name, kind in (("iwae", ImportanceWeightedELBO), ("fivo", FIVO)):
        objective = PRESET.objective(name, 3)
        assert isinstance(objective, kind)
        assert (objective.num_particles, objective.kl_weight) == (3, 1.0)
        annealed = PRESET.objective(name, 3, anneal=True)
        annealed.step = 5
        assert annealed.kl_weight == pytest.approx(0.6)
    for objective in ("elbo", "kl_annealing", "zforcing"):
        with pytest.raises(ValueError, match=f"anneal is for iwae and fivo, got it with {objective}"):
            Run(objective=objective, anneal=True)
        with pytest.raises(ValueError, match="anneal is for iwae and fivo"):
            PRESET.objective(objective, anneal=True)
    with pytest.raises(ValueError, match="anneal is for iwae and fivo, got it with rnn"):
        Run(objective="fivo", baseline="rnn", anneal=True)


def test_the_backward_likelihood_is_annealed_with_the_auxiliary():
    objective = dataclasses.replace(PRESET, backward_weight=(1.0, 0.0)).objective("zforcing")
    objective.step = 5
    assert (objective.aux_weight, objective.backward_weight) == (pytest.approx(0.3), pytest.approx(0.5))


def test_each_option_of_the_auxiliary_is_a_flag(monkeypatch, tmp_path):
    given = "--aux_steps 4 --backward_weight [1.0,0.5] --backward_steps 20 --annealing_epochs 1.5"
    more = "--aux_standardised true --aux_per_unit true --options.auxiliary_l2 true"
    run = parsed(monkeypatch, tmp_path, *given.split(), *more.split(), "--mechanism_every", "5")
    preset = run.choose({"small": PRESET})
    objective = preset.objective("zforcing", steps_per_epoch=6)
    assert objective.auxiliary == Auxiliary(standardised=True, per_unit=True)
    assert objective.kl_schedule == Linear(0.2, 1.0, 9)
    assert objective.aux_schedule == Linear(0.5, 0.1, 4)
    assert objective.backward_schedule == Linear(1.0, 0.5, 20)
    assert build(run, preset, Bernoulli(3)).auxiliary_l2
    assert run.mechanism_every == 5
    assert PRESET.objective("zforcing").auxiliary == Auxiliary()
    assert dataclasses.replace(PRESET, aux_contrastive=True).objective("zforcing").auxiliary.contrastive


def test_free_nats_are_a_flag_of_the_objectives_with_a_kl_of_each_step(monkeypatch, tmp_path):
    preset = parsed(monkeypatch, tmp_path, "--free_nats", "0.25").choose({"small": PRESET})
    assert [preset.objective(name).free_nats for name in ("elbo", "kl_annealing", "zforcing")] == [0.25] * 3
    assert PRESET.objective("elbo").free_nats == 0.0
    for name in ("iwae", "fivo"):
        with pytest.raises(ValueError, match=f"free_nats must be 0 for {name}, which has no KL of each step, got 0.25"):
            preset.objective(name)
    with pytest.raises(ValueError, match="free_nats must be a finite number of at least 0"):
        dataclasses.replace(PRESET, free_nats=-1.0)


def test_bad_options_of_the_auxiliary_are_refused_before_a_run():
    for changes, match in (
        ({"aux_contrastive": True, "aux_per_unit": True}, "per_unit must be False with contrastive"),
        ({"aux_steps": 0}, "aux_steps must be a positive integer"),
        ({"annealing_epochs": 0.0}, "annealing_epochs must be a positive number"),
    ):
        with pytest.raises(ValueError, match=match):
            dataclasses.replace(PRESET, **changes)
    with pytest.raises(ValueError, match="annealing_epochs needs the number of steps of an epoch"):
        dataclasses.replace(PRESET, annealing_epochs=2.0).objective("zforcing")
    with pytest.raises(ValueError, match="mechanism_every must be a positive integer"):
        Run(mechanism_every=0)


class WithoutTransition(ZForcing):
    """A model that has no option ``transition``."""

    def __init__(self, emission, *, embed_dim, hidden_dim, latent_dim, mlp_dim, dropout=0.0, name=None):
        sizes = {"embed_dim": embed_dim, "hidden_dim": hidden_dim, "latent_dim": latent_dim, "mlp_dim": mlp_dim}
        super().__init__(emission, **sizes, dropout=dropout, name=name)


def test_an_option_of_another_model_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(MODELS, "zforcing", WithoutTransition)
    assert isinstance(build(Run(), PRESET, Bernoulli(3)), WithoutTransition)
    run = Run(changes={"transition": "concatenate"})
    message = "transition is no option of WithoutTransition, which has dropout, embed_dim, hidden_dim, latent_dim"
    for baseline in (None, "rnn"):
        with pytest.raises(ValueError, match=message):
            build(dataclasses.replace(run, baseline=baseline), run.choose({"small": PRESET}), Bernoulli(3))
    preset = dataclasses.replace(PRESET, options={"z_force": True})
    with pytest.raises(ValueError, match="z_force is no option of WithoutTransition"):
        preset.network("zforcing", Bernoulli(3))
    with pytest.raises(ValueError, match="dropout is a flag of its own: give it as --dropout"):
        dataclasses.replace(PRESET, options={"dropout": 0.5}).network("zforcing", Bernoulli(3))
    with pytest.raises(ValueError, match=r"model must be one of .*'zforcing'\], got 'lstm'"):
        PRESET.network("lstm", Bernoulli(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_decay": -0.1}, "weight_decay must be a finite number of at least 0, got -0.1"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0"),
        ({"patience": 0}, "patience must be a positive integer, got 0"),
        ({"aux_weight": [1.0]}, r"aux_weight must be a pair, the first and the last weight, got \[1.0\]"),
        ({"plateau": 3, "decay_steps": 10}, "plateau and decay_steps are two schedules of one step size"),
    ],
)
def test_values_of_a_preset_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        Run(changes=changes).choose({"small": PRESET})


def test_values_that_no_preset_has_are_refused():
    with pytest.raises(ValueError, match=r"changes must be fields of a preset, embed_dim, .*, got 'hidden'"):
        Run(changes={"hidden": 4})
    with pytest.raises(ValueError, match=r"preset must be one of \['small'\], got 'large'"):
        Run(preset="large").choose({"small": PRESET})


def test_a_resumed_run_repeats_what_determines_its_result():
    same = Run().about
    assert Run(particles=3, evaluation_particles=5, max_steps=7).about == same
    assert Run(objective="fivo", particles=3).about != Run(objective="fivo", particles=4).about
    assert Run(objective="fivo", anneal=True).about != Run(objective="fivo").about
    for other in ({"initialisation": "released"}, {"changes": {"dropout": 0.1}}, {"changes": {"decay_steps": 5}}):
        assert Run(**other).about != same


def test_weight_decay_is_for_matrices_alone():
    net = build(Run(), PRESET, Gaussian(3))
    made = optimiser(dataclasses.replace(PRESET, weight_decay=0.1), net.parameters())
    assert isinstance(made, torch.optim.AdamW)
    decayed, free = made.param_groups
    assert (decayed["weight_decay"], free["weight_decay"], decayed["lr"]) == (0.1, 0.0, 1e-2)
    assert {parameter.dim() for parameter in decayed["params"]} == {2}
    assert len(decayed["params"]) + len(free["params"]) == len(list(net.parameters()))
    assert type(optimiser(PRESET, net.parameters())) is torch.optim.Adam


def test_the_control_for_the_cell_has_as_many_parameters():
    preset = dataclasses.replace(PRESET, hidden_dim=64, embed_dim=32)
    net, rnn = (build(Run(baseline=baseline), preset, Gaussian(20)) for baseline in (None, "rnn_layer_norm"))
    assert isinstance(rnn, DeterministicRNN)
    assert isinstance(rnn.lstm, LayerNormLSTM)
    size, other = (sum(p.numel() for p in model.parameters()) for model in (net, rnn))
    assert abs(size - other) <= 4 * 2 * 64 + 4 * 32 + 16 + 40  # one hidden unit


class Rolls(torch.utils.data.Dataset):
    """Random rolls of three notes."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.lengths = torch.arange(2, 10)
        self.items = [torch.rand(int(n), 3, generator=generator).round() for n in self.lengths]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize("objective", ["elbo", "fivo"])
def test_the_best_validation_is_kept_and_recorded(objective, tmp_path):
    """With its step and its bound; the step size falls to a hundredth."""
    run = Run(out=tmp_path, objective=objective, particles=2, device="cpu", anneal=objective == "fivo")
    rolls = Rolls()
    loader = Loader(rolls, LengthBatches(rolls.lengths, 4))
    fitted = fit_model(run, dataclasses.replace(PRESET, decay_steps=8), Bernoulli(3), loader, loader, [])
    curves = logged(tmp_path)
    steps, bounds = zip(*curves["validation/elbo"], strict=True)
    best = max(bounds)
    assert (fitted.facts["steps"], fitted.facts["best_step"]) == (8, steps[bounds.index(best)])
    assert fitted.facts["best_bound"] == pytest.approx(best, rel=1e-6)
    rates = dict(curves["train/lr"])
    assert rates[1.0] == pytest.approx(1e-2)
    assert rates[5.0] == pytest.approx(1e-2 * (0.01 + 0.99 / 2))
    assert rates[8.0] < 0.06 * 1e-2


@pytest.mark.slow
def test_a_resumed_run_repeats_shifts_and_step_sizes(tmp_path):
    """Its weights are those of a run in one piece, bit for bit."""

    def trained(out, max_steps, resume=False):
        run = Run(out=out, objective="iwae", particles=2, device="cpu", resume=resume, changes={"weight_decay": 0.1})
        preset = dataclasses.replace(run.choose({"small": PRESET}), decay_steps=8, max_steps=max_steps)
        train, check = training_loader(Transposed(Rolls()), 4), training_loader(Rolls(), 4, shuffle=False)
        return fit_model(run, preset, Bernoulli(3), train, check, []).facts

    whole = trained(tmp_path / "whole", 7)
    trained(tmp_path / "parts", 3)
    kept = SafeCheckpointIO().load_checkpoint(latest(tmp_path / "parts" / "checkpoints"))["callbacks"]
    parts = trained(tmp_path / "parts", 7, resume=True)
    assert parts["training_seconds"] > kept["Stopwatch"]["seconds"] > 0.0
    assert {**parts, "training_seconds": 0} == {**whole, "training_seconds": 0}
    first, second = (
        SafeCheckpointIO().load_checkpoint(latest(tmp_path / name / "checkpoints"))["state_dict"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("model", "options"), [("vrnn", {}), ("storn", {}), ("srnn", {"filtering": True})])
def test_the_auxiliary_of_a_model_without_a_backward_rnn_is_refused(model, options):
    preset = dataclasses.replace(PRESET, options=options)
    with pytest.raises(ValueError, match=r"needs a backward RNN, .* has none here: take --objective kl_anneal"):
        build(Run(model=model), preset, Bernoulli(3))
    assert not build(Run(model=model, objective="fivo"), preset, Bernoulli(3)).has_auxiliary


def test_the_released_presets_anneal_the_auxiliary_as_the_released_code():
    """Weights by step of its loop: the KL's rises from 0.2 and the auxiliary's falls from 0.0025 by 5e-5 per step."""
    timit, blizzard = (
        runpy.run_path(str(EXAMPLES / f"{name}.py"))["PRESETS"]["released"] for name in ("timit", "blizzard")
    )
    objective = timit.objective("zforcing")
    for step in (0, 1, 10, 49, 50, 51, 15_999, 16_000, 17_000):
        objective.step = step
        assert objective.kl_weight == pytest.approx(min(0.2 + 5e-5 * step, 1.0))
        assert objective.aux_weight == pytest.approx(max(0.0025 - 5e-5 * step, 0.0), abs=1e-12)
    assert blizzard.aux_steps == 2 * 2_040_064 // 128
    assert blizzard.batch_size == 128
