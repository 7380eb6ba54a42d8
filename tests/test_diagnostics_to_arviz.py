"""to_arviz: all values against the textbook program or exact results, padding, names, files, MCMC."""

import warnings

import numpy as np
import pyro
import pyro.poutine as poutine
import pytest
import torch
import xarray
from pyro.infer import MCMC, NUTS

from zf_pyro import diagnostics, to_arviz
from zf_pyro.diagnostics.arviz_versions import group, has_inference_data, require_arviz
from zf_pyro.diagnostics.conversion import GROUPS

from . import exact
from .conftest import random_frames, random_net
from .linear_gaussian import LinearGaussian, exact_evidence, exact_moments, simulated
from .textbook import Textbook

LENGTHS = torch.tensor([4, 2, 3])
EVERY_POSTERIOR = ("guide", "importance", "smoother")


def small_net(emission="gaussian", **settings):
    return random_net(emission, **settings).eval()


def every_variable(data):
    return {f"{name}.{key}": value for name in GROUPS for key, value in group(data, name).data_vars.items()}


@pytest.fixture(scope="module")
def nuts():
    """A model, two sequences, and two short NUTS chains over their latents."""
    pyro.set_rng_seed(0)
    net, x = small_net(latent_dim=1), random_frames(batch=2, time=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mcmc = MCMC(NUTS(net.model), 30, warmup_steps=20, num_chains=2, disable_progbar=True)
    mcmc.run(x)
    return net, x, mcmc


def test_every_group_has_its_dims_and_names():
    data = to_arviz(small_net(), random_frames(), LENGTHS, num_samples=5, num_chains=2, hidden=True, labels=list("aba"))
    sizes = {"chain": 2, "draw": 5, "sequence": 3, "step": 4, "latent": 3, "unit": 4, "feature": 2}
    drawn = ("chain", "draw", "sequence", "step")
    expected = {
        "posterior.z": (*drawn, "latent"),
        "posterior.h": (*drawn, "unit"),
        "prior.z": (*drawn, "latent"),
        "prior_predictive.x": (*drawn, "feature"),
        "posterior_predictive.x": (*drawn, "feature"),
        "log_likelihood.x": drawn[:3],
        "sample_stats.lp": drawn[:2],
        "sample_stats.log_p": drawn[:3],
        "sample_stats.log_q": drawn[:3],
        "sample_stats.log_weight": drawn[:3],
        "sample_stats.kl": drawn,
        "sample_stats.x_given_z": drawn,
        "observed_data.x": ("sequence", "step", "feature"),
        "constant_data.lengths": ("sequence",),
        "constant_data.mask": ("sequence", "step"),
    }
    found = every_variable(data)
    assert {name: value.dims for name, value in found.items()} == expected
    for value in found.values():
        assert all(value.sizes[dim] == sizes[dim] for dim in value.dims)
        assert all(list(value[dim].values) == list(range(sizes[dim])) for dim in value.dims)
    assert list(group(data, "constant_data")["labels"].values) == list("aba")


@pytest.mark.parametrize("emission", ["gaussian", "mixture", "bernoulli", "categorical"])
def test_padding_is_nan_and_nothing_else_is(emission):
    x = random_frames(emission)
    data = to_arviz(small_net(emission), x, LENGTHS, num_samples=3, batch_size=2, chunk=2)
    real = (torch.arange(4) < LENGTHS.unsqueeze(1)).numpy()
    for name, value in every_variable(data).items():
        if name.startswith("constant_data"):
            continue
        if "sequence" not in value.dims:
            assert not np.isnan(value).any(), name
            continue
        missing = np.isnan(value.transpose("sequence", ...).values)
        if "step" not in value.dims:
            assert not missing.any(), name
            continue
        missing = np.isnan(value.transpose("sequence", "step", ...).values)
        assert (missing.reshape(3, 4, -1) == ~real[..., None]).all(), name


def test_symbols_without_padding_stay_integers():
    data = to_arviz(small_net("categorical"), random_frames("categorical"), num_samples=3)
    for name in ("observed_data", "prior_predictive", "posterior_predictive"):
        assert group(data, name)["x"].dtype == np.int64


def test_what_lies_beyond_a_length_changes_nothing():
    x = random_frames()
    other = x.clone()
    other[1, 2:], other[2, 3:] = torch.nan, 1e3
    results = []
    for frames in (x, other):
        pyro.set_rng_seed(3)
        results.append(every_variable(to_arviz(small_net(), frames, LENGTHS, num_samples=4)))
    for name, value in results[0].items():
        assert value.equals(results[1][name]), name


@pytest.mark.parametrize("posterior", EVERY_POSTERIOR)
def test_densities_are_those_of_the_textbook_program(posterior, transition):
    net, x = small_net(transition=transition), random_frames()
    if posterior == "smoother":
        pytest.importorskip("zf_pyro.inference", reason="the particle filter is not there")
    data = to_arviz(net, x, LENGTHS, posterior=posterior, num_samples=3, num_chains=2, num_particles=20, chunk=2)
    z, stats = group(data, "posterior")["z"].values, group(data, "sample_stats")
    program = Textbook(net)
    for chain, draw in ((0, 0), (1, 2)):
        values = {f"z_{t}": torch.as_tensor(z[chain, draw, :, t]).nan_to_num() for t in range(4)}
        with torch.no_grad():
            model = poutine.trace(poutine.condition(program.model, values)).get_trace(x, LENGTHS)
            guide = poutine.trace(poutine.condition(program.guide, values)).get_trace(x, LENGTHS)
        model.compute_log_prob()
        guide.compute_log_prob()
        joint = sum(model.nodes[f"{site}_{t}"]["log_prob"] for t in range(4) for site in "zx")
        own = sum(guide.nodes[f"z_{t}"]["log_prob"] for t in range(4))
        frames = torch.stack([model.nodes[f"x_{t}"]["log_prob"] for t in range(4)], 1)
        place = {"chain": chain, "draw": draw}
        np.testing.assert_allclose(stats["log_p"].sel(place), joint, rtol=1e-9)
        np.testing.assert_allclose(stats["log_q"].sel(place), own, rtol=1e-9)
        np.testing.assert_allclose(stats["log_weight"].sel(place), joint - own, rtol=1e-9, atol=1e-9)
        given = stats["x_given_z"].sel(place).values
        np.testing.assert_allclose(np.nan_to_num(given), frames, rtol=1e-9)


def test_chunks_and_batches_change_no_sizes_and_no_evidence():
    net, x = LinearGaussian(), simulated(5, 3)
    for batch_size, chunk in ((1, 1), (2, 3), (5, 100)):
        data = to_arviz(net, x, num_samples=7, batch_size=batch_size, chunk=chunk)
        # The guide is exact, so every value is the evidence, whatever the samples.
        found = group(data, "log_likelihood")["x"].values
        np.testing.assert_allclose(found, exact_evidence(x).expand(1, 7, -1), atol=1e-5)


@pytest.mark.parametrize("posterior", ["guide", "importance"])
def test_each_batch_is_encoded_once(posterior, monkeypatch):
    net, sizes = small_net(), []
    encode = net.scan_backward
    monkeypatch.setattr(net, "scan_backward", lambda x, *given: sizes.append(x.shape[1]) or encode(x, *given))
    to_arviz(net, random_frames(), LENGTHS, posterior=posterior, num_samples=5, num_chains=2, batch_size=2, chunk=2)
    assert sizes == [2, 1]


def test_the_exact_net_agrees_with_quadrature():
    net, x = LinearGaussian(), simulated(2, 3)
    torch.testing.assert_close(exact.log_evidence(net, x), exact_evidence(x), rtol=0, atol=1e-4)
    mean, variance = exact.posterior_moments(net, x)
    torch.testing.assert_close(mean, exact_moments(x)[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(variance, exact_moments(x)[1].expand(2, 3), rtol=0, atol=1e-3)


@pytest.mark.parametrize("posterior", ["importance", "smoother"])
@pytest.mark.parametrize("time", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_moments_are_those_of_the_exact_posterior(posterior, time, transition):
    if posterior == "smoother":
        pytest.importorskip("zf_pyro.inference", reason="the particle filter is not there")
    net, x = exact.small("gaussian", transition, time)
    net.eval()
    with torch.no_grad():
        mean, variance = exact.posterior_moments(net, x)
        evidence = exact.log_evidence(net, x)
    data = to_arviz(net, x, posterior=posterior, num_samples=4000, num_particles=20_000, chunk=4000)
    z = group(data, "posterior")["z"].values[0, ..., 0]
    error = variance.sqrt().numpy() / np.sqrt(4000)
    assert (np.abs(z.mean(0) - mean.numpy()) < 5 * error + 0.01).all()
    np.testing.assert_allclose(z.var(0), variance, rtol=0.12)
    found = diagnostics.evidence(data)
    assert (np.abs(found.elpd_i.values - evidence.numpy()) < 4 * found.mcse_i.values + 0.01).all()


def test_draws_of_a_wrong_guide_have_wrong_moments_until_they_are_resampled():
    x = simulated(2, 2)
    mean = exact_moments(x)[0].numpy()
    net = LinearGaussian(shift=0.8)
    off = group(to_arviz(net, x, num_samples=2000, chunk=2000), "posterior")["z"].values[0, ..., 0].mean(0)
    data = to_arviz(net, x, posterior="importance", num_samples=2000, num_particles=40_000, chunk=4000)
    right = group(data, "posterior")["z"].values[0, ..., 0].mean(0)
    assert (np.abs(off - mean) > 0.2).all()
    assert (np.abs(right - mean) < 0.06).all()


def test_posterior_predictive_frames_come_from_the_states_of_the_draws():
    net, x = LinearGaussian(), simulated(2, 2)
    data = to_arviz(net, x, num_samples=4000)
    residual = group(data, "posterior_predictive")["x"].values[..., 0] - group(data, "posterior")["z"].values[..., 0]
    assert residual.mean() == pytest.approx(0.0, abs=0.02)
    assert residual.std() == pytest.approx(0.5, abs=0.02)


def test_prior_frames_have_the_moments_of_the_model():
    data = to_arviz(LinearGaussian(), simulated(3, 2), num_samples=6000, groups=["prior", "prior_predictive"])
    assert group(data, "prior")["z"].values[..., 1, 0].var() == pytest.approx(1 + 0.64, rel=0.05)
    assert group(data, "prior_predictive")["x"].values[..., 0, 0].var() == pytest.approx(1.25, rel=0.05)


def test_the_kl_of_a_step_is_analytic():
    net, x = LinearGaussian(), simulated(2, 1)
    data = to_arviz(net, x, num_samples=2, groups=["sample_stats"])
    with torch.no_grad():
        q, p = net.posterior(net.initial_state((2,)), net.backward_states(x)[0]), net.prior(net.initial_state((2,)))
    expected = torch.distributions.kl_divergence(q, p)
    np.testing.assert_allclose(group(data, "sample_stats")["kl"].values[0, 0, :, 0], expected, rtol=1e-9)


@pytest.mark.slow
def test_mcmc_comes_with_its_draws_and_its_own_statistics(nuts):
    net, x, mcmc = nuts
    data = to_arviz(net, x, posterior=mcmc)
    samples = mcmc.get_samples(group_by_chain=True)
    for t in range(2):
        np.testing.assert_array_equal(group(data, "posterior")["z"].values[:, :, :, t], samples[f"z_{t}"])
    stats = group(data, "sample_stats")
    assert stats["diverging"].dims == ("chain", "draw")
    assert stats["diverging"].dtype == bool
    assert ((stats["acceptance_rate"] > 0) & (stats["acceptance_rate"] <= 1)).all()
    assert group(data, "posterior").attrs["posterior"] == "mcmc"
    few = to_arviz(net, x, posterior=mcmc, num_samples=10)
    np.testing.assert_array_equal(group(few, "posterior")["z"].values[:, :, :, 0], samples["z_0"][:, ::3])


def test_only_the_groups_asked_for_are_made():
    data = to_arviz(small_net(), random_frames(), num_samples=2, groups=["observed_data", "prior"])
    names = [name.lstrip("/") for name in (data.groups() if has_inference_data() else data.groups)]
    assert sorted(filter(None, names)) == ["observed_data", "prior"]


@pytest.mark.parametrize("form", ["netcdf", "zarr"])
def test_files_load_back_as_they_were(form, tmp_path):
    pytest.importorskip("h5netcdf" if form == "netcdf" else "zarr")
    arviz = require_arviz()
    labels = torch.tensor([4, 5, 4])
    data = to_arviz(small_net(), random_frames(), LENGTHS, num_samples=3, labels=labels)
    path = str(tmp_path / f"data.{form}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns about its own formats
        if form == "zarr" and has_inference_data():  # to_zarr of ArviZ 0.x supports only zarr 2
            data.to_datatree().to_zarr(path)
            loaded = arviz.InferenceData.from_datatree(xarray.open_datatree(path, engine="zarr"))
        else:
            getattr(data, f"to_{form}")(path)
            loaded = getattr(arviz, f"from_{form}")(path)
    before, after = every_variable(data), every_variable(loaded)
    for name, value in before.items():
        assert value.dims == after[name].dims, name
        np.testing.assert_array_equal(value.values, after[name].values, err_msg=name)
    assert group(loaded, "posterior").attrs["posterior"] == "guide"


def test_a_progress_bar_is_shown_on_request(capsys):
    to_arviz(small_net(), random_frames(), num_samples=2, progress=True)
    assert "posterior draws: 100%" in capsys.readouterr().err


def test_the_net_is_left_as_it_was():
    net = small_net()
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    to_arviz(net, random_frames(), num_samples=2)
    assert all(torch.equal(before[name], parameter) for name, parameter in net.named_parameters())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_the_result_says_that_draws_of_a_guide_do_not_mix():
    data = to_arviz(small_net(), random_frames(), num_samples=2)
    assert group(data, "posterior").attrs["draws"].startswith("independent")


def trained_net():
    return random_net()


BAD = [
    ("training mode", lambda n: to_arviz(trained_net(), random_frames()), ValueError, r"evaluation mode.*net\.eval"),
    ("no draws", lambda n: to_arviz(n, random_frames(), num_samples=0), ValueError, "num_samples must be a positive"),
    ("no chains", lambda n: to_arviz(n, random_frames(), num_chains=0), ValueError, "num_chains must be a positive"),
    ("unknown posterior", lambda n: to_arviz(n, random_frames(), posterior="exact"), ValueError, "posterior must be"),
    ("a strange posterior", lambda n: to_arviz(n, random_frames(), posterior=3), TypeError, "posterior must be.*int"),
    ("unknown group", lambda n: to_arviz(n, random_frames(), groups=["warmup"]), ValueError, "groups must be.*warmup"),
    ("no group", lambda n: to_arviz(n, random_frames(), groups=[]), ValueError, "groups must be"),
    ("no batch", lambda n: to_arviz(n, random_frames(), batch_size=0), ValueError, "batch_size must be a positive"),
    ("labels of others", lambda n: to_arviz(n, random_frames(), labels=[1, 2]), ValueError, r"labels must be .*\(3,\)"),
    ("lengths too long", lambda n: to_arviz(n, random_frames(), LENGTHS + 2), ValueError, "lengths must be between 1"),
    ("x of another rank", lambda n: to_arviz(n, random_frames()[0]), ValueError, "x must have shape"),
    (
        "MCMC that has not run",
        lambda n: to_arviz(n, random_frames(), posterior=MCMC(NUTS(n.model), 2)),
        ValueError,
        "without draws.*run",
    ),
]


@pytest.mark.parametrize(("call", "error", "match"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(small_net())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x + 1.0, "run on another x"),
        (lambda x: torch.cat([x, x]), "draws for the sequences of x"),
        (lambda x: x[:, :1], "draws for the sequences of x"),
    ],
    ids=["other frames", "more sequences", "fewer steps"],
)
@pytest.mark.slow
def test_mcmc_of_other_sequences_is_refused(nuts, change, match):
    net, x, mcmc = nuts
    with pytest.raises(ValueError, match=match):
        to_arviz(net, change(x), posterior=mcmc)


@pytest.mark.slow
def test_more_draws_or_other_chains_than_mcmc_has_are_refused(nuts):
    net, x, mcmc = nuts
    with pytest.raises(ValueError, match="num_samples must be at most 30"):
        to_arviz(net, x, posterior=mcmc, num_samples=31)
    with pytest.raises(ValueError, match="num_chains must be left out"):
        to_arviz(net, x, posterior=mcmc, num_chains=3)


def test_mcmc_over_something_else_is_refused():
    def coin():
        pyro.sample("p", pyro.distributions.Beta(1.0, 1.0))

    mcmc = MCMC(NUTS(coin), 2, warmup_steps=2, disable_progbar=True)
    mcmc.run()
    with pytest.raises(ValueError, match=r"over the latents z_0, z_1.*\['p'\]"):
        to_arviz(small_net(), random_frames(), posterior=mcmc)


def test_an_old_arviz_is_refused(monkeypatch):
    monkeypatch.setattr(require_arviz(), "__version__", "0.20.1")
    with pytest.raises(ImportError, match=r"needs ArviZ 0\.21 or newer, found 0\.20\.1"):
        to_arviz(small_net(), random_frames())


def test_a_group_that_was_not_made_is_named():
    data = to_arviz(small_net(), random_frames(), num_samples=30, groups=["posterior"])
    with pytest.raises(ValueError, match=r"must have the group 'sample_stats', got \['posterior'\]"):
        diagnostics.check_weights(data)
