"""Pictures of a plan: whole, self-contained, with everything in them, and the same for the same plan."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="plots need matplotlib")

from toolkit.errors import MachineError
from toolkit.planner.estimates import MEMORY_TERMS, TIME_TERMS
from toolkit.planner.plan import Plan
from toolkit.report.plan_page import draw_plan
from toolkit.report.plan_plots import COLOURS, ENGINE_COLOURS, picture

WORK = {"seq_len": 4096, "global_batch": 64}


def drawn_texts(svg: str) -> str:
    """matplotlib writes each text as a comment before its glyphs."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", svg))


@pytest.mark.parametrize("which", ["small", "long_pipeline"])
def test_everything_is_named_in_the_picture(which: str, request: pytest.FixtureRequest) -> None:
    made: Plan = request.getfixturevalue(which)
    texts = drawn_texts(picture(made, "svg").decode())
    for field, name in (MEMORY_TERMS | TIME_TERMS).items():
        holder = made.memory if field in MEMORY_TERMS else made.time
        used = getattr(holder, field) or any(getattr(one, field, 0) for one in made.stage_memory)
        assert (name in texts.splitlines()) == bool(used), name
    for words in (
        "nine of ten runs",
        "95% of it",
        f"{made.strategy.engine}, Pareto front",
        "chosen",
        "seconds per step",
        "GiB per device",
    ):
        assert words in texts
    assert ("pipeline stage" in texts) == bool(made.stage_memory)


def test_every_term_and_engine_has_a_colour_of_its_own() -> None:
    assert COLOURS.keys() == MEMORY_TERMS.keys()
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert set(ENGINE_COLOURS) == {"zero", "pipeline", "mcore"}


def test_png(small: Plan, tmp_path: Path) -> None:
    draw_plan(small, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.png"]


def test_html_needs_nothing_else(small: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.html"
    draw_plan(small, path)
    text = path.read_text()
    assert not re.search(r"""(?:src|href)=["'](?!#)""", text)
    assert not re.search(r"<(?:script|link|img|iframe)\b|@import|url\((?!#)", text)
    # Of web addresses only the names of XML's vocabularies.
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert text.count("<svg") == 1
    ET.fromstring(text[text.index("<svg") : text.index("</svg>") + len("</svg>")])
    assert "Memory of the fullest device" in text
    assert "8,120 rejected" in text


def test_names_from_outside_are_escaped(small: Plan, tmp_path: Path) -> None:
    odd = small.model_copy(update={"model": small.model.model_copy(update={"name": "<b>$x_{1$ & co"})})
    draw_plan(odd, tmp_path / "plan.html")
    assert "<b>$" not in (tmp_path / "plan.html").read_text()
    assert "$x_{1$" in drawn_texts(picture(odd, "svg").decode())


def test_equal_plans_give_equal_pictures(small: Plan) -> None:
    assert picture(small, "svg") == picture(small, "svg")


def test_one_layout_without_a_search(make_plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    made = make_plan_of("llama-3.1-8b", "8xA100-80GB", work=WORK, tp=8)
    alone = made.model_copy(update={"pareto": (), "alternatives": (), "rejected": (), "judged": 0, "rejections": {}})
    draw_plan(alone, tmp_path / "plan.png")
    assert "This layout" in drawn_texts(picture(alone, "svg").decode())


def test_a_folder_that_cannot_be_written_leaves_nothing(small: Plan, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot be written"):
        draw_plan(small, tmp_path / "nowhere" / "plan.png")
    earlier = tmp_path / "plan.html"
    earlier.mkdir()
    with pytest.raises(MachineError, match="cannot be written"):
        draw_plan(small, earlier)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.html"]
