"""New sequences, continuations, reconstructions and interpolations: against the model, quadrature and definitions."""

import math

import pytest
import torch

from zf_pyro import State
from zf_pyro.emissions import most_likely

from .comparing import EXACT
from .conftest import EMISSIONS, random_frames, random_net
from .exact import log_evidence, small

MANY = 20_000
LENGTHS = torch.tensor([4, 1, 3])


def frequencies(x, classes=4):
    """Compute the relative frequency of each pair of symbols in x (many, 2)."""
    return torch.bincount(x[:, 0] * classes + x[:, 1], minlength=classes**2).double() / len(x)


@pytest.mark.parametrize("with_context", [False, True])
def test_symbols_are_generated_as_often_as_by_the_model(transition, with_context):
    net = random_net("categorical", transition=transition, spread=1.0)
    context = torch.full((MANY,), 2) if with_context else None
    with torch.no_grad():
        by_model = frequencies(net.model(None, None, context, num_steps=2, batch_shape=(MANY,)))
    generated = frequencies(net.generate(MANY, 2, context=context))
    error = ((by_model * (1 - by_model) + generated * (1 - generated)) / MANY).sqrt()
    assert ((generated - by_model).abs() < 4 * error + 1e-4).all()
    assert generated.max() < 0.9, "one pair dominates: the test would have no power"


@pytest.mark.parametrize("emission", ["gaussian", "mixture", "bernoulli"])
def test_generated_frames_have_the_models_moments(emission):
    net = random_net(emission)
    with torch.no_grad():
        by_model = net.model(num_steps=3, batch_shape=(MANY,)).flatten(1)
    generated = net.generate(MANY, 3).flatten(1)
    for x, y in ((by_model, generated), (by_model[:, :1] * by_model, generated[:, :1] * generated)):
        error = ((x.var(0) + y.var(0)) / MANY).sqrt()
        assert ((x.mean(0) - y.mean(0)).abs() < 4 * error).all()


@pytest.mark.parametrize("emission", sorted(EMISSIONS))
def test_a_continuation_has_the_frames_shape_and_values(emission):
    net, x = random_net(emission), random_frames(emission)
    family = EMISSIONS[emission]
    for new in (net.generate(3, 5), net.generate(3, 5, prompt=(x, LENGTHS)), net.generate(3, 5, prompt=(x[:1], None))):
        assert new.shape == (3, 5, *family.event_shape)
        assert new.dtype == x.dtype
        assert family.valid(new).all()
        assert not new.requires_grad


def test_a_continuation_is_sampled_given_its_prompt(transition):
    """Compared with p(x_{P+1} | x_1..x_P) by quadrature, for prompts of one and of two frames."""
    net, prompts = small("categorical", transition, 2)
    lengths, classes = torch.tensor([1, 2]), 4
    for i, length in enumerate(lengths.tolist()):
        seen = prompts[i : i + 1, :length]
        longer = torch.cat([seen.expand(classes, -1), torch.arange(classes).unsqueeze(1)], dim=1)
        with torch.no_grad():
            exact = torch.cat([log_evidence(net, row.unsqueeze(0), 40) for row in longer]).softmax(0)
        new = net.generate(3000, 1, prompt=(prompts[i : i + 1], lengths[i : i + 1]), prompt_particles=40)[:, 0]
        found = torch.bincount(new, minlength=classes) / len(new)
        error = (exact * (1 - exact) / len(new)).sqrt()
        assert ((found - exact).abs() < 4 * error + 2e-3).all()


def test_one_sample_of_a_prompts_latents_is_the_guides():
    """If the posterior is nearly deterministic, the state after a prompt is that of the guide's latents."""
    net, x = random_net("gaussian"), random_frames("gaussian")
    layer = net.posterior_network.second
    with torch.no_grad():
        layer.weight[3:], layer.bias[3:] = 0.0, -40.0
        layer.weight[:3] *= 3
        scan_z = net.guide(x, LENGTHS)
        states = net.states(x, scan_z)
        last = State(*(field[LENGTHS - 1, torch.arange(3)] for field in states))
        prior = net.prior(last).base_dist
        expected = most_likely(net.emission(net.transition(last, x[torch.arange(3), LENGTHS - 1], prior.loc)))
        padded = x.clone()
        padded[1, 1:] = math.nan
        found = net.generate(3, 1, prompt=(padded, LENGTHS), latent_temperature=0.0, greedy=True)[:, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)


