"""Bad input gets an error that names the argument and says what was expected."""

import pyro
import pyro.poutine as poutine
import pytest
import torch

import zf_pyro
from zf_pyro import Linear, State, ZForcing, ZForcingELBO, emissions

from .comparing import assert_same, densities
from .conftest import random_frames, random_net
from .handlers import traced

SIZES = {"embed_dim": 5, "hidden_dim": 4, "latent_dim": 3, "mlp_dim": 6}


frames = random_frames


def both(x=None, lengths=None, emission="gaussian", **given):
    """Call model and guide, assert that both refuse the input with one message, and raise it."""

    def call():
        net = random_net(emission)
        data = random_frames(emission) if x is None else x
        try:
            net.model(data, lengths, **given)
        except (TypeError, ValueError) as error:
            first = error
        else:
            return
        with pytest.raises(type(first)) as second:
            net.guide(data, lengths, **given)
        assert str(second.value) == str(first)
        raise first

    return call


def generating(*args, **kwargs):
    return lambda: random_net("gaussian").model(None, *args, **kwargs)


def built(emission=None, **settings):
    return lambda: ZForcing(emission or emissions.Gaussian(2), **{**SIZES, **settings})


def with_value(value, at=(1, 2), emission="gaussian"):
    x = random_frames(emission)
    x[at] = value
    return x


def long_lengths():
    lengths = torch.full((5,), 40)
    lengths[3] = 41
    return both(random_frames("gaussian", 5, 40), lengths)


def other_sizes():
    random_net("gaussian").load_state_dict(random_net("gaussian", hidden_dim=7).state_dict())


def two_networks_of_one_name():
    x = frames()
    random_net("gaussian", name="same").model(x)
    random_net("gaussian", name="same", seed=8).model(x)


def state(hidden, cell=None, dtype=torch.float64):
    """Build a state of zeros of given shapes."""
    return State(torch.zeros(*hidden, dtype=dtype), torch.zeros(*(cell or hidden), dtype=dtype))


