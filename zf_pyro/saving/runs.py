"""The record of a run in its folder, by which another run is refused there."""

import importlib.metadata
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .configuration import differences, plain
from .files import write_atomically

RUN = "run.json"
"""File name of the record in a run's folder."""
FORMAT = "zf_pyro run 1"
"""Version of the format. It changes whenever an old record could be misread."""
LEFT = ("checkpoints/step*.ckpt", "checkpoints/*.refused", "best.ckpt", "logs/version_*/metrics.csv", "results.json")
"""What a run leaves in its folder."""


def left_behind(folder: Path) -> list[str]:
    """Files of a run in ``folder``, at most one of each kind, as paths below it."""
    found = (next(iter(sorted(folder.glob(pattern))), None) for pattern in LEFT)
    return [path.relative_to(folder).as_posix() for path in found if path is not None]


def read_run(folder: Path) -> dict[str, Any] | None:
    """The record in ``folder``; None if there is none.

    Raises:
        FileExistsError: the file is no record of a run.
        ValueError: it is of another version of the format.
    """
    path = folder / RUN
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        found = None
    version = found.get("format") if isinstance(found, dict) else None
    if not isinstance(version, str) or not version.startswith("zf_pyro run "):
        raise FileExistsError(f"{path} is no record of a run of zf_pyro, so it is not replaced: give another out")
    if version != FORMAT or not isinstance(found.get("configuration"), dict):
        raise ValueError(f"{path} is of the format {version!r}, this version reads {FORMAT!r}: give another out")
    return dict(found)


def require_new(folder: Path) -> None:
    """Refuse a new run in the folder of another.

    Raises:
        FileExistsError: ``folder`` holds files of a run.
    """
    read_run(folder)
    found = left_behind(folder)
    if found:
        raise FileExistsError(
            f"{folder} holds a run already ({', '.join(found)}), which a new one would mix with or replace: go on with "
            "it by resume=True (--resume), or give another out"
        )


def require_same(folder: Path, configuration: Mapping[str, Any]) -> None:
    """Refuse to go on with the run in ``folder`` under another configuration. A folder without a run is free.

    Raises:
        ValueError: a field differs; names it, and the old and the new value.
    """
    known = read_run(folder)
    found = left_behind(folder)
    if not found:
        return
    if known is None:
        warnings.warn(
            f"{folder} holds a run ({', '.join(found)}) but no {RUN}, so its settings are not known and not compared; "
            "those of this start are recorded as the run's",
            stacklevel=3,
        )
        return
    differing = list(differences(known["configuration"], plain(configuration)))
    if differing:
        field, old, new = differing[0]
        more = f" (and {', '.join(other.field for other in differing[1:4])})" if differing[1:] else ""
        raise ValueError(
            f"the run in {folder} has {field} {old!r}, this one has {new!r}{more}: a run goes on only with the "
            f"settings that it began with. Give another out, or {field} {old!r} as before"
        )


def write_run(folder: Path, configuration: Mapping[str, Any], **facts: Any) -> None:
    """Write the record of a run that begins; the record of a run that goes on stays.

    Args:
        folder: folder of the run; created if missing.
        configuration: what a resumed run must repeat.
        facts: what it need not repeat.
    """
    if read_run(folder) is not None and left_behind(folder):
        return
    fields = {
        "format": FORMAT,
        "zf_pyro": importlib.metadata.version("zf-pyro"),
        "began": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        **plain(facts),
        "configuration": plain(configuration),
    }
    text = json.dumps(fields, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(folder / RUN, lambda file: file.write(text.encode()))
