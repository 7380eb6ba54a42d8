"""NUTS and HMC over the latents of given sequences."""

from typing import Any

import pyro.poutine as poutine
import torch
from pyro.infer import HMC, MCMC, NUTS
from torch import Tensor

from ..checks import int64, require_choice, require_count, require_flag
from ..models import StochasticRNN, require_model
from ..networks import State
from ..paths import check_frames, check_lengths
from .fixed import fixed

KERNELS = {"nuts": NUTS, "hmc": HMC}


def latent_mcmc(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    context: Tensor | None = None,
    initial_state: State | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    kernel: str = "nuts",
    num_samples: int = 500,
    warmup_steps: int = 300,
    num_chains: int = 1,
    progress: bool = False,
    **settings: Any,
) -> MCMC:
    """Sample z_1..z_T from p(z | x) by Pyro's MCMC under fixed parameters, without the guide's approximation.

    It is ``MCMC(NUTS(net.model), ...).run(x)``, with three additions:

    - Chains start from samples of the guide, which saves most of the warm-up.
    - Dropout is off.
    - Parameters get no gradients.

    All sequences form one target, whose step size is that of the hardest. So give it few and similar sequences.

    Args:
        net: the model; its mode and parameters are restored afterwards.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: (batch,), all equal to time; or None.
        context: the frame before the first, (batch, frame) or (batch,); see :meth:`zf_pyro.ZForcing.inputs`.
        initial_state: h_0, each field (batch, hidden); zeros if None.
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``.
        kernel: ``"nuts"`` or ``"hmc"``.
        num_samples: samples kept of each chain.
        warmup_steps: samples before them, which adapt step size and mass matrix.
        num_chains: number of chains, each with its own start. Pyro runs them in processes, or one after the other if
            there are too few processors.
        progress: whether to show Pyro's progress bar.
        settings: for the kernel, such as ``max_tree_depth=6`` or ``target_accept_prob=0.9``.

    Returns:
        Pyro's MCMC after its run. ``get_samples()`` has the sites z_{t}, each (num_samples, batch, latent);
        :func:`~zf_pyro.inference.stack_latents` stacks them. ``diagnostics()`` has R-hat and effective sizes.

    Raises:
        ValueError: an unknown kernel, a count that is not positive, lengths that differ from time, or x that the
            model refuses.
    """
    require_model(net)
    require_choice("kernel", kernel, KERNELS)
    require_flag("progress", progress)
    num_samples = require_count("num_samples", num_samples)
    warmup_steps = require_count("warmup_steps", warmup_steps)
    num_chains = require_count("num_chains", num_chains)
    check_frames(x, net.emission_family, net.emission_layer.weight)
    lengths = int64(lengths)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], net.emission_layer.weight.device)
        _require_whole(lengths, x.shape[1])
    arguments = (x, None, context, initial_state)
    known = {"covariates": covariates, "observed": observed}
    named = {name: value for name, value in known.items() if value is not None}
    with fixed(net):
        starts = [_start(net, arguments, named) for _ in range(num_chains)]
        merged = {name: torch.stack([start[name] for start in starts]) for name in starts[0]}
        mcmc = MCMC(
            KERNELS[kernel](net.model, max_plate_nesting=1, **settings),
            num_samples,
            warmup_steps,
            initial_params=merged if num_chains > 1 else starts[0],
            num_chains=num_chains,
            disable_progbar=not progress,
        )
        mcmc.run(*arguments, **named)
    return mcmc


def _require_whole(lengths: Tensor, num_steps: int) -> None:
    short = (lengths != num_steps).nonzero()
    if len(short):
        i = int(short[0])
        raise ValueError(
            f"lengths must all be {num_steps} (the time size of x) for MCMC, got {int(lengths[i])} at sequence {i}: "
            "latents beyond a length have no density, so the target is improper. Cut the sequences and run those of "
            "one length at a time, or give the padding a density with zf_pyro.inference.with_padding_prior(net.model)"
        )


def _start(net: StochasticRNN, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Tensor]:
    """Sample from the guide, by site."""
    with torch.no_grad(), poutine.block():
        trace = poutine.trace(net.guide).get_trace(*arguments, **named)
    sites: dict[str, Any] = {name: trace.nodes[name] for name in trace.stochastic_nodes}
    return {name: site["value"].clone() for name, site in sites.items() if name.startswith("z_")}
