"""The parts of the generated pages: types in words, links, marks, a pipeline's turns."""

import itertools
import os
import subprocess
import sys
import typing
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from site_pages import commands, costs, drawings, links, markdown, pages
from site_pages.fields import allowed, default, type_words, unit_of
from site_pages.models import PAGES, sections
from toolkit.specs.recipe import Recipe


class Part(BaseModel):
    """Inside."""

    on: bool = False


class Example(BaseModel):
    """Every kind of field."""

    needed: int
    share: float | None = Field(default=None, ge=0, lt=1)
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = Field(default=(), min_length=1)
    renames: dict[str, str] = Field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    counts: tuple[Annotated[int, Field(gt=2)], ...] = ()


FIELDS = Example.model_fields


def test_types_defaults_and_bounds_in_words() -> None:
    assert {name: type_words(field.annotation) for name, field in FIELDS.items()} == {
        "needed": "whole number",
        "share": "number",
        "kind": "choice",
        "names": "list of text",
        "renames": "text -> text",
        "parts": "list of section",
        "counts": "list of whole number",
    }
    assert [default(FIELDS[name]) for name in ("needed", "share", "kind", "renames")] == [
        "**required**", "none", '`"a"`', "`{}`",
    ]  # fmt: skip
    assert allowed(FIELDS["share"]) == "0 and more, below 1"
    assert allowed(FIELDS["kind"]) == "`a`, `b`"
    assert allowed(FIELDS["names"]) == "not empty"
    assert allowed(FIELDS["counts"]) == "above 2"


def test_units_by_name() -> None:
    named = ("memory_bytes", "step_seconds", "hang_minutes", "inter_node_bandwidth", "bf16_flops", "seq_len", "seed")
    assert [unit_of(name) for name in named] == ["bytes", "seconds", "minutes", "bytes/s", "FLOP/s", "tokens", ""]


def test_every_section_of_a_recipe_is_found_once() -> None:
    found = [one.path for one in sections(Recipe)]
    assert found[:3] == ["", "workload", "data"]
    assert {"data.train", "optimizer.groups", "faults"} <= set(found)
    assert len(found) == len(set(found))
    assert set(PAGES) == {"recipe", "cluster", "model", "plan"}


def test_a_cell_cannot_break_its_row() -> None:
    assert markdown.table(["a|b"], [["one\ntwo | three"]]) == "| a\\|b |\n| --- |\n| one two \\| three |\n"
    assert markdown.code("with `ticks`") == "`` with `ticks` ``"
    assert markdown.plain("a_b <c> `d_e`") == "a\\_b &lt;c> `d_e`"


def test_links_go_where_the_site_has_the_page() -> None:
    places = {"docs/check.md": "check.md", "README.md": "readme.md"}
    fence = "```\n[a](../README.md)\n```\n"
    text = f"[a](../README.md#x) [b](check.md) [c](../toolkit/x.py) [d](https://e.f) ![g](h.png)\n{fence}"
    moved = links.with_links_of_the_site(text, source="docs/how-to.md", uri="how-to.md", pages=places)
    assert moved == f"[a](readme.md#x) [b](check.md) c [d](https://e.f) ![g](h.png)\n{fence}"


def test_a_mark_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"costs\.md: <!-- table: memory nothing --> names no table; there are glance"):
        pages.filled("<!-- table: memory nothing -->", uri="costs.md")


def test_a_line_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="typer's documentation has a line of another form"):
        commands._row("* --option: without a code span")


@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 4), (4, 8), (4, 2), (3, 1)])
def test_the_bubble_of_one_forward_one_backward(stages: int, micro_batches: int) -> None:
    rows = drawings.schedule(stages, micro_batches)
    end = max(start + length for row in rows for start, length, *_ in row)
    # (p - 1) / (m + p - 1) of the time (2104.04473, section 2.2).
    assert end == 3 * (micro_batches + stages - 1)
    for row in rows:
        assert sum(length for _, length, *_ in row) == 3 * micro_batches
        assert all(before[0] + before[1] <= after[0] for before, after in itertools.pairwise(row))


def test_dark_pages_have_the_same_drawing_in_other_ink() -> None:
    both = drawings.drawing("turns")
    assert len(both["light"]) == len(both["dark"])
    assert not any(ink in both["dark"] for ink in drawings.LIGHT)
    assert all(ink in both["dark"] for ink in (drawings.DARK.text, drawings.DARK.empty))


def test_nothing_of_the_training_half_is_imported() -> None:
    code = "import sys, site_pages.pages; print([one for one in ('torch', 'transformers') if one in sys.modules])"
    path = os.pathsep.join(str(pages.REPOSITORY / part) for part in ("", "docs", "tests"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": path}
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_every_comparison_has_a_page_and_a_verdict() -> None:
    written = (pages.REPOSITORY / "docs" / "costs.md").read_text(encoding="utf-8")
    for name in typing.cast("dict[str, object]", costs.COMPARISONS):
        assert f" {name} -->" in written or f"cost-{name} |" in written
        assert len(costs.plans(name)) >= 2
    assert any(not costs.fits(made) for made in costs.plans("zero").values())
