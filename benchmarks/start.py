"""Steps to a validation bound on JSB chorales, for starts that differ in one thing.

    python benchmarks/start.py --json benchmarks/start.json                  # all; an hour
    python benchmarks/start.py --hidden "[32]" --transition "[concatenate]"  # one part

Plain ELBO of a ZForcing with Bernoulli frames, Adam 2e-3, batches of 32 pieces, one thread. Every 25 steps the bound of
the validation pieces is estimated with two samples per piece. The table has the first such step at which the bound is
above ``--bound``, in nats per frame, one number per seed.
"""

from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Any

import jsonargparse
import pyro
import torch
from pyro.infer import SVI
from pyro.optim import ClippedAdam
from torch import Tensor

from zf_pyro import ZForcing, ZForcingELBO, emissions
from zf_pyro.data import collate, load_polyphonic
from zf_pyro.evaluation import bounds

EVERY = 25
"""Steps between two validations."""


def nothing(net: ZForcing) -> None:
    """Leave the start at the data as it is."""


def open_forget_gates(net: ZForcing, backward: bool = True) -> None:
    """Add 1 to the bias of the forget gates of the cell, and of the backward RNN."""
    hidden = net.hidden_dim
    cell = net.cell.input_norm if net.settings["transition"] == "conditional_layer_norm" else net.cell.input_weights
    cell.bias[hidden : 2 * hidden] += 1.0
    if backward:
        net.backward_rnn.lstm.get_parameter("bias_ih_l0")[hidden : 2 * hidden] += 1.0


def scale_latent_gates(factor: float) -> Callable[[ZForcing], None]:
    """Multiply what z_t adds to the gates."""

    def change(net: ZForcing) -> None:
        last = (
            net.cell.modulation_network.second
            if net.settings["transition"] == "conditional_layer_norm"
            else net.cell.latent_weights
        )
        last.weight *= factor

    return change


def scale_latents(factor: float) -> Callable[[ZForcing], None]:
    """Multiply the last weights of prior and posterior; the first KL is nearly proportional to the square."""

    def change(net: ZForcing) -> None:
        for network in (net.prior_network, net.posterior_network):
            network.second.weight *= factor
            network.second.bias *= factor

    return change


def narrow_posterior(net: ZForcing) -> None:
    """Start the posterior's standard deviations at exp(-1)."""
    net.posterior_network.second.bias[net.latent_dim :] -= 2.0


CHANGES: dict[str, Callable[[ZForcing], None]] = {
    "released": nothing,
    "data": nothing,
    "forget gates + 1": open_forget_gates,
    "forget gates of the cell + 1": lambda net: open_forget_gates(net, backward=False),
    "latents' part of the gates x 3": scale_latent_gates(3.0),
    "prior and posterior x 0.1": scale_latents(0.1),
    "prior and posterior x 3": scale_latents(3.0),
    "posterior's deviation x 0.37": narrow_posterior,
}
"""Changes by name. All but ``released`` start at the data."""


def padded(pieces: Any) -> tuple[Tensor, Tensor]:
    """All pieces, (pieces, time, notes), and their lengths, (pieces,)."""
    return tuple(collate([torch.as_tensor(pieces[i]) for i in range(len(pieces))]))


def steps_to(bound: float, change: str, hidden: int, transition: str, seed: int, most: int, smoke: bool) -> int | None:
    """First validated step above ``bound``; None if there is none up to ``most``."""
    sets = load_polyphonic("jsb")
    train, validation = padded(sets.train), padded(sets.validation)
    if smoke:
        train, validation = ((x[:4, :6], lengths[:4].clamp(max=6)) for x, lengths in (train, validation))
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    sizes = {"embed_dim": hidden, "hidden_dim": hidden, "latent_dim": 32, "mlp_dim": hidden}
    net = ZForcing(emissions.Bernoulli(train[0].shape[-1]), transition=transition, **sizes)
    if change != "released":
        net.initialise(*train)
    with torch.no_grad():
        CHANGES[change](net)
    svi = SVI(net.model, net.guide, ClippedAdam({"lr": 2e-3, "clip_norm": 100.0}), ZForcingELBO())
    order, step = torch.Generator().manual_seed(seed), 0
    while step < most:
        for rows in torch.randperm(len(train[0]), generator=order).split(32):
            lengths = train[1][rows]
            svi.step(train[0][rows][:, : int(lengths.max())], lengths)
            step += 1
            if step % EVERY == 0:
                found = bounds(net, *validation, 2).elbo.sum() / validation[1].sum()
                net.train()
                if float(found) > bound:
                    return step
            if step == most:
                break
    return None


def main(
    hidden: list[int] = [32, 128],  # noqa: B006
    transition: list[str] = ["concatenate", "conditional_layer_norm"],  # noqa: B006
    changes: list[str] = [*CHANGES],  # noqa: B006
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    bound: float = -8.5,
    most: int = 600,
    smoke: bool = False,
    json: Path | None = None,
) -> None:
    """Print the table.

    Args:
        hidden: Sizes of embedding, states and MLPs; 32 latents.
        transition: How z_t enters the cell.
        changes: Names of starts.
        seeds: Of weights, order and samples.
        bound: Nats per frame on validation.
        most: Steps after which a run ends.
        smoke: Only check that everything runs, at tiny sizes; the results are meaningless.
        json: File for the numbers.
    """
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    if smoke:
        hidden, seeds, most, bound = [4], [0], EVERY, -1e9
        transition, changes = transition[:1], changes[:2]
    rows = []
    print(f"steps to {bound:g} nats per frame")
    for size in hidden:
        for kind in transition:
            for change in changes:
                steps = [steps_to(bound, change, size, kind, seed, most, smoke) for seed in seeds]
                what = {"hidden": size, "transition": kind, "start": change, "bound": bound, "most": most}
                rows.append({**what, "seeds": seeds, "steps": steps})
                shown = " ".join(f"{step or f'>{most}':>5}" for step in steps)
                print(f"hidden {size:>4}  {kind:<23} {change:<32} {shown}", flush=True)
                if json is not None:
                    json.write_text("[\n" + ",\n".join(map(dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser(description=__doc__)
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    main(**parser.parse_args().as_dict())
