"""The linear-Gaussian baseline with gaps: its Kalman filter and smoother against one multivariate normal."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from zf_pyro.models import LinearGaussian

from .comparing import EXACT

WEIGHT = torch.tensor([[0.7, 0.2], [-0.3, 0.5]], dtype=torch.float64)
BIAS, MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
NOISE = torch.tensor([[0.5, 0.1], [0.1, 0.3]], dtype=torch.float64)
MARGINAL = torch.tensor([[1.2, -0.3], [-0.3, 0.8]], dtype=torch.float64)
LENGTHS = torch.tensor([6, 4, 1])


def baseline():
    return LinearGaussian(MEAN, MARGINAL, WEIGHT, BIAS, NOISE)


def exact(x, seen, context=None):
    """log p of what was seen, and moments of all elements given it, of one sequence (time, 2)."""
    mean, covariance = (MEAN, MARGINAL) if context is None else (WEIGHT @ context + BIAS, NOISE)
    means, blocks = [mean], [[covariance]]
    for _ in range(len(x) - 1):
        means.append(WEIGHT @ means[-1] + BIAS)
        across = [WEIGHT @ block for block in blocks[-1]]
        blocks.append([*across, WEIGHT @ blocks[-1][-1] @ WEIGHT.T + NOISE])
    full = torch.cat(
        [torch.cat([*row, *(blocks[j][i].T for j in range(i + 1, len(x)))], 1) for i, row in enumerate(blocks)]
    )
    mean, flags = torch.cat(means), seen.flatten()
    known = full[flags][:, flags]
    gain = torch.linalg.solve(known, full[flags]).T
    deviation = x.flatten()[flags] - mean[flags]
    evidence = MultivariateNormal(torch.zeros_like(deviation), known).log_prob(deviation)
    variance = (full - gain @ full[flags]).diagonal()
    return evidence, (mean + gain @ deviation).view_as(x), variance.view_as(x)


@pytest.mark.parametrize("given", [False, True], ids=["start", "context"])
def test_gaps_have_the_density_and_the_moments_of_the_normal_of_all_frames(given):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
    seen = torch.rand(3, 6, 2, generator=generator) > 0.4
    seen[:, 0, 0], seen[0, 2:4] = True, False
    context = x[:, -1] if given else None
    frames = torch.where(seen, x, torch.nan)
    found = baseline().log_prob(frames, LENGTHS, context, observed=seen)
    mean, variance = baseline().smoothed(frames, LENGTHS, context, observed=seen)
    for i, n in enumerate(LENGTHS):
        expected = exact(x[i, :n], seen[i, :n], None if context is None else context[i])
        torch.testing.assert_close(found[i], expected[0], **EXACT)
        torch.testing.assert_close(mean[i, :n], expected[1], **EXACT)
        torch.testing.assert_close(variance[i, :n], expected[2], **EXACT)
        assert mean[i, n:].isnan().all()


def test_without_gaps_the_density_is_the_same():
    x = torch.randn(3, 6, 2, dtype=torch.float64)
    everything = torch.ones(3, 6, dtype=torch.bool)
    torch.testing.assert_close(
        baseline().log_prob(x, LENGTHS, observed=everything), baseline().log_prob(x, LENGTHS), **EXACT
    )
    nothing = baseline().log_prob(x, observed=~everything)
    assert torch.equal(nothing, torch.zeros(3, dtype=torch.float64))


def test_bad_flags_are_refused_by_name():
    x = torch.randn(3, 6, 2, dtype=torch.float64)
    with pytest.raises(
        ValueError,
        match=r"observed must have shape \(3, 6\), one value a frame, or \(3, 6, 2\), one an element, got \(3, 5\)",
    ):
        baseline().log_prob(x, observed=torch.ones(3, 5).bool())
    with pytest.raises(TypeError, match="observed must hold bools"):
        baseline().smoothed(x, observed=torch.ones(3, 6))
