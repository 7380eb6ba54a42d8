"""The emission of a saved model, as JSON: its registered name and the fields of its dataclass."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..emissions import Emission, registered


def described(emission: Emission) -> dict[str, Any]:
    """An emission in JSON's types.

    Raises:
        TypeError: it is not registered, or its fields do not survive JSON.
    """
    name = type(emission).__name__
    if registered().get(name) is not type(emission):
        raise TypeError(
            f"emission must be registered for its model to be saved, got {emission!r}: put "
            f"@zf_pyro.emissions.register on the class {name}"
        )
    fields = {field.name: getattr(emission, field.name) for field in dataclasses.fields(emission) if field.init}  # type: ignore[arg-type]  # registered are dataclasses
    if "family" in fields:
        raise TypeError(
            f"an emission must have no field 'family', which is its name in a saved model, got {emission!r}"
        )
    try:
        again = _built(type(emission), json.loads(json.dumps(fields, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"fields of an emission must be numbers, strings, booleans, None or tuples of these, got {emission!r}"
        ) from error
    if again != emission:
        raise TypeError(
            f"an emission must equal one built of its fields, got {emission!r} and {again!r}: keep in fields all that "
            "it depends on, and put tuples where lists are"
        )
    return {"family": name, **fields}


def rebuilt(path: Path, description: Any) -> Emission:
    """The emission that :func:`described` wrote.

    Args:
        path: of the file, for errors.
        description: of the emission.

    Raises:
        ValueError: no emission of this name is registered, or its fields do not fit.
    """
    if not isinstance(description, dict) or not isinstance(description.get("family"), str):
        raise ValueError(f"{path} does not describe a net: its emission is {description!r}")
    fields = dict(description)
    name = fields.pop("family")
    family = registered().get(name)
    if family is None:
        raise ValueError(
            f"{path} has the emission {name!r}, known are {sorted(registered())}: import the module that defines it, "
            "with @zf_pyro.emissions.register, before loading"
        )
    return _built(family, fields)


def _built(family: type[Emission], fields: dict[str, Any]) -> Emission:
    return family(**{name: _tuples(value) for name, value in fields.items()})


def _tuples(value: Any) -> Any:
    """JSON has no tuples, and a frozen dataclass has no lists."""
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