def test_samples_at_a_temperature_near_zero_are_greedy():
    for emission in EMISSIONS:
        net = random_net(emission)
        cold = net.generate(3, 6, temperature=1e-12, latent_temperature=0.0)
        torch.testing.assert_close(cold, net.generate(3, 6, latent_temperature=0.0, greedy=True), rtol=0, atol=1e-3)


def test_a_higher_temperature_spreads_frames_more():
    net = random_net("gaussian")
    spreads = [net.generate(2000, 3, temperature=t).std(0).mean() for t in (0.1, 1.0, 4.0)]
    assert spreads == sorted(spreads)
    latents = [net.generate(2000, 3, latent_temperature=t, greedy=True).std(0).mean() for t in (0.0, 1.0, 4.0)]
    assert latents == sorted(latents)
    assert latents[0] == pytest.approx(0.0, abs=1e-12)


def test_the_nucleus_leaves_out_unlikely_symbols():
    net = random_net("categorical", spread=1.0)
    with torch.no_grad():
        net.emission_layer.weight.zero_()
        net.emission_layer.bias.copy_(torch.tensor([0.05, 0.5, 0.15, 0.3]).log())
    assert net.generate(500, 4, top_p=0.7).unique().tolist() == [1, 3]
    assert net.generate(500, 4, top_p=0.9).unique().tolist() == [1, 2, 3]


def test_after_the_end_token_nothing_else_follows():
    x = random_net("categorical", spread=1.0).generate(500, 8, stop=2)
    ended = (x == 2).cumsum(1) > 0
    assert (x[ended] == 2).all()
    assert (ended[:, 1:] > ended[:, :-1]).any(), "no sequence ends after its first symbol: the test would have no power"


@pytest.mark.parametrize("emission", sorted(EMISSIONS))
def test_a_reconstruction_has_the_most_likely_frames_given_the_posterior_means(emission, transition):
    net, x = random_net(emission, transition=transition), random_frames(emission)
    u, b, state = net.inputs(x), net.backward_states(x, LENGTHS), net.initial_state((3,))
    free_state, fed_back, taught, free = state, u[:, 0], [], []
    with torch.no_grad():
        for t in range(4):
            z_t = net.posterior(state, b[t]).base_dist.loc
            state, free_state = net.transition(state, u[:, t], z_t), net.transition(free_state, fed_back, z_t)
            fed_back = most_likely(net.emission(free_state))
            taught.append(most_likely(net.emission(state)))
            free.append(fed_back)
    for expected, found in (
        (taught, net.reconstruct(x, LENGTHS)),
        (free, net.reconstruct(x, LENGTHS, teacher_forcing=False)),
    ):
        assert found.shape == x.shape
        for i, length in enumerate(LENGTHS.tolist()):
            torch.testing.assert_close(found[i, :length], torch.stack(expected, 1)[i, :length], **EXACT)
            assert not found[i, length:].any()


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_padding_never_changes_a_reconstruction(emission):
    net, x = random_net(emission), random_frames(emission)
    padded = x.clone()
    padded[1, 1:] = -1 if emission == "categorical" else math.nan
    for teacher_forcing in (True, False):
        a, b = (net.reconstruct(frames, LENGTHS, teacher_forcing=teacher_forcing) for frames in (x, padded))
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("emission", sorted(EMISSIONS))
def test_the_ends_of_an_interpolation_are_reconstructions_from_latents_alone(emission):
    net, x_a, x_b = random_net(emission), random_frames(emission), random_frames(emission, time=6, seed=5)
    lengths_b = torch.tensor([2, 6, 3])
    between = net.interpolate(x_a, x_b, 4, lengths_a=LENGTHS, lengths_b=lengths_b)
    assert between.lengths.tolist() == [[4, 1, 3], [3, 3, 3], [3, 4, 3], [2, 6, 3]]
    assert between.x.shape == (4, 3, 6, *EMISSIONS[emission].event_shape)
    for found, x, lengths in ((between.x[0], x_a, LENGTHS), (between.x[-1], x_b, lengths_b)):
        expected = net.reconstruct(x, lengths, teacher_forcing=False)
        for i, length in enumerate(lengths.tolist()):
            torch.testing.assert_close(found[i, :length], expected[i, :length], **EXACT)
            assert not found[i, length:].any()


