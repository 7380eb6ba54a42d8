"""Paths found in traces: their sites, and whether all of them can be scored as a batch."""

from collections.abc import Callable
from typing import Any

import pyro.poutine as poutine
from pyro.poutine import Trace

from ..paths import FrameStep, LatentStep, LazyStep, PosteriorPath, PriorPath
from .programs import require_program

PyroProgram = Callable[..., Any]
"""A model or a guide."""
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


def whole_run(path: PriorPath, names: list[str], sites: Sites, guide_sites: Sites) -> PosteriorPath | None:
    """The guide's path that ``path`` was replayed with, if all sites of both can be scored as a batch; else None."""
    if len(names) != 2 * path.run.num_steps:
        return None
    guide: PosteriorPath | None = None
    scale = sites[names[0]]["scale"]
    for name in names:
        site = sites[name]
        step = site["fn"]
        mask = None if path.masks is None else path.masks[step.t]
        if site["mask"] is not mask or (site["scale"] is not scale and site["scale"] != scale):
            return None
        if isinstance(step, FrameStep):
            if not site["is_observed"] or site["value"] is not path.x[step.t]:
                return None
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
        if guide_site["scale"] is not scale and guide_site["scale"] != scale:
            return None
        guide_mask = guide_site["mask"]
        own_mask = None if guide.masks is None else guide.masks[step.t]
        if guide_mask is not own_mask or (guide_mask is None) != (mask is None):
            return None
    return guide


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
