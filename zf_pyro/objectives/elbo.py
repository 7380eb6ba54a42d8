"""ZForcingELBO: the paper's training objective as a Pyro ELBO."""

from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.util import check_site_shape
from torch import Tensor
from torch.distributions import kl_divergence

from ..checks import require_flag, require_number
from ..paths import LatentStep, PosteriorPath, PriorPath
from .auxiliary import Auxiliary, Statistics
from .objective import Objective
from .programs import PyroProgram
from .schedules import Constant, Schedule, as_schedule, weight_at
from .terms import PLAIN, Terms, backward_log_prob, earned_log_prob, require_analytic_kl, step_terms
from .traces import (
    Sites,
    WholeRun,
    common_scale,
    of_sites,
    paths_of,
    require_matching,
    require_reparameterised,
    scaled,
    whole_run,
)


class ZForcingELBO(Objective):
    """sum_t log p(x_t | h_t) - beta KL(q || p) + alpha log p_xi(b_t | z_t) + gamma log p_bwd(x_{t-1} | b_t).

    The training objective of Goyal et al. 2017 (https://arxiv.org/abs/1711.05411); its negative, summed over the
    batch and averaged over particles, is the loss. The KL is analytic, which is exact here because model and guide
    have the same dependency structure. Where the posterior is a flow, it is log q - log p at the sample. With the
    default weights the objective is the evidence lower bound.

    Paths are scored as a batch. Any other site is scored by itself, as in :class:`pyro.infer.TraceMeanField_ELBO`: a
    latent of the user's own, or a site of a path that was conditioned on or masked by hand. The weights apply to the
    sites of paths alone.

    Scales act as in :class:`pyro.infer.TraceMeanField_ELBO`: those of a plate that subsamples, and of ``poutine.scale``
    by a number or one weight per sequence. Frames have the model's scale. The other terms have the guide's.

    Args:
        kl_weight: beta, a number or a schedule.
        aux_weight: alpha, a number or a schedule. At 0 the auxiliary is not computed.
        backward_weight: gamma, a number or a schedule. At 0 the backward likelihood is not computed.
        num_particles: samples of the latents over which the loss is averaged.
        vectorize_particles: take all of them in one run, along a new dimension.
        auxiliary: form of the auxiliary, an :class:`~zf_pyro.objectives.Auxiliary`; the paper's by default.
        free_nats: KL of each step, in nats, below which it has no gradient. Not for a flow, whose KL is not known.
        measure_earned: report what z earns of the auxiliary, ``terms.earned``. The loss and its gradient stay the same.
        max_plate_nesting: as for any Pyro ELBO; found by a trial run if not given.
        retain_graph: as for any Pyro ELBO.

    Attributes:
        step: training steps taken, on which the schedules depend.
        terms: parts of the latest loss, a :class:`~zf_pyro.Terms` without gradients and scales; None before the first,
            and after a loss with other than one path scored as a batch.
        other: contribution of sites outside of such paths to the objective, in nats.

    Raises:
        ValueError: a negative weight, no particles, or a form of the auxiliary without a weight.
        TypeError: a weight that is neither a number nor a schedule. Evaluation raises it for programs without the sites
            that a weight applies to, and for programs that are swapped or of two networks.
    """

    def __init__(
        self,
        kl_weight: float | Schedule = 1.0,
        aux_weight: float | Schedule = 0.0,
        backward_weight: float | Schedule = 0.0,
        num_particles: int = 1,
        vectorize_particles: bool = False,
        *,
        auxiliary: Auxiliary = PLAIN,
        free_nats: float = 0.0,
        measure_earned: bool = False,
        max_plate_nesting: float = float("inf"),
        retain_graph: bool | None = None,
    ) -> None:
        free_nats = require_number("free_nats", free_nats, "a finite number of at least 0", 0.0)
        require_flag("vectorize_particles", vectorize_particles)
        super().__init__(
            kl_weight,
            num_particles,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
            retain_graph=retain_graph,
        )
        self.aux_schedule = as_schedule("aux_weight", aux_weight)
        self.backward_schedule = as_schedule("backward_weight", backward_weight)
        if not isinstance(auxiliary, Auxiliary):
            raise TypeError(f"auxiliary must be a zf_pyro.objectives.Auxiliary, got {auxiliary!r}")
        if auxiliary != PLAIN and self.aux_schedule == Constant(0.0):
            raise ValueError("auxiliary is the form of a term of weight 0, and would be ignored: give aux_weight too")
        self.auxiliary = auxiliary
        self.free_nats = free_nats
        self.measure_earned = require_flag("measure_earned", measure_earned)
        self._scores_frames = True  # of a copy that measures one term alone, False
        self._statistics: Statistics | None = None  # of the target, where those of a segment would not do
        self.other: Tensor | float = 0.0

    @property
    def aux_weight(self) -> float:
        """alpha at the current step."""
        return weight_at("aux_weight", self.aux_schedule, self.step)

    @property
    def backward_weight(self) -> float:
        """gamma at the current step."""
        return weight_at("backward_weight", self.backward_schedule, self.step)

    def _losses(self, model: PyroProgram, guide: PyroProgram, args: Any, kwargs: Any) -> Iterator[Tensor]:
        """The loss of each particle. Sets :attr:`terms` to the mean of their terms."""
        parts: list[Terms] = []
        other: list[Tensor | float] = []
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            objective = self._score(model_trace, guide_trace, parts, other)
            yield -objective / self.num_particles
        runs = len(other)
        alone = len(parts) == runs  # one path a run, scored whole
        self.terms = Terms.mean(parts) if alone else None
        self.other = sum(other) / self.num_particles

    def _score(self, model_trace: Trace, guide_trace: Trace, parts: list[Terms], other: list[Tensor | float]) -> Tensor:
        """The objective of one pair of traces, a scalar. Its terms are appended to ``parts``, without gradients."""
        sites = {name: site for name, site in model_trace.nodes.items() if site["type"] == "sample"}
        guide_sites = {name: site for name, site in guide_trace.nodes.items() if site["type"] == "sample"}
        whole: Tensor | float = 0.0
        self._require_paths(sites, guide_sites)
        for path, names in paths_of(sites).items():
            run = whole_run(path, names, sites, guide_sites)
            if run is not None:
                whole = whole + self._score_path(path, run, parts)
                for name in names:
                    del sites[name]
                    guide_sites.pop(name, None)
        require_matching(sites, guide_sites)
        rest = self._score_sites(model_trace, sites, guide_trace, guide_sites)
        other.append(rest.detach() if isinstance(rest, Tensor) else rest)
        return torch.as_tensor(whole + rest)

    def _require_paths(self, sites: Sites, guide_sites: Sites) -> None:
        """Refuse weights that these programs give no meaning.

        Raises:
            TypeError: no latents of ``net.model`` or of ``net.guide`` are among the sites that a weight applies to.
        """
        latents = [name for name, site in sites.items() if not site["is_observed"]]
        if latents and not any(isinstance(sites[name]["fn"], LatentStep) for name in latents):
            for name, used in (("kl_weight", self.kl_weight != 1.0), ("free_nats", self.free_nats != 0.0)):
                if used:
                    raise TypeError(
                        f"{name} is for latents of net.model of a zf_pyro network, and the model has none of them: it "
                        f"would be ignored. Leave {name} out, or scale sites by poutine.scale"
                    )
        steps = (guide_sites[name]["fn"] for name in latents if name in guide_sites)
        if not any(isinstance(step, LatentStep) for step in steps):
            for name, weight in (("aux_weight", self.aux_weight), ("backward_weight", self.backward_weight)):
                if weight > 0:
                    raise TypeError(
                        f"{name} needs net.guide of a zf_pyro network, whose backward states it scores, and no latent "
                        f"of the model is of such a guide: it would be ignored. Set {name}=0, or give model and guide "
                        "of one network"
                    )

    def _score_path(self, model: PriorPath, run: WholeRun, parts: list[Terms]) -> Tensor:
        """The objective of a path, a scalar."""
        alpha, gamma = self.aux_weight, self.backward_weight
        steps = step_terms(model, run.guide, alpha > 0, gamma > 0, self.auxiliary, self._statistics)
        mask = model.run.mask
        if mask is not None:
            mask = mask.view(mask.shape[0], *[1] * (len(model.batch_shape) - 1), mask.shape[1])
        terms = Terms(*(scale_and_mask(term, mask=mask).sum(0) for term in steps))
        kl = terms.kl
        if self.free_nats > 0:
            require_analytic_kl(model, run.guide)
            kl = scale_and_mask(steps.kl.clamp(min=self.free_nats), mask=mask).sum(0)
        frames, latents = terms.log_likelihood, -(self.kl_weight * kl)
        if alpha > 0:
            latents = latents + alpha * self.auxiliary.weighted(terms.auxiliary, run.guide.b.shape[2])
        if gamma > 0:
            latents = latents + gamma * terms.backward
        reported = Terms(*(term.detach() for term in terms))
        if self.measure_earned:
            earned = earned_log_prob(model, run.guide, self.auxiliary, self._statistics)
            reported = reported.with_earned(scale_and_mask(earned, mask=mask).sum(0))
        if self.vectorize_particles and self.num_particles > 1:
            dim = -int(self.max_plate_nesting)
            earned = reported.earned.mean(dim) if self.measure_earned else reported.earned
            reported = Terms(*(term.mean(dim) for term in reported)).with_earned(earned)
        parts.append(reported)
        if not self._scores_frames:
            return scaled(latents, run.posterior).sum()
        same = common_scale((run.frames, run.posterior))
        if same is not None:
            return scaled(frames + latents, same).sum()
        return scaled(frames, run.frames).sum() + scaled(latents, run.posterior).sum()

    def _score_sites(self, model_trace: Trace, sites: Sites, guide_trace: Trace, guide_sites: Sites) -> Tensor | float:
        """The objective of sites outside of such paths, one by one."""
        objective: Tensor | float = 0.0
        model_trace.compute_log_prob(lambda name, site: name in sites)
        guide_trace.compute_log_prob(lambda name, site: name in guide_sites)
        guide_steps: dict[PosteriorPath, list[Any]] = {}
        for name, site in sites.items():
            guide_site = guide_sites.pop(name, None)
            if is_validation_enabled():
                check_site_shape(site, self.max_plate_nesting)
            if site["is_observed"] or guide_site is None:
                objective = objective + site["log_prob_sum"]
                continue
            require_reparameterised(guide_site, "ZForcingELBO")
            latent = isinstance(site["fn"], LatentStep)
            try:
                kl = kl_divergence(guide_site["fn"], site["fn"])
                if latent and self.free_nats > 0:
                    kl = kl.clamp(min=self.free_nats)
                kl = scale_and_mask(kl, guide_site["scale"], guide_site["mask"]).sum()
            except NotImplementedError as error:
                if latent and self.free_nats > 0:
                    raise TypeError(
                        f"free_nats needs the analytic KL of {name!r} from {type(guide_site['fn']).__name__}, which "
                        "there is not: use kl_weight, or a guide of normal latents"
                    ) from error
                kl = guide_site["log_prob_sum"] - site["log_prob_sum"]
            objective = objective - (self.kl_weight if latent else 1.0) * kl
            step = guide_site["fn"]
            if isinstance(step, LatentStep) and isinstance(step.path, PosteriorPath):
                guide_steps.setdefault(step.path, []).append(guide_site)
        for guide_site in guide_sites.values():
            if not guide_site["is_observed"]:
                require_reparameterised(guide_site, "ZForcingELBO")
            objective = objective - guide_site["log_prob_sum"]
        for path, steps in guide_steps.items():
            if self.aux_weight > 0:
                auxiliary = self.auxiliary.weighted(self.auxiliary.log_prob(path), path.b.shape[2])
                objective = objective + self.aux_weight * of_sites(path, auxiliary, steps)
            if self.backward_weight > 0:
                objective = objective + self.backward_weight * of_sites(path, backward_log_prob(path), steps)
        return objective
