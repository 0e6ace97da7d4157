"""Broken ds_configs are told with path and line, good ones are left alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from toolkit.check.api import Question, check_document
from toolkit.check.document import json_document
from toolkit.check.finding import Placed
from toolkit.check.releases import Release
from unit.check.ds_cases import BROKEN, Broken, Good, complete
from unit.check.ds_good import GOOD


def findings(text: str, options: Mapping[str, Any]) -> list[Placed]:
    given = {"deepspeed": "0.19.8", **options}
    question = Question(**{**given, "deepspeed": Release.parse(given["deepspeed"])})
    return list(check_document(json_document(Path("ds_config.json"), text), question))


def test_there_are_as_many_as_promised() -> None:
    assert len(BROKEN) >= 60
    assert len(GOOD) >= 40
    assert len({case.name for case in (*BROKEN, *GOOD)}) == len(BROKEN) + len(GOOD)


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_broken_one_is_told_in_its_place(case: Broken) -> None:
    marked = complete(case.members, case.without)
    line = marked[: marked.index("^")].count("\n") + 1 if "^" in marked else 1
    found = findings(marked.replace("^", ""), case.options)
    meant = [one for one in found if case.words in one.finding.message]
    assert len(meant) == 1, [one.finding for one in found]
    assert (meant[0].finding.path, meant[0].line, meant[0].finding.severity) == (case.path, line, case.severity)
    assert meant[0].finding.effect
    assert meant[0].finding.remedy
    others = [one.finding for one in found if one is not meant[0] and one.finding.severity == "error"]
    assert not others


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_good_one_raises_no_alarm(case: Good) -> None:
    found = findings(complete(case.members, case.without), case.options)
    assert not [one.finding for one in found if one.finding.severity != "note"]


def test_a_release_newer_than_the_tables_is_said() -> None:
    (note,) = findings(complete(""), {"deepspeed": "0.20.0"})
    assert (note.finding.severity, note.finding.rule) == ("note", "newer-release")


def test_one_fault_does_not_hide_another() -> None:
    text = complete('"amp": {},\n  "fp16": {"enabled": true},\n  "gradient_cliping": 1')
    rules = {one.finding.rule for one in findings(text, {}) if one.finding.severity == "error"}
    assert rules == {"removed-key", "fp16-and-bf16", "unknown-key"}
