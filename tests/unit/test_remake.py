"""What is kept of a notebook that has run: what a reader sees, and nothing that changes by itself."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient", reason="notebooks need the `notebook` extra")
pytest.importorskip("matplotlib", reason="pictures need matplotlib")

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

import remake
from toolkit.planner.what_if import Answer
from toolkit.report.pictures import draw_memory


def ran(source: str, outputs: list[Any]) -> Any:
    cell = new_code_cell(source, outputs=outputs, execution_count=17)
    cell.metadata = {"execution": {"iopub.status.busy": "2020-01-01T00:00:00Z"}, "tags": ["parameters"]}
    return new_notebook(cells=[new_markdown_cell("# Title"), cell, new_code_cell("2")], metadata={"widgets": {}})


def test_streams_are_joined_and_what_is_noise_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = ran(
        "1",
        [
            new_output("stream", name="stdout", text="\x1b[1;32mstep\x1b[0m 1\n"),
            new_output("stream", name="stderr", text="FutureWarning: soon\n"),
            new_output("stream", name="stdout", text="╰──\ufffd\ufffd─╯\n"),
            new_output("display_data", data={"text/plain": "\x1b[1mbold\x1b[0m   \nrow  "}),
        ],
    )
    remake.tidy(notebook)
    stream, shown = notebook.cells[1].outputs
    assert stream.text == "step 1\n╰────╯\n"
    assert shown.data["text/plain"] == "bold\nrow"
    assert "FutureWarning" in capsys.readouterr().err, "who makes it sees it"


def test_equal_runs_are_equal_files() -> None:
    notebook = ran("1", [new_output("execute_result", data={"text/plain": "1"}, execution_count=17)])
    remake.tidy(notebook)
    assert [cell.id for cell in notebook.cells] == ["cell-00", "cell-01", "cell-02"]
    assert [cell.metadata for cell in notebook.cells] == [{}, {"tags": ["parameters"]}, {}]
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    assert notebook.cells[1].outputs[0].execution_count == 1
    assert notebook.metadata.keys() == {"kernelspec", "language_info", "code_sha256"}


def test_the_digest_is_of_the_code_alone() -> None:
    notebook, other, prose = ran("1", []), ran("3", []), ran("1", [])
    prose.cells[0].source = "# Another title"
    assert remake.code_digest(notebook) == remake.code_digest(prose) != remake.code_digest(other)


def test_pictures_become_smaller_and_stay_as_large() -> None:
    drawn = draw_memory({"llama": Answer(None, "no plan fits " * 20)}, "A title")
    before = base64.b64encode(drawn.png).decode()
    notebook = ran("1", [new_output("display_data", data={"image/png": before})])
    remake.tidy(notebook)
    after = notebook.cells[1].outputs[0].data["image/png"]
    assert len(after) < 0.6 * len(before)
    sizes = [Image.open(io.BytesIO(base64.b64decode(png))).size for png in (before, after)]
    assert sizes[0] == sizes[1]


def test_a_path_of_the_machine_and_too_large_a_file_are_faults(tmp_path: Path) -> None:
    assert remake.faults("all is well", tmp_path) == []
    assert "a path of this machine" in remake.faults(f"saved to {tmp_path}/x", tmp_path)[0]
    assert "more than" in remake.faults("x" * (remake.LARGEST + 1), tmp_path)[0]


def test_a_name_that_no_notebook_has_is_one_error() -> None:
    with pytest.raises(SystemExit, match="no notebook begins with 77"):
        remake.main(["77"])
