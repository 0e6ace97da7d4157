"""Run the notebooks and keep what they print and draw: `make notebooks`, or `python notebooks/remake.py 01 03`.

Each runs from top to bottom in an empty folder. What differs between two machines or two runs without anything having
changed is left out: times of execution, warnings, colours of the console, ids.
"""

import base64
import hashlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parent
SECONDS = 600
"""For one cell."""
LARGEST = 1_000_000
"""Bytes of a notebook with its outputs."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CUT = re.compile("(?<=─)\ufffd+(?=─)")
"""A line's sign of three bytes, where the kernel has read what a process prints in two pieces."""


def main(names: Sequence[str]) -> None:
    """Run those whose names begin so, all of them without a name, and write each back."""
    found = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if not names or path.name.startswith(tuple(names))]
    if not found:
        raise SystemExit(f"no notebook begins with {' or '.join(names)}")
    for path in found:
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            run(notebook, Path(folder), seconds=SECONDS)
            tidy(notebook)
            text = nbformat.writes(notebook)
            told = faults(text, Path(folder))
        if told:
            raise SystemExit(f"{path.name}: not written: {'; '.join(told)}")
        path.write_text(f"{text.rstrip()}\n", encoding="utf-8")
        print(f"{path.name}: {len(text) / 1000:.0f} kB")


def run(notebook: Any, folder: Path, *, seconds: int) -> None:
    """Run every cell in `folder`, in a kernel of this Python that imports this checkout's toolkit.

    Raises:
        CellExecutionError: a cell failed.
    """
    paths = [str(NOTEBOOKS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    client = NotebookClient(
        notebook,
        timeout=seconds,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})


def tidy(notebook: Any) -> None:
    """Leave what a reader sees, and a digest of the code that made it."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "code_sha256": code_digest(notebook),
    }
    number = 0
    for place, cell in enumerate(notebook.cells):
        cell.id = f"cell-{place:02d}"
        cell.metadata = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            cell.outputs = _shown(cell.outputs, number)


def code_digest(notebook: Any) -> str:
    """Of all code cells: outputs belong to the code that has the same."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def faults(text: str, folder: Path) -> list[str]:
    """What a notebook that others read must not hold."""
    here = {str(folder), str(Path.home()), str(NOTEBOOKS.parent.resolve()), sys.prefix}
    lines = [line.strip() for line in text.splitlines() if any(len(path) > 1 and path in line for path in here)]
    told = [f"a path of this machine in {line[:300]}" for line in lines]
    return told + ([f"{len(text):,} bytes, more than {LARGEST:,}"] if len(text) > LARGEST else [])


def _shown(outputs: Sequence[Any], number: int) -> list[Any]:
    kept: list[Any] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name != "stdout":
                sys.stderr.write(output.text)
                continue
            output.text = _CUT.sub("─", _CONTROL.sub("", output.text))
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        else:
            _tidy_data(output.data)
        if output.output_type == "execute_result":
            output.execution_count = number
        kept.append(output)
    return kept


def _tidy_data(data: Any) -> None:
    if "text/plain" in data:
        lines = _CONTROL.sub("", data["text/plain"]).splitlines()
        data["text/plain"] = "\n".join(line.rstrip() for line in lines)
    if "image/png" in data:
        data["image/png"] = base64.b64encode(_smaller(base64.b64decode(data["image/png"]))).decode()


def _smaller(png: bytes) -> bytes:
    """A third of the size and to the eye the same: 256 colours are more than a chart has."""
    drawn, kept = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
    few = drawn.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(kept, format="png", optimize=True)
    return kept.getvalue()


if __name__ == "__main__":
    main(sys.argv[1:])
