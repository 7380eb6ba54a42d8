"""Table of every inference algorithm that runs on a model: how to build it, its result, its cost."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pyro import infer

from ..checks import require_count
from ..models import StochasticRNN, require_model
from ..objectives import FIVO, SIXO, ImportanceWeightedELBO, ZForcingELBO
from . import builders
from .algorithm import Algorithms, autoguide, draws, objective
from .annealing import AnnealedImportanceSampling
from .builders import VECTORISED
from .mcmc import latent_mcmc
from .pyro_smc import smc_filter

ONE_WEIGHT = "one weight for the whole batch, not one per sequence, so it degenerates as the batch grows"
EQUAL_SHAPES = "every batch must have the shape of the first, whose loop is compiled; the plain recurrence is used"


def _mcmc(kernel: str) -> Callable[..., Callable[..., infer.MCMC]]:
    def build(net: StochasticRNN, **settings: Any) -> Callable[..., infer.MCMC]:
        require_model(net)
        return partial(latent_mcmc, net, kernel=kernel, **settings)

    return build


def _smc(net: StochasticRNN, **settings: Any) -> Callable[..., infer.SMCFilter]:
    settings["num_particles"] = require_count("num_particles", settings.get("num_particles", 64))
    return partial(smc_filter, require_model(net), **settings)


_AUTOGUIDE_JOINT = "one latent for the whole batch: no bound of a single sequence"
_WHOLE = "lengths shorter than T are refused: latents beyond a length have no density"

ALGORITHMS = Algorithms(
    {
        "Trace_ELBO": objective("the ELBO from log-densities of one draw", infer.Trace_ELBO),
        "TraceMeanField_ELBO": objective("the ELBO with the analytic KL", infer.TraceMeanField_ELBO),
        "TraceGraph_ELBO": objective(
            "the ELBO, with score-function gradients for latents that have no other", infer.TraceGraph_ELBO
        ),
        "TraceEnum_ELBO": objective(
            "the ELBO, discrete latents of your own summed out",
            infer.TraceEnum_ELBO,
            strict_enumeration_warning=False,
            max_plate_nesting=1,
            limits="enumerated latents may enter through initial_state, whose left dimensions broadcast",
        ),
        "JitTrace_ELBO": objective(
            "Trace_ELBO compiled by torch.jit",
            infer.JitTrace_ELBO,
            limits=EQUAL_SHAPES,
            ignore_jit_warnings=True,
            max_plate_nesting=1,
        ),
        "JitTraceMeanField_ELBO": objective(
            "TraceMeanField_ELBO compiled by torch.jit",
            infer.JitTraceMeanField_ELBO,
            limits=EQUAL_SHAPES,
            ignore_jit_warnings=True,
            max_plate_nesting=1,
        ),
        "ZForcingELBO": objective("the paper's objective; with default weights the ELBO", ZForcingELBO),
        "ImportanceWeightedELBO": objective(
            "the bound of many particles, one weight per sequence", ImportanceWeightedELBO, num_particles=8
        ),
        "ImportanceWeightedELBO-DReG": objective(
            "the same, with the doubly reparameterised gradient",
            ImportanceWeightedELBO,
            num_particles=8,
            doubly_reparameterised=True,
        ),
        "FIVO": objective(
            "a particle filter's evidence estimate as a bound",
            FIVO,
            scoring="step by step",
            limits="runs on net.model and net.guide themselves: no guide of your own, no handlers",
            num_particles=8,
        ),
        "FIVO-resampling": objective(
            "the same, with the gradient of the resampling",
            FIVO,
            scoring="step by step",
            limits="as FIVO; multinomial resampling",
            num_particles=8,
            resampling_gradient=True,
        ),
        "SIXO": objective(
            "a twisted particle filter's evidence estimate as a bound, the twist from density ratios",
            SIXO,
            build=builders.sixo,
            scoring="step by step",
            limits="as FIVO; each step samples from the model; a twist (default: a new one) is saved apart",
        ),
        "RenyiELBO": objective("the importance-weighted bound, alpha = 0", infer.RenyiELBO, alpha=0, **VECTORISED),
        "RenyiELBO-0.5": objective("Renyi's bound of order 0.5", infer.RenyiELBO, alpha=0.5, **VECTORISED),
        "RenyiELBO-2": objective("Renyi's bound of order 2, below the ELBO", infer.RenyiELBO, alpha=2, **VECTORISED),
        "TraceTailAdaptive_ELBO": objective(
            "gradients of a tail-adaptive f-divergence",
            infer.TraceTailAdaptive_ELBO,
            returns="inf: it has gradients, but no loss",
            evidence="",
            limits=f"needs vectorize_particles=True; {ONE_WEIGHT}",
            **VECTORISED,
        ),
        "ReweightedWakeSleep": objective(
            "wake-sleep, the guide learning from its own weighted samples (insomnia = 1)",
            infer.ReweightedWakeSleep,
            returns="the losses of model and guide in nats; the first is minus a bound",
            limits=ONE_WEIGHT,
            least_particles=2,
            **VECTORISED,
        ),
        "ReweightedWakeSleep-sleep": objective(
            "wake-sleep, the guide learning from samples of the model too (insomnia = 0.5)",
            infer.ReweightedWakeSleep,
            build=builders.dreaming,
            returns="the losses of model and guide in nats; the first is minus a bound",
            scoring="step by step",
            limits=f"needs WakeSleepPrograms, and one dream at a time; {ONE_WEIGHT}",
        ),
        "AutoDelta": autoguide("the latents' most probable values", "AutoDelta"),
        "AutoNormal": autoguide("independent normals", "AutoNormal"),
        "AutoDiagonalNormal": autoguide("independent normals, drawn jointly", "AutoDiagonalNormal", _AUTOGUIDE_JOINT),
        "AutoMultivariateNormal": autoguide(
            "one normal with a full covariance",
            "AutoMultivariateNormal",
            f"{_AUTOGUIDE_JOINT}; memory grows with the square of batch x time x latent",
        ),
        "AutoLowRankMultivariateNormal": autoguide(
            "one normal with a low-rank covariance", "AutoLowRankMultivariateNormal", _AUTOGUIDE_JOINT, rank=8
        ),
        "AutoIAFNormal": autoguide(
            "an inverse autoregressive flow",
            "AutoIAFNormal",
            f"{_AUTOGUIDE_JOINT}; hidden_dim must be at least batch x time x latent",
        ),
        "AutoLaplaceApproximation": autoguide(
            "the most probable values, then a normal from second derivatives",
            "AutoLaplaceApproximation",
            f"{_AUTOGUIDE_JOINT}; its Hessian takes as many backward passes as there are latents",
        ),
        "AutoStructured": autoguide("independent normals by site, of any dependence that you set", "AutoStructured"),
        "AutoGaussian": autoguide("one normal with the model's dependence structure", "AutoGaussian"),
        "SVGD": draws(
            "particles moved by Stein's gradient",
            builders.svgd,
            "step",
            "mean squared gradients by site",
            trains=True,
            amortised=False,
            limits="one kernel over the latents of the whole batch",
        ),
        "Importance": draws(
            "samples from the guide with their weights",
            builders.importance,
            "run",
            "the object itself: get_ESS(), get_log_normalizer(), the weighted traces",
            needs_guide=True,
            evidence="estimate",
            limits=f"{ONE_WEIGHT}; samples one at a time",
        ),
        "Predictive": draws(
            "samples from the guide, and from the model given them",
            builders.predictive,
            "__call__",
            "samples by site, (num_samples, batch, ...)",
            needs_guide=True,
            scoring="step by step",
        ),
        "NUTS": draws("the no-U-turn sampler", _mcmc("nuts"), "__call__", "Pyro's MCMC after its run", limits=_WHOLE),
        "HMC": draws("Hamiltonian Monte Carlo", _mcmc("hmc"), "__call__", "Pyro's MCMC after its run", limits=_WHOLE),
        "SMCFilter": draws(
            "Pyro's particle filter",
            _smc,
            "__call__",
            "Pyro's SMCFilter after the last step",
            needs_guide=True,
            scoring="step by step",
            limits=f"{ONE_WEIGHT}; no evidence",
        ),
        "ParticleFilter": draws(
            "a guided particle filter, one set of weights per sequence",
            builders.particle_filter,
            "run",
            "a FilterResult: log_evidence, ess, smoothed(num_draws)",
            needs_guide=True,
            evidence="estimate",
            scoring="step by step",
            limits="runs on the step functions: no handlers",
        ),
        "ParticleFilter-bootstrap": draws(
            "the same with the prior as proposal",
            partial(builders.particle_filter, proposal="prior"),
            "run",
            "a FilterResult: log_evidence, ess, smoothed(num_draws)",
            evidence="estimate",
            scoring="step by step",
            limits="runs on the step functions: no handlers",
        ),
        "AnnealedImportanceSampling": draws(
            "Hamiltonian chains from samples of the guide to the posterior",
            AnnealedImportanceSampling,
            "run",
            "an AnnealedResult: log_evidence, log_weights, z",
            needs_guide=True,
            evidence="estimate",
            limits="hundreds of gradients a call: a check, not for training",
        ),
    }
)
"""Every algorithm of this package and of Pyro that runs on a model of :mod:`zf_pyro.models`, by name."""
