"""Runs a notebook as `make notebooks` does, with other parameters where asked, and looks into its kernel at the end."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def read_notebook(name: str) -> Any:
    """The notebook, where the extra that runs it is installed."""
    nbformat = pytest.importorskip("nbformat", reason="notebooks need the `notebook` extra")
    pytest.importorskip("nbclient", reason="notebooks need the `notebook` extra")
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def run_notebook(
    name: str,
    folder: Path,
    *,
    seconds: int,
    asked: Mapping[str, str] = MappingProxyType({}),
    parameters: Mapping[str, object] = MappingProxyType({}),
) -> tuple[Any, dict[str, Any]]:
    """Run every cell in `folder`, in a kernel of this Python.

    Args:
        name: of the file.
        folder: where the kernel runs.
        seconds: that one cell may take.
        asked: name -> expression that is evaluated after the last cell; what it gives must have a form in JSON.
        parameters: values for names of the cell that is tagged `parameters`.

    Returns:
        The notebook with its outputs, and the values of the expressions.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = read_notebook(name)
    from nbformat.v4 import new_code_cell

    import remake

    if parameters:
        places = [place for place, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
        assert len(places) == 1, "one cell holds the parameters"
        unknown = [one for one in parameters if f"{one} =" not in notebook.cells[places[0]].source]
        assert not unknown, f"{name} has no parameter {unknown}"
        given = "\n".join(f"{one} = {value!r}" for one, value in parameters.items())
        notebook.cells.insert(places[0] + 1, new_code_cell(given))
    expressions = ", ".join(f"{key!r}: {expression}" for key, expression in asked.items())
    notebook.cells.append(new_code_cell(f"import json\nprint('\\nasked', json.dumps({{{expressions}}}))"))
    remake.run(notebook, folder, seconds=seconds)
    last = notebook.cells.pop()
    answer = "".join(output.text for output in last.outputs if output.output_type == "stream").rpartition("\nasked ")[2]
    left = {path.name for path in folder.iterdir()}
    assert left <= {"runs"}, "what a notebook leaves is below runs/"
    values: dict[str, Any] = json.loads(answer)
    return notebook, values
