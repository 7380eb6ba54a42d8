"""One table of every inference algorithm that fits: how to build it, what it returns, what it costs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pyro import infer

from ..model import ZForcing
from ..objectives import ZForcingELBO
from . import builders
from .builders import VECTORISED
from .mcmc import latent_mcmc
from .stepwise import smc_filter


@dataclass(frozen=True)
class Algorithm:
    """A row of :data:`ALGORITHMS`."""

    description: str
    """What it is, in one line."""
    build: Callable[..., Any]
    """``build(net, **settings)``: the algorithm on ``net``, an object of Pyro's or in Pyro's style. What trains takes
    ``optim``, a PyroOptim; what needs a guide takes ``guide`` and ``model``, programs instead of the net's; other
    settings go to the class of the row."""
    call: str
    """The method of what ``build`` returns that takes ``(x, lengths)`` and does the work."""
    returns: str
    """What that method returns."""
    trains: bool
    """Whether it changes those parameters of the net that require gradients."""
    needs_guide: bool
    """Whether it runs a guide, ``net.guide`` by default. What does not brings one of its own or needs none."""
    evidence: Literal["", "bound", "estimate"]
    """What it says of log p(x): nothing, a lower bound, or the logarithm of an unbiased estimate of p(x)."""
    scoring: Literal["batch", "step by step"]
    """Whether a call evaluates heads and densities over time x batch at once, or step by step."""
    amortised: bool
    """Whether it takes new sequences at every call; one that is not is fitted to those that it was first given."""
    limits: str = ""
    """What it cannot do here, and why."""


class Algorithms(Mapping[str, Algorithm]):
    """Algorithms by name; an unknown name raises a KeyError that lists the known ones."""

    def __init__(self, rows: dict[str, Algorithm]) -> None:
        self._rows = rows

    def __getitem__(self, name: str) -> Algorithm:
        if name not in self._rows:
            raise KeyError(f"inference must be one of {', '.join(self._rows)}; got {name!r}")
        return self._rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


ONE_WEIGHT = "one weight for the whole batch, not one a sequence, so it degenerates as the batch grows"
EQUAL_SHAPES = "every batch must have the shape of the first, whose loop is compiled; the plain recurrence is used"


def _objective(
    description: str,
    objective: Callable[..., Any],
    *,
    returns: str = "the loss, minus the bound, in nats summed over the batch",
    evidence: Literal["", "bound", "estimate"] = "bound",
    scoring: Literal["batch", "step by step"] = "batch",
    limits: str = "",
    build: Callable[..., Any] | None = None,
    **defaults: Any,
) -> Algorithm:
    """A row of an objective for SVI with the net's own guide."""
    return Algorithm(
        description,
        build or builders.svi(objective, **defaults),
        "step",
        returns,
        trains=True,
        needs_guide=True,
        evidence=evidence,
        scoring=scoring,
        amortised=True,
        limits=limits,
    )


def _autoguide(description: str, name: str, limits: str = "", **defaults: Any) -> Algorithm:
    """A row of an autoguide; its bound is one only because the padding has a density (with_padding_prior)."""
    return Algorithm(
        description,
        builders.autoguide(name, **defaults),
        "step",
        "the loss, minus the bound, in nats summed over the batch",
        trains=True,
        needs_guide=False,
        evidence="" if name in ("AutoDelta", "AutoLaplaceApproximation") else "bound",
        scoring="batch",
        amortised=False,
        limits=limits,
    )


def _draws(
    description: str,
    build: Callable[..., Any],
    call: str,
    returns: str,
    *,
    trains: bool = False,
    needs_guide: bool = False,
    evidence: Literal["", "bound", "estimate"] = "",
    scoring: Literal["batch", "step by step"] = "batch",
    amortised: bool = True,
    limits: str = "",
) -> Algorithm:
    """A row of what draws latents, most of it without training."""
    return Algorithm(description, build, call, returns, trains, needs_guide, evidence, scoring, amortised, limits)


def _mcmc(kernel: str) -> Callable[..., Callable[..., infer.MCMC]]:
    def build(net: ZForcing, **settings: Any) -> Callable[..., infer.MCMC]:
        return partial(latent_mcmc, net, kernel=kernel, **settings)

    return build


def _smc(net: ZForcing, **settings: Any) -> Callable[..., infer.SMCFilter]:
    builders.require_count("num_particles", settings.get("num_particles", 1))
    return partial(smc_filter, net, **settings)


_AUTOGUIDE_JOINT = "one latent for the whole batch: no bound of a single sequence"
_WHOLE = "lengths shorter than T are refused: latents beyond a length have no density"

