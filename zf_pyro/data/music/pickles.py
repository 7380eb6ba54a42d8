"""Pickles of plain data, read opcode by opcode: nothing is imported, called or built but lists, tuples and mappings.

:mod:`pickle` runs whatever a file tells it to. Here :func:`pickletools.genops` splits the file into opcodes, and a
stack machine follows those of dictionaries, lists, tuples, strings and integers. Every other opcode is refused by name.
"""

import io
import pickletools
from pathlib import Path
from typing import Any

from ..folders.files import read_bytes

_MARK = object()
_VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    )
)
"""Opcodes that push their argument."""
_EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(path: Path) -> Any:
    """Read a pickle of dictionaries, lists, tuples, strings and integers, of any protocol; nothing in it is run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: any other content, for example a class or a call; a truncated pickle; or several in one file.
    """
    content = io.BytesIO(read_bytes(path))
    machine = _Machine(path)
    try:
        for opcode, argument, position in pickletools.genops(content):
            machine.step(opcode.name, argument, position)
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path} is no whole pickle ({error}): copy or download it anew") from error
    rest = content.read()
    if rest:
        raise ValueError(f"{path} goes on for {len(rest)} bytes after its first pickle: give a file of one pickle")
    return machine.result()


class _RefusedError(Exception):
    """Content other than plain data."""


class _Machine:
    """Stack and memo of a pickle."""

    def __init__(self, path: Path) -> None:
        self.path, self.stack, self.memo = path, list[Any](), dict[int, Any]()

    def step(self, name: str, argument: Any, position: int | None) -> None:
        """Follow one opcode, or refuse it."""
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(_plain(stack[-_TUPLES[name] :], _TUPLES[name]))]
        elif name in ("LIST", "TUPLE"):
            stack.append((list if name == "LIST" else tuple)(self._marked()))
        elif name == "DICT":
            items = self._marked()
            stack.append(_pairs(items))
        elif name == "APPEND":
            item = stack.pop()
            _expect(stack[-1], list).append(*_plain([item], 1))
        elif name == "APPENDS":
            items = self._marked()
            _expect(stack[-1], list).extend(items)
        elif name == "SETITEM":
            items = _plain(stack[-2:], 2)
            del stack[-2:]
            _expect(stack[-1], dict).update(_pairs(items))
        elif name == "SETITEMS":
            items = self._marked()
            _expect(stack[-1], dict).update(_pairs(items))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif name not in ("PROTO", "FRAME", "STOP"):
            told = f" {argument!r}" if isinstance(argument, str) else ""
            raise _RefusedError(
                f"{self.path} holds {name}{told} at byte {position}, expected only dictionaries, lists, tuples, "
                "strings and integers; nothing of it was run: if you trust it, write its notes as .json, convert it"
            )

    def result(self) -> Any:
        """The value left on the stack."""
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            raise ValueError(f"{self.path} is no whole pickle ({len(self.stack)} values at its end): copy it anew")
        return self.stack[0]

    def _marked(self) -> list[Any]:
        """Take the values above the last mark from the stack."""
        start = next(i for i in range(len(self.stack) - 1, -2, -1) if i < 0 or self.stack[i] is _MARK)
        if start < 0:
            raise ValueError("a mark is missing")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items


def _plain(items: list[Any], count: int) -> list[Any]:
    if len(items) != count or any(item is _MARK for item in items):
        raise ValueError("a value is missing")
    return items


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {kind.__name__} is missing")
    return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a value is missing")
    return dict(zip(items[::2], items[1::2], strict=True))
