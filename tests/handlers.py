"""Pyro's handlers on a pair of programs: each case runs the programs and returns their traces in order."""

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger

BATCH, TIME = 3, 4


class Perturb(Messenger):
    """Changes the value of a site after it was sampled."""

    def __init__(self, name, change):
        super().__init__()
        self.name, self.change = name, change

    def _pyro_post_sample(self, msg):
        if msg["name"] == self.name:
            msg["value"] = self.change(msg["value"])


def traced(program, *args, **kwargs):
    pyro.set_rng_seed(11)
    return poutine.trace(program).get_trace(*args, **kwargs)


def replayed(programs, x, kwargs, change=lambda trace: trace, model_of=lambda model: model):
    guide = traced(programs.guide, x, **kwargs)
    return guide, traced(poutine.replay(model_of(programs.model), trace=change(guide)), x, **kwargs)


def latent(scale=1.0, particles=()):
    return scale * torch.linspace(-1, 1, BATCH * 3, dtype=torch.float64).reshape(*[1 for _ in particles], BATCH, 3)


def detached(trace):
    trace.detach_()
    return trace


def copied(trace):
    trace = trace.copy()
    for _, site in trace.iter_stochastic_nodes():
        site["value"] = site["value"].clone()
    return trace


def particles(program):
    def run(*args, **kwargs):
        with pyro.plate("particles", 5, dim=-2):
            return program(*args, **kwargs)

    return run


class Particles:
    """Both programs inside a plate of particles."""

    def __init__(self, programs):
        self.model, self.guide = particles(programs.model), particles(programs.guide)


def plain_model(programs, x, kwargs):
    return (traced(programs.model, x, **kwargs),)


def plain_guide(programs, x, kwargs):
    return (traced(programs.guide, x, **kwargs),)


def generated(programs, x, kwargs):
    return (traced(programs.model, None, num_steps=TIME, batch_shape=(BATCH,), **kwargs),)


def generated_many(programs, x, kwargs):
    state = kwargs.get("initial_state") or programs.net.initial_state((BATCH,))
    state = type(state)(*(field.expand(2, BATCH, -1) for field in state))
    kwargs = kwargs | {"num_steps": TIME, "batch_shape": (2, BATCH), "initial_state": state}
    return (traced(programs.model, None, **kwargs),)


def conditioned_latents(names):
    def case(programs, x, kwargs):
        values = {name: latent(i + 1.0) for i, name in enumerate(names)}
        given = poutine.condition(programs.model, data=values)
        model = traced(given, x, **kwargs)
        guide = traced(poutine.condition(programs.guide, data=values), x, **kwargs)
        return (model, guide, traced(poutine.replay(given, trace=guide), x, **kwargs))

    return case


def conditioned_frames(names):
    def case(programs, x, kwargs):
        values = {name: x[:, int(name[2:])].flip(0) for name in names}
        model = poutine.condition(programs.model, data=values)
        half = traced(model, None, num_steps=TIME, batch_shape=(BATCH,), **kwargs)
        return (half, *replayed(programs, x, kwargs, model_of=lambda m: poutine.condition(m, data=values)))

    return case


def intervened(programs, x, kwargs):
    values = {"z_1": latent()}
    return traced(poutine.do(programs.model, data=values), x, **kwargs), traced(
        poutine.do(programs.guide, data=values), x, **kwargs
    )


def substituted(name, change):
    def case(programs, x, kwargs):
        with Perturb(name, change):
            return (*replayed(programs, x, kwargs), traced(programs.model, x, **kwargs))

    return case


def replayed_with_latents_given(programs, x, kwargs):
    values = {"z_1": latent()}
    return replayed(programs, x, kwargs, model_of=lambda model: poutine.condition(model, data=values))


def replayed_case(programs, x, kwargs):
    return replayed(programs, x, kwargs)


def replayed_detached(programs, x, kwargs):
    return replayed(programs, x, kwargs, detached)


def replayed_copied(programs, x, kwargs):
    return replayed(programs, x, kwargs, copied)


def replayed_in_part(programs, x, kwargs):
    guide = traced(programs.guide, x, **kwargs)
    part = guide.copy()
    part.remove_node("z_2")
    return guide, traced(poutine.replay(programs.model, trace=part), x, **kwargs)


def blocked(programs, x, kwargs):
    guide = traced(poutine.block(programs.guide, hide=["z_1", "z_2"]), x, **kwargs)
    return guide, traced(poutine.replay(programs.model, trace=guide), x, **kwargs)


def unconditioned(programs, x, kwargs):
    return (traced(poutine.uncondition(programs.model), x, **kwargs),)


def masked_by_user(programs, x, kwargs):
    mask = torch.tensor([True, False, True])
    return replayed(
        type("Masked", (), {"model": poutine.mask(programs.model, mask=mask), "guide": programs.guide}), x, kwargs
    )


def scaled(programs, x, kwargs):
    both = {"model": poutine.scale(programs.model, scale=2.5), "guide": poutine.scale(programs.guide, scale=2.5)}
    return replayed(type("Scaled", (), both), x, kwargs)


def vectorised(programs, x, kwargs):
    both = Particles(programs)
    return (*replayed(both, x, kwargs), traced(both.model, x, **kwargs))


def vectorised_generation(programs, x, kwargs):
    return (traced(particles(programs.model), None, num_steps=TIME, batch_shape=(BATCH,), **kwargs),)


def vectorised_conditioned(programs, x, kwargs):
    values = {"z_1": latent(), "z_2": latent(2.0, (5,))}
    return replayed(Particles(programs), x, kwargs, model_of=lambda m: poutine.condition(m, data=values))


def vectorised_detached(programs, x, kwargs):
    return replayed(Particles(programs), x, kwargs, detached)


HANDLERS = {
    "model": plain_model,
    "guide": plain_guide,
    "generation": generated,
    "generation with more batch dimensions": generated_many,
    "replay": replayed_case,
    "detached replay": replayed_detached,
    "replay, z_1 given": replayed_with_latents_given,
    "replay of copies": replayed_copied,
    "replay without z_2": replayed_in_part,
    "condition on z_0": conditioned_latents(["z_0"]),
    "condition on z_1, z_3": conditioned_latents(["z_1", "z_3"]),
    "condition on all z": conditioned_latents(["z_0", "z_1", "z_2", "z_3"]),
    "condition on x_1": conditioned_frames(["x_1"]),
    "condition on x_0, x_2, x_3": conditioned_frames(["x_0", "x_2", "x_3"]),
    "do": intervened,
    "another value for z_0": substituted("z_0", lambda z: 1.5 * z),
    "another value for z_2": substituted("z_2", lambda z: z.detach() + 1.0),
    "another object for z_1": substituted("z_1", lambda z: z.clone()),
    "block": blocked,
    "uncondition": unconditioned,
    "mask": masked_by_user,
    "scale": scaled,
    "particles": vectorised,
    "particles, generation": vectorised_generation,
    "particles, conditioned": vectorised_conditioned,
    "particles, detached": vectorised_detached,
}

REDRAWN = {"condition on z_1, z_3": 1, "do": 1, "another value for z_2": 2, "another object for z_1": 1}
REDRAWN |= {"another value for z_0": 0}
"""Step after which the guide samples again, since a handler replaced a latent that it had sampled ahead."""
