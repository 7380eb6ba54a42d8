"""Densities and gradients under every handler, against the textbook program."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from zf_pyro.networks import AutoregressiveFlow, base_of

from .comparing import assert_same, densities, gradients, weighted_sum
from .conftest import random_frames, random_net, random_state
from .handlers import (
    BATCH,
    HANDLERS,
    REDRAWN,
    TIME,
    particles,
    plain_guide,
    plain_model,
    replayed_case,
    replayed_detached,
    traced,
    vectorised,
)
from .textbook import Textbook

ARGUMENTS = {
    "whole": {},
    "all": {"lengths": torch.tensor([4, 3, 2]), "context": True, "initial_state": True},
}


def arguments(name, net, emission):
    chosen = dict(ARGUMENTS[name])
    if "context" in chosen:
        chosen["context"] = random_frames(emission, BATCH, 1, seed=9)[:, 0]
        chosen["initial_state"] = random_state(net, BATCH)
    return chosen


def assert_equivalent(net, case, x, kwargs, redrawn=TIME):
    ours = case(Bound(net, net, kwargs), x, unbound(kwargs))
    noise = [noise_after(trace, redrawn) for trace in ours if is_guide(trace)]
    theirs = case(Bound(net, Textbook(net, noise), kwargs), x, unbound(kwargs))
    for mine, other in zip(ours, theirs, strict=True):
        assert_same(real_values(mine, kwargs), real_values(other, kwargs))
    mine, other = densities(*ours), densities(*theirs)
    assert_same(mine, other)
    assert_same(gradients(net, weighted_sum(mine)), gradients(net, weighted_sum(other)))


def is_guide(trace):
    return "x_0" not in trace.nodes


def noise_after(trace, step):
    """Return the noise of the latents after ``step``, where the guide sampled again since a handler changed a value.

    The guide had sampled ahead by then, so under one seed its noise differs there from that of the textbook guide.
    """
    path = trace.nodes["z_0"]["fn"].path
    group, z = path.group(), torch.stack(path.z)
    normal = base_of(group)
    noise = group.to_noise(z)[0] if isinstance(group, AutoregressiveFlow) else (z - normal.loc) / normal.scale
    noise = noise.detach()
    return {t: noise[t] for t in range(step + 1, len(path.z))}


def unbound(kwargs):
    """Drop the context frame from the arguments: Pyro's handlers have an argument of that name."""
    return {name: value for name, value in kwargs.items() if name != "context"}


def real_values(trace, kwargs):
    """Return the values of the sites on real frames, by name."""
    found = {}
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and name[:2] in ("z_", "x_"):
            found[name] = site["value"]
    if "lengths" in kwargs:
        for name, value in found.items():
            real = int(name[2:]) < kwargs["lengths"]
            found[name] = value[..., real, :] if name[0] == "z" or value.is_floating_point() else value[..., real]
    return found


class Bound:
    """Two programs with their context frame filled in."""

    def __init__(self, net, programs, kwargs):
        context = {"context": kwargs["context"]} if "context" in kwargs else {}
        self.net = net
        self.model, self.guide = partial(programs.model, **context), partial(programs.guide, **context)


@pytest.mark.parametrize("given", ARGUMENTS)
@pytest.mark.parametrize("handler", HANDLERS)
def test_every_handler_sees_the_textbook_program(handler, given, transition):
    net = random_net("gaussian", transition=transition)
    x, kwargs = random_frames("gaussian", BATCH, TIME), arguments(given, net, "gaussian")
    assert_equivalent(net, HANDLERS[handler], x, kwargs, REDRAWN.get(handler, TIME))


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("emission", ["mixture", "bernoulli", "categorical"])
def test_every_emission_sees_the_textbook_program(emission, handler):
    net = random_net(emission, z_force=True)
    x, kwargs = random_frames(emission, BATCH, TIME), arguments("all", net, emission)
    assert_equivalent(net, HANDLERS[handler], x, kwargs, REDRAWN.get(handler, TIME))


@pytest.mark.parametrize("seed", range(6))
def test_random_networks_and_lengths_see_the_textbook_program(seed, transition):
    generator = torch.Generator().manual_seed(seed)
    batch, time = (int(torch.randint(1, 6, (), generator=generator)) for _ in range(2))
    lengths = torch.randint(1, time + 1, (batch,), generator=generator)
    net = random_net("gaussian", transition=transition, seed=seed, spread=0.8, z_force=bool(seed % 2))
    x = random_frames("gaussian", batch, time, seed=seed)
    for case in (plain_model, plain_guide, replayed_case, replayed_detached, vectorised):
        assert_equivalent(net, case, x, {"lengths": lengths})


def test_the_reference_recurrence_sees_the_textbook_program(transition):
    net = random_net("gaussian", transition=transition, recurrence="reference")
    for handler in ("replay", "particles", "another value for z_2", "guide"):
        x = random_frames("gaussian", BATCH, TIME)
        assert_equivalent(net, HANDLERS[handler], x, {}, REDRAWN.get(handler, TIME))


def test_the_programs_return_frames_and_latents(transition):
    net = random_net("gaussian", transition=transition)
    x = random_frames("gaussian", BATCH, TIME)
    assert net.model(x) is x
    trace = traced(particles(net.guide), x)
    z = torch.stack([trace.nodes[f"z_{t}"]["value"] for t in range(TIME)], -2)
    torch.testing.assert_close(traced(particles(net.guide), x).nodes["_RETURN"]["value"], z, rtol=0, atol=0)
    ours = traced(net.model, None, num_steps=TIME, batch_shape=(BATCH,)).nodes["_RETURN"]["value"]
    theirs = traced(Textbook(net).model, None, num_steps=TIME, batch_shape=(BATCH,)).nodes["_RETURN"]["value"]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_global_latent_beside_the_program_changes_no_other_density():
    net = random_net("gaussian")
    x = random_frames("gaussian", BATCH, TIME)

    def with_global(program):
        def run(x):
            pyro.sample("offset", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            return program(x)

        return run

    assert_same(densities(traced(with_global(net.model), x)), densities(traced(with_global(Textbook(net).model), x)))
