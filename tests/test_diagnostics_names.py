"""ArviZ's habits: names and coordinates, attributes, constants, lp; kept through subsets and files."""

import warnings

import numpy as np
import pyro
import pytest
import torch
import xarray
from pyro.infer import MCMC, NUTS

from zf_pyro import to_arviz
from zf_pyro.diagnostics import GROUPS, check_weights, compare, compare_posteriors, evidence, linear_probe
from zf_pyro.diagnostics.arviz_versions import assemble, group, has_inference_data, require_arviz
from zf_pyro.diagnostics.evidence import measured

from .conftest import random_frames, random_net
from .linear_gaussian import LinearGaussian, simulated

LENGTHS = torch.tensor([4, 2, 3])
IDS = ["ana", "ben", "cleo"]
COORDS = {"sequence": IDS, "step": [0.0, 0.1, 0.2, 0.3], "cepstrum": ["c1", "c2"], "latent": ["pace", "pitch", "noise"]}
DIMS = {"x": ["sequence", "step", "cepstrum"]}
CONSTANTS = {"age": [31, 42, 53], "speed": torch.arange(12.0).view(3, 4), "wind": np.ones((3, 4, 2), dtype=np.int64)}


def named(**settings):
    return to_arviz(random_net().eval(), random_frames(), LENGTHS, num_samples=30, **settings)


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    return named(coords=COORDS, dims=DIMS, labels=["f", "m", "f"], constant_data=CONSTANTS, hidden=True)


