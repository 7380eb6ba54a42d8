"""Gaps in frames: marginalised by particles that sample what was not seen, against exact answers."""

import itertools
import math

import pyro
import pytest
import torch
from pyro.distributions import Normal
from torch.distributions import MultivariateNormal

from zf_pyro import FIVO, State, ZForcing, ZForcingELBO, emissions
from zf_pyro.evaluation import impute, particle_bound
from zf_pyro.inference import ParticleFilter, refine

from .comparing import EXACT, gradients
from .conftest import random_frames, random_net
from .exact import log_evidence, small_of
from .own_emissions import GammaFrames, MatrixFrames, NumberFrames, SimplexFrames, SymbolPairs
from .test_models_family import shrunk
from .textbook import beside

K = 2
C, S = 0.8, 0.5
A, R = torch.tensor([1.0, -0.6], dtype=torch.float64), torch.tensor([[0.5, 0.2], [-0.3, 0.4]], dtype=torch.float64)


class Joint(ZForcing):
    """z_t = C z_{t-1} + noise, x_t = A z_t + R x_{t-1} + S noise: a linear-Gaussian model that reads its frames back.

    All frames are one multivariate normal, so that every density and every imputation is known.
    """

    def __init__(self):
        super().__init__(emissions.Gaussian(2), embed_dim=1, hidden_dim=3, latent_dim=1, mlp_dim=1)
        self.double().eval()

    def scan_backward(self, x, mask, lengths):
        return torch.cat([x, x[..., :1]], -1)

    def prior(self, past):
        loc = C * past.hidden[..., :1]
        return Normal(loc, torch.ones_like(loc)).to_event(1)

    def posterior(self, past, b_t):
        """A rough guess from x_t, which the weights make right."""
        loc, x = torch.broadcast_tensors(C * past.hidden[..., :1], b_t[..., :1])
        return Normal(0.7 * loc + 0.3 * x, torch.ones_like(loc)).to_event(1)

    def transition(self, past, u_t, z_t):
        loc = A * z_t + u_t @ R.T
        hidden = torch.cat([z_t.expand(*loc.shape[:-1], 1), loc], -1)
        return State(hidden, hidden)

    def emission(self, state):
        return Normal(state.hidden[..., 1:], S).to_event(1)


def exact_normal(time):
    """The normal of x_1..x_T as one vector, (time x 2)."""
    steps = torch.arange(time)
    powers = torch.where(steps[:, None] >= steps, C ** (steps[:, None] - steps).clamp(min=0).double(), 0.0)
    latent = powers @ powers.T
    given = torch.kron(latent, A.outer(A)) + S**2 * torch.eye(2 * time, dtype=torch.float64)
    feedback = torch.eye(2 * time, dtype=torch.float64)
    feedback -= torch.kron(torch.diag(torch.ones(time - 1, dtype=torch.float64), -1), R)
    inverse = torch.linalg.inv(feedback)
    return inverse @ given @ inverse.T


def kalman(x, seen):
    """log p of what was seen, and mean and variance of all elements given it, of one sequence (time, 2)."""
    covariance, flags, values = exact_normal(len(x)), seen.flatten(), x.flatten()
    known = covariance[flags][:, flags]
    evidence = MultivariateNormal(torch.zeros(len(known), dtype=torch.float64), known).log_prob(values[flags])
    gain = torch.linalg.solve(known, covariance[flags]).T
    mean = gain @ values[flags]
    variance = (covariance - gain @ covariance[flags]).diagonal()
    return evidence, mean.view_as(x), variance.view_as(x)


