"""Latents that are no normal: refused by name wherever a step function is read, and never taken for a normal."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from zf_pyro import (
    DMM,
    FIVO,
    SIXO,
    SRNN,
    STORN,
    VRNN,
    ImportanceWeightedELBO,
    ZForcing,
    ZForcingELBO,
    emissions,
    to_arviz,
)
from zf_pyro.diagnostics import latent_use, mutual_information
from zf_pyro.diagnostics.plots import plot_traversal
from zf_pyro.evaluation import active_units, bounds, prior_mean_log_likelihood, step_kl
from zf_pyro.generation.strategies import drawn
from zf_pyro.inference import AnnealedImportanceSampling, ParticleFilter, Twist, latent_mcmc, log_weights, smc_filter
from zf_pyro.networks import AutoregressiveFlow, FlowLayer
from zf_pyro.objectives import SegmentedELBO

from .comparing import EXACT
from .conftest import random_frames, random_net


class Skewed(dist.Normal):
    """A distribution that has a loc and a scale, and is no normal."""

    def log_prob(self, value):
        return super().log_prob(value) + value.tanh()

    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape).abs()

    def sample(self, sample_shape=()):
        return self.rsample(sample_shape).detach()


class Bent(AutoregressiveFlow):
    """A flow with a density of its own."""

    def log_prob(self, value):
        return 2.0 * super().log_prob(value)


def independent(kind, *before):
    return lambda normal: kind(*before, normal.loc, normal.scale).to_event(1)


MADE = {
    "Laplace(...).to_event(1)": independent(dist.Laplace),
    "StudentT(...).to_event(1)": independent(dist.StudentT, 5.0),
    "Cauchy(...).to_event(1)": independent(dist.Cauchy),
    "Gumbel(...).to_event(1)": independent(dist.Gumbel),
    "LogNormal(...).to_event(1)": independent(dist.LogNormal),
    "Uniform(...).to_event(1)": lambda normal: dist.Uniform(normal.loc, normal.loc + normal.scale).to_event(1),
    "Skewed(...).to_event(1)": independent(Skewed),
    "Normal(...) without to_event(1)": lambda normal: normal,
    "Normal(...).to_event(2)": lambda normal: dist.Normal(normal.loc, normal.scale).to_event(2),
    "MultivariateNormal": lambda normal: dist.MultivariateNormal(normal.loc, scale_tril=normal.scale.diag_embed()),
    "MaskedDistribution(...).to_event(1)": lambda normal: normal.mask(torch.tensor(False)).to_event(1),
    "MaskedDistribution of Normal(...).to_event(1)": lambda normal: normal.to_event(1).mask(torch.tensor(False)),
    "TransformedDistribution of Normal(...).to_event(1)": lambda normal: dist.TransformedDistribution(
        normal.to_event(1), [dist.transforms.AffineTransform(0.0, 2.0)]
    ),
    "Bent": lambda normal: Bent(normal.loc, normal.scale, [FlowLayer(3, 4).double()]),
    "Delta": lambda normal: dist.Delta(normal.loc, event_dim=1),
    "tuple": lambda normal: (normal.loc, normal.scale),
    "Tensor": lambda normal: normal.loc,
    "NoneType": lambda normal: None,
    "the class Normal": lambda normal: dist.Normal,
}
"""What a step function returns in place of its normal, by what the error says of it."""
USES = {
    "ZForcingELBO": lambda net, x: ZForcingELBO().loss(net.model, net.guide, x),
    "ImportanceWeightedELBO": lambda net, x: ImportanceWeightedELBO(2).loss(net.model, net.guide, x),
    "FIVO": lambda net, x: FIVO(2).loss(net.model, net.guide, x),
    "SIXO": lambda net, x: SIXO(2, twist=Twist(net)).loss(net.model, net.guide, x),
    "SegmentedELBO": lambda net, x: SegmentedELBO(segment=2).loss(net.model, net.guide, x),
    "TraceMeanField_ELBO": lambda net, x: pyro.infer.TraceMeanField_ELBO().loss(net.model, net.guide, x),
    "RenyiELBO": lambda net, x: pyro.infer.RenyiELBO(num_particles=2).loss(net.model, net.guide, x),
    "Importance": lambda net, x: pyro.infer.Importance(net.model, net.guide, num_samples=2).run(x),
    "log_weights": lambda net, x: log_weights(net.model, net.guide, x, num_particles=2),
    "filter": lambda net, x: ParticleFilter(net, 3).run(x),
    "Pyro's filter": lambda net, x: smc_filter(net, x, num_particles=3),
    "annealing": lambda net, x: AnnealedImportanceSampling(net, 2, num_temperatures=2).run(x),
    "prompt": lambda net, x: net.generate(3, 2, prompt=x, prompt_particles=2),
    "bounds": lambda net, x: bounds(net, x, num_particles=2),
    "step_kl": step_kl,
    "to_arviz": lambda net, x: to_arviz(net, x, num_samples=2),
    "latent_use": latent_use,
    "mutual_information": mutual_information,
}
"""Uses that read both step functions."""
OF_PRIOR = {
    "generate": lambda net, x: net.generate(2, 3),
    "model": lambda net, x: poutine.trace(net.model).get_trace(x),
    "MCMC": lambda net, x: latent_mcmc(net, x, num_samples=1, warmup_steps=1),
    "bootstrap filter": lambda net, x: ParticleFilter(net, 3, proposal="prior").run(x),
    "annealing from the prior": lambda net, x: AnnealedImportanceSampling(
        net, 2, num_temperatures=2, start="prior"
    ).run(x),
    "Pyro's bootstrap filter": lambda net, x: smc_filter(net, x, num_particles=3, proposal="prior"),
    "prior means": prior_mean_log_likelihood,
}
OF_POSTERIOR = {
    "guide": lambda net, x: net.guide(x),
    "reconstruct": lambda net, x: net.reconstruct(x),
    "interpolate": lambda net, x: net.interpolate(x, x),
    "active_units": active_units,
    "traversal": lambda net, x: plot_traversal(net, x[:1], 0),
    "one step": lambda net, x: conditioned(net, x).nodes["z_1"]["fn"].distribution,
    "densities of values": lambda net, x: conditioned(net, x).log_prob_sum(),
}


def conditioned(net, x):
    """A trace of the guide with all its latents given."""
    values = {f"z_{t}": torch.zeros(3, 3, dtype=x.dtype) for t in range(x.shape[1])}
    return poutine.trace(poutine.condition(net.guide, data=values)).get_trace(x)


def changed(step_function, make, model=ZForcing, **settings):
    """A model whose step function returns ``make`` of its normal."""
    net = random_net("gaussian", model=model, **settings).eval()
    plain = getattr(net, step_function)
    setattr(net, step_function, lambda *args: make(plain(*args).base_dist))
    return net


@pytest.mark.filterwarnings("ignore::zf_pyro.networks.PlainLoopWarning")
class TestRefusals:
    """Each says which step function, what came, what is expected and what to do."""

    @pytest.mark.parametrize("step_function", ["prior", "posterior"])
    @pytest.mark.parametrize("what", MADE)
    def test_every_other_distribution_is_refused_by_name(self, what, step_function):
        net, x = changed(step_function, MADE[what]), random_frames("gaussian")
        with pytest.raises(TypeError, match=f"^{step_function} must return") as error:
            ZForcingELBO().loss(net.model, net.guide, x)
        told = str(error.value)
        assert what in told
        assert "dist.Normal(loc, scale).to_event(1)" in told
        assert "AutoregressiveFlow" in told
        assert "return one of the two, or sample your distribution in Pyro programs of your own" in told

    @pytest.mark.parametrize("step_function", ["prior", "posterior"])
    @pytest.mark.parametrize("use", USES)
    def test_every_use_of_both_refuses_it(self, use, step_function):
        self._refuses(USES[use], step_function)

    @pytest.mark.parametrize("use", OF_PRIOR)
    def test_every_use_of_the_prior_refuses_it(self, use):
        self._refuses(OF_PRIOR[use], "prior")

    @pytest.mark.parametrize("use", OF_POSTERIOR)
    def test_every_use_of_the_posterior_refuses_it(self, use):
        self._refuses(OF_POSTERIOR[use], "posterior")

    @pytest.mark.parametrize("model", [VRNN, SRNN, STORN, DMM])
    @pytest.mark.parametrize("step_function", ["prior", "posterior"])
    def test_every_model_refuses_it(self, model, step_function):
        for use in ("ZForcingELBO", "filter"):
            self._refuses(USES[use], step_function, model)

    @pytest.mark.parametrize("model", [ZForcing, DMM])
    def test_a_subclass_of_the_users_own_refuses_it(self, model):
        def posterior(self, past, b_t):
            normal = model.posterior(self, past, b_t).base_dist
            return dist.Laplace(normal.loc, normal.scale).to_event(1)

        net = random_net("gaussian", model=type("Own", (model,), {"posterior": posterior}))
        with pytest.raises(TypeError, match=r"^posterior must return"):
            net.guide(random_frames("gaussian"))

    @pytest.mark.parametrize("step_function", ["prior", "posterior"])
    def test_latents_of_another_size_are_refused(self, step_function):
        net = changed(step_function, lambda normal: dist.Normal(normal.loc[..., :1], normal.scale[..., :1]).to_event(1))
        x = random_frames("gaussian")
        for use in (USES["ZForcingELBO"], USES["filter"]):
            with pytest.raises(
                ValueError, match=rf"{step_function} must return.*of size 3, got the event shape \(1,\)"
            ):
                use(net, x)

    def _refuses(self, use, step_function, model=ZForcing):
        net, x = changed(step_function, MADE["Laplace(...).to_event(1)"], model), random_frames("gaussian")
        with pytest.raises(TypeError, match=rf"^{step_function} must return .*got Laplace\(\.\.\.\)\.to_event\(1\)"):
            use(net, x)


# What is taken -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::zf_pyro.networks.PlainLoopWarning")
@pytest.mark.parametrize("step_function", ["prior", "posterior"])
def test_normals_of_torch_are_taken(step_function):
    def of_torch(normal):
        return torch.distributions.Independent(torch.distributions.Normal(normal.loc, normal.scale), 1)

    x, found = random_frames("gaussian"), []
    for net in (random_net("gaussian"), changed(step_function, of_torch).train()):
        torch.manual_seed(1)
        found.append([ZForcingELBO().loss(net.model, net.guide, x), FIVO(3).loss(net.model, net.guide, x)])
    torch.testing.assert_close(*map(torch.tensor, found), **EXACT)


def numbers(result):
    """All numbers in a result, flat."""
    parts = result if isinstance(result, tuple | list) else [result]
    tensors = [numbers(part) if isinstance(part, tuple) else torch.as_tensor(part).flatten() for part in parts]
    return torch.cat([tensor.double() for tensor in tensors])


WITHOUT_BATCH = {
    **{
        name: USES[name] for name in ("ZForcingELBO", "ImportanceWeightedELBO", "FIVO", "filter", "annealing", "prompt")
    },
    **{name: USES[name] for name in ("bounds", "step_kl", "mutual_information", "log_weights")},
    **{name: OF_PRIOR[name] for name in ("generate", "bootstrap filter", "annealing from the prior", "prior means")},
    **{name: OF_POSTERIOR[name] for name in ("guide", "reconstruct", "active_units", "densities of values")},
}


@pytest.mark.filterwarnings("ignore::zf_pyro.networks.PlainLoopWarning")
@pytest.mark.parametrize("use", WITHOUT_BATCH)
@pytest.mark.parametrize(
    "form", ["constant prior", "posterior of b alone", pytest.param("constant posterior", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("time", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_a_distribution_with_fewer_batch_dimensions_stands_for_all_sequences(form, use, time):
    """Of three sequences and three steps, where a wrong alignment has the right shape, and of four steps."""
    x, found = random_frames("gaussian", 3, time), []
    loc, scale = torch.tensor([0.3, -1.0, 2.0], dtype=x.dtype), torch.tensor([0.5, 1.0, 2.0], dtype=x.dtype)
    weight = torch.linspace(-1.0, 1.0, 12, dtype=x.dtype).reshape(4, 3)

    def made(past, b_t, wide):
        mean = loc + b_t[0] @ weight if form == "posterior of b alone" else loc
        if wide:
            mean = mean.expand(torch.broadcast_shapes((*past.hidden.shape[:-1], 3), mean.shape))
        return dist.Normal(mean, scale).to_event(1)

    step_function = "prior" if "prior" in form else "posterior"
    for wide in (False, True):
        net = random_net("gaussian").eval()
        setattr(net, step_function, lambda past, *b_t, wide=wide: made(past, b_t, wide))
        torch.manual_seed(2)
        found.append(numbers(WITHOUT_BATCH[use](net, x)))
    torch.testing.assert_close(*found, **EXACT)


@pytest.mark.filterwarnings("ignore::zf_pyro.networks.PlainLoopWarning")
def test_sequences_generated_from_a_constant_prior_differ():
    net = random_net("gaussian")
    net.prior = lambda past: dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1)
    with torch.no_grad():
        net.emission_layer.bias.fill_(-20.0)  # no noise in the frames
    generated = net.generate(50, 2)
    assert generated[:, 1, 0].unique().numel() == 50


# The same in frames --------------------------------------------------------------------------------------------------


def test_frames_of_a_subclass_of_a_normal_are_sampled_and_tempered_as_its_own():
    skewed = Skewed(torch.zeros(1000), torch.ones(1000)).to_event(1)
    assert (drawn(skewed) >= 0).all()
    with pytest.raises(TypeError, match=r"got Skewed: define tempered\(distribution, temperature\)"):
        emissions.Gaussian(1000).tempered(skewed, 0.5)
