"""Importance weights of the particles of one vectorised run, per sequence."""

from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import torch_sum
from pyro.poutine import Trace
from torch import Tensor

from ..paths import LatentStep, PosteriorPath, PriorPath
from .traces import common_scale, paths_of, require_matching, require_reparameterised, scaled, whole_run

Sum = Tensor | float


class PathDensities(NamedTuple):
    """Log-densities of two finished runs, the model replayed with the guide's latents; each (..., batch) in nats."""

    frames: Tensor
    """sum_t log p(x_t | h_t)."""
    prior: Tensor
    """sum_t log p(z_t | h_{t-1})."""
    posterior: Tensor
    """sum_t log q(z_t | h_{t-1}, b_t)."""

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z | x); (..., batch)."""
        return self.frames + self.prior - self.posterior


def path_densities(model: PriorPath, guide: PosteriorPath) -> PathDensities:
    """Log-densities of two finished runs, summed over the real steps; each (..., batch) in nats."""
    mask = model.run.mask
    if mask is not None:
        mask = mask.view(mask.shape[0], *[1] * (len(model.batch_shape) - 1), mask.shape[1])
    steps = model.frame_log_prob(), model.log_prob(), guide.log_prob()
    return PathDensities(*(scale_and_mask(step, mask=mask).sum(0) for step in steps))


class Densities(NamedTuple):
    """Log-densities of one run of the model against the guide, in nats; each broadcasts to (particles, sequences).

    If a site is not in the plate of the sequences, for example a latent shared by all, the sequences are summed as
    well. Then there is one value per particle, (particles,).
    """

    model: Sum
    """Frames, and all sites of the model but the latents of paths; less observed sites of the guide."""
    prior: Sum
    """log p(z) of the latents of paths."""
    posterior: Sum
    """log q(z | x) of the latents of paths."""
    guide: Sum
    """Latents of the guide outside of paths."""
    scale: Any
    """Factor of the objective: the scale that all sites share, as under subsampling or ``poutine.scale``. If scales
    differ between sites it is 1, and the densities above are scaled."""

    def log_weights(self, beta: float = 1.0) -> Tensor:
        """log p(x | z) + beta (log p(z) - log q(z | x)): at beta 1, the log importance weights."""
        return torch.as_tensor(self.log_joint(beta) - self.log_proposal(beta))

    def log_joint(self, beta: float = 1.0) -> Sum:
        """The model's part of the weights."""
        return self.model + beta * self.prior

    def log_proposal(self, beta: float = 1.0) -> Sum:
        """The guide's part of the weights."""
        return self.guide + beta * self.posterior


def densities(model_trace: Trace, guide_trace: Trace, objective: str) -> Densities:
    """Densities of two traces without subsample sites: paths as a batch, other sites one by one.

    Args:
        model_trace: a run of the model, replayed with the guide's samples.
        guide_trace: the run of the guide.
        objective: name of the objective, for errors.

    Raises:
        NotImplementedError: a site of the guide is not reparameterised.
        ValueError: generated frames, or latents of the guide that the model lacks.
    """
    sites = {name: site for name, site in model_trace.nodes.items() if site["type"] == "sample"}
    guide_sites = {name: site for name, site in guide_trace.nodes.items() if site["type"] == "sample"}
    everything = [*sites.values(), *guide_sites.values()]
    summed = _dims_of_their_own(everything)
    scale = _scale_of_all([site["scale"] for site in everything], bool(summed))
    total: dict[str, Sum] = dict.fromkeys(Densities._fields[:4], 0.0)

    def add(field: str, log_prob: Tensor, sign: float = 1.0) -> None:
        total[field] = total[field] + sign * torch_sum(log_prob, summed)

    for path, names in paths_of(sites).items():
        whole = whole_run(path, names, sites, guide_sites)
        if whole is not None:
            own = (1.0, 1.0, 1.0) if scale is not None else whole[1:]
            found = path_densities(path, whole.guide)
            for field, log_prob, factor in zip(("model", "prior", "posterior"), found, own, strict=True):
                add(field, scaled(log_prob, factor))
            for name in names:
                del sites[name]
                guide_sites.pop(name, None)
    require_matching(sites, guide_sites)
    model_trace.compute_log_prob(lambda name, site: name in sites)
    guide_trace.compute_log_prob(lambda name, site: name in guide_sites)
    for name, site in sites.items():
        # A latent that the guide lacks was sampled from its prior. That is its proposal: the two densities cancel.
        if site["is_observed"] or name in guide_sites:
            latent = isinstance(site["fn"], LatentStep) and not site["is_observed"]
            add("prior" if latent else "model", _log_prob(site, scale))
    for site in guide_sites.values():
        if site["is_observed"]:
            add("model", _log_prob(site, scale), -1.0)
            continue
        require_reparameterised(site, objective)
        add("posterior" if isinstance(site["fn"], LatentStep) else "guide", _log_prob(site, scale))
    return Densities(**total, scale=1.0 if scale is None else scale)


def _log_prob(site: Any, scale: Any) -> Tensor:
    """A site's log-density, scaled only if there is no common scale."""
    if scale is None:
        return site["log_prob"]
    return scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])


def _dims_of_their_own(sites: list[Any]) -> list[int]:
    """Dimensions that not all sites have. Plates of the same size and dimension count as one."""
    stacks = {frozenset((f.dim, f.size) for f in site["cond_indep_stack"] if f.vectorized) for site in sites}
    return sorted({dim for some in stacks for other in stacks for dim, _ in some - other})


def _scale_of_all(scales: list[Any], summed: bool) -> Any:
    """The scale of all sites; None if they differ, or if it differs between sequences that are summed."""
    first = scales[0] if scales else 1.0
    if summed and isinstance(first, Tensor) and first.numel() > 1:
        return None
    return common_scale(scales)
