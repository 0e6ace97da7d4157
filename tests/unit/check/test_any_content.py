"""The checks answer whatever a file holds: nothing crashes, and no two answers differ."""

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.check.accelerate_schema import ACCELERATE
from toolkit.check.api import FileKind, Question, check_document
from toolkit.check.context import PlanFacts, Reader, Values
from toolkit.check.document import json_document
from toolkit.check.ds_schema import DS_CONFIG
from toolkit.check.ds_zero_schema import ZERO
from toolkit.check.fix import fixed
from toolkit.check.releases import Release
from toolkit.check.render import rendered

KNOWN = sorted({*DS_CONFIG.names(), *ZERO.names(), *ACCELERATE.names(), "enabled", "type", "params", "stages", "betas"})
NAMES = st.sampled_from(KNOWN) | st.text(max_size=6)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["auto", "cpu", "nvme", "none", "AdamW", "WarmupLR", "3", "true", "bf16", "DEEPSPEED"])
    | st.text(max_size=5)
)
CONTENT = st.dictionaries(
    NAMES,
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=8
    ),
    max_size=8,
)
KINDS: tuple[FileKind, ...] = ("ds_config", "accelerate")
READERS: tuple[Reader | None, ...] = (None, "toolkit", "trainer", "deepspeed")


@settings(max_examples=300, deadline=None)
@given(
    CONTENT,
    st.sampled_from(KINDS),
    st.sampled_from(READERS),
    st.sampled_from(["0.15.0", "0.18.1", "0.19.8"]),
    st.none() | st.integers(1, 64),
)
def test_any_content_is_answered(
    content: dict[str, object], kind: FileKind, reader: Reader | None, release: str, ranks: int | None
) -> None:
    document = json_document(Path("x.json"), json.dumps(content, indent=1))
    question = Question(Release.parse(release), ranks, reader, kind)
    found = list(check_document(document, question))
    assert found == list(check_document(document, question))
    lines = document.text.count("\n") + 1
    assert all(1 <= one.line <= lines and one.column >= 1 for one in found)
    for style in ("text", "json", "sarif", "github"):
        rendered(found, style, files=1, version="0")
    # What --fix makes of it is still JSON, and none of it is worse.
    mended = fixed(document, [one.finding for one in found])
    again = json_document(Path("x.json"), mended)
    assert not again.broken
    severities = [one.finding.severity for one in check_document(again, question)]
    assert severities.count("error") <= sum(one.finding.severity == "error" for one in found)


@settings(max_examples=100, deadline=None)
@given(CONTENT)
def test_any_plan_has_facts(content: dict[str, object]) -> None:
    facts = PlanFacts({"strategy": content, "layout": content})
    assert facts.engine is None or isinstance(facts.engine, str)
    assert facts.world_size is None or isinstance(facts.world_size, int)
    assert Values(content).get("a", "b", "c") is None
