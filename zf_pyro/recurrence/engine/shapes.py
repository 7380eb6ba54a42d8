"""Shapes of the operands of each operation, checked before a program runs.

Compiled code reads and writes as many elements as the first operand says. A wrong shape elsewhere would read beyond an
operand's end. Nothing is broadcast but what an operation of ``operations.py`` defines.
"""

from collections.abc import Callable, Sequence

from .operations import (
    activate,
    activate_back,
    add,
    add_outer,
    add_product,
    add_sum,
    clamp,
    clamp_back,
    copy,
    draw,
    draw_back,
    fill,
    log_density,
    log_density_back,
    lstm,
    lstm_back,
    modulate,
    modulate_back,
    normalise_back,
    pack,
    product,
    scale,
    sum_squares,
)

Sizes = tuple[int, ...]
Rule = Callable[[Sequence[Sizes], int], Sequence[Sizes]]
"""Expected sizes after the ring, (features, rows), of each operand. Arguments: the shapes found, and the rows of a
panel of weights; 1 where products read weights as they are."""


def _same(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    _, features, rows = shapes[0]
    return ((features, rows),) * len(shapes)


def _product(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    (_, features, rows), inner = shapes[0], shapes[2][1]
    return (features, rows), (-(-features // panel), inner * panel), (inner, rows), (features, 1)


def _pack(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    _, features, columns = shapes[1]
    return (-(-features // panel), columns * panel), (features, columns)


def _add_outer(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    (_, features, columns), (_, _, steps, rows) = shapes[:2]
    return (features, columns), (features, steps, rows), (columns, steps, rows)


def _add_sum(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    (_, features, _), (_, _, rows) = shapes
    return (features, 1), (features, rows)


def _scale(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    _, features, rows = shapes[0]
    return (features, rows), (1, rows)


def _sum_squares(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    (_, blocks, rows), (_, features, _) = shapes
    return (blocks, rows), (features, rows)


def _log_density(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    _, features, rows = shapes[1]
    return (1, rows), *((features, rows),) * 3


def _log_density_back(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    _, features, rows = shapes[0]
    whole = features, rows
    return whole, whole, (1, rows), whole, whole, whole


def _modulate(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    (_, features, rows), (_, blocks, _) = shapes[0], shapes[3]
    whole = features, rows
    return whole, whole, (1, rows), (blocks, rows), whole, whole


def _modulate_back(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    (_, features, rows), (_, blocks, _) = shapes[:2]
    whole = features, rows
    return whole, (blocks, rows), whole, whole, whole


def _normalise_back(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    return *_modulate_back(shapes, panel), (1, shapes[0][2])


def _lstm(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    _, features, rows = shapes[0]
    state = features, rows
    return state, state, state, (4 * features, rows), state


def _lstm_back(shapes: Sequence[Sizes], panel: int) -> Sequence[Sizes]:
    _, features, rows = shapes[0]
    state, gates = (features, rows), (4 * features, rows)
    return state, gates, state, gates, state, state


_RULES: dict[Callable[..., None], tuple[int, int, Rule]] = {
    pack: (2, 2, _pack),
    product: (3, 4, _product),
    add_product: (3, 3, _product),
    add_outer: (3, 3, _add_outer),
    copy: (2, 2, _same),
    add: (2, 2, _same),
    add_sum: (2, 2, _add_sum),
    fill: (1, 1, _same),
    scale: (2, 2, _scale),
    activate: (1, 1, _same),
    activate_back: (3, 3, _same),
    clamp: (1, 1, _same),
    clamp_back: (3, 3, _same),
    draw: (4, 4, _same),
    draw_back: (5, 5, _same),
    sum_squares: (2, 2, _sum_squares),
    log_density: (4, 4, _log_density),
    log_density_back: (6, 6, _log_density_back),
    modulate: (6, 6, _modulate),
    modulate_back: (5, 5, _modulate_back),
    normalise_back: (6, 6, _normalise_back),
    lstm: (5, 5, _lstm),
    lstm_back: (6, 6, _lstm_back),
}
"""Least and most operands of each operation, and the rule of their shapes."""


def check_shapes(operation: Callable[..., None], shapes: Sequence[Sizes], panel: int) -> None:
    """Refuse an instruction whose operands do not have the shapes that its operation defines.

    Args:
        operation: the operation.
        shapes: the shapes of its operands, (ring, features, rows); two operands of ``add_outer`` have
            (ring, features, steps, rows).
        panel: rows of a panel of packed weights; 1 where weights are not packed.

    Raises:
        ValueError: names the operation, the operand, its shape and the expected one.
    """
    least, most, rule = _RULES[operation]
    if not least <= len(shapes) <= most:
        raise ValueError(f"{operation.__name__} takes {_between(least, most)} operands, got {len(shapes)}")
    try:
        expected = rule(shapes, panel)
    except (ValueError, IndexError):  # an operand of another rank, from which no sizes can be read
        found = ", ".join(f"{_name(operation, k)} {shape}" for k, shape in enumerate(shapes))
        rank = "(ring, features, rows), or (ring, features, steps, rows) for windows of add_outer"
        raise ValueError(f"operands of {operation.__name__} must have shapes {rank}, got {found}") from None
    sizes = [shape[1:] for shape in shapes]
    if sizes == [*expected[: len(sizes)]]:  # product has a bias or none
        return
    k = next(k for k, size in enumerate(sizes) if size != expected[k])
    needed = ", ".join(map(str, expected[k]))
    raise ValueError(
        f"operand {k} ({_name(operation, k)}) of {operation.__name__} must have shape (ring, {needed}) to fit "
        f"the others, got {shapes[k]}"
    )


def _name(operation: Callable[..., None], k: int) -> str:
    return operation.__code__.co_varnames[k]


def _between(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} or {most}"
