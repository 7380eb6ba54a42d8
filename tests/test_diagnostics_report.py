"""Measurements with units and references, and the report that shows them."""

import re

import pytest
import torch

from zf_pyro import to_arviz
from zf_pyro.diagnostics import calibrate, check_steps, check_weights, latent_use, mutual_information
from zf_pyro.diagnostics import measurements as module
from zf_pyro.diagnostics.measurements import Measurement, measurements
from zf_pyro.diagnostics.report import Section, Verdict, remedies, write_report

from .conftest import random_frames, random_net
from .linear_gaussian import LinearGaussian, simulated

RIGHT, FAR = LinearGaussian(), LinearGaussian(shift=3.0)


def of_guide(net):
    x = simulated(10, 3)
    data = to_arviz(net, x, num_samples=200, groups=["sample_stats"])
    results = check_weights(data), check_steps(net, x, num_samples=50), calibrate(net, 200, num_steps=2)
    return {type(result).__name__: measurements(result) for result in results}


def test_an_exact_guide_is_fine_by_every_measurement():
    for found in of_guide(RIGHT).values():
        assert all(one.good is not False for one in found)
        assert found[0].good


def test_a_wrong_guide_fails_each_check_with_a_remedy():
    for name, found in of_guide(FAR).items():
        assert found[0].good is False, name
        assert "what to do" in found[0].remedy


def test_collapsed_latents_fail_with_a_remedy_and_information_has_its_ceiling():
    net = random_net().eval()
    with torch.no_grad():
        for network in (net.prior_network, net.posterior_network):
            network.second.weight.zero_()
            network.second.bias.zero_()
    x = random_frames(batch=8)
    kl, lost, *rest = measurements(latent_use(net, x))
    assert (kl.value, kl.unit, kl.good) == ("0.0", "nats per sequence", False)
    assert "aux_weight" in kl.remedy
    assert lost.reference == "at least 2 if used"
    assert rest[-1].name == "earned by z of the auxiliary"
    (shared,) = measurements(mutual_information(net, x))
    assert "at most 2.08, the log of the number of sequences" in shared.reference


def test_every_measurement_has_a_unit_and_a_reference():
    for one in [one for found in of_guide(RIGHT).values() for one in found]:
        assert one.name
        assert one.value
        assert one.unit
        assert one.reference


def test_other_results_are_refused():
    with pytest.raises(TypeError, match=r"result must be of check_weights, .* got dict"):
        measurements({})
    assert module.measurements is measurements


def test_a_report_is_one_file_with_verdicts_measurements_and_figures_inside(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    from zf_pyro.diagnostics import plots

    figure = plots.plot_training({"elbo": ([1, 2], [0.0, 1.0])}).figure
    bad = Measurement("width <of> it", "3.20", "nats per sequence", "0 if exact", False, "what to do: more & better")
    sections = [
        Section("First", "1 < 2\n\nSecond paragraph", [bad], figure, "A curve"),
        Section("Second", table="a  b"),
    ]
    write_report(tmp_path / "report.html", "A <run>", sections, [Verdict("net", "fails & falls", False)])
    page = (tmp_path / "report.html").read_text()
    for part in (
        "A &lt;run&gt;",
        "<p>1 &lt; 2</p>",
        "<p>Second paragraph</p>",
        "width &lt;of&gt; it",
        "3.20",
        "look here",
    ):
        assert part in page
    for part in ("nats per sequence", "0 if exact", "<figcaption>A curve</figcaption>", "<pre>a  b</pre>"):
        assert part in page
    assert page.index("fails &amp; falls") < page.index("First") < page.index("Second")
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in page.replace("http-equiv", "")
    assert "@media print" in page
    assert all(int(width) <= 1200 for width in re.findall(r"(\d+)px", page))


def test_each_remedy_is_told_once_with_what_it_is_for():
    bad = Measurement("a", "1", "nats", "0", False, "what to do: this")
    also, fine = bad._replace(name="b"), bad._replace(name="c", good=True)
    (section,) = remedies({"one": [bad, fine], "two": [also]})
    assert section.text == "A (one); b (two).\n\nWhat to do: this."
    assert remedies({"one": [fine]}) == []
