"""Use of the latents: models whose latents carry everything or nothing, or follow the earlier frames."""

import math

import numpy as np
import pyro
import pytest
import torch

from zf_pyro import DMM, SRNN, STORN, VRNN, ZForcing, ZForcingELBO, emissions, to_arviz
from zf_pyro.diagnostics import latent_use, linear_probe, mutual_information
from zf_pyro.evaluation import step_kl
from zf_pyro.objectives import Auxiliary

from .conftest import random_frames, random_net
from .linear_gaussian import LinearGaussian, S, simulated

LENGTHS = torch.tensor([4, 2, 3])


class Deaf(LinearGaussian):
    """Model whose frames are independent of z, with the posterior of one whose frames are not."""

    def emission(self, state):
        return pyro.distributions.Normal(torch.zeros_like(state.hidden[..., :1]), 1.6).to_event(1)


class Remembering(LinearGaussian):
    """Collapsed model: posterior and prior are equal, and both depend on the frame before."""

    def prior(self, state):
        return pyro.distributions.Normal(3.0 * state.hidden[..., 1:], 1.0).to_event(1)

    def posterior(self, state, b_t):
        return self.prior(state)

    def transition(self, state, u_t, z_t):
        hidden = torch.cat([z_t, u_t.expand_as(z_t)], -1)
        return type(state)(hidden, hidden)


def test_latents_that_carry_the_frames_are_used():
    use = latent_use(LinearGaussian(), simulated(60, 8))
    assert use.used
    assert use.total_kl > 4
    assert use.lost_by_shuffling > use.lost_at_prior_mean > 4
    assert use.verdict().startswith("used: KL ")


def test_a_guide_blind_to_the_frames_is_collapsed():
    use = latent_use(LinearGaussian(blind=True), simulated(60, 8))
    assert use.total_kl == pytest.approx(0.0, abs=1e-9)
    assert not use.used
    assert use.verdict().startswith("collapsed: KL 0.0")


def test_frames_deaf_to_the_latents_are_collapsed_whatever_the_kl():
    use = latent_use(Deaf(), simulated(60, 8))
    assert use.total_kl > 4
    assert use.lost_at_prior_mean == pytest.approx(0.0, abs=1e-9)
    assert use.lost_by_shuffling == pytest.approx(0.0, abs=1e-9)
    assert use.verdict().startswith("collapsed")


def test_active_units_overlook_a_collapse_that_the_kl_shows():
    use = latent_use(Remembering(), simulated(60, 8))
    assert use.active_units == 1
    assert use.total_kl == 0.0
    assert not use.used


def test_the_kl_of_steps_adds_up_and_padding_is_nan():
    net, x = random_net(dtype=torch.float32).eval(), random_frames(dtype=torch.float32)
    pyro.set_rng_seed(1)
    use = latent_use(net, x, LENGTHS, batch_size=3)
    pyro.set_rng_seed(1)
    expected = step_kl(net, x, LENGTHS, batch_size=3)
    assert use.kl.shape == (3, 4, 3)
    torch.testing.assert_close(use.kl[:, 0].sum(-1), expected[:, 0])  # later steps depend on the samples
    assert use.kl.isnan().any(-1).tolist() == (torch.arange(4) >= LENGTHS.unsqueeze(1)).tolist()
    assert use.elbo == pytest.approx(use.log_likelihood - use.kl.nansum().item() / 3)


def test_the_loss_at_the_prior_mean_is_that_of_the_equations():
    net, x = LinearGaussian(), simulated(40, 2)
    normal = torch.distributions.Normal(0.0, S)
    # At the prior mean z_1 = z_2 = 0, since z_2 = c z_1.
    assert latent_use(net, x).at_prior_mean == pytest.approx(normal.log_prob(x).sum((1, 2)).mean().item())


def test_the_auxiliary_explains_what_it_predicts():
    class Knowing(LinearGaussian):
        def backward_states(self, x, lengths=None):
            return torch.cat([x, x], -1).transpose(0, 1)

        def posterior(self, state, b_t):
            return pyro.distributions.Normal(b_t[..., :1] + 0.0 * state.hidden[..., :1], 0.1).to_event(1)

    knowing = latent_use(Knowing(), simulated(60, 4))
    assert knowing.auxiliary_r2 == pytest.approx(1 - 0.01 / simulated(60, 4).var().item(), abs=0.01)
    assert latent_use(LinearGaussian(), simulated(60, 4)).auxiliary_r2 < 0.5


