"""The page as text: whole, alone, of bounded size, and nothing in a file can become a part of it."""

import base64
import hashlib
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.planner.plan import Plan
from toolkit.report.page.charts import MOST_MARKS, kept_marks
from toolkit.report.page.document import document
from toolkit.report.page.markup import data, element, table
from toolkit.report.record import read_records
from toolkit.report.results import measured
from unit.report.conftest import MakePlan, MakeRun, step_lines

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>--><!--\"'&amp;\u2028$x$"


class Page(HTMLParser):
    """Elements, attributes and texts of a page; scripts and styles apart."""

    def __init__(self, content: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self._inside = ""
        self.feed(content.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in self.raw:
            self.raw[self._inside].append(data)
        else:
            self.texts.append(data)

    @property
    def numbers(self) -> Any:
        """What the page's script reads."""
        return json.loads(self.raw["script"][0])

    @property
    def text(self) -> str:
        """All that can be read."""
        return "".join(self.texts)


def page_of(*folders: Path) -> Page:
    return Page(document([measured(record) for record in read_records(folders)]))


@given(st.text())
def test_a_text_stays_a_text(text: str) -> None:
    made = element("p", text, title=text, hidden=False) + data({"text": text}, id_="d")
    assert re.fullmatch(r'<p title="[^"<]*">[^<]*</p><script type="application/json" id="d">[^<>&]*</script>', made)
    assert json.loads(made.split('id="d">')[-1].removesuffix("</script>")) == {"text": text}


def test_elements() -> None:
    assert element("input", type="range", checked=True, disabled=False) == '<input type="range" checked>'
    assert element("i", ["a", None, [element("b", 1)]], class_="x", aria_label="y") == (
        '<i class="x" aria-label="y">a<b>1</b></i>'
    )
    assert '<td class="good">1</td>' in table(["", "n"], [["row", element("td", 1, class_="good")]])
    assert "<td>&lt;td&gt;</td>" in table([""], [["row", "<td>"]])


def test_only_our_scripts_run_and_nothing_is_loaded(make_run: MakeRun) -> None:
    page = page_of(make_run("run", steps=step_lines(3), events=[{"event": NASTY, "step": 1, "why": NASTY}]))
    policy = next(attrs["content"] or "" for _, attrs in page.tags if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        digests = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in page.raw[kind]}
        allowed = set(re.findall(r"'sha256-([^']+)'", policy.split(f"{kind}-src")[1].split(";")[0]))
        assert allowed <= digests
        assert len(digests - allowed) == (kind == "script")  # the numbers, which are no script
    for tag, attrs in page.tags:
        assert not {"src", "srcset", "style", "action", "data", "poster"} & attrs.keys(), tag
        assert (attrs.get("href") or "#").startswith(("#", "data:,")), tag
        assert not [name for name in attrs if name.startswith("on")], tag


def test_what_files_hold_is_shown_and_never_obeyed(make_run: MakeRun, tiny: Plan) -> None:
    plan = tiny.model_copy(update={"reasons": (NASTY,), "model": tiny.model.model_copy(update={"name": NASTY})})
    folder = make_run(
        "run <b>name",
        plan=plan,
        steps=step_lines(2),
        events=[{"event": "restarted", "reason": NASTY}, {"event": "started", "step": 1, "versions": {NASTY: NASTY}}],
        summary={"stopped_early": NASTY, "example": {"prompt": NASTY, "after": NASTY}, "data": {NASTY: 3}},
        ds_config={NASTY: NASTY},
        trackers=[],
        data={"train": NASTY},
    )
    page = page_of(folder)
    assert page.text.count(NASTY) >= 9
    assert "run <b>name" in page.text
    assert len(page.raw["script"]) == 5
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert [mark["words"] for mark in page.numbers["runs"][0]["events"]] == [
        f"interrupted, started again: {NASTY}",
        "went on after step 1",
    ]


@pytest.mark.parametrize(
    ("files", "charts"),
    [
        ({}, 0),
        ({"steps": []}, 0),
        ({"steps": [], "events": [{"event": "started", "step": 0}]}, 0),
        ({"steps": [{"step": 1}]}, 0),
        ({"steps": step_lines(1)}, 8),
        ({"steps": step_lines(5, loss=None, grad_norm=None)}, 7),
        ({"steps": step_lines(5, skipped=True, loss_scale=lambda number: 2.0**number, sent_bytes=9.0)}, 10),
        ({"steps": step_lines(3), "evaluations": [{"step": 0, "held_out_loss": 2.0, "exact_match": 0.5}]}, 9),
        ({"steps": step_lines(3), "evaluations": [{"step": 0, "held_out_loss": None}]}, 8),
    ],
)
def test_runs_in_any_state_have_a_page(make_run: MakeRun, files: dict[str, Any], charts: int) -> None:
    page = page_of(make_run("run", **files))
    assert len(page.numbers["charts"]) == charts
    assert "It is the fastest of 17 strategies that fit." in page.text
    assert ("All events" in page.text) is bool(files.get("steps") or files.get("events"))
    # Without any step there is nothing to draw curves of, and no controls for them.
    assert any(attrs.get("id") == "charts" for _, attrs in page.tags) is bool(files.get("steps"))


def test_everything_a_run_was_given_is_told(make_run: MakeRun, small: Plan) -> None:
    gpu = {"peak_allocated_bytes": 5 * 2**30, "peak_reserved_bytes": 6 * 2**30, "peak_rss_bytes": ...}
    ranks = [{"rank": rank, "peak_allocated_bytes": 2**32, "peak_reserved_bytes": 2**33 + rank} for rank in range(64)]
    folder = make_run(
        "run", plan=small, steps=step_lines(9, **gpu), summary={"memory_by_rank": ranks}, optimizer={"beta2": 0.5}
    )
    text = page_of(folder).text
    for words in ("measured, rank 63", "52 more ranks", "reserved beside it", "optimizer.beta2"):
        assert words in text
    assert "Decay of the second moment" in text
    assert "Samples per rank per forward pass." in text
    assert "needs 128.0 GiB" in text
    assert "10,412 strategies judged" in text


def test_several_runs_share_the_charts(make_run: MakeRun, make_plan_of: MakePlan) -> None:
    folders = [make_run(f"{place}/run", steps=step_lines(place + 2), seed=place) for place in range(3)]
    page = page_of(*folders)
    assert [run["name"] for run in page.numbers["runs"]] == ["0/run", "1/run", "2/run"]
    assert [len(run["x"]["step"]) for run in page.numbers["runs"]] == [2, 3, 4]
    assert "Differences" in page.text


def test_a_hundred_thousand_steps_in_seconds_and_megabytes(make_run: MakeRun) -> None:
    def loss(number: int) -> float:
        return 1e6 if number == 77_777 else 1.23456789012 + 1 / number

    steps = step_lines(100_000, loss=loss, skipped=lambda number: number % 3 == 0)
    folder = make_run("run", steps=steps, events=[{"event": "checkpoint", "step": step} for step in range(5_000)])
    began = time.process_time()
    made = document([measured(record) for record in read_records([folder])])
    assert time.process_time() - began < 10  # measured: 3 s
    assert len(made) < 2_000_000  # measured: 0.7 MB
    (run,) = Page(made).numbers["runs"]
    assert len(run["x"]["step"]) == 2000
    assert run["x"]["step"][-1] == 100_000
    assert max(run["bands"]["loss"][1]) == 1e6
    assert {mark["lane"] for mark in run["events"]} == {"checkpoint", "skipped"}
    assert len(run["events"]) <= MOST_MARKS


def test_a_rare_event_is_not_crowded_out(make_run: MakeRun) -> None:
    events = [{"event": "checkpoint", "step": step} for step in range(3_000)]
    folder = make_run("run", events=[*events, {"event": "restarted", "reason": "x"}])
    marks = measured(read_records([folder])[0]).happenings
    kept = kept_marks(marks)
    assert len(kept) <= MOST_MARKS
    assert [mark.lane for mark in kept].count("interrupted") == 1
    assert kept_marks(marks[:5]) == list(marks[:5])


def test_the_chart_library_is_the_published_one() -> None:
    assets = Path(__file__).parents[3] / "toolkit" / "report" / "page" / "assets"
    digests = {
        "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
        "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    }
    for name, digest in digests.items():
        assert hashlib.sha256((assets / name).read_bytes()).hexdigest() == digest
    assert "MIT" in (assets / "uPlot.LICENSE.txt").read_text()
    assert "Copyright (c) 2022 Leon Sorokin" in (assets / "uPlot.LICENSE.txt").read_text()
