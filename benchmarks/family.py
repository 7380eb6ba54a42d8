"""Time of one training step of every model, against Z-Forcing and a hand-written PyTorch loop of the same model.

    python benchmarks/family.py                           # all models at both sizes
    python benchmarks/family.py --work music --rounds 15
    python benchmarks/family.py --model DMM

The step is the ELBO and its gradients, at equal sizes and default settings. Contenders take turns, and medians of the
ratios within a round are printed:

    (a) this package under ZForcingELBO       (b) a hand-written loop (hand_written.py)       (z) ZForcing, as (a)

The goals: (a) / (z) at most 1.3, and (b) / (a) above 1.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jsonargparse
import pyro
import torch
from hand_written import LOSSES

import zf_pyro
from zf_pyro import ZForcingELBO, emissions

MODELS = {"VRNN": zf_pyro.VRNN, "SRNN": zf_pyro.SRNN, "STORN": zf_pyro.STORN, "DMM": zf_pyro.DMM}
"""Models beside ZForcing, by name."""


class Work(NamedTuple):
    """Sizes of a training step."""

    emission: emissions.Emission
    num_steps: int
    batch_size: int
    embed_dim: int
    hidden_dim: int
    latent_dim: int
    mlp_dim: int


WORKS = {
    "music": Work(emissions.Bernoulli(88), 60, 32, 128, 128, 32, 128),
    "speech": Work(emissions.Gaussian(200), 40, 32, 256, 512, 128, 256),
}
TINY = {"num_steps": 3, "batch_size": 2, "embed_dim": 4, "hidden_dim": 4, "latent_dim": 2, "mlp_dim": 4}


def frames(work: Work) -> torch.Tensor:
    """Random frames in the support of the emission; (batch, time, frame)."""
    x = torch.randn(work.batch_size, work.num_steps, *work.emission.event_shape)
    return (x > 1.5).float() if isinstance(work.emission, emissions.Bernoulli) else x


def steps_of(name: str, work: Work) -> dict[str, Callable[[], object]]:
    """Training steps of the package (a), by hand (b), and of Z-Forcing (z), each of which leaves gradients."""
    torch.manual_seed(0)
    sizes = {size: getattr(work, size) for size in ("embed_dim", "hidden_dim", "latent_dim", "mlp_dim")}
    net, rival, x = MODELS[name](work.emission, **sizes), zf_pyro.ZForcing(work.emission, **sizes), frames(work)
    elbo, loss = ZForcingELBO(aux_weight=0.0, backward_weight=0.0), LOSSES[name]

    def by_hand() -> None:
        loss(net, x, torch.randn(work.num_steps, work.batch_size, work.latent_dim)).backward()

    def clear() -> None:
        net.zero_grad()
        rival.zero_grad()
        pyro.clear_param_store()

    return {
        "a": lambda: elbo.loss_and_grads(net.model, net.guide, x),
        "b": by_hand,
        "z": lambda: elbo.loss_and_grads(rival.model, rival.guide, x),
        "clear": clear,
    }


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call, in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name: str, key: str, work: Work, rounds: int) -> None:
    """Print the times of one model at one size, and their ratios."""
    steps = steps_of(name, work)
    times: dict[str, list[float]] = {contender: [] for contender in "abz"}
    for _ in range(rounds + 2):
        for contender, record in times.items():
            steps["clear"]()
            record.append(seconds(steps[contender]))
    times = {contender: record[2:] for contender, record in times.items()}  # the first rounds warm up
    medians = {contender: 1000 * statistics.median(record) for contender, record in times.items()}
    ratios = {
        pair: statistics.median(one / other for one, other in zip(times[pair[0]], times[pair[1]], strict=True))
        for pair in ("az", "ba")
    }
    print(
        f"{key:8}{name:6}  (a) {medians['a']:8.1f}  (b) {medians['b']:8.1f}  (z) {medians['z']:8.1f} ms"
        f"  (a) / (z) {ratios['az']:5.2f}  (b) / (a) {ratios['ba']:5.2f}"
    )


def main(work: str = "all", model: str = "all", rounds: int = 9, smoke: bool = False) -> None:
    """Compare training steps.

    Args:
        work: A size (music, speech), or "all".
        model: A model (VRNN, SRNN, STORN, DMM), or "all".
        rounds: Timed rounds, after two warm-up rounds.
        smoke: Only check that everything runs, at tiny sizes; the results are meaningless.
    """
    for argument, value, known in (("work", work, WORKS), ("model", model, MODELS)):
        if value not in (*known, "all"):
            raise ValueError(f"{argument} must be one of {[*known, 'all']}, got {value!r}")
    pyro.enable_validation(False)
    if smoke:
        torch.set_num_threads(1)
    print(f"CPU, {torch.get_num_threads()} threads; torch {torch.__version__}, pyro {pyro.__version__}")
    for key, sizes in WORKS.items():
        for name in MODELS:
            if work in (key, "all") and model in (name, "all"):
                compare(name, key, sizes._replace(**TINY) if smoke else sizes, 1 if smoke else rounds)


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    main(**parser.parse_args().as_dict())
