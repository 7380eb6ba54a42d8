"""FIVO against SIXO on the JSB chorales, trained and scored alike.

    python benchmarks/sixo.py --particles 4 --steps 1000

A ZForcing network with Bernoulli frames starts at the data and is trained under each objective, with the same seed,
batches and optimiser. The weights (and the twist) with the best bound of the validation split are kept. They are scored
on both splits by a filter without a twist and, after SIXO, by one with it. All values are nats per frame.
"""

import copy
import time

import jsonargparse
import pyro
import torch
from torch import Tensor

from zf_pyro import FIVO, SIXO, ZForcing, emissions
from zf_pyro.data import load_polyphonic
from zf_pyro.inference import ParticleFilter, Twist

BATCH = 16


def padded(pieces: list[Tensor]) -> tuple[Tensor, Tensor]:
    """x (batch, time, notes), padded with zeros, and lengths (batch,)."""
    x = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
    return x, torch.tensor([len(piece) for piece in pieces])


def score(net: ZForcing, twist: Twist | None, data: tuple[Tensor, Tensor], particles: int) -> float:
    """Mean of log p^(x) over four runs of a filter, in nats per frame."""
    pyro.set_rng_seed(1)
    x, lengths = data
    found = [ParticleFilter(net, particles, twist=twist).run(x, lengths).log_evidence.sum() for _ in range(4)]
    return float(torch.stack(found).mean() / lengths.sum())


def main(
    particles: int = 4,
    steps: int = 1000,
    every: int = 100,
    hidden_dim: int = 32,
    latent_dim: int = 32,
    lr: float = 2e-3,
    seed: int = 0,
    objectives: tuple[str, ...] = ("FIVO", "SIXO"),
    smoke: bool = False,
) -> None:
    """Train under each objective and print the bounds.

    Args:
        particles: Particles in training, validation and scoring.
        steps: Steps of Adam, each on a batch of 16 pieces.
        every: Steps between two validations.
        hidden_dim: Size of h_t, of embeddings and of hidden layers.
        latent_dim: Size of z_t.
        lr: Learning rate.
        seed: Random seed of weights, samples and batches.
        objectives: Which to train: FIVO, SIXO or both.
        smoke: Only check that everything runs, at tiny sizes.
    """
    pyro.enable_validation(False)
    torch.set_num_threads(1)
    sets = load_polyphonic("jsb")
    splits = [[torch.as_tensor(piece, dtype=torch.float32) for piece in part] for part in sets[:3]]
    train = sorted(splits[0], key=len)
    groups = [padded(train[i : i + BATCH]) for i in range(0, len(train), BATCH)]
    held_out = [padded(part) for part in splits[1:]]
    if smoke:
        steps, every, hidden_dim, latent_dim = 2, 1, 4, 2
        groups, held_out = groups[:1], [(x[:2, :5], lengths[:2].clamp(max=5)) for x, lengths in held_out]
    print(f"{'objective':10}{'step':>6}{'seconds':>9}{'validation':>12}{'test':>9}{'test, no twist':>16}")
    for name in objectives:
        pyro.set_rng_seed(seed)
        sizes = {"embed_dim": hidden_dim, "mlp_dim": hidden_dim, "hidden_dim": hidden_dim, "latent_dim": latent_dim}
        net = ZForcing(emissions.Bernoulli(88), **sizes, transition="concatenate")
        net.initialise(*padded(train))
        twist = Twist(net) if name == "SIXO" else None
        loss = FIVO(particles) if twist is None else SIXO(particles, twist=twist)
        parameters = [*net.parameters(), *(() if twist is None else twist.parameters())]
        optimiser = torch.optim.Adam(parameters, lr=lr)
        best, kept, start = -float("inf"), (0, net, twist), time.perf_counter()
        spent, order = 0.0, torch.Generator().manual_seed(seed)
        for step in range(1, steps + 1):
            x, lengths = groups[int(torch.randint(len(groups), (), generator=order))]
            loss.loss_and_grads(net.model, net.guide, x, lengths)
            optimiser.step()
            optimiser.zero_grad()
            if step % every == 0:
                spent += time.perf_counter() - start
                found = score(net, twist, held_out[0], particles)
                if found > best:
                    best, kept = found, copy.deepcopy((step, net, twist))
                start = time.perf_counter()
        step, net, twist = kept
        test = [score(net, each, held_out[1], particles) for each in (twist, None)]
        print(f"{name:10}{step:6}{spent:9.0f}{best:12.3f}{test[0]:9.3f}{test[1]:16.3f}", flush=True)


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    main(**parser.parse_args().as_dict())