class Telling(LinearGaussian):
    """Model whose backward states are constant, or (with ``by_z``) those of its guide, and z is b_t."""

    def __init__(self, by_z):
        super().__init__()
        self.by_z = by_z

    def backward_states(self, x, lengths=None):
        b = super().backward_states(x, lengths)
        return b if self.by_z else torch.zeros_like(b)

    def auxiliary(self, z_t, state):
        loc = torch.cat([z_t, z_t], -1)
        return pyro.distributions.Normal(loc if self.by_z else 0.0 * loc, 1.0 if self.by_z else 0.01).to_event(1)


def test_what_z_earns_of_the_auxiliary_is_told():
    x = simulated(60, 4)
    by_z, without = (latent_use(Telling(by_z), x) for by_z in (True, False))
    assert by_z.earned > 2.0
    assert by_z.auxiliary_by_z
    assert "earned without z" not in by_z.verdict()
    assert without.auxiliary > 20.0
    assert without.earned == 0.0
    assert not without.auxiliary_by_z
    told = "of which z earns 0.0: the auxiliary is earned without z; b_t deviates by 0.000 between sequences"
    assert without.verdict().endswith(told)


def test_the_spread_of_the_backward_states_is_theirs_over_sequences():
    x = simulated(60, 4)
    b = LinearGaussian().backward_states(x)
    found = latent_use(Telling(True), x)
    assert found.spread == pytest.approx(b.std(1, correction=0).mean().item(), rel=1e-5)
    parts = [b[:, rows].std(1, correction=0).mean().item() for rows in (slice(0, 30), slice(30, 60))]
    assert latent_use(Telling(True), x, batch_size=30).spread == pytest.approx(sum(parts) / 2, rel=1e-5)
    assert latent_use(Telling(False), x).spread == 0.0


@pytest.mark.parametrize("model", [VRNN, STORN, SRNN, DMM, ZForcing])
def test_a_verdict_speaks_of_the_auxiliary_only_where_there_is_one(model):
    net = random_net(model=model).eval()
    verdict = latent_use(net, random_frames()).verdict()
    assert ("auxiliary R2" in verdict) == ("; auxiliary " in verdict) == net.has_auxiliary
    assert "nan" not in verdict


def test_a_tenth_of_a_positive_auxiliary_counts_as_earned():
    use = latent_use(Telling(True), simulated(5, 3))
    for auxiliary, earned, expected in ((50.0, 4.9, False), (50.0, 5.0, True), (-90.0, 1.9, False), (-90.0, 2.0, True)):
        assert use._replace(auxiliary=auxiliary, earned=earned).auxiliary_by_z == expected


@pytest.mark.parametrize("form", [Auxiliary(), Auxiliary(standardised=True), Auxiliary(contrastive=True)], ids=str)
def test_what_z_earns_is_that_of_the_objectives_terms(form):
    """Of 1500 copies of each sequence, so that the sample of the latents hardly matters."""
    net, x, lengths = random_net().eval(), random_frames().repeat(1500, 1, 1), LENGTHS.repeat(1500)
    if form.contrastive:
        x, lengths = x[:150], lengths[:150]  # all pairs
    use = latent_use(net, x, lengths, batch_size=4500, auxiliary=form)
    elbo = ZForcingELBO(aux_weight=1.0, auxiliary=form, measure_earned=True)
    with torch.no_grad():
        elbo.loss(net.model, net.guide, x, lengths)
    for found, each in ((use.earned, elbo.terms.earned), (use.auxiliary, elbo.terms.auxiliary)):
        assert abs(found - each.mean()) < 4 * each.std() * (2 / len(each)) ** 0.5


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_batches_of_any_size_give_the_same_up_to_draws(batch_size):
    use = latent_use(LinearGaussian(), simulated(5, 3), torch.tensor([3, 1, 2, 3, 3]), batch_size=batch_size)
    whole = latent_use(LinearGaussian(), simulated(5, 3), torch.tensor([3, 1, 2, 3, 3]), batch_size=5)
    torch.testing.assert_close(use.kl[:, 0], whole.kl[:, 0])
    assert use.at_prior_mean == pytest.approx(whole.at_prior_mean)
    assert math.isfinite(use.lost_by_shuffling)


@pytest.mark.parametrize("emission", ["mixture", "bernoulli", "categorical"])
def test_every_emission_has_latents_to_judge(emission, transition):
    use = latent_use(random_net(emission, transition=transition).eval(), random_frames(emission), LENGTHS)
    assert math.isfinite(use.lost_at_prior_mean)
    assert math.isfinite(use.lost_by_shuffling)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda net, x: latent_use(net, x[:1]), "at least 2 sequences"),
        (lambda net, x: latent_use(net, x, threshold=0.0), "threshold must be positive"),
        (lambda net, x: latent_use(net.train(), x), r"net\.eval"),
        (lambda net, x: mutual_information(net, x, num_steps=9), "at least 2 sequences of as many frames, got 9 and 0"),
        (lambda net, x: mutual_information(net, x, num_sequences=0), "num_sequences must be a positive integer"),
        (lambda net, x: mutual_information(net, x, num_steps=0), "num_steps must be a positive integer"),
    ],
    ids=["one sequence", "threshold", "training", "steps", "no sequences", "no steps"],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call(random_net().eval(), random_frames())


