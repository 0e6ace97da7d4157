"""Where a report puts its files, and what it never touches."""

from pathlib import Path

import pytest
from rich.console import Console

from toolkit.errors import ConfigError, MachineError
from toolkit.report.files import refuse_others, write_whole
from toolkit.report.show import show_run, show_runs
from unit.report.conftest import MakeRun, step_lines

PICTURES = ["loss.png", "memory.png", "step_time.png", "throughput.png"]


def shown(folders: list[Path], page: Path | None = None) -> str:
    console = Console(width=100, record=True)
    show_runs(folders, console, page=page)
    return " ".join(console.export_text().split())


def test_a_run_has_its_page_and_pictures_in_its_folder(make_run: MakeRun) -> None:
    run = make_run("run", steps=step_lines(3), events=[{"event": "restarted", "reason": "rank 1 stood still"}])
    before = sorted(run.iterdir())
    told = shown([run])
    assert "not finished: 3 steps" in told
    assert "training loss 2.0000 1.3333" in told
    assert "rank 1 stood still" in told
    assert f"page: {run}/report.html" in told
    assert sorted(run.iterdir()) == sorted([*before, run / "plots", run / "report.html"])
    assert sorted(path.name for path in (run / "plots").iterdir()) == PICTURES
    first = (run / "report.html").read_bytes()
    shown([run])  # its own files are replaced
    assert (run / "report.html").read_bytes() == first


def test_a_plan_alone_has_a_page_too(make_run: MakeRun) -> None:
    run = make_run("run")
    assert "planned, not trained yet" in shown([run])
    assert sorted(path.name for path in (run / "plots").iterdir()) == ["memory.png", "step_time.png"]


def test_several_share_a_page_and_a_picture(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [
        make_run("a", steps=step_lines(3)),
        make_run("b", steps=step_lines(2500), max_steps=5),
        make_run("_$x$ 日本"),
    ]
    files = {path: path.read_bytes() for run in runs for path in run.rglob("*")}
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert "page: report.html drawn: report.png" in shown(runs)
    shown(runs, Path("other.html"))
    assert sorted(path.name for path in Path().iterdir()) == ["other.html", "other.png", "report.html", "report.png"]
    assert {path: path.read_bytes() for run in runs for path in run.rglob("*")} == files


@pytest.mark.parametrize("name", ["report.html", "report.png"])
def test_somebody_elses_file_is_not_replaced(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    runs = [make_run("a"), make_run("b")]
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("<!DOCTYPE html><p>my toolkit report</p>")
    with pytest.raises(ConfigError, match=rf"{name}: is there and was not made by `toolkit report`; give -o another"):
        shown(runs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", name]


def test_a_run_that_ends_well_ends_well_all_the_same(make_run: MakeRun) -> None:
    run = make_run("run", steps=step_lines(2))
    (run / "report.html").write_text("mine")
    console = Console(width=400, record=True)
    show_run(run, console)
    assert "was not made by `toolkit report`; `toolkit report" in console.export_text()
    assert (run / "report.html").read_text() == "mine"
    assert (run / "plots" / "loss.png").is_file()
    with pytest.raises(ConfigError, match="was not made by"):
        shown([run])


def test_places_that_cannot_be(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run")
    (tmp_path / "d.html").mkdir()
    for page, words in (("x.pdf", "ends in .html"), ("no/x.html", "there is no folder"), ("d.html", "is a folder")):
        with pytest.raises(ConfigError, match=words):
            shown([run], tmp_path / page)
    (tmp_path / ".x.html.partial").mkdir()
    with pytest.raises(MachineError, match=r"x.html: cannot be written \(.*\); make room"):
        write_whole(tmp_path / "x.html", b"", remedy="make room")
    refuse_others(tmp_path / "x.html", remedy="")
    assert not (run / "report.html").exists()
