"""NUTS and HMC over the latents of given sequences."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.infer import HMC, MCMC, NUTS
from torch import Tensor

from ..models import StochasticRNN
from ..networks import State
from ..paths import check_frames, check_lengths

KERNELS = {"nuts": NUTS, "hmc": HMC}


def latent_mcmc(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    context: Tensor | None = None,
    initial_state: State | None = None,
    *,
    kernel: str = "nuts",
    num_samples: int = 500,
    warmup_steps: int = 300,
    num_chains: int = 1,
    progress: bool = False,
    **settings: Any,
) -> MCMC:
    """Run Pyro's MCMC on p(z_1..z_T | x) under fixed parameters: draws without the guide's approximation.

    It is ``MCMC(NUTS(net.model), ...).run(x)`` with what that lacks here: chains start from draws of the guide, which
    saves most of the warm-up; dropout is off; no gradient of a parameter is computed on the way. All sequences form
    one target, whose step size is that of the hardest, so give it few and similar ones.

    Args:
        net: the net; left as it was found.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: None, or every one equal to time.
        context: the frame before the first; see :meth:`zf_pyro.ZForcing.inputs`.
        initial_state: h_0; zeros if None.
        kernel: ``"nuts"`` or ``"hmc"``.
        num_samples: draws kept of each chain.
        warmup_steps: draws before them, which adapt step size and mass matrix.
        num_chains: chains, each from a draw of its own; Pyro runs them in processes, or in turn where processors lack.
        progress: whether to show Pyro's progress bar.
        settings: for the kernel, such as ``max_tree_depth=6`` or ``target_accept_prob=0.9``.

    Returns:
        Pyro's MCMC after its run: ``get_samples()`` has z_{t} as (num_samples, batch, latent) each, which
        :func:`~zf_pyro.inference.stack_latents` makes one tensor; ``diagnostics()`` has R-hat and effective sizes.

    Raises:
        ValueError: an unknown kernel, a count that is not positive, lengths that differ from time, or x that the
            net refuses.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {sorted(KERNELS)}, got {kernel!r}")
    counts = {"num_samples": num_samples, "warmup_steps": warmup_steps, "num_chains": num_chains}
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be a positive integer, got {count!r}")
    check_frames(x, net.emission_family, net.emission_layer.weight)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], net.emission_layer.weight.device)
        _require_whole(lengths, x.shape[1])
    arguments = (x, None, context, initial_state)
    with _fixed(net):
        starts = [_start(net, arguments) for _ in range(num_chains)]
        merged = {name: torch.stack([start[name] for start in starts]) for name in starts[0]}
        mcmc = MCMC(
            KERNELS[kernel](net.model, max_plate_nesting=1, **settings),
            num_samples,
            warmup_steps,
            initial_params=merged if num_chains > 1 else starts[0],
            num_chains=num_chains,
            disable_progbar=not progress,
        )
        mcmc.run(*arguments)
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


def _start(net: StochasticRNN, arguments: tuple[Any, ...]) -> dict[str, Tensor]:
    """A draw of the guide, by site."""
    with torch.no_grad(), poutine.block():
        trace = poutine.trace(net.guide).get_trace(*arguments)
    sites: dict[str, Any] = {name: trace.nodes[name] for name in trace.stochastic_nodes}
    return {name: site["value"].clone() for name, site in sites.items() if name.startswith("z_")}


@contextmanager
def _fixed(net: StochasticRNN) -> Iterator[None]:
    """``net`` in evaluation mode with fixed parameters, and as it was found afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    net.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in trained:
            parameter.requires_grad_(True)
