"""Notebooks hold calls and no logic, with the outputs of the code that stands there, and nothing of who made them.

Those that start processes run in tests/ranks/test_training_notebooks.py.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from notebook_runs import NOTEBOOKS, read_notebook, run_notebook

LOGIC = re.compile(r"^\s*(def|class|while|try|if|lambda)\b", re.MULTILINE)
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
NOISE = re.compile(r"/tmp/|site-packages|Warning\b|Traceback|\x1b\[", re.IGNORECASE)
LARGEST = 1_000_000


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def texts(outputs: list[dict[str, Any]]) -> list[str]:
    """What a cell prints and shows, as text."""
    return ["".join(one["text"] if one["output_type"] == "stream" else one["data"]["text/plain"]) for one in outputs]


def test_they_are_the_five_and_each_is_named_by_its_number() -> None:
    assert [path.stem for path in PATHS] == ["01_plan", "02_finetune", "03_ds_config", "04_parallelism", "05_compare"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_calls_only(path: Path) -> None:
    for cell in cells(path, "code"):
        source = "".join(cell["source"])
        assert not LOGIC.search(source), source


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_it_can_be_read(path: Path) -> None:
    prose, code = (cells(path, kind) for kind in ("markdown", "code"))
    assert "".join(prose[0]["source"]).startswith("# ")
    assert len(prose) >= len(code) / 2
    for cell in prose:
        for line in "".join(cell["source"]).splitlines():
            assert len(line) <= 140, line


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_outputs_are_those_of_the_code(path: Path) -> None:
    notebook = read_notebook(path.name)
    import remake

    assert notebook.metadata["code_sha256"] == remake.code_digest(notebook), "run `make notebooks` and look at it"
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert path.stat().st_size <= LARGEST
    for text in texts(outputs):
        assert not NOISE.search(text), text


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in target or (NOTEBOOKS / target).exists(), target


def test_plan(tmp_path: Path) -> None:
    asked = {
        "strategy": "plan.strategy.words",
        "fits": "{name: answer.fits for name, answer in answers.items()}",
        "files": "sorted(path.name for path in folder.iterdir())",
    }
    notebook, found = run_notebook("01_plan.ipynb", tmp_path, seconds=60, asked=asked)
    import remake

    assert found["strategy"].startswith("ZeRO-2")
    assert [name for name, fits in found["fits"].items() if not fits] == ["70B, RTX 4090"]
    assert {"plan.json", "ds_config.json", "recipe.yaml"} <= set(found["files"])
    # It is arithmetic: what stands there is what the planner says today.
    remake.tidy(notebook)
    kept = [texts(cell["outputs"]) for cell in cells(NOTEBOOKS / "01_plan.ipynb", "code")]
    now = [texts(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    assert now == kept, "the planner says something else today; run `make notebooks ONLY=01` and look at it"
