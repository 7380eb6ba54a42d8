"""Time of one training step of every model, against Z-Forcing and a hand-written PyTorch loop of the same model.

    python benchmarks/family.py                           # all models at both sizes
    python benchmarks/family.py --work music --rounds 15
    python benchmarks/family.py --model DMM --compiled true

The step is the ELBO and its gradients, at equal sizes and default settings. Contenders take turns, and medians of the
ratios within a round are printed:

    (a) this package under ZForcingELBO       (b) a careful hand-written loop (hand_written.py)
    (g) (b) under torch.compile               (h) (b) in JAX, lax.scan with deferred weight gradients
    (z) ZForcing, as (a)

(g) takes part with ``--compiled true``, and as train_step.py says; (h) where jax is installed (the extra
``benchmarks``). STORN has neither, as it has no loop beside PyTorch's LSTMs. The goals: (a) / (z) at most 1.3, and (b)
/ (a) above 1.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jsonargparse
import pyro
import torch
from compiled import choose, compiled_loss, fresh_cache
from contenders import has_jax
from hand_written import LOSSES, PARTS

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


def materials(name: str, work: Work) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A model, x (batch, time, frame) and noise (time, batch, latent), the same in every process."""
    torch.manual_seed(0)
    sizes = {size: getattr(work, size) for size in ("embed_dim", "hidden_dim", "latent_dim", "mlp_dim")}
    net = (zf_pyro.ZForcing if name == "ZForcing" else MODELS[name])(work.emission, **sizes)
    return net, frames(work), torch.randn(work.num_steps, work.batch_size, work.latent_dim)


def compiled_step(name: str, work: Work, backend: str, form: str) -> Callable[[], object]:
    """A training step of contender (g)."""
    net, x, noise = materials(name, work)
    loss = compiled_loss(PARTS[name], form, backend)
    return lambda: loss(net, x, noise).backward()


def steps_of(name: str, work: Work, form: str | None, backend: str) -> dict[str, Callable[[], object]]:
    """Training steps by contender, each of which leaves gradients; (h) returns them."""
    net, x, _ = materials(name, work)
    rival, elbo, loss = materials("ZForcing", work)[0], ZForcingELBO(aux_weight=0.0, backward_weight=0.0), LOSSES[name]

    def by_hand() -> None:
        loss(net, x, torch.randn(work.num_steps, work.batch_size, work.latent_dim)).backward()

    def clear() -> None:
        net.zero_grad()
        rival.zero_grad()
        pyro.clear_param_store()

    steps: dict[str, Callable[[], object]] = {
        "a": lambda: elbo.loss_and_grads(net.model, net.guide, x),
        "b": by_hand,
    }
    if form is not None:
        steps["g"] = compiled_step(name, work, backend, form)
    if name in PARTS and has_jax("cpu"):
        from jax_models import training_step

        steps["h"] = training_step(name, *materials(name, work))
    return {**steps, "z": lambda: elbo.loss_and_grads(rival.model, rival.guide, x), "clear": clear}


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call, in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name: str, key: str, work: Work, rounds: int, backend: str | None, limit: float) -> None:
    """Print the times of one model at one size, and their ratios; ``backend`` is that of (g), None without it."""
    form, backend = None, backend or ""
    if backend and name in PARTS:
        form, found = choose(partial(compiled_step, name, work, backend), limit)
        print(f"{key:8}{name:6}  (g) {found}{'' if form else ': left out'}")
    steps = steps_of(name, work, form, backend)
    times: dict[str, list[float]] = {contender: [] for contender in steps if contender != "clear"}
    for _ in range(rounds + 2):
        for contender, record in times.items():
            steps["clear"]()
            record.append(seconds(steps[contender]))
    times = {contender: record[2:] for contender, record in times.items()}  # the first rounds warm up
    medians = "".join(f"  ({one}) {1000 * statistics.median(record):8.1f}" for one, record in times.items())
    ratios = "".join(
        f"  ({slow}) / ({fast})"
        f" {statistics.median(one / other for one, other in zip(times[slow], times[fast], strict=True)):5.2f}"
        for slow, fast in ("az", "ba", "ga", "ha")
        if slow in times
    )
    print(f"{key:8}{name:6}{medians} ms{ratios}")


def main(
    work: str = "all",
    model: str = "all",
    rounds: int = 9,
    compiled: bool = False,
    limit: float = 120.0,
    smoke: bool = False,
) -> None:
    """Compare training steps.

    Args:
        work: A size (music, speech), or "all".
        model: A model (VRNN, SRNN, STORN, DMM), or "all".
        rounds: Timed rounds, after two warm-up rounds.
        compiled: Also time the hand-written loop under torch.compile; it compiles for minutes.
        limit: Seconds that torch.compile may take.
        smoke: Only check that everything runs, at tiny sizes; the results are meaningless.
    """
    for argument, value, known in (("work", work, WORKS), ("model", model, MODELS)):
        if value not in (*known, "all"):
            raise ValueError(f"{argument} must be one of {[*known, 'all']}, got {value!r}")
    pyro.enable_validation(False)
    backend = "inductor" if compiled else None
    if smoke:
        torch.set_num_threads(1)
        rounds, backend = 1, "eager" if compiled else None
    print(f"CPU, {torch.get_num_threads()} threads; torch {torch.__version__}, pyro {pyro.__version__}")
    with fresh_cache():
        for key, sizes in WORKS.items():
            for name in MODELS:
                if work in (key, "all") and model in (name, "all"):
                    compare(name, key, sizes._replace(**TINY) if smoke else sizes, rounds, backend, limit)


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    main(**parser.parse_args().as_dict())