@pytest.fixture
def arviz():
    """ArviZ without its own deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield require_arviz()


def test_every_group_has_the_names(data):
    for name in GROUPS:
        dataset = group(data, name)
        assert dataset["sequence"].values.tolist() == IDS, name
        assert dataset.coords["labels"].values.tolist() == ["f", "m", "f"], name
        assert dataset.coords["labels"].dims == ("sequence",), name
        for dim in set(dataset.dims) & set(COORDS):
            assert dataset[dim].values.tolist() == COORDS[dim], (name, dim)
    assert group(data, "observed_data")["x"].dims == ("sequence", "step", "cepstrum")
    assert group(data, "posterior_predictive")["x"].dims[2:] == ("sequence", "step", "cepstrum")
    assert group(data, "posterior")["h"].dims[-1] == "unit"


def test_values_are_found_by_name(data, arviz):
    plain = named()
    z, frames = group(data, "posterior")["z"], group(data, "observed_data")["x"]
    assert z.sel(sequence="ben", step=0.1, latent="pitch").dims == ("chain", "draw")
    np.testing.assert_array_equal(frames.sel(cepstrum="c2"), group(plain, "observed_data")["x"].values[..., 1])
    table = arviz.summary(data, var_names=["z"], coords={"sequence": ["ana"], "step": [0.0]})
    assert all("ana" in row for row in table.index)
    assert any("pitch" in row for row in table.index)


def test_names_are_kept_through_subsets(data):
    some = assemble({name: group(data, name).sel(sequence=["cleo", "ana"]) for name in GROUPS})
    result = measured(some)
    assert result.elpd_i["sequence"].values.tolist() == ["cleo", "ana"]
    assert result.elpd_i["labels"].values.tolist() == ["f", "f"]
    assert result.pareto_k["sequence"].values.tolist() == ["cleo", "ana"]
    assert len(check_weights(some).pareto_k) == 2
    assert group(some, "constant_data")["age"].values.tolist() == [53, 31]
    with pytest.raises(ValueError, match="same sequences"):
        compare({"one": some, "other": data})


def test_diagnostics_read_named_data(data):
    renamed = {**COORDS, "factor": COORDS["latent"]}
    del renamed["latent"]
    other = named(coords=renamed, dims={**DIMS, "z": ["sequence", "step", "factor"]}, labels=["f", "m", "f"])
    assert compare_posteriors(data, other).mean_shift.shape == (3, 4, 3)
    long = to_arviz(random_net().eval(), random_frames(batch=12), labels=list("ab" * 6))
    assert linear_probe(long, folds=2).num_labels == 2


def test_plots_show_names(data):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from zf_pyro.diagnostics import plots

    fan, phase = plots.plot_fan(data, 1, feature=1), plots.plot_phase(data, (0, 2))
    assert fan.get_title().startswith("sequence ben")
    assert fan.get_ylabel() == "c2"
    assert (phase.get_xlabel(), phase.get_ylabel()) == ("posterior mean of z[pace]", "posterior mean of z[noise]")
    assert [text.get_text() for text in phase.get_legend().get_texts()] == ["f", "m"]
    plt.close("all")


def test_constants_are_kept_with_nan_for_padding(data):
    constants = group(data, "constant_data")
    assert constants["age"].dims == ("sequence",)
    assert constants["speed"].dims == ("sequence", "step")
    assert constants["wind"].dims == ("sequence", "step", "wind_dim_0")
    np.testing.assert_array_equal(constants["speed"].notnull(), constants["mask"])
    np.testing.assert_array_equal(constants["wind"].notnull().all("wind_dim_0"), constants["mask"])
    assert constants["speed"].sel(sequence="ben", step=0.1) == 5
    whole = to_arviz(
        random_net().eval(),
        random_frames(),
        num_samples=2,
        constant_data=CONSTANTS,
        dims={"wind": ["sequence", "step", "height"]},
        coords={"height": [2, 10]},
    )
    assert group(whole, "constant_data")["wind"].dtype == np.int64
    assert group(whole, "constant_data")["wind"].sel(height=10).dims == ("sequence", "step")


def test_lp_is_the_joint_density_of_all_sequences(data):
    stats = group(data, "sample_stats")
    assert stats["lp"].dims == ("chain", "draw")
    np.testing.assert_allclose(stats["lp"], stats["log_p"].sum("sequence"), rtol=1e-6)


def test_attributes_fit_their_group(data):
    for name in GROUPS:
        attributes = group(data, name).attrs
        assert attributes["inference_library"] == attributes["creation_library"] == "zf_pyro"
        assert attributes["inference_library_version"]
        assert attributes["created_at"]
        of_posterior = name in ("posterior", "sample_stats", "posterior_predictive")
        assert ("posterior" in attributes) == of_posterior, name
    assert "draws" not in group(data, "observed_data").attrs
    assert "draws" not in group(data, "constant_data").attrs
    assert group(data, "prior").attrs["draws"].startswith("from the model alone")
    assert group(data, "log_likelihood").attrs["draws"].startswith("from the guide")


@pytest.mark.slow
def test_samples_of_mcmc_name_the_library_that_drew_them():
    net, x = random_net(latent_dim=1).eval(), random_frames(batch=2, time=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mcmc = MCMC(NUTS(net.model), 4, warmup_steps=4, disable_progbar=True)
    mcmc.run(x)
    attributes = group(to_arviz(net, x, posterior=mcmc), "posterior").attrs
    assert attributes["inference_library"] == "pyro"
    assert attributes["inference_library_version"] == pyro.__version__
    assert attributes["draws"] == "of a Markov chain"


@pytest.mark.parametrize("form", ["netcdf", "zarr"])
def test_names_are_read_back_from_files(data, form, tmp_path, arviz):
    pytest.importorskip("h5netcdf" if form == "netcdf" else "zarr")
    path = str(tmp_path / f"data.{form}")
    if form == "zarr" and has_inference_data():  # ArviZ 0.x itself supports only zarr 2, and advises this
        data.to_datatree().to_zarr(path)
        loaded = arviz.InferenceData.from_datatree(xarray.open_datatree(path, engine="zarr"))
    else:
        getattr(data, f"to_{form}")(path)
        loaded = getattr(arviz, f"from_{form}")(path)
    for name in GROUPS:
        before, after = group(data, name), group(loaded, name)
        assert after["sequence"].values.tolist() == IDS
        assert after.coords["labels"].values.tolist() == ["f", "m", "f"]
        assert dict(after.attrs) == dict(before.attrs)
        assert set(after.coords) == set(before.coords), name
        for variable in before.data_vars:
            np.testing.assert_array_equal(before[variable], after[variable])
    assert measured(loaded).elpd == pytest.approx(measured(data).elpd)
    assert measured(loaded).elpd_i.attrs == measured(data).elpd_i.attrs


def test_loo_needs_no_variable_name(data, arviz):
    assert arviz.loo(data, pointwise=True)["pareto_k"]["sequence"].values.tolist() == IDS


def test_the_evidence_keeps_names_of_estimates_from_elsewhere():
    x = simulated(3, 2)
    data = to_arviz(LinearGaussian(), x, num_samples=5, coords={"sequence": IDS}, groups=["observed_data"])
    assert evidence(data, np.zeros(3), errors=0.1).elpd_i.sel(sequence="cleo") == 0


BAD = [
    (
        "unknown dim",
        {"coords": {"feet": [1, 2]}},
        ValueError,
        r"coords must give values of .*feet",
    ),
    ("few ids", {"coords": {"sequence": [1, 2]}}, ValueError, r"coords\['sequence'\] must have 3 values, .*\(2,\)"),
    ("ids twice", {"coords": {"sequence": [1, 2, 2]}}, ValueError, r"coords\['sequence'\] must hold different values"),
    ("a list of coords", {"coords": [1, 2, 3]}, TypeError, "coords must be a dictionary by name, got list"),
    ("unknown variable", {"dims": {"y": ["a"]}}, ValueError, r"dims must name the dimensions of some of .*'y'"),
    ("few names", {"dims": {"x": ["cepstrum"]}}, ValueError, r"dims\['x'\] must be \['sequence', 'step'\] and 1 names"),
    ("other sequence", {"dims": {"x": ["speaker", "step", "c"]}}, ValueError, r"dims\['x'\] must be \['sequence', 's"),
    ("a text", {"dims": {"x": "abc"}}, TypeError, r"dims\['x'\] must be a list of names, got str"),
    ("taken", {"dims": {"x": ["sequence", "step", "draw"]}}, ValueError, r"dims\['x'\] must hold different names"),
    ("two sizes", {"dims": {"x": ["sequence", "step", "latent"]}}, ValueError, "'latent' has 3 and 2"),
    ("taken constant", {"constant_data": {"mask": [1, 2, 3]}}, ValueError, "constant_data must have names other than"),
    (
        "constants of others",
        {"constant_data": {"age": [1, 2]}},
        ValueError,
        r"constant_data\['age'\] must .*\(2,\)",
    ),
    ("a number", {"constant_data": {"age": 3}}, ValueError, r"constant_data\['age'\] must have a value per sequence"),
    ("a list of constants", {"constant_data": [3]}, TypeError, "constant_data must be a dictionary by name, got list"),
]


@pytest.mark.parametrize(("settings", "error", "match"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_names_that_do_not_fit_are_refused(settings, error, match):
    with pytest.raises(error, match=match):
        named(**settings)
