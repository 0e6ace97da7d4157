"""The corrected copy: written beside the file, with what is left in it; no copy where nothing can be mended."""

from pathlib import Path

import pytest

from toolkit.check.api import Question
from toolkit.check.correct import correct
from toolkit.check.releases import Release
from toolkit.errors import SpecError

QUESTION = Question(Release.parse("0.19.8"))
BROKEN = """{
  "train_micro_batch_size_per_gpu": 1,
  "gradient_accumulation_steps": 1,
  "gradient_cliping": 0.5,
  "zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}
}
"""


def test_the_copy_is_mended_and_what_is_left_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(BROKEN)
    corrected = correct(path, QUESTION)
    assert corrected.path == tmp_path / "ds.fixed.json"
    assert corrected.path.read_text() == BROKEN.replace("cliping", "clipping")
    assert path.read_text() == BROKEN
    assert '+  "gradient_clipping": 0.5,' in corrected.difference.splitlines()
    left = [one.finding.rule for one in corrected.remaining if one.finding.severity == "error"]
    assert left == ["offload-stage"], "which of two ways is meant, only the author knows"
    assert {one.file for one in corrected.remaining} == {str(corrected.path)}


def test_where_nothing_is_mended_there_is_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(BROKEN.replace("cliping", "clipping"))
    corrected = correct(path, QUESTION)
    assert (corrected.path, corrected.difference) == (path, "")
    assert [one.name for one in tmp_path.iterdir()] == ["ds.json"]
    assert {one.file for one in corrected.remaining} == {str(path)}


def test_a_place_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(BROKEN)
    with pytest.raises(SpecError, match="cannot be written"):
        correct(path, QUESTION, tmp_path / "nowhere" / "copy.json")
