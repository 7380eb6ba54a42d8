"""Private names of Pyro and torch still are what the package takes them for."""

import functools

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from lightning.pytorch import Trainer
from pyro.infer import ELBO, MCMC, NUTS
from pyro.infer.smcfilter import SMCState
from torch.overrides import TorchFunctionMode

from zf_pyro.networks.dependencies import (
    BATCHES_STEPPED,
    add_in_place,
    chain_arguments,
    chain_diagnostics,
    function_modes,
    handled_program,
    handlers,
    has_samples,
    multiply_in_place,
    under,
    versions,
)


def test_handlers_are_those_around_the_caller_the_outermost_first():
    assert len(handlers()) == 0
    with poutine.trace() as outer, pyro.plate("rows", 3) as _:
        assert handlers()[0] is outer
        assert isinstance(handlers()[1], pyro.plate)
    assert len(handlers()) == 0


def test_handlers_can_be_put_around_a_later_block():
    with poutine.scale(scale=2.0) as scale:
        around = list(handlers())
    with poutine.scale(scale=3.0) as other:
        with under(around), poutine.trace() as tracer:
            pyro.sample("z", dist.Normal(0.0, 1.0))
            assert list(handlers()) == [scale, tracer]
        assert list(handlers()) == [other]
    assert tracer.trace.nodes["z"]["scale"] == 2.0
    assert len(handlers()) == 0


def test_the_program_under_a_handler_is_found():
    def program(x):
        return x

    scaled = poutine.scale(program, scale=2.0)
    for handled in (scaled, pyro.plate("rows", 3)(program)):
        assert handled_program(handled) is program
    assert handled_program(poutine.block(scaled)) is scaled
    assert handled_program(functools.partial(program, 1)) is None
    assert handled_program(program) is None


def test_a_versions_number_grows_with_every_change_in_place():
    tensor, other = torch.zeros(3), torch.zeros(2)
    (before, same) = versions([tensor, other])
    tensor.add_(1.0)
    assert versions([tensor, other]) == (before + 1, same)
    tensor[0].zero_()
    assert versions([tensor, other]) == (before + 2, same)


class Mode(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_function_modes_are_those_around_the_caller():
    assert Mode not in function_modes()
    with Mode():
        assert function_modes()[-1] is Mode


def test_each_term_is_added_to_its_total_in_place():
    totals = [torch.ones(2), torch.ones(3, 4)]
    kept = list(totals)
    add_in_place(totals, [torch.full((2,), 2.0), torch.full((3, 4), 0.5)])
    assert all(a is b for a, b in zip(totals, kept, strict=True))
    assert torch.equal(totals[0], torch.full((2,), 3.0))
    assert torch.equal(totals[1], torch.full((3, 4), 1.5))


def test_pyros_elbo_has_the_hooks_that_objectives_override():
    assert {"_get_trace", "_get_traces", "_guess_max_plate_nesting", "_vectorized_num_particles"} <= set(dir(ELBO))


def test_tensors_are_multiplied_in_place():
    tensors = [torch.ones(2), torch.full((3, 4), 2.0)]
    kept = list(tensors)
    multiply_in_place(tensors, 0.5)
    assert all(a is b for a, b in zip(tensors, kept, strict=True))
    assert torch.equal(tensors[0], torch.full((2,), 0.5))
    assert torch.equal(tensors[1], torch.ones(3, 4))


def test_chains_tell_whether_they_ran_on_what_and_how():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    chain, x = MCMC(NUTS(model), num_samples=3, warmup_steps=2, disable_progbar=True), torch.tensor(0.5)
    assert not has_samples(chain)
    assert chain_arguments(chain) == ()
    assert chain_diagnostics(chain) == [{}]
    chain.run(x)
    assert has_samples(chain)
    assert chain_arguments(chain)[0] is x
    assert {"divergences", "acceptance rate"} <= set(chain_diagnostics(chain)[0])


def test_pyros_smc_state_resamples_by_the_method_that_is_overridden():
    assert "_resample" in vars(SMCState)


def test_lightnings_epoch_loop_saves_the_batches_that_stepped():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert BATCHES_STEPPED in trainer.fit_loop.epoch_loop.on_save_checkpoint()