def gappy(batch=3, time=6, seed=0):
    """Frames with NaN where nothing was seen, and what was."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, time, 2, generator=generator, dtype=torch.float64)
    seen = torch.rand(batch, time, 2, generator=generator) > 0.35
    seen[0, 2:4] = False  # whole frames in a row
    seen[1, -1] = False
    return torch.where(seen, x, torch.nan), seen


# Exact answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_the_log_likelihood_with_gaps_is_that_of_the_kalman_filter(proposal):
    (x, seen), lengths = gappy(), torch.tensor([6, 6, 4])
    exact = torch.stack([kalman(x[i, :n], seen[i, :n])[0] for i, n in enumerate(lengths)])
    found = torch.stack(
        [ParticleFilter(Joint(), 4000, proposal=proposal).run(x, lengths, observed=seen).log_evidence for _ in range(5)]
    )
    error = found.std(0) / math.sqrt(5)
    assert (error < 0.1).all(), "too few particles: the test would have no power"
    assert ((found.mean(0) - exact).abs() < 4 * error + 0.01).all()
    bound = particle_bound(Joint(), x, lengths, 4000, observed=seen)
    torch.testing.assert_close(bound, exact, rtol=0, atol=0.2)


def test_imputed_means_and_variances_are_those_of_the_kalman_smoother():
    x, seen = gappy(2, 5, seed=3)
    found = torch.as_tensor(Joint().impute(x, observed=seen, num_samples=20_000, num_particles=20_000).values)
    for i in range(2):
        _, mean, variance = kalman(x[i], seen[i])
        assert torch.equal(found[:, i][:, seen[i]], x[i][seen[i]].expand(20_000, -1))
        torch.testing.assert_close(found[:, i].mean(0), mean, rtol=0, atol=0.04)
        torch.testing.assert_close(found[:, i].var(0)[~seen[i]], variance[~seen[i]], rtol=0.08, atol=0)


def completions(net, x, seen):
    """All frames that agree with x (batch, time[, frame]) where it was seen (time[, frame]), one after the other."""
    values = range(net.emission_family.num_classes) if net.emission_family.integer else (0.0, 1.0)
    missing = (~seen).nonzero().tolist()
    for chosen in itertools.product(values, repeat=len(missing)):
        complete = x.clone()
        for place, value in zip(missing, chosen, strict=True):
            complete[(slice(None), *place)] = value
        yield complete


SEEN = {
    "elements of bits": ("bernoulli", [[1, 1, 0], [1, 0, 0]]),
    "a frame of bits": ("bernoulli", [0, 1]),
    "the first symbol": ("categorical", [0, 1]),
    "the last symbol": ("categorical", [1, 0]),
}


@pytest.mark.parametrize(
    "case", [name if name == "elements of bits" else pytest.param(name, marks=pytest.mark.slow) for name in SEEN]
)
def test_gaps_are_marginalised_in_every_model_with_covariates(case, member):
    """log p of what was seen is that of all completions together, each by quadrature."""
    emission, flags = SEEN[case]
    net, x = small_of(emission, 2, 0.1, covariate_dim=K, **member)
    shrunk(net)
    c, seen = torch.randn(2, 2, K, dtype=torch.float64), torch.tensor(flags).bool()
    parts = seen if seen.dim() == x.dim() - 1 else seen.unsqueeze(-1).expand(x.shape[1:])
    with torch.no_grad():
        terms = [log_evidence(net, whole, u=net.inputs(whole, None, c)) for whole in completions(net, x, parts)]
    found = ParticleFilter(net, 20_000).run(x, observed=seen.expand(2, *seen.shape), covariates=c).log_evidence
    torch.testing.assert_close(found, torch.stack(terms).logsumexp(0), rtol=0, atol=0.03)


# What must not matter ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emission", ["gaussian", pytest.param("categorical", marks=pytest.mark.slow)])
def test_what_was_not_seen_and_padding_change_nothing(emission, member):
    net, x = random_net(emission, **member), random_frames(emission)
    lengths, seen = torch.tensor([4, 3, 1]), torch.tensor([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()
    other, flags = x.clone(), seen.clone()
    other[~seen] = 3 if emission == "categorical" else torch.nan
    other[2, 1:] = 2 if emission == "categorical" else torch.nan
    flags[2, 1:] = False
    found = []
    for frames, observed in ((x, seen), (other, flags)):
        pyro.set_rng_seed(3)
        found.append(ParticleFilter(net, 5).run(frames, lengths, observed=observed))
    torch.testing.assert_close(found[0].log_evidence, found[1].log_evidence, **EXACT)


def test_frames_that_were_all_seen_have_the_evidence_of_a_filter_without_gaps():
    net, x = Joint(), gappy()[0].nan_to_num()
    everything = torch.ones(3, 6, dtype=torch.bool)
    whole, same = (ParticleFilter(net, 20_000).run(x, observed=seen).log_evidence for seen in (None, everything))
    torch.testing.assert_close(whole, same, rtol=0, atol=0.1)


def test_sequences_in_one_batch_and_alone_agree():
    """A batch of few sequences at a time, of which some have gaps."""
    x, seen = gappy(8, 5, seed=4)
    whole = ParticleFilter(Joint(), 3000).run(x, observed=seen)
    alone = torch.cat(
        [ParticleFilter(Joint(), 3000).run(x[i : i + 1], observed=seen[i : i + 1]).log_evidence for i in range(8)]
    )
    torch.testing.assert_close(whole.log_evidence, alone, rtol=0, atol=0.4)
    draws = whole.imputed(50)
    assert torch.equal(draws[:, seen], x[seen].expand(50, -1))


# Refusals ------------------------------------------------------------------------------------------------------------


def test_programs_of_whole_frames_refuse_gaps_with_the_reason():
    net, x = random_net(), random_frames()
    seen = torch.ones(3, 4, dtype=torch.bool)
    for call in (net.model, net.guide):
        with pytest.raises(
            ValueError, match=r"observed must be left out for a model of missing='draw'.*missing='fill'"
        ):
            call(x, observed=seen)
    for objective in (ZForcingELBO(), FIVO(2)):
        with pytest.raises(ValueError, match=r"marginalise them by inference\.ParticleFilter"):
            objective.loss(net.model, net.guide, x, observed=seen)
    with pytest.raises(ValueError, match=r"observed must be left out for a model of missing='draw'"):
        refine(net, x, observed=seen)
    with pytest.raises(ValueError, match="observed must have the 4 steps of x for a model of missing='draw'"):
        ParticleFilter(net, 2).run(x, None, x[:, 0], observed=torch.ones(3, 5, dtype=torch.bool))


BAD = {
    "numbers": (torch.ones(3, 4), TypeError, "observed must hold bools, True where x was seen, got torch.float32"),
    "no tensor": ([[True]], TypeError, r"observed must be a torch.Tensor, got list"),
    "another shape": (
        torch.ones(3, 3, dtype=torch.bool),
        ValueError,
        r"observed must have shape \(3, 4\), one value a frame, or \(3, 4, 2\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_flags_are_refused_by_name(name):
    observed, kind, message = BAD[name]
    net, x = random_net(), random_frames()
    for call in (ParticleFilter(net, 2).run, net.impute):
        with pytest.raises(kind, match=message):
            call(x, observed=observed)


@pytest.mark.parametrize("emission", ["mixture", emissions.NADE(3)], ids=["mixture", "nade"])
def test_elements_of_densities_that_are_no_product_are_refused_and_whole_frames_are_not(emission):
    net = random_net(emission)
    x = random_frames("mixture") if emission == "mixture" else random_frames("bernoulli")
    seen = torch.ones_like(x, dtype=torch.bool)
    seen[0, 1] = False
    assert ParticleFilter(net, 3).run(x, observed=seen).log_evidence.isfinite().all()
    seen[0, 1, 0] = True
    with pytest.raises(ValueError, match=r"observed must hold whole frames for .*not a product over its elements"):
        ParticleFilter(net, 3).run(x, observed=seen)


def test_imputations_have_names_and_padding():
    net, x = random_net("categorical").eval(), random_frames("categorical")
    seen = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()
    found = impute(
        net, x, torch.tensor([4, 3, 1]), observed=seen, num_samples=5, num_particles=8, coords={"step": list("abcd")}
    )
    assert found.dims == ("sample", "sequence", "step")
    assert (found.sel(sequence=2, step=["b", "c", "d"]) == -1).all()
    assert (found.sel(step="a")[:, 0] == int(x[0, 0])).all()
    assert found["length"].values.tolist() == [4, 3, 1]
    with pytest.raises(ValueError, match="observed must be given"):
        impute(net, x, observed=None)
    with pytest.raises(ValueError, match="imputed needs frames that particles sampled"):
        ParticleFilter(net, 2).run(x).imputed(3)


def test_beside_is_the_input_of_a_network_with_covariates():
    net, x, c = random_net(covariate_dim=K), random_frames(), torch.randn(3, 4, K, dtype=torch.float64)
    assert torch.equal(net.inputs(x, None, c)[:, 1], beside(net, x[:, 0], c, 1))


OTHERS = {
    "poisson": emissions.Poisson(3),
    "negative binomial": emissions.NegativeBinomial(3),
    "student t": emissions.StudentT(3),
    "mu-law": emissions.MuLaw(3),
    "logistic levels": emissions.DiscretizedLogisticMixture(3, 2, 4),
    "nade": emissions.NADE(3),
    "gamma": GammaFrames(2),
    "matrices": MatrixFrames((2, 3)),
    "shares": SimplexFrames(3),
    "numbers": NumberFrames(),
    "pairs of symbols": SymbolPairs(4),
}


@pytest.mark.parametrize("missing", ["draw", "fill"])
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("nade", "matrices", "numbers") else pytest.param(name, marks=pytest.mark.slow)
        for name in OTHERS
    ],
)
def test_every_emission_is_filtered_imputed_and_started_with_gaps_and_covariates(name, missing):
    net = random_net(OTHERS[name], missing=missing, covariate_dim=K, spread=0.1)
    c, family = torch.randn(4, 5, K, dtype=torch.float64), OTHERS[name]
    with torch.no_grad():
        x = net.model(num_steps=5, batch_shape=4, covariates=c)
    seen = torch.rand(x.shape if family.factorises else x.shape[:2]) > 0.4
    whole = seen.reshape(*seen.shape, *[1] * (x.dim() - seen.dim())).expand_as(x)
    frames = torch.where(whole, x, torch.nan) if x.is_floating_point() else x
    given = {"observed": seen, "covariates": c}
    assert ParticleFilter(net, 6).run(frames, **given).log_evidence.isfinite().all()
    found = torch.as_tensor(net.impute(frames, **given, num_samples=3, num_particles=6).values)
    assert torch.equal(found[:, whole], x[whole].expand(3, -1))
    assert family.valid(found).all()
    if missing == "fill":
        loss = ZForcingELBO(1.0, 0.1, 0.1).differentiable_loss(net.model, net.guide, frames, None, **given)
        assert all(grad.isfinite().all() for grad in gradients(net, loss).values())
    assert net.initialise(frames, **given) == 20
