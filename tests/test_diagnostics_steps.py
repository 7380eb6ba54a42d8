"""Checks by step: a guide made wrong at one step is flagged there and nowhere else."""

import numpy as np
import pytest
import torch
from pyro.distributions import Normal

from zf_pyro import VRNN, emissions
from zf_pyro.diagnostics import calibrate, check_steps
from zf_pyro.diagnostics.step_check import LEAST_EFFICIENCY
from zf_pyro.inference import refine

from . import exact
from .conftest import random_frames, random_net
from .linear_gaussian import C, LinearGaussian, simulated

STEPS = 5


class WrongAt(LinearGaussian):
    """The linear-Gaussian model whose guide is exact but for one step."""

    def __init__(self, step, narrow=1.0, shift=0.0):
        super().__init__(narrow, shift)
        self.step = step

    @property
    def backward_dim(self):
        return 3

    def scan_backward(self, x, mask, lengths):
        b = super().scan_backward(x, mask, lengths)
        here = (torch.arange(len(b)) == self.step).to(b).view(-1, 1, 1).expand(*b.shape[:2], 1)
        return torch.cat([b, here], -1)

    def posterior(self, state, b_t):
        precision, slope, here = b_t.split(1, -1)
        variance = 1 / (1 + precision)
        loc = (C * state.hidden[..., :1] + slope) * variance + here * self.shift * variance.sqrt()
        loc, scale = torch.broadcast_tensors(loc, (variance * (1 + here * (self.narrow - 1))).sqrt())
        return Normal(loc, scale).to_event(1)


WRONG = {"far": {"shift": 3.0}, "shifted": {"shift": 1.5}, "needle": {"narrow": 0.1}, "wide": {"narrow": 16.0}}


def test_the_exact_guide_passes_at_every_step():
    check = check_steps(LinearGaussian(), simulated(20, STEPS), num_futures=2)
    assert (check.pareto_k == 0).all()
    np.testing.assert_allclose(check.efficiency, 1.0, rtol=1e-9)
    assert "0 of 100 steps flagged, in 0 of 20 sequences" in check.summary()
    assert "what to do" not in check.summary()


@pytest.mark.parametrize("step", [0, 2, STEPS - 1])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_step_is_flagged_there_and_nowhere_else(wrong, step):
    net, x = WrongAt(step, **WRONG[wrong]), simulated(20, STEPS)
    check = check_steps(net, x, num_futures=4)
    flagged = check.flagged().sum("sequence").values
    assert flagged[step] >= 10
    assert flagged.sum() == flagged[step]
    assert f"most often step {step}, in" in check.summary()
    assert "what to do: take more samples; or repair the guide" in check.summary()
    outside = calibrate(net, 200, STEPS, given_past=True).outside()[:, 0]
    assert outside.tolist() == [t == step for t in range(STEPS)]


def test_k_hat_flags_a_step_far_off():
    check = check_steps(WrongAt(2, shift=3.0), simulated(20, STEPS), num_futures=4)
    assert (check.pareto_k > check.good_k).sum("sequence").values.tolist() == [0, 0, 20, 0, 0]


def test_ranks_without_the_true_past_show_a_wrong_step_later_too():
    assert calibrate(WrongAt(1, shift=3.0), 200, STEPS).outside()[:, 0].sum() > 1


def test_a_refined_guide_is_flagged_at_fewer_steps():
    net, x = WrongAt(2, shift=3.0), simulated(20, STEPS)
    refined = refine(net, x, steps=150)
    before, after = (check_steps(net, x, num_futures=4, guide=guide) for guide in (net.guide, refined))
    assert (before.efficiency.sel(step=2) < LEAST_EFFICIENCY).all()
    assert float(after.efficiency.min()) > LEAST_EFFICIENCY
    assert float(after.efficiency.sel(step=2).mean()) > 0.9
    assert int(after.flagged().sum()) < 5 < 20 <= int(before.flagged().sum())


def test_a_guide_of_another_network_or_for_other_sequences_is_refused():
    x = simulated(4, 3)
    refined = refine(LinearGaussian(), x, steps=1)
    with pytest.raises(ValueError, match="guide must be refined for this net"):
        check_steps(LinearGaussian(), x, guide=refined)
    with pytest.raises(ValueError, match="x and lengths must hold sequences that the guide was refined for"):
        check_steps(refined.net, x + 1, guide=refined)
    with pytest.raises(TypeError, match=r"guide must be net\.guide or the result of zf_pyro\.inference\.refine"):
        check_steps(refined.net, x, guide=lambda x: x)