ALGORITHMS = Algorithms(
    {
        "Trace_ELBO": _objective("the ELBO from log-densities of one draw", infer.Trace_ELBO),
        "TraceMeanField_ELBO": _objective("the ELBO with the analytic KL", infer.TraceMeanField_ELBO),
        "TraceGraph_ELBO": _objective(
            "the ELBO, with score-function gradients for latents that have no other", infer.TraceGraph_ELBO
        ),
        "TraceEnum_ELBO": _objective(
            "the ELBO, discrete latents of your own summed out",
            infer.TraceEnum_ELBO,
            strict_enumeration_warning=False,
            max_plate_nesting=1,
            limits="enumerated latents may enter through initial_state, whose left dimensions broadcast",
        ),
        "JitTrace_ELBO": _objective(
            "Trace_ELBO compiled by torch.jit",
            infer.JitTrace_ELBO,
            limits=EQUAL_SHAPES,
            ignore_jit_warnings=True,
            max_plate_nesting=1,
        ),
        "JitTraceMeanField_ELBO": _objective(
            "TraceMeanField_ELBO compiled by torch.jit",
            infer.JitTraceMeanField_ELBO,
            limits=EQUAL_SHAPES,
            ignore_jit_warnings=True,
            max_plate_nesting=1,
        ),
        "ZForcingELBO": _objective("the paper's objective; with default weights the ELBO", ZForcingELBO),
        "RenyiELBO": _objective("the importance-weighted bound, alpha = 0", infer.RenyiELBO, alpha=0, **VECTORISED),
        "RenyiELBO-0.5": _objective("Renyi's bound of order 0.5", infer.RenyiELBO, alpha=0.5, **VECTORISED),
        "RenyiELBO-2": _objective("Renyi's bound of order 2, below the ELBO", infer.RenyiELBO, alpha=2, **VECTORISED),
        "TraceTailAdaptive_ELBO": _objective(
            "gradients of a tail-adaptive f-divergence",
            infer.TraceTailAdaptive_ELBO,
            returns="inf: it has gradients, but no loss",
            evidence="",
            limits=f"needs vectorize_particles=True; {ONE_WEIGHT}",
            **VECTORISED,
        ),
        "ReweightedWakeSleep": _objective(
            "wake-sleep, the guide learning from weighted draws of its own (insomnia = 1)",
            infer.ReweightedWakeSleep,
            returns="the losses of model and guide in nats; the first is minus a bound",
            limits=ONE_WEIGHT,
            least_particles=2,
            **VECTORISED,
        ),
        "ReweightedWakeSleep-sleep": _objective(
            "wake-sleep, the guide learning from the model's draws too (insomnia = 0.5)",
            infer.ReweightedWakeSleep,
            build=builders.dreaming,
            returns="the losses of model and guide in nats; the first is minus a bound",
            scoring="step by step",
            limits=f"needs WakeSleepPrograms, and one dream at a time; {ONE_WEIGHT}",
        ),
        "AutoDelta": _autoguide("the latents' most probable values", "AutoDelta"),
        "AutoNormal": _autoguide("independent normals", "AutoNormal"),
        "AutoDiagonalNormal": _autoguide("independent normals, drawn jointly", "AutoDiagonalNormal", _AUTOGUIDE_JOINT),
        "AutoMultivariateNormal": _autoguide(
            "one normal with a full covariance",
            "AutoMultivariateNormal",
            f"{_AUTOGUIDE_JOINT}; memory grows with the square of batch x time x latent",
        ),
        "AutoLowRankMultivariateNormal": _autoguide(
            "one normal with a low-rank covariance", "AutoLowRankMultivariateNormal", _AUTOGUIDE_JOINT, rank=8
        ),
        "AutoIAFNormal": _autoguide(
            "an inverse autoregressive flow",
            "AutoIAFNormal",
            f"{_AUTOGUIDE_JOINT}; hidden_dim must be at least batch x time x latent",
        ),
        "AutoLaplaceApproximation": _autoguide(
            "the most probable values, then a normal from second derivatives",
            "AutoLaplaceApproximation",
            f"{_AUTOGUIDE_JOINT}; its Hessian takes as many backward passes as there are latents",
        ),
        "AutoStructured": _autoguide("independent normals by site, of any dependence that you set", "AutoStructured"),
        "AutoGaussian": _autoguide("one normal with the model's dependence structure", "AutoGaussian"),
        "SVGD": _draws(
            "particles moved by Stein's gradient",
            builders.svgd,
            "step",
            "mean squared gradients by site",
            trains=True,
            amortised=False,
            limits="one kernel over the latents of the whole batch",
        ),
        "Importance": _draws(
            "draws of the guide with their weights",
            builders.importance,
            "run",
            "the object itself: get_ESS(), get_log_normalizer(), the weighted traces",
            needs_guide=True,
            evidence="estimate",
            limits=f"{ONE_WEIGHT}; draws one at a time",
        ),
        "Predictive": _draws(
            "draws of the guide, and of the model given them",
            builders.predictive,
            "__call__",
            "draws by site, (num_samples, batch, ...)",
            needs_guide=True,
            scoring="step by step",
        ),
        "NUTS": _draws("the no-U-turn sampler", _mcmc("nuts"), "__call__", "Pyro's MCMC after its run", limits=_WHOLE),
        "HMC": _draws("Hamiltonian Monte Carlo", _mcmc("hmc"), "__call__", "Pyro's MCMC after its run", limits=_WHOLE),
        "SMCFilter": _draws(
            "Pyro's particle filter",
            _smc,
            "__call__",
            "Pyro's SMCFilter after the last step",
            needs_guide=True,
            scoring="step by step",
            limits=f"{ONE_WEIGHT}; no evidence",
        ),
    }
)
"""Every algorithm of this package and of Pyro's that fits the net, by name."""
