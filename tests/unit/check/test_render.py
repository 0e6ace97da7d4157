"""Findings in the formats of people, programs, code scanning and GitHub's annotations."""

import json

from toolkit.check.finding import Edit, Finding, Placed, in_order
from toolkit.check.render import rendered

FOUND = [
    Placed(
        "b.json",
        2,
        3,
        Finding("warning", "scheduler", ("optimizer", "betas", 1), "is 100%, too: much", "left\nover", "mend"),
    ),
    Placed("a.json", 9, 1, Finding("note", "no-data", (), "to know")),
    Placed(
        "a.json", 4, 5, Finding("error", "unknown-key", ("x",), "wrong", "it fails", "write y", Edit("rename", "y"))
    ),
]


def test_sorted_by_file_and_line_and_told_once() -> None:
    places = [(one.file, one.line) for one in in_order([*FOUND, FOUND[0]])]
    assert places == [("a.json", 4), ("a.json", 9), ("b.json", 2)]


def test_text() -> None:
    text = rendered(in_order(FOUND), "text", files=2, version="1")
    assert text.splitlines() == [
        "a.json:4:5: error: x: wrong [unknown-key]",
        "    if left: it fails",
        "    fix: write y",
        "a.json:9:1: note: to know [no-data]",
        "b.json:2:3: warning: optimizer.betas[1]: is 100%, too: much [scheduler]",
        "    if left: left",
        "over",
        "    fix: mend",
        "1 error, 1 warning, 1 note in 2 files",
    ]


def test_json() -> None:
    told = json.loads(rendered(FOUND, "json", files=2, version="1"))
    assert told["counts"] == {"error": 1, "warning": 1, "note": 1}
    assert told["findings"][2] == {
        "file": "a.json", "line": 4, "column": 5, "severity": "error", "rule": "unknown-key", "path": "x",
        "message": "wrong", "effect": "it fails", "remedy": "write y", "fixable": True,
    }  # fmt: skip


def test_sarif() -> None:
    told = json.loads(rendered(FOUND, "sarif", files=2, version="1.2"))
    (run,) = told["runs"]
    assert told["version"] == "2.1.0"
    assert run["tool"]["driver"]["version"] == "1.2"
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {one["ruleId"] for one in run["results"]}
    assert all(rule["shortDescription"]["text"] for rule in run["tool"]["driver"]["rules"])
    assert [one["level"] for one in run["results"]] == ["warning", "note", "error"]
    region = run["results"][2]["locations"][0]["physicalLocation"]
    assert region == {"artifactLocation": {"uri": "a.json"}, "region": {"startLine": 4, "startColumn": 5}}


def test_github() -> None:
    lines = rendered(FOUND, "github", files=2, version="1").splitlines()
    assert lines[0].startswith(
        "::warning file=b.json,line=2,col=3,title=scheduler::optimizer.betas[1]: is 100%25, too: much. "
    )
    assert "left%0Aover" in lines[0]
    assert [line.split(" ")[0] for line in lines] == ["::warning", "::notice", "::error"]
