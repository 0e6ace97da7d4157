"""Row formats: recognised, renamed, forced; wrong rows named with their place."""

from typing import Any

import pytest

from toolkit.data.formats import Conversation, PlainText, Turn, reader_for
from toolkit.data.source import Row
from toolkit.errors import DataError
from toolkit.specs.data import DataConfig

ASKED = (Turn("user", "q"), Turn("assistant", "a"))


def read(values: dict[str, Any], first: dict[str, Any] | None = None, **config: Any) -> Conversation | PlainText:
    reader = reader_for(
        Row(first or values, "f.jsonl:1"),
        DataConfig(train="f.jsonl", **config).sources[0],
        input_join="\n\n### Input:\n",
    )
    return reader.read(Row(values, "f.jsonl:7"))


def fault(values: dict[str, Any], first: dict[str, Any] | None = None, **config: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(values, first, **config)
    return str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": "", "output": "a", "text": "both"},
        {"instruction": "q", "input": None, "output": "a"},
        {"prompt": "q", "completion": "a"},
        {"question": "q", "answer": "a"},
        {"prompt": "q", "response": "a"},
        {"query": "q", "response": "a"},
        {"instruction": "q", "response": "a"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "prompt": "q"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {
            "conversations": [
                {"from": "gpt", "value": "Hi!"},
                {"from": "user", "value": "q"},
                {"from": "assistant", "value": "a"},
            ]
        },
        {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    ],
)
def test_formats_are_recognised(values: dict[str, Any]) -> None:
    assert read(values) == Conversation(ASKED, "f.jsonl:7")


def test_text_input_and_system() -> None:
    assert read({"text": "t"}) == PlainText("t", "f.jsonl:7")
    assert read({"instruction": "q", "input": "i", "output": "a"}) == Conversation(
        (Turn("user", "q\n\n### Input:\ni"), Turn("assistant", "a")), "f.jsonl:7"
    )
    turns = [("system", "s"), ("gpt", "Hi!"), ("human", "q"), ("gpt", "a")]
    values = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    assert read(values) == Conversation((Turn("system", "s"), *ASKED), "f.jsonl:7")


def test_renames_and_forced_format() -> None:
    renames = {"instruction": "task", "input": "context", "output": "text"}
    expected = (Turn("user", "q\n\n### Input:\nc"), Turn("assistant", "a"))
    assert read({"task": "q", "context": "c", "text": "a"}, columns=renames) == Conversation(expected, "f.jsonl:7")
    both = {"messages": [], "text": "t"}
    assert read(both, format="text") == PlainText("t", "f.jsonl:7")
    assert read(both) == Conversation((), "f.jsonl:7")


def test_no_format() -> None:
    message = fault({"frage": "q", "antwort": "a"})
    assert message.startswith(
        "f.jsonl:1: found columns `frage`, `antwort`; no known format; known are messages (messages)"
    )
    for known in ("sharegpt (conversations)", "alpaca (instruction, output)", "(question, answer)", "text (text)"):
        assert known in message
    assert "rename with `columns`" in message
    message = fault({"text": "t"}, format="alpaca")
    assert "found columns `text`; format alpaca needs alpaca (instruction, output); rename" in message


def test_wrong_renames() -> None:
    message = fault({"question": "q", "answer": "a"}, columns={"promt": "question", "completion": "anwser"})
    assert "`promt` is no column of ours; did you mean `prompt`?" in message
    assert "the file has no column `anwser`; did you mean `answer`?" in message
    assert "give one of `question`, `answer`" in fault({"question": "q", "answer": "a"}, columns={"text": "xyz"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "q"}, "no column `completion` (prompt_completion row); found `prompt`; add it or remove the row"),
        ({"prompt": None, "completion": "a"}, "`prompt` is null, needs text"),
        ({"prompt": "q", "completion": 42}, "`completion` is int (42), needs text"),
        ({"prompt": "q", "completion": "\ud83d"}, "`completion` holds half a character (\\ud83d)"),
    ],
)
def test_wrong_values(values: dict[str, Any], message: str) -> None:
    found = fault(values, first={"prompt": "q", "completion": "a"})
    assert found.startswith("f.jsonl:7: ")
    assert message in found


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ("hello", "`messages` is str, needs a list of turns"),
        (["hello"], "`messages[0]` is str, needs role and content"),
        ([{"role": "user"}], "`messages[0]` is `role`, needs role and content"),
        (
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}],
            "`messages[1]` is null, needs text",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "`messages[0]` is list"),
        ([{"role": "poet", "content": "q"}], "`messages[0]` has role 'poet'; known roles: system, developer, user"),
        ([{"role": 3, "content": "q"}], "`messages[0]` has role 3"),
    ],
)
def test_wrong_turns(turns: Any, message: str) -> None:
    assert f"f.jsonl:7: {message}" in fault({"messages": turns})
