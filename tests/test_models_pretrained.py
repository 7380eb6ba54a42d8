"""The trained model that the package holds."""

import json

import pytest
import torch

import zf_pyro
from zf_pyro import ZForcing, pretrained
from zf_pyro.evaluation import bounds
from zf_pyro.models.pretrained import FOLDER, PRETRAINED

pytest.importorskip("safetensors", reason="saved models need safetensors")


@pytest.mark.parametrize("name", PRETRAINED)
def test_every_model_is_small_and_of_its_class(name):
    assert sum(path.stat().st_size for path in (FOLDER / name).iterdir()) < 500_000
    net = pretrained(name)
    assert type(net) is PRETRAINED[name]
    assert not net.training
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_loading_takes_no_random_numbers_and_gives_models_of_their_own():
    state = torch.get_rng_state()
    first, second = pretrained("vowels"), pretrained("vowels")
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        first.emission_layer.bias.zero_()
    assert second.emission_layer.bias.any()


@pytest.mark.parametrize(
    ("name", "elbo", "weighted"),
    [("vowels-elbo", 14.4, 17.0), ("vowels-annealing", 17.1, 24.7), ("vowels", 17.5, 25.9)],
)
def test_the_models_have_the_bounds_of_the_quickstart(name, elbo, weighted):
    """README's table: ELBO and IW-64, nats per utterance over the 370 test utterances.

    Of "vowels" they are 17.45 to 17.52 and 25.56 to 25.97 under seeds 0 to 3: four standard deviations are allowed.
    """
    pytest.importorskip("sktime", reason="the data set is in sktime")
    from zf_pyro.data import load_vowels

    vowels, net = load_vowels(0), pretrained(name)
    assert isinstance(net, ZForcing)
    for name in ("mean", "scale"):
        torch.testing.assert_close(net.normalisation[name], getattr(vowels, name))
    found = bounds(net, vowels.test.x, vowels.test.lengths, num_particles=64)
    assert found.elbo.mean().item() == pytest.approx(elbo, abs=0.15)
    assert found.importance_weighted.mean().item() == pytest.approx(weighted, abs=0.7)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"name must be one of \['vowels', .*'vowels-elbo'\], got 'timit'"):
        pretrained("timit")


def test_the_description_names_nothing_of_the_machine_it_was_made_on():
    for name in PRETRAINED:
        text = json.dumps(json.loads((FOLDER / name / "net.json").read_text()))
        assert "/" not in text.replace("zf_pyro/", "")
    assert zf_pyro.pretrained is pretrained
