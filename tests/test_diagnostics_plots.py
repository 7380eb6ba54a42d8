"""Plots: those of the package show the given values, and those of ArviZ run on the result of to_arviz."""

import warnings

import numpy as np
import pytest
import torch
import xarray

from zf_pyro import emissions, to_arviz
from zf_pyro.diagnostics import (
    autocorrelation,
    calibrate,
    check_weights,
    evidence,
    latent_use,
    predictive_check,
    quantiles,
)
from zf_pyro.diagnostics.arviz_versions import group, has_inference_data, require_arviz

from .conftest import random_frames, random_net
from .linear_gaussian import LinearGaussian, simulated

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from zf_pyro.diagnostics import plots  # noqa: E402

LENGTHS = torch.tensor([4, 2, 3])
SOME = {"sequence": [0, 1], "step": [0, 1], "latent": [0]}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def data():
    """Four chains of samples from a guide for three sequences of different lengths."""
    torch.manual_seed(0)
    return to_arviz(random_net().eval(), random_frames(), LENGTHS, num_samples=50, num_chains=4, labels=[0, 1, 0])


@pytest.fixture
def arviz():
    """ArviZ without its own deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield require_arviz()


# Plots of ArviZ -------------------------------------------------------------------------------------------------------


def test_summaries_have_a_row_a_latent(arviz, data):
    table = arviz.summary(data, var_names=["z"], coords=SOME)
    assert len(table) == 4
    assert np.isfinite(table["mean"].astype(float)).all()


def test_reductions_leave_padding_out(arviz, data):
    means = group(data, "posterior")["z"].mean(("chain", "draw", "step"))
    assert np.isfinite(means.values).all()
    for name in ("ess", "rhat"):
        found = getattr(arviz, name)(data)
        values = (found["posterior"] if "posterior" in getattr(found, "children", {}) else found)["z"].values
        real = (torch.arange(4) < LENGTHS.unsqueeze(1)).numpy()
        assert np.isfinite(values[real]).all(), name
        assert np.isnan(values[~real]).all(), name


def test_independent_draws_look_as_if_they_mixed(arviz, data):
    """So R-hat over them says nothing, even for a wrong guide."""
    found = arviz.rhat(data)
    values = (found["posterior"] if "posterior" in getattr(found, "children", {}) else found)["z"].values
    assert np.nanmedian(values) < 1.05


ONE = {"sequence": 0, "feature": 0, "step": [0, 1]}
"""One feature at real steps of a sequence."""
PLOTS = {
    "plot_trace": lambda az, data: az.plot_trace(data, var_names=["z"], coords=SOME),
    "plot_khat": lambda az, data: az.plot_khat(evidence(data)),
    "plot_khat of loo": lambda az, data: az.plot_khat(az.loo(data, pointwise=True)),
    "plot_autocorr": lambda az, data: az.plot_autocorr(data, var_names=["z"], coords=SOME),
    "plot_forest": lambda az, data: az.plot_forest(data, var_names=["z"], coords=SOME),
    "plot_rank": lambda az, data: az.plot_rank(data, var_names=["z"], coords=SOME),
    "plot_pair": lambda az, data: az.plot_pair(data, var_names=["z"], coords=SOME),
}
OLD = {
    "plot_ppc prior": lambda az, data: az.plot_ppc(data, group="prior", num_pp_samples=10),
    "plot_ppc": lambda az, data: az.plot_ppc(data, num_pp_samples=10),
    "plot_bpv": lambda az, data: az.plot_bpv(data, kind="p_value", coords={**ONE, "sequence": [0], "feature": [0]}),
    "plot_posterior": lambda az, data: az.plot_posterior(data, var_names=["z"], coords=SOME),
}
NEW = {
    "plot_ppc_dist prior": lambda az, data: az.plot_ppc_dist(data, group="prior_predictive", num_samples=10),
    "plot_ppc_dist": lambda az, data: az.plot_ppc_dist(data, group="posterior_predictive", num_samples=10),
    "plot_ppc_tstat": lambda az, data: az.plot_ppc_tstat(data, coords=ONE),
    "plot_ppc_pit": lambda az, data: az.plot_ppc_pit(data, coords=ONE),
    "plot_ppc_interval": lambda az, data: az.plot_ppc_interval(data, coords=ONE),
    "plot_parallel": lambda az, data: az.plot_parallel(data, var_names=["z"], coords=SOME),
    "plot_prior_posterior": lambda az, data: az.plot_prior_posterior(data, var_names=["z"], coords=SOME),
}
"""Plots of the two versions of ArviZ that docs/diagnostics.md shows."""


@pytest.mark.parametrize("name", [*PLOTS, *(OLD if has_inference_data() else NEW)])
def test_arviz_plots_run(arviz, data, name):
    assert {**PLOTS, **OLD, **NEW}[name](arviz, data) is not None


REFUSED = {
    "plot_energy": (lambda az, data: az.plot_energy(data), AttributeError, "energy"),
    "plot_loo_pit": (lambda az, data: az.plot_loo_pit(data), IndexError, "out of bounds"),
}
if has_inference_data():
    REFUSED["plot_loo_pit"] = (lambda az, data: az.plot_loo_pit(data, y="x"), ValueError, "must have the same shape")
    REFUSED["plot_parallel"] = (lambda az, data: az.plot_parallel(data), IndexError, "out of range")


@pytest.mark.parametrize("name", REFUSED)
def test_plots_that_the_page_calls_refused_are(arviz, data, name):
    plot, error, match = REFUSED[name]
    with pytest.raises(error, match=match):
        plot(arviz, data)


def test_arviz_draws_the_ecdf_of_calibration_ranks(arviz):
    ranks = calibrate(LinearGaussian(), 100, 2).to_arviz()
    if has_inference_data():
        values = group(ranks, "posterior")["z"].sel(step=0, latent=0).values.ravel()
        cdf = lambda x: np.clip(x, 0, 1)  # noqa: E731
        assert arviz.plot_ecdf(values, cdf=cdf, confidence_bands="pointwise", difference=True) is not None
        assert arviz.plot_dist(values, kind="hist") is not None
    else:
        assert arviz.plot_ecdf_pit(ranks, group="posterior", var_names=["z"]) is not None
        assert arviz.plot_dist(ranks, kind="hist") is not None


# Plots of the package -------------------------------------------------------------------------------------------------


def test_the_heat_map_shows_the_mean_kl_of_each_step_and_latent():
    use = latent_use(random_net().eval(), random_frames(), LENGTHS)
    ax = plots.plot_kl(use)
    np.testing.assert_allclose(ax.images[0].get_array(), np.nanmean(use.kl.numpy(), 0).T)
    assert "step" in ax.get_xlabel()


def test_the_khat_plot_has_a_point_a_sequence():
    check = check_weights(to_arviz(LinearGaussian(shift=3.0), simulated(9, 3), num_samples=100))
    ax = plots.plot_khat(check)
    assert sum(len(line.get_xdata()) for line in ax.lines[:2]) == 9
    assert f"{len(check.bad_tails())} of 9" in ax.get_title()


def test_the_worst_sequence_is_named_in_the_khat_plot():
    names = [f"patient {row}" for row in range(9)]
    check = check_weights(
        to_arviz(LinearGaussian(shift=3.0), simulated(9, 3), num_samples=100, coords={"sequence": names})
    )
    assert [text.get_text() for text in plots.plot_khat(check).texts] == [names[check.pareto_k.argmax()]]
    fine = check_weights(to_arviz(LinearGaussian(), simulated(9, 3), num_samples=100))
    assert len(plots.plot_khat(fine).texts) == 0


def test_rank_plots_show_a_calibration():
    calibration = calibrate(LinearGaussian(), 100, 2)
    assert sum(patch.get_height() for patch in plots.plot_ranks(calibration, 0, 0).patches[:16]) == 100
    assert len(plots.plot_rank_ecdf(calibration).lines) == 2


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_the_fan_holds_its_draws_and_the_frames_observed(emission):
    x = random_frames(emission)
    data = to_arviz(random_net(emission).eval(), x, LENGTHS, num_samples=30)
    ax = plots.plot_fan(data, 1)
    shown = x[1, :2, 0] if emission == "gaussian" else x[1, :2]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), shown)
    assert len(ax.collections) == 2


def test_a_traversal_moves_the_mean_frame_along_the_latent():
    ax = plots.plot_traversal(LinearGaussian(), simulated(1, 4), 0, (-2.0, 0.0, 2.0))
    low, middle, high = (np.asarray(line.get_ydata()) for line in ax.lines)
    assert (low < middle).all()
    assert (middle < high).all()


@pytest.mark.parametrize("emission", ["mixture", "bernoulli", "categorical"])
def test_every_emission_has_a_traversal(emission):
    assert len(plots.plot_traversal(random_net(emission).eval(), random_frames(emission)[:1], 1).lines) == 5


@pytest.mark.parametrize(
    "emission",
    [
        emissions.DiscretizedLogisticMixture(2, 3, bits=4),
        emissions.MuLaw(2, levels=8),
        emissions.Poisson(2),
        emissions.NegativeBinomial(2),
        emissions.StudentT(2),
    ],
    ids=str,
)
def test_emissions_of_counts_and_audio_have_a_traversal(emission):
    ax = plots.plot_traversal(random_net(emission).eval(), torch.ones(1, 3, 2, dtype=torch.float64), 1)
    assert len(ax.lines) == 5
    assert all(np.isfinite(line.get_ydata()).all() for line in ax.lines)


def test_a_traversal_without_means_is_refused_before_anything_is_drawn():
    before, net = plt.get_fignums(), random_net(emissions.NADE(3, hidden_dim=2)).eval()
    with pytest.raises(NotImplementedError, match="mean of a NADE"):
        plots.plot_traversal(net, torch.ones(1, 3, 3, dtype=torch.float64), 0)
    assert plt.get_fignums() == before


def test_phase_plots_are_coloured_by_label(data):
    ax = plots.plot_phase(data)
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"0", "1"}
    assert ax.get_legend().get_title().get_text() == "label"
    named = plots.plot_phase(data, labels_of="speaker")
    assert named.get_legend().get_title().get_text() == "speaker"
    without = to_arviz(random_net().eval(), random_frames(), num_samples=3)
    assert plots.plot_phase(without).get_legend() is None


def test_training_curves_and_checks_take_the_axes_they_are_given(data):
    figure, (first, second) = plt.subplots(1, 2)
    assert plots.plot_training({"elbo": ([1, 2], [0.0, 1.0])}, first) is first
    assert plots.plot_check(predictive_check(data, autocorrelation(2)), [1, 2], ax=second) is second
    assert figure.axes == [first, second]


def test_features_are_called_by_their_names():
    x, net = random_frames(), random_net().eval()
    data = to_arviz(net, x, num_samples=3, coords={"feature": [f"sensor {i}" for i in range(x.shape[-1])]})
    check = predictive_check(data, autocorrelation(2))
    assert plots.plot_check(check, [1, 2], feature=1).get_title() == "sensor 1"
    assert plots.plot_traversal(net, x[:1], 0, name="sensor 0").get_ylabel() == "mean of sensor 0"


def test_features_of_frames_of_several_dimensions_are_called_by_all_their_coordinates():
    x = np.zeros((2, 3, 2, 2))
    frames = xarray.DataArray(x, {"row": [0, 1], "column": ["a", "b"]}, ("sequence", "step", "row", "column"), "x")
    drawn = frames.expand_dims({"chain": 1, "draw": 2}, (0, 1))
    tree = xarray.DataTree.from_dict({"observed_data": frames.to_dataset(), "prior_predictive": drawn.to_dataset()})
    check = predictive_check(tree, quantiles((0.5,)))
    assert check.features == ("0, a", "0, b", "1, a", "1, b")


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda net: plots.plot_traversal(net, random_frames(), 0), "x must hold one sequence, got 3"),
        (lambda net: plots.plot_traversal(net, random_frames()[:1], 3), "latent must be between 0 and 2, got 3"),
        (lambda net: plots.plot_traversal(net.train(), random_frames()[:1], 0), r"net\.eval"),
    ],
    ids=["sequences", "latent", "training"],
)
def test_bad_traversals_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call(random_net().eval())
