"""Runs of paths found in traces: which sites belong together, and whether they may be scored at once."""

from typing import Any

from ..paths import FrameStep, LatentStep, LazyStep, PosteriorPath, PriorPath

Sites = dict[str, Any]


def paths_of(sites: Sites) -> dict[PriorPath, list[str]]:
    """The sites of each path of the model, by name."""
    paths: dict[PriorPath, list[str]] = {}
    for name, site in sites.items():
        if isinstance(site["fn"], LazyStep) and isinstance(site["fn"].path, PriorPath):
            paths.setdefault(site["fn"].path, []).append(name)
    return paths


def whole_run(path: PriorPath, names: list[str], sites: Sites, guide_sites: Sites) -> PosteriorPath | None:
    """The guide's run that ``path`` was replayed with, if every site of both can be scored at once."""
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
    """Refuse a guide's site through whose draws no gradient flows."""
    if not site["fn"].has_rsample:
        raise NotImplementedError(
            f"{objective} needs reparameterised guide sites, and {site['name']!r} is not: train it with "
            "pyro.infer.TraceGraph_ELBO, or enumerate it with TraceEnum_ELBO"
        )