LENGTHS = torch.tensor([4, 2, 3])
BAD = [
    ("x of rank 2", both(frames()[0]), ValueError, r"x must have shape \(batch, time, 2\).*\(4, 2\)"),
    ("x of rank 4", both(frames()[None]), ValueError, r"x must have shape \(batch, time, 2\)"),
    (
        "symbols of rank 3",
        both(torch.zeros(3, 4, 1, dtype=torch.long), emission="categorical"),
        ValueError,
        r"\(batch, time\)",
    ),
    (
        "x of another frame size",
        both(torch.zeros(3, 4, 5, dtype=torch.float64)),
        ValueError,
        r"x must have shape.*\(3, 4, 5\)",
    ),
    (
        "floats for symbols",
        both(torch.zeros(3, 4), emission="categorical"),
        TypeError,
        r"x must hold integers.*float32",
    ),
    (
        "booleans for symbols",
        both(torch.zeros(3, 4, dtype=torch.bool), emission="categorical"),
        TypeError,
        "x must hold integers",
    ),
    (
        "integers for floats",
        both(torch.zeros(3, 4, 2, dtype=torch.long)),
        TypeError,
        r"x must be torch.float64.*got torch.int64",
    ),
    ("x of another precision", both(frames().float()), TypeError, r"x must be torch.float64.*got torch.float32"),
    ("x as a list", both([[1.0]]), TypeError, "x must be a torch.Tensor, got list"),
    ("x on another device", both(frames().to("meta")), ValueError, "x must be on cpu.*got meta"),
    ("an empty batch", both(frames()[:0]), ValueError, r"x must hold at least one sequence.*\(0, 4, 2\)"),
    ("no steps", both(frames()[:, :0]), ValueError, r"x must hold at least one sequence and one step.*\(3, 0, 2\)"),
    ("NaN in x", both(with_value(float("nan"))), ValueError, "x must hold finite numbers.*at sequence 1, step 2"),
    ("infinity in x", both(with_value(float("inf"))), ValueError, "x must hold finite numbers.*inf"),
    (
        "a label too large",
        both(with_value(4, emission="categorical"), emission="categorical"),
        ValueError,
        "integers from 0 to 3.*got 4 at sequence 1, step 2",
    ),
    (
        "a negative label",
        both(with_value(-1, emission="categorical"), emission="categorical"),
        ValueError,
        "integers from 0 to 3.*got -1",
    ),
    (
        "halves for bits",
        both(with_value(0.5, emission="bernoulli"), emission="bernoulli"),
        ValueError,
        "x must hold zeros and ones",
    ),
    (
        "a length of zero",
        both(lengths=torch.tensor([4, 0, 3])),
        ValueError,
        "lengths must be between 1 and 4.*got 0 at sequence 1",
    ),
    ("a length beyond time", long_lengths(), ValueError, r"lengths must be between 1 and 40 .*got 41 at sequence 3"),
    ("too few lengths", both(lengths=torch.tensor([4, 2])), ValueError, r"lengths must have shape \(3,\).*\(2,\)"),
    ("lengths of rank 2", both(lengths=LENGTHS[:, None]), ValueError, r"lengths must have shape \(3,\).*\(3, 1\)"),
    (
        "lengths of floats",
        both(lengths=LENGTHS.double()),
        TypeError,
        "lengths must be a tensor of integers, got torch.float64",
    ),
    (
        "lengths of booleans",
        both(lengths=LENGTHS > 2),
        TypeError,
        "lengths must be a tensor of integers, got torch.bool",
    ),
    ("lengths as a list", both(lengths=[4, 2, 3]), TypeError, "lengths must be a tensor of integers, got list"),
    ("lengths on another device", both(lengths=LENGTHS.to("meta")), ValueError, "lengths must be on cpu.*got meta"),
    (
        "a context of another batch",
        both(context=frames()[:2, 0]),
        ValueError,
        r"context must be one frame a sequence, of shape \(3, 2\)",
    ),
    ("a context of a sequence", both(context=frames()), ValueError, "context must be one frame a sequence"),
    ("a context of another precision", both(context=frames()[:, 0].float()), TypeError, "context must be"),
    ("a context with NaN", both(context=frames()[:, 0] * float("nan")), ValueError, "context must"),
    (
        "a context with a wrong label",
        both(context=torch.tensor([0, 9, 1]), emission="categorical"),
        ValueError,
        "context must",
    ),
    (
        "a state of another size",
        both(initial_state=state((3, 7))),
        ValueError,
        r"initial_state.hidden must have shape \(\.\.\., 3, 4\)",
    ),
    (
        "a cell of another size",
        both(initial_state=state((3, 4), (3, 7))),
        ValueError,
        "initial_state.cell must have shape",
    ),
    ("a state of another batch", both(initial_state=state((2, 4))), ValueError, "initial_state.hidden must have shape"),
    (
        "a state of another precision",
        both(initial_state=state((3, 4), dtype=torch.float32)),
        ValueError,
        "initial_state.hidden must be torch.float64",
    ),
    (
        "one tensor for a state",
        both(initial_state=torch.zeros(3, 4, dtype=torch.float64)),
        (TypeError, ValueError),
        "initial_state",
    ),
    (
        "sizes beside x",
        lambda: random_net("gaussian").model(frames(), num_steps=4),
        ValueError,
        "num_steps and batch_shape are for generating",
    ),
    (
        "generation without num_steps",
        generating(batch_shape=(2,)),
        ValueError,
        "num_steps must be a positive integer where x is None, got None",
    ),
    (
        "generation of no steps",
        generating(num_steps=0, batch_shape=(2,)),
        ValueError,
        "num_steps must be a positive integer",
    ),
    (
        "generation of True steps",
        generating(num_steps=True, batch_shape=(2,)),
        ValueError,
        "num_steps must be a positive integer",
    ),
    ("generation without batch_shape", generating(num_steps=2), ValueError, "batch_shape must be"),
    ("generation of no sequences", generating(num_steps=2, batch_shape=(0,)), ValueError, "batch_shape must be"),
    (
        "generation of a float of sequences",
        generating(num_steps=2, batch_shape=2.5),
        (TypeError, ValueError),
        "batch_shape must be",
    ),
    ("no emission", built("gaussian"), TypeError, "emission must be one of zf_pyro.emissions.*'gaussian'"),
    ("the class of an emission", built(emissions.Gaussian), TypeError, "emission must be one of"),
    ("an unknown transition", built(transition="gru"), ValueError, "transition must be one of.*'gru'"),
    ("an unknown recurrence", built(recurrence="fast"), ValueError, "recurrence must be.*'fast'"),
    *(
        (f"{name} of {value}", built(**{name: value}), ValueError, f"{name} must be a positive integer")
        for name in SIZES
        for value in (0, -1, 2.5, True)
    ),
    *(
        (f"dropout of {value}", built(dropout=value), ValueError, "dropout must be a probability")
        for value in (-0.1, 1.0, float("nan"))
    ),
    *(
        (
            f"{name} of {value}",
            lambda name=name, value=value: ZForcingELBO(**{name: value}),
            ValueError,
            f"{name} must be a finite number",
        )
        for name in ("kl_weight", "aux_weight", "backward_weight", "free_nats")
        for value in (-0.1, float("nan"), float("inf"))
    ),
    (
        "a weight in words",
        lambda: ZForcingELBO(kl_weight="linear"),
        TypeError,
        "kl_weight must be a number or a schedule",
    ),
    ("no particles", lambda: ZForcingELBO(num_particles=0), ValueError, "num_particles must be a positive integer"),
    (
        "a schedule of zero steps",
        lambda: Linear(0.0, 1.0, 0),
        ValueError,
        "num_steps must be a positive integer, got 0",
    ),
    (
        "a schedule from below zero",
        lambda: Linear(-1.0, 1.0, 5),
        ValueError,
        "start must be a finite number of at least 0",
    ),
    ("a schedule to infinity", lambda: Linear(0.0, float("inf"), 5), ValueError, "end must be a finite number"),
    ("a negative constant", lambda: zf_pyro.Constant(-1.0), ValueError, "value must be a finite number"),
    ("a checkpoint of other sizes", other_sizes, RuntimeError, "size mismatch"),
    ("two networks of one name", two_networks_of_one_name, RuntimeError, r"another tensor.*'same'.*its own name"),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_gets_a_clear_error(call, error, message):
    with pytest.raises(error, match=message):
        call()


UNSEEN = {
    "NaN": (with_value(float("nan")), None),
    "a length of zero": (frames(), torch.tensor([4, 0, 3])),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_values_are_read_only_under_validation(what, monkeypatch):
    """Without validation, no value is copied from the device to the host."""
    x, lengths = UNSEEN[what]
    net = random_net("gaussian")
    for reader in ("item", "tolist", "__bool__", "any", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, reader, lambda *_, r=reader: pytest.fail(f"Tensor.{r} waits for the device"))
    with pyro.validation_enabled(False):
        net.model(x, lengths)
        net.guide(x, lengths)


def test_shapes_are_checked_without_validation():
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="x must have shape"):
        random_net("gaussian").model(frames()[0])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_symbols_of_any_integer_width_have_the_densities_of_int64(dtype):
    net, x, found = random_net("categorical"), random_frames("categorical"), []
    for each in (torch.int64, dtype):
        arguments = x.to(each), LENGTHS.to(each)
        guide = traced(net.guide, *arguments)
        found.append(densities(guide, traced(poutine.replay(net.model, trace=guide), *arguments)))
    assert found[0].keys() == {*(f"0:z_{t}" for t in range(4)), *(f"1:{kind}_{t}" for kind in "zx" for t in range(4))}
    assert_same(*found, rtol=0, atol=0)
