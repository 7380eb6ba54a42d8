"""The operations of :mod:`zf_pyro.recurrence.engine.operations` as formulas of one element, in Triton's language.

A formula is a list of assignments, run one after the other. Its names are the parameters of the operation:

- ``gates[2]`` is the third block of an operand with several times as many features as the first operand;
- the name of ``parts`` on the right is the sum of its blocks, and ``total(...)`` a sum over the features;
- ``features`` is the number of features, ``zero`` a tile of zeros;
- other names are temporary values.

Functions are those of Triton's language (``tl``) and of :data:`FUNCTIONS`. An operation without a formula is not fused.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..operations import (
    EPSILON,
    activate,
    activate_back,
    add,
    add_product,
    clamp,
    clamp_back,
    copy,
    draw,
    draw_back,
    fill,
    log_density_back,
    lstm,
    lstm_back,
    modulate,
    modulate_back,
    normalise_back,
    product,
    scale,
    sum_squares,
)


class Formula(NamedTuple):
    """An operation as assignments to its operands."""

    lines: tuple[str, ...]
    """Assignments ``name = expression`` or ``name[block] = expression``."""
    vectors: tuple[str, ...] = ()
    """Operands with one element for each row, (1, rows)."""
    parts: str = ""
    """The operand with partial sums, (blocks, rows); empty if there is none."""


FORMULAS: dict[Callable[..., None], Formula] = {
    copy: Formula(("out = x",)),
    add: Formula(("out = out + x",)),
    fill: Formula(("out = zero + number",)),
    scale: Formula(("out = out * mask",), ("mask",)),
    activate: Formula(("out = bounded(leaky(out), 3.0)",)),
    activate_back: Formula(("out = leaky_back(bounded_back(gradient, y, 3.0), y)",)),
    clamp: Formula(("out = bounded(out, limit)",)),
    clamp_back: Formula(("out = bounded_back(gradient, y, limit)",)),
    draw: Formula(("z = loc + tl.exp(0.5 * log_variance) * noise",)),
    draw_back: Formula(
        (
            "into_loc = into_loc + gradient",
            "into_log_variance = into_log_variance + 0.5 * gradient * (z - loc)",
        )
    ),
    log_density_back: Formula(
        (
            "mean = tanh(loc)",
            "away = x - mean",
            "slope = away * tl.exp(-log_variance)",
            "into_loc = gradient * slope * (1.0 - mean * mean)",
            "into_log_variance = gradient * 0.5 * (away * slope - 1.0)",
        ),
        ("gradient",),
    ),
    sum_squares: Formula(("parts = total(x * x)",), parts="parts"),
    modulate: Formula(
        (
            f"inverse_deviation = tl.rsqrt(parts / features + {EPSILON})",
            "normed = normed * inverse_deviation",
            "gates = gates + normed * gain + normed + shift",
        ),
        ("inverse_deviation",),
        "parts",
    ),
    modulate_back: Formula(
        ("into_gain = gradient * normed", "parts = total(into_gain * (1.0 + gain))"),
        parts="parts",
    ),
    normalise_back: Formula(
        ("out = (gradient + gradient * gain - normed * (parts / features)) * inverse_deviation",),
        ("inverse_deviation",),
        "parts",
    ),
    lstm: Formula(
        (
            *(f"gates[{k}] = sigmoid(gates[{k}])" for k in range(3)),
            "gates[3] = tanh(gates[3])",
            "cell = gates[1] * before + gates[0] * gates[3]",
            "tanh_cell = tanh(cell)",
            "hidden = gates[2] * tanh_cell",
        )
    ),
    lstm_back: Formula(
        (
            "into_cell = into_cell + into_hidden * gates[2] * (1.0 - tanh_cell * tanh_cell)",
            "into_gates[2] = into_hidden * tanh_cell * gates[2] * (1.0 - gates[2])",
            "into_gates[0] = into_cell * gates[3] * gates[0] * (1.0 - gates[0])",
            "into_gates[1] = into_cell * before * gates[1] * (1.0 - gates[1])",
            "into_gates[3] = into_cell * gates[0] * (1.0 - gates[3] * gates[3])",
            "into_cell = into_cell * gates[1]",
        )
    ),
}
"""Operations on elements, and sums over features."""

PRODUCTS = {product: False, add_product: True}
"""Operations that multiply a weight; True if they add to what their output holds."""

FUNCTIONS = """
@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))

@triton.jit
def tanh(x):
    # Near zero a continued fraction keeps all digits, where a difference of exponentials would cancel.
    s = x * x
    near = x / (1.0 + s / (3.0 + s / (5.0 + s / (7.0 + s / (9.0 + s / (11.0 + s / (13.0 + s / 15.0)))))))
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    return tl.where(s < 0.3, near, tl.where(x < 0.0, -far, far))

@triton.jit
def leaky(x):
    return tl.where(x > 0.0, x, x * THIRD)

@triton.jit
def leaky_back(gradient, y):
    return tl.where(y > 0.0, gradient, gradient * THIRD)

@triton.jit
def bounded(x, limit):
    # Comparisons that NaN fails: it stays NaN, as in PyTorch.
    return tl.where(x > limit, limit, tl.where(x < -limit, -limit, x))

@triton.jit
def bounded_back(gradient, y, limit):
    return tl.where((y <= -limit) | (y >= limit), 0.0, gradient)
""".replace("THIRD", repr(1.0 / 3.0))
"""Functions of the formulas; (features, rows) to (features, rows)."""

_WORD = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\b(?![(.])(?:\[(\d)\])?")
"""A name in a formula that is no function, and its block."""


def parameters(operation: Callable[..., None]) -> tuple[str, ...]:
    """Names of an operation's parameters: its operands, then its float if it takes one."""
    code = operation.__code__
    return code.co_varnames[: code.co_argcount]


def assignments(formula: Formula) -> Iterator[tuple[str, str]]:
    """The left and right sides of a formula's lines."""
    for line in formula.lines:
        left, right = line.split(" = ", 1)
        yield left, right


def names(expression: str) -> set[str]:
    """The names in an expression."""
    return {match[1] for match in _WORD.finditer(expression)}


def replaced(expression: str, value: Callable[[str, int | None], str]) -> str:
    """The expression with each name, and its block if it has one, replaced by ``value``."""
    return _WORD.sub(lambda match: value(match[1], None if match[2] is None else int(match[2])), expression)
