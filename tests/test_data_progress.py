"""Progress bars of what takes longer than some seconds: unit, total, and silence by default."""

import re

import pytest
import torch

from zf_pyro.data import progress_bar
from zf_pyro.diagnostics import calibrate, check_steps
from zf_pyro.evaluation import backtest, bounds, evaluate, particle_bound
from zf_pyro.evaluation.bounds import prior_mean_log_likelihood
from zf_pyro.inference import fit_guide, refine

from .conftest import random_frames, random_net

X = random_frames(batch=5)
PARTS = [(X[:3], None), (X[3:], None)]


def naive(x, lengths, horizon):
    """The last frame again; four equal samples."""
    return x[:, -1:].expand(4, len(x), horizon, -1)


SMALL = {"num_particles": 2, "batch_size": 3}
BAR = re.compile(r"(.+): 100%\|.*\| (\d+)/\2 \[[\d:]+<[\d:]+, +[\d.]+(?:s/)?([a-z]+)(?:/s)?\]")
"""A bar at its end, with remaining time, rate and unit; the rate of slow work is in seconds per unit."""
SHOWN = {
    "bounds": (lambda net, **shown: bounds(net, X, **SMALL, **shown), ["bounds: 5 sequence"]),
    "particle_bound": (lambda net, **shown: particle_bound(net, X, **SMALL, **shown), ["particle bound: 5 sequence"]),
    "prior_means": (
        lambda net, **shown: prior_mean_log_likelihood(net, X, batch_size=3, **shown),
        ["prior means: 5 sequence"],
    ),
    "evaluate_a_batch": (
        lambda net, **shown: evaluate(net, X, filter_particles=2, **SMALL, **shown),
        ["bounds: 5 sequence", "particle bound: 5 sequence", "prior means: 5 sequence"],
    ),
    "evaluate_batches": (lambda net, **shown: evaluate(net, PARTS, **SMALL, **shown), ["evaluation: 2 batch"]),
    "backtest": (
        lambda net, **shown: backtest(naive, (X, None), horizon=1, first=1, levels=(0.5,), batch_size=2, **shown),
        [f"backtest of naive: {5 * (X.shape[1] - 1)} forecast"],
    ),
    "calibrate": (
        lambda net, **shown: calibrate(net, 5, 2, 4, batch_size=3, **shown),
        ["calibration: 5 simulation"],
    ),
    "check_steps": (
        lambda net, **shown: check_steps(net, X, num_samples=25, num_futures=1, batch_size=3, **shown),
        ["step check: 5 sequence"],
    ),
    "refine": (lambda net, **shown: refine(net, X, steps=3, **SMALL, **shown), ["refinement: 6 step"]),
    "fit_guide": (lambda net, **shown: fit_guide(net, X, steps=3, **SMALL, **shown), ["fit of the guide: 3 step"]),
}
"""What shows a bar, and its bars: name, total and unit."""


@pytest.mark.parametrize("name", SHOWN)
def test_a_bar_names_its_unit_and_ends_at_the_total(name, capsys):
    work, expected = SHOWN[name]
    work(random_net().eval(), progress=True)
    last = [line.split("\r")[-1] for line in capsys.readouterr().err.split("\n")[:-1]]
    assert [BAR.fullmatch(line).expand(r"\1: \2 \3") for line in last] == expected


@pytest.mark.parametrize("name", SHOWN)
def test_nothing_is_shown_by_default(name, capsys):
    SHOWN[name][0](random_net().eval())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", SHOWN)
def test_another_value_than_a_boolean_is_refused(name):
    with pytest.raises(TypeError, match="progress must be True or False, got 1"):
        SHOWN[name][0](random_net().eval(), progress=1)


def test_a_bar_of_unknown_length_counts(capsys):
    with progress_bar("evaluation", "batch", None, True) as bar:
        bar.update(3)
    assert "evaluation: 3batch [" in capsys.readouterr().err


def test_batches_whose_number_nobody_knows_are_counted(capsys):
    """A loader of PyTorch over a stream has a length that raises."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from PARTS

    loader = torch.utils.data.DataLoader(Stream(), batch_size=None)
    assert evaluate(random_net(), loader, **SMALL, progress=True).num_sequences == 5
    assert "evaluation: 2batch [" in capsys.readouterr().err
    assert evaluate(random_net(), iter(PARTS), **SMALL).num_sequences == 5


def test_a_bar_takes_no_random_numbers():
    """Numbers under a seed are the same with it."""
    found = []
    for progress in (False, True):
        torch.manual_seed(0)
        found.append(bounds(random_net().eval(), X, **SMALL, progress=progress).importance_weighted)
    assert torch.equal(*found)