def test_weights_that_do_not_look_ahead_differ_for_an_exact_guide_that_does():
    check = check_steps(LinearGaussian(), simulated(20, STEPS), num_futures=0)
    assert float(check.efficiency.isel(step=slice(0, -1)).max()) < 1 - 1e-4
    np.testing.assert_allclose(check.efficiency.isel(step=-1), 1.0, rtol=1e-9)


def quadrature_efficiency(net, x, nodes=60):
    """Efficiency of the first of two steps, E_q[v]^2 / E_q[v^2] with v = p(z_1 | x) / q(z_1 | x); (batch,)."""
    frames, prior, posterior, _ = exact.guide_grid(net, x, nodes)
    log_w = (frames + prior - posterior).reshape(nodes, nodes, -1)  # (second sample, first sample, batch)
    rule = exact.rule(nodes).log_weights
    log_v = (log_w + rule.view(-1, 1, 1)).logsumexp(0)
    return (2 * (log_v + rule[:, None]).logsumexp(0) - (2 * log_v + rule[:, None]).logsumexp(0)).exp()


def test_the_efficiency_of_a_step_is_that_of_quadrature():
    net, x = exact.small("gaussian", "concatenate", 2)
    with torch.no_grad():
        expected = quadrature_efficiency(net.eval(), x)
    found = check_steps(net, x, num_samples=4000, num_futures=200).efficiency.sel(step=0)
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_values_beyond_a_length_are_nan_and_change_nothing():
    x, lengths = random_frames(), torch.tensor([4, 2, 3])
    net, results = random_net().eval(), []
    for beyond in (0.0, 1e3):
        frames = x.clone()
        frames[1, 2:], frames[2, 3:] = beyond, beyond
        torch.manual_seed(1)
        results.append(check_steps(net, frames, lengths, batch_size=2))
    for one, other in zip(results[0], results[1], strict=True):
        np.testing.assert_array_equal(one, other)
    check = results[0]
    assert check.efficiency.notnull().sum("step").values.tolist() == [4, 2, 3]
    assert check.pareto_k.dims == ("sequence", "step")
    assert not check.flagged().sel(sequence=1, step=3)


@pytest.mark.parametrize("emission", ["bernoulli", "categorical"])
def test_every_emission_and_other_models_can_be_checked(emission):
    net = random_net(emission).eval()
    assert check_steps(net, random_frames(emission), num_samples=25).efficiency.notnull().all()
    vrnn = VRNN(emissions.Gaussian(2), embed_dim=3, hidden_dim=4, latent_dim=2, mlp_dim=3).eval()
    assert check_steps(vrnn, torch.randn(2, 3, 2), num_samples=25, num_futures=0).efficiency.notnull().all()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_samples": 24}, "num_samples must be an integer of at least 25, got 24"),
        ({"num_futures": -1}, "num_futures must be an integer of at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
    ],
)
def test_bad_counts_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        check_steps(LinearGaussian(), simulated(2, 2), **settings)
    with pytest.raises(ValueError, match=r"net\.eval"):
        check_steps(random_net(), random_frames())


def test_a_posterior_of_ones_own_is_not_asked_for_single_steps():
    with pytest.raises(ValueError, match="given_past must be left out for a posterior of your own"):
        calibrate(LinearGaussian(), 10, 2, posterior=lambda x, n: x, given_past=True)


def test_plots_show_what_is_flagged():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from zf_pyro.diagnostics import plots

    net = WrongAt(1, shift=3.0)
    check = check_steps(net, simulated(9, 3), torch.tensor([3, 2, 1] * 3), num_futures=2)
    for name in ("pareto_k", "efficiency"):
        ax = plots.plot_steps(check, name)
        assert set(ax.lines[1].get_xdata()) == {1}
        assert "6 of 18 steps flagged" in ax.get_title()
    calibration = calibrate(net, 200, 3, given_past=True)
    assert plots.plot_rank_steps(calibration).lines[1].get_xdata().tolist() == [1]
    with pytest.raises(ValueError, match="name must be one of"):
        plots.plot_steps(check, "khat")
    plt.close("all")