def test_the_middle_of_an_interpolation_has_the_mean_of_the_latents():
    """Expected: the mean of the two posterior means at each step, decoded step by step."""
    net, x_a, x_b = random_net("gaussian"), random_frames("gaussian"), random_frames("gaussian", seed=9)
    with torch.no_grad():
        latents = []
        for x in (x_a, x_b):
            u, b, state, z = net.inputs(x), net.backward_states(x), net.initial_state((3,)), []
            for t in range(4):
                z.append(net.posterior(state, b[t]).base_dist.loc)
                state = net.transition(state, u[:, t], z[-1])
            latents.append(z)
        state, u_t, frames = net.initial_state((3,)), torch.zeros(3, 2, dtype=torch.float64), []
        for z_a, z_b in zip(*latents, strict=True):
            state = net.transition(state, u_t, (z_a + z_b) / 2)
            u_t = net.emission(state).mean
            frames.append(u_t)
    torch.testing.assert_close(net.interpolate(x_a, x_b, 3).x[1], torch.stack(frames, 1), **EXACT)


def test_dropout_is_off_and_training_mode_is_restored():
    net, x = random_net("gaussian", dropout=0.5), random_frames("gaussian")
    torch.testing.assert_close(net.reconstruct(x), net.reconstruct(x), rtol=0, atol=0)
    net.generate(2, 2)
    net.interpolate(x, x, 2)
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0; greedy=True"),
        ({"temperature": math.nan}, "temperature must be above 0"),
        ({"latent_temperature": -1.0}, "latent_temperature must be a finite number of at least 0, got -1.0"),
        ({"top_p": 0.0}, "top_p must be a probability in"),
        ({"top_p": 0.5}, "top_p is for symbols"),
        ({"greedy": True, "temperature": 0.5}, "leave temperature and top_p out"),
        ({"stop": 1}, "stop must be a symbol of the emission"),
        ({"num_sequences": 0}, "num_sequences must be a positive integer, got 0"),
        ({"num_steps": 2.0}, "num_steps must be a positive integer, got 2.0"),
        ({"prompt": (torch.zeros(2, 4, 2).double(), None)}, "prompt must hold one sequence or 3, one for each new one"),
        ({"prompt": (torch.zeros(3, 4, 5).double(), None)}, r"prompt must have shape \(batch, time, 2\)"),
        ({"prompt": (torch.full((3, 4, 2), math.nan).double(), None)}, "prompt must hold finite numbers"),
        ({"context": torch.zeros(2, 2).double()}, "context must be one frame a sequence"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        random_net("gaussian").generate(**{"num_sequences": 3, "num_steps": 2, **settings})


def test_an_interpolation_needs_two_ends_and_equal_batch_sizes():
    net, x = random_net("gaussian"), random_frames("gaussian")
    with pytest.raises(ValueError, match="num must be an integer of at least 2, got 1"):
        net.interpolate(x, x, 1)
    with pytest.raises(ValueError, match="x_b must hold as many sequences as x_a, 3, got 2"):
        net.interpolate(x, x[:2])
    with pytest.raises(ValueError, match="stop must be a symbol of the emission, which holds integers from 0 to 3"):
        random_net("categorical").generate(2, 2, stop=4)