# Mutual information --------------------------------------------------------------------------------------------------


def test_information_is_nothing_where_z_ignores_x_and_at_most_log_n():
    blind = mutual_information(LinearGaussian(blind=True), simulated(50, 3))
    assert blind.estimate == pytest.approx(0.0, abs=1e-9)
    assert blind.rate == pytest.approx(0.0, abs=1e-9)
    informed = mutual_information(LinearGaussian(), 4 * simulated(50, 3))
    assert 1.0 < informed.estimate <= informed.ceiling == math.log(50)


def test_information_of_one_latent_is_that_of_the_channel():
    """z has variance 1, and 1 / 5 given x: log(5) / 2 nats."""
    found = [mutual_information(LinearGaussian(), simulated(300, 1, seed), num_sequences=300) for seed in range(4)]
    assert np.mean([f.estimate for f in found]) == pytest.approx(0.5 * math.log(5), abs=0.06)
    assert np.mean([f.rate for f in found]) == pytest.approx(0.5 * math.log(5), abs=0.06)


def test_information_through_the_frames_before_costs_no_kl():
    found = mutual_information(Remembering(), simulated(50, 3))
    assert found.rate == 0.0
    assert found.estimate > 0.5


def test_only_sequences_long_enough_are_counted():
    x, lengths = simulated(20, 4), torch.tensor([4] * 5 + [2] * 15)
    assert mutual_information(LinearGaussian(), x, lengths).num_steps == 2
    assert mutual_information(LinearGaussian(), x, lengths, num_steps=3).ceiling == pytest.approx(math.log(5))


# Linear probe --------------------------------------------------------------------------------------------------------


def labelled():
    """Sequences with mean +2 or -2, one third of the first kind, and their labels."""
    labels = torch.arange(60) % 3 == 0
    return simulated(60, 4) * 0.3 + torch.where(labels, 2.0, -2.0)[:, None, None], labels


def test_a_probe_reads_labels_off_latents_that_know_them():
    pytest.importorskip("sklearn")
    x, labels = labelled()
    names = ["high" if label else "low" for label in labels]
    probe = linear_probe(to_arviz(LinearGaussian(), x, num_samples=10, labels=names))
    assert probe.accuracy > 0.95
    assert probe.baseline == pytest.approx(2 / 3)
    assert probe.num_labels == 2
    assert "majority 66.7 %" in probe.summary()


def test_a_probe_of_blind_latents_is_no_better_than_the_majority():
    pytest.importorskip("sklearn")
    x, labels = labelled()
    data = to_arviz(LinearGaussian(blind=True), x, num_samples=10)
    probe = linear_probe(data, labels.numpy())
    assert probe.accuracy < probe.baseline + 2 * probe.error


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (None, "labels must be given"),
        ([1, 2], r"labels must be one a sequence, shape \(60,\), got \(2,\)"),
        ([1] * 60, "at least 2 different ones"),
        ([1] * 58 + [2] * 2, "the rarest 2 times"),
    ],
    ids=["none", "of others", "one only", "rare"],
)
def test_labels_that_cannot_be_probed_are_refused(labels, match):
    pytest.importorskip("sklearn")
    data = to_arviz(LinearGaussian(), labelled()[0], num_samples=2)
    with pytest.raises(ValueError, match=match):
        linear_probe(data, labels)


# On speech -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_without_annealing_collapses_on_vowels_and_with_it_does_not():
    pytest.importorskip("sktime")
    from pyro.infer import SVI

    from zf_pyro import Linear, ZForcingELBO
    from zf_pyro.data.vowels import load_vowels

    vowels = load_vowels()
    verdicts = []
    for kl_weight, steps in ((1.0, 250), (Linear(0.2, 1.0, 275), 450)):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        net = ZForcing(
            emissions.Gaussian(12), embed_dim=64, hidden_dim=64, latent_dim=16, mlp_dim=64, transition="concatenate"
        )
        svi = SVI(
            net.model, net.guide, pyro.optim.ClippedAdam({"lr": 3e-3, "clip_norm": 10.0}), ZForcingELBO(kl_weight)
        )
        for _ in range(steps):
            batch = vowels.train.take(torch.randperm(len(vowels.train.x))[:54])
            svi.step(batch.x, batch.lengths)
        verdicts.append(latent_use(net.eval(), vowels.test.x, vowels.test.lengths).verdict())
    assert verdicts[0].startswith("collapsed"), verdicts
    assert verdicts[1].startswith("used"), verdicts
