"""Notebooks hold calls, no logic and no outputs, and run from top to bottom."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LOGIC = re.compile(r"^\s*(def|class|while|try|if|lambda)\b", re.MULTILINE)


def run_notebook(name: str, folder: Path, *, seconds: int) -> None:
    """Run every cell in `folder`, in a kernel of this Python; a cell that fails is an error unless it is meant to."""
    nbclient = pytest.importorskip("nbclient", reason="notebooks need the `notebook` extra")
    nbformat = pytest.importorskip("nbformat", reason="notebooks need the `notebook` extra")
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    assert [path.name for path in folder.iterdir()] == [], "a notebook leaves nothing where it runs"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_calls_only_and_no_outputs(path: Path) -> None:
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            assert not LOGIC.search(source), source


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in target or (NOTEBOOKS / target).exists(), target


def test_plan_and_why(tmp_path: Path) -> None:
    run_notebook("01_plan_and_why.ipynb", tmp_path, seconds=60)


@pytest.mark.ranks
def test_fine_tune_and_look(tmp_path: Path) -> None:
    run_notebook("02_fine_tune_and_look.ipynb", tmp_path, seconds=180)


@pytest.mark.ranks
def test_parallelism(tmp_path: Path) -> None:
    run_notebook("04_parallelism.ipynb", tmp_path, seconds=120)
