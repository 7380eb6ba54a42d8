"""Paths found in traces: their sites, and whether all of them can be scored as a batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyro.poutine as poutine
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from ..paths import FrameStep, LatentStep, LazyStep, PosteriorPath, PriorPath
from .programs import PyroProgram, require_program

Scale = Tensor | float
"""Factor of a site's log-density, by plates that subsample and ``poutine.scale``."""
Sites = dict[str, Any]
"""Sites of a trace by name."""


def replayed_traces(model: PyroProgram, guide: PyroProgram, /, *args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
    """Traces of the model and of the guide, the model replayed with the guide's samples.

    Args:
        model: run second.
        guide: run first.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
    """
    require_program("model", model)
    require_program("guide", guide)
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    return replayed(model, guide_trace, *args, **kwargs), guide_trace


def replayed(program: PyroProgram, values: Trace, /, *args: Any, **kwargs: Any) -> Trace:
    """A trace of ``program`` with the values of another run."""
    # As a context manager: replay(model, ...)(*args) cannot pass the keyword ``context`` on.
    with poutine.replay(trace=values):
        return poutine.trace(program).get_trace(*args, **kwargs)


def paths_of(sites: Sites) -> dict[PriorPath, list[str]]:
    """Names of the sites of each path of the model."""
    paths: dict[PriorPath, list[str]] = {}
    for name, site in sites.items():
        if isinstance(site["fn"], LazyStep) and isinstance(site["fn"].path, PriorPath):
            paths.setdefault(site["fn"].path, []).append(name)
    return paths


class WholeRun(NamedTuple):
    """A path of the guide whose sites, and those of the model replayed with it, can be scored as a batch."""

    guide: PosteriorPath
    """The guide's path."""
    frames: Scale
    """Scale of the model's frames."""
    prior: Scale
    """Scale of the model's latents."""
    posterior: Scale
    """Scale of the guide's latents."""


def whole_run(path: PriorPath, names: list[str], sites: Sites, guide_sites: Sites) -> WholeRun | None:
    """The run of model and guide whose path of the model is ``path``, if its sites can be scored as a batch; else None.

    They can where no handler changed a value, a mask or the role of a site, and where all frames have one scale, and so
    have the latents of the model and those of the guide.
    """
    if len(names) != 2 * path.run.num_steps:
        return None
    guide: PosteriorPath | None = None
    frames: list[Scale] = []
    prior: list[Scale] = []
    posterior: list[Scale] = []
    for name in names:
        site = sites[name]
        step = site["fn"]
        mask = None if path.masks is None else path.masks[step.t]
        if site["mask"] is not mask:
            return None
        if isinstance(step, FrameStep):
            if not site["is_observed"] or site["value"] is not path.x[step.t]:
                return None
            frames.append(site["scale"])
            continue
        guide_site = guide_sites.get(name)
        if site["is_observed"] or guide_site is None or not isinstance(guide_site["fn"], LatentStep):
            return None
        owner = guide_site["fn"].path
        if not isinstance(owner, PosteriorPath) or (guide is not None and owner is not guide):
            return None
        guide = owner
        value = site["value"]
        if value is not guide_site["value"] or value is not path.z[step.t] or value is not guide.z[step.t]:
            return None
        guide_mask = guide_site["mask"]
        own_mask = None if guide.masks is None else guide.masks[step.t]
        if guide_mask is not own_mask or (guide_mask is None) != (mask is None):
            return None
        prior.append(site["scale"])
        posterior.append(guide_site["scale"])
    scales = [scale for scale in map(common_scale, (frames, prior, posterior)) if scale is not None]
    return None if guide is None or len(scales) < 3 else WholeRun(guide, *scales)


def common_scale(scales: Sequence[Scale]) -> Scale | None:
    """The scale that all sites share: a number, or one weight per sequence, (..., batch); None if they differ.

    Tensors are compared at once, since a comparison on a GPU waits for it.
    """
    first = scales[0] if scales else 1.0
    others = [scale for scale in scales if scale is not first]
    tensor = next((scale for scale in scales if isinstance(scale, Tensor)), None)
    if tensor is None:
        return first if all(scale == first for scale in others) else None
    if not others:
        return first
    like = [torch.as_tensor(scale, dtype=tensor.dtype, device=tensor.device) for scale in (first, *others)]
    if any(scale.shape != like[0].shape for scale in like):
        return None
    return first if bool((torch.stack(like[1:]) == like[0]).all()) else None


def scaled(log_prob: Tensor, scale: Scale) -> Tensor:
    """Log-densities (..., batch) times the scale of their sites.

    Raises:
        ValueError: the scale is neither a number nor one weight per sequence.
    """
    if isinstance(scale, Tensor) and scale.dim() > 0:
        sizes = zip(reversed(scale.shape), reversed(log_prob.shape), strict=False)
        if scale.dim() > log_prob.dim() or any(size not in (1, most) for size, most in sizes):
            raise ValueError(
                f"the scale around the programs must be a number or one weight per sequence, of shape "
                f"({log_prob.shape[-1]},), got shape {tuple(scale.shape)}"
            )
    return scale_and_mask(log_prob, scale)


def of_sites(path: PosteriorPath, terms: Tensor, sites: Sequence[Any]) -> Tensor:
    """Sum of a term (time, ..., batch) of a path over some of its sites, each with its scale and mask; a scalar."""
    each = terms.expand(-1, *path.batch_shape).unbind(0)
    return torch.stack([scale_and_mask(each[s["fn"].t], s["scale"], s["mask"]).sum() for s in sites]).sum()


def require_matching(sites: Sites, guide_sites: Sites) -> None:
    """Refuse frames that were generated, and latents of a guide's path that the model has not.

    Args:
        sites: sites of the model.
        guide_sites: sites of the guide that the model lacks.

    Raises:
        ValueError: there are such sites, as under ``poutine.uncondition`` and ``poutine.block``.
    """
    for name, site in sites.items():
        if isinstance(site["fn"], FrameStep) and not site["is_observed"] and name not in guide_sites:
            raise ValueError(
                f"the frame {name!r} was generated, not observed, so there is nothing to score: give x, and leave out "
                "poutine.uncondition"
            )
    for name, site in guide_sites.items():
        if isinstance(site["fn"], LatentStep) and not site["is_observed"] and name not in sites:
            raise ValueError(
                f"the guide samples {name!r}, and the model has no such site: give both programs the same x, and leave "
                "out poutine.block around the model"
            )


def require_reparameterised(site: Any, objective: str) -> None:
    """Refuse a site of the guide that is not reparameterised.

    Raises:
        NotImplementedError: no gradient flows through its samples.
    """
    if not site["fn"].has_rsample:
        raise NotImplementedError(
            f"{objective} needs reparameterised guide sites, and {site['name']!r} is not: train it with "
            "pyro.infer.TraceGraph_ELBO, or enumerate it with TraceEnum_ELBO"
        )
