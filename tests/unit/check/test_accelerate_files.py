"""accelerate config files: broken ones are told with path and line, good ones are left alone."""

from pathlib import Path
from typing import Any

import pytest

from toolkit.check.api import Question, check_document
from toolkit.check.document import yaml_document
from toolkit.check.finding import Placed
from toolkit.check.releases import Release
from unit.check.accelerate_cases import BROKEN, GOOD, Broken, complete


def findings(text: str, folder: Path, **options: Any) -> list[Placed]:
    (folder / "ds_config.json").write_text("{}")
    question = Question(Release.parse("0.19.8"), kind="accelerate", **options)
    return list(check_document(yaml_document(folder / "accelerate.yaml", text), question))


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_broken_one_is_told_in_its_place(case: Broken, tmp_path: Path) -> None:
    marked = complete(case.text) if "distributed_typ:" not in case.text else case.text
    line = marked[: marked.index("^")].count("\n") + 1 if "^" in marked else 1
    found = findings(marked.replace("^", ""), tmp_path)
    meant = [one for one in found if case.words in one.finding.message]
    assert len(meant) == 1, [one.finding for one in found]
    assert (meant[0].finding.path, meant[0].line, meant[0].finding.severity) == (case.path, line, case.severity)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_one_raises_no_alarm(name: str, tmp_path: Path) -> None:
    found = findings(complete(GOOD[name]), tmp_path)
    assert not [one.finding for one in found if one.finding.severity != "note"]
