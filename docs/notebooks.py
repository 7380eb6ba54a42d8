"""Run the tutorials in docs/tutorials/ from fresh kernels, and keep their outputs.

    python docs/notebooks.py                      # all, at full size; writes the outputs into the notebooks
    python docs/notebooks.py --only first_model   # one of them
    python docs/notebooks.py --small              # all, at small size; writes nothing

Fails with the error of the cell that raised one. Warnings count as errors, and so do paths of this machine in an
output. Needs ``pip install "zf-pyro[docs,examples]"``.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "tutorials"
SIZE = "ZF_PYRO_NOTEBOOKS"
"""Environment variable that notebooks read: "small" for a run that only shows that they work."""
SECONDS = 900
"""Time limit of a cell."""
KERNEL = "tutorials"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""Metadata of a notebook: no versions, which would differ from machine to machine."""
LEFT_OUT = re.compile(r"^INFO|\d+%\||it/s|s/it|\d+it \[")
"""Lines of the standard error that are left out: tqdm's progress bars, and what Pyro logs for information."""


class OutputError(ValueError):
    """An output that must not be shown to readers."""


def names() -> list[str]:
    """Names of all notebooks."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def run(name: str, small: bool) -> Any:
    """Run a notebook from a fresh kernel of this interpreter, in a temporary folder.

    Raises:
        CellExecutionError: a cell raised an error.
        OutputError: a warning, or a path of this machine, in an output.
    """
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.get("outputs", []).clear()
    environment = {SIZE: "small" if small else "full", "OMP_NUM_THREADS": "1", "MPLBACKEND": ""}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            km=AsyncKernelManager(kernel_name=KERNEL, kernel_spec_manager=kernels(Path(folder))),
            resources={"metadata": {"path": folder}},
            record_timing=False,
        )
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        client.execute(env={**os.environ, **environment, "PYTHONPATH": path}, cleanup_kc=True)
        tidy(notebook, (folder, str(ROOT), sys.prefix, str(Path.home())))
    return notebook


def kernels(folder: Path) -> KernelSpecManager:
    """A manager whose one kernel, :data:`KERNEL`, is this interpreter; its description is written into ``folder``."""
    quiet = ["-W", "ignore:IProgress not found"]  # of Pyro's tqdm, which falls back to plain progress bars
    command = [sys.executable, *quiet, "-m", "ipykernel_launcher", "--log-level=ERROR", "-f", "{connection_file}"]
    place = folder / "kernels" / KERNEL
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps({"argv": command, "display_name": KERNEL, "language": "python"}))
    return KernelSpecManager(kernel_dirs=[str(place.parent)])


def tidy(notebook: Any, private: tuple[str, ...]) -> None:
    """Leave out progress bars and volatile metadata.

    Args:
        notebook: the notebook, changed in place.
        private: paths that no output may hold.

    Raises:
        OutputError: anything else on the standard error, or one of the paths.
    """
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata.pop("execution", None)
        kept = []
        for output in cell.get("outputs", []):
            output.pop("transient", None)
            shown = str(output.get("text", output.get("data", "")))
            if output.output_type == "stream" and output.name == "stderr":
                lines = [line for line in re.split(r"[\r\n]+", output.text) if line.strip()]
                if rest := [line for line in lines if not LEFT_OUT.search(line)]:
                    raise OutputError(f"cell {number} wrote to the standard error:\n" + "\n".join(rest))
                continue
            if found := [path for path in private if len(path) > 1 and path in shown]:
                raise OutputError(f"cell {number} shows {found[0]}, a path of this machine")
            if "text/plain" in output.get("data", {}):
                output.data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", output.data["text/plain"])
            kept.append(output)
        if "outputs" in cell:
            cell.outputs = kept


def main() -> int:
    """Run what the command line asks for; 1 if a notebook failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="run at small size and write nothing")
    parser.add_argument("--only", metavar="NAME", choices=names(), help="one notebook: " + ", ".join(names()))
    arguments = parser.parse_args()
    failed = 0
    for name in [arguments.only] if arguments.only else names():
        start = time.perf_counter()
        try:
            notebook = run(name, arguments.small)
        except (CellExecutionError, OutputError) as error:
            message = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # IPython colours its errors
            print(f"{name}: failed\n{message}", file=sys.stderr, flush=True)
            failed = 1
            continue
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        if not arguments.small:
            nbformat.write(notebook, FOLDER / f"{name}.ipynb")
    return failed


if __name__ == "__main__":
    sys.exit(main())
