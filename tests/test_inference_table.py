"""Properties in the table of algorithms hold, and every algorithm runs on the same model."""

from collections import Counter
from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import MCMC, SMCFilter

from zf_pyro.inference import ALGORITHMS, stack_latents

from .conftest import FAMILY, FIRST, random_frames, random_net
from .counting import count_calls

QUICK = {
    "NUTS": {"num_samples": 3, "warmup_steps": 3, "max_tree_depth": 2},
    "HMC": {"num_samples": 3, "warmup_steps": 3, "num_steps": 2},
    "AutoIAFNormal": {"hidden_dim": [120]},
    "Importance": {"num_samples": 3},
    "Predictive": {"num_samples": 3},
    "AnnealedImportanceSampling": {"num_chains": 3, "num_temperatures": 4, "leapfrog_steps": 2},
}
MARKOV = ("NUTS", "HMC")
DEFAULT_DTYPE = ("AutoIAFNormal", "AutoStructured", "AutoGaussian")
"""Algorithms with some parameters in torch's default dtype."""


COMPILED = pytest.mark.filterwarnings("ignore:.*torch.jit")
every_algorithm = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=COMPILED if name.startswith("Jit") else ()) for name in ALGORITHMS]
)
AMORTISED = [name for name, row in ALGORITHMS.items() if row.amortised and not name.startswith("Jit")]
"""Without compiled objectives, which have the shape of the first batch."""


def lengths_for(name, num_steps):
    return None if name in MARKOV else torch.tensor([num_steps, 2, 4])


def built(name, num_steps, counts=None, member="ZForcing"):
    """Call of an algorithm on a new network, with the network and arguments."""
    model, settings = FAMILY[member]
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    dtype = torch.float32 if name in DEFAULT_DTYPE else torch.float64
    net = random_net(model=model, dtype=dtype, **settings)
    if counts is not None:
        count_calls(net, counts, "prior", "emission", "transition", "scan_states")
    row = ALGORITHMS[name]
    call = getattr(row.build(net, **QUICK.get(name, {})), row.call)
    return call, net, (random_frames(time=num_steps, dtype=dtype), lengths_for(name, num_steps))


@every_algorithm
def test_every_algorithm_runs_and_trains_the_net_or_leaves_it(name):
    call, net, arguments = built(name, 5)
    before = [p.detach().clone() for p in net.parameters()]
    call(*arguments)
    call(*arguments)
    changed = any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert changed == ALGORITHMS[name].trains
    assert all(p.requires_grad for p in net.parameters())
    assert net.training


@pytest.mark.slow
@pytest.mark.parametrize("member", [*(name for name in FIRST if name != "ZForcing"), "DMM, autoregressive flow"])
@every_algorithm
def test_every_algorithm_runs_on_every_model(name, member):
    call, net, arguments = built(name, 4, member=member)
    before = [p.detach().clone() for p in net.parameters()]
    call(*arguments)
    changed = any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert changed == ALGORITHMS[name].trains


@every_algorithm
def test_every_algorithm_is_scored_as_its_row_says(name):
    """As a batch: from 6 to 12 steps, calls of the heads and of single transitions do not grow."""
    grown = []
    for num_steps in (6, 12):
        counts = Counter()
        call, _net, arguments = built(name, num_steps, counts)
        if name.startswith("Jit"):  # counts calls during compilation, which unrolls the plain loop
            call(*arguments)
            del counts["transition"]
        else:
            call(*arguments)  # does the set-up of the first call
            counts.clear()
            call(*arguments)
        if name in MARKOV:  # each run samples the model once, step by step, to find its sites
            assert counts["transition"] == num_steps - 1
            assert counts["prior"] == num_steps + counts["emission"]
            assert counts["emission"] == counts["scan_states"] > 3
            counts.clear()
        grown.append(counts["prior"] + counts["emission"] + counts["transition"])
    assert (grown[0] == grown[1]) == (ALGORITHMS[name].scoring == "batch"), grown


@pytest.mark.parametrize("name", AMORTISED)
def test_amortised_algorithms_take_new_sequences_at_every_call(name):
    call, net, (x, _lengths) = built(name, 4)
    call(x)
    call(random_frames(batch=2, time=6, dtype=x.dtype))
    assert all(torch.isfinite(p).all() for p in net.parameters())


@every_algorithm
def test_rows_are_filled_in(name):
    row = ALGORITHMS[name]
    for text in (row.description, row.call, row.returns):
        assert text
        assert not text.endswith(".")
    assert row.evidence in ("", "bound", "estimate")
    assert row.scoring in ("batch", "step by step")


def test_what_returns_pyros_own_objects_returns_them():
    call, _net, arguments = built("NUTS", 4)
    mcmc = call(*arguments)
    assert isinstance(mcmc, MCMC)
    assert stack_latents(mcmc.get_samples()).shape == (3, 3, 4, 3)
    call, _net, arguments = built("SMCFilter", 4)
    smc = call(*arguments)
    assert isinstance(smc, SMCFilter)
    assert set(smc.get_empirical()) == {"hidden", "cell", "z"}


def test_the_table_is_a_mapping():
    assert "NUTS" in ALGORITHMS
    assert "nuts" not in ALGORITHMS
    assert len(ALGORITHMS) == len(list(ALGORITHMS)) >= 25


def documented(name):
    """Line of an algorithm in the documentation's table."""
    row = ALGORITHMS[name]
    yes = {True: "yes", False: ""}
    cells = [f"`{name}`", row.description, yes[row.trains], yes[row.needs_guide], yes[row.amortised], row.evidence]
    return "| " + " | ".join([*cells, row.scoring, row.limits]) + " |"


@every_algorithm
def test_the_documentation_says_what_the_row_says(name):
    root = Path(__file__).parent.parent
    assert documented(name) in (root / "docs" / "inference.md").read_text()
    assert any(
        line.startswith(f"| {name} |") and line.endswith(f"| {ALGORITHMS[name].scoring} |")
        for line in (root / "docs" / "inference.md").read_text().splitlines()
    )
