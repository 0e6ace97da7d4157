"""A run read once: in whatever state it is, and whatever a kill has left of its files."""

import json
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import ConfigError
from toolkit.report.record import Record, distinct_names, read_records
from toolkit.report.results import measured, results, state_words
from unit.report.conftest import MakeRun, step_lines

STARTED = {"time": 1.0, "event": "started", "step": 0, "num_steps": 9, "versions": {"torch": "2.13.0"}}


def read(folder: Path) -> Record:
    (record,) = read_records([folder])
    return record


def test_a_run_in_each_of_its_states(make_run: MakeRun) -> None:
    steps = step_lines(4)
    told = {
        "planned, not trained yet": {},
        "not finished: 0 of 9 steps": {"events": [STARTED]},
        "not finished: 4 of 9 steps": {"events": [STARTED], "steps": steps},
        "not finished: 4 of 7 steps": {"steps": steps, "max_steps": 7},
        "not finished: 4 steps": {"steps": steps},
        "finished": {"steps": steps, "summary": {"steps": 4}},
        "finished: no better for 3 evaluations": {
            "steps": steps,
            "summary": {"stopped_early": "no better for 3 evaluations"},
        },
    }
    for place, (words, files) in enumerate(told.items()):
        assert state_words(read(make_run(f"run{place}", **files))) == words


def test_the_libraries_are_those_of_the_last_start(make_run: MakeRun) -> None:
    later = STARTED | {"step": 3, "versions": {"torch": "2.14.0"}}
    assert read(make_run("a", events=[STARTED, later])).versions == {"torch": "2.14.0"}
    assert read(make_run("b", events=[STARTED], summary={"versions": {"torch": "2.7.0"}})).versions == {
        "torch": "2.7.0"
    }
    assert read(make_run("c")).versions == {}


def test_numbers_that_are_none_and_lines_that_are_no_steps(make_run: MakeRun) -> None:
    steps = step_lines(3)
    steps[1] |= {"loss": float("nan"), "grad_norm": float("inf"), "lr": "fast", "tokens": 10**400}
    folder = make_run("run", steps=[steps[2], {"loss": 1.0}, {"step": True}, steps[0], *steps[:2]])
    record = read(folder)
    assert [step["step"] for step in record.steps] == [1, 2, 3]
    assert [record.steps[1][name] for name in ("loss", "grad_norm", "lr", "tokens")] == [None] * 4
    assert "telemetry.jsonl: 2 line(s) without a step number are left out" in record.notes
    assert record.compared is None
    assert any("not compared with the plan" in note for note in record.notes)
    assert results(measured(record)).reached[0].value == "1.3333"


@pytest.mark.parametrize("cut", [b'{"step": 3, "lo', b'{"step": 3}\xff\xfe', b"\x00\x00\x00"])
def test_a_last_line_that_a_kill_cut_off(make_run: MakeRun, cut: bytes) -> None:
    folder = make_run("run", steps=step_lines(2))
    with (folder / "telemetry.jsonl").open("ab") as file:
        file.write(cut)
    assert [step["step"] for step in read(folder).steps] == [1, 2]


def test_an_event_on_which_the_next_start_was_written(make_run: MakeRun) -> None:
    folder = make_run("run", events=[STARTED])
    (folder / "events.jsonl").write_text('{"event": "checkp' + json.dumps(STARTED) + "\n[]\n" + json.dumps(STARTED))
    record = read(folder)
    assert [event["event"] for event in record.events] == ["started"]
    assert record.notes == ("events.jsonl: 2 line(s) cannot be read and are left out",)


@pytest.mark.parametrize(
    ("file", "text"),
    [("telemetry.jsonl", ""), ("telemetry.jsonl", "\n\n"), ("events.jsonl", ""), ("evaluations.jsonl", "")],
)
def test_files_that_are_there_and_empty(make_run: MakeRun, file: str, text: str) -> None:
    folder = make_run("run")
    (folder / file).write_text(text)
    record = read(folder)
    assert (record.steps, record.events, record.evaluations) == ((), (), ())
    assert record.state == "not started"


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"memory_by_rank": "x"},
        {"data": [], "example": 3, "wall_seconds": "long", "versions": 3, "stopped_early": [], "exported_step": {}},
        {"data": {"rows": None}, "example": {"prompt": [], "after": None}, "wall_seconds": float("inf")},
    ],
)
def test_a_summary_that_says_little(make_run: MakeRun, summary: Any) -> None:
    found = measured(read(make_run("run", steps=step_lines(1), summary=summary)))
    assert results(found).reached[0].value == "2.0000"


def test_no_run_is_one_error(tmp_path: Path, make_run: MakeRun) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        with pytest.raises(ConfigError, match=rf"{folder}: plan.json, recipe.yaml, accelerate.yaml missing"):
            read_records([tmp_path / folder])
    run = make_run("run")
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(ConfigError, match="given twice"):
        read_records([run, tmp_path / "link"])


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/run", "y/run"], ["x/run", "y/run"]),
        (["a/x/run", "b/x/run", "c"], ["a/x/run", "b/x/run", "c"]),
    ],
)
def test_names_are_as_long_as_they_must_be(folders: list[str], names: list[str]) -> None:
    assert distinct_names([Path(folder) for folder in folders]) == names


def test_the_folder_that_one_is_in_has_a_name(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_run("here"))
    assert read(Path()).name == "here"
