"""Row formats: recognised, renamed, forced; wrong rows named with their place."""

from typing import Any

import pytest

from toolkit.data.formats import reader_for
from toolkit.data.samples import Conversation, PlainText, Turn
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


def turns(values: dict[str, Any], first: dict[str, Any] | None = None, **config: Any) -> tuple[Turn, ...]:
    sample = read(values, first, **config)
    assert isinstance(sample, Conversation)
    return sample.turns


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
    assert turns(values) == ASKED


def test_text_input_and_system() -> None:
    assert read({"text": "t"}) == PlainText("t", "f.jsonl:7")
    assert read({"instruction": "q", "input": "i", "output": "a"}) == Conversation(
        (Turn("user", "q\n\n### Input:\ni"), Turn("assistant", "a")), "f.jsonl:7"
    )
    spoken = [("system", "s"), ("gpt", "Hi!"), ("human", "q"), ("gpt", "a")]
    values = {"conversations": [{"from": role, "value": text} for role, text in spoken]}
    assert read(values) == Conversation((Turn("system", "s"), *ASKED), "f.jsonl:7", leading=1)


@pytest.mark.parametrize(
    "values",
    [
        {"instruction": "q", "context": "p", "response": "a", "category": "closed_qa"},
        {"question": "q", "context": "p", "answer": "a"},
        {"instruction": "q", "input": "p", "response": "a"},
        {"instruction": "q", "input": "p", "context": "", "output": "a"},
        {"prompt": "q", "context": "p", "response": "a"},
    ],
    ids=str,
)
def test_a_passage_stands_behind_its_question(values: dict[str, Any]) -> None:
    assert turns(values) == (Turn("user", "q\n\n### Input:\np"), Turn("assistant", "a"))


def test_a_prompt_that_has_the_passage_already() -> None:
    values = {"prompt": "Read p. q", "context": "p", "response": "a"}
    assert turns(values) == (Turn("user", "Read p. q"), Turn("assistant", "a"))


SYSTEM = Turn("system", "s")
SPOKEN = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    "values",
    [
        {"instruction": "q", "input": "", "output": "a", "system": "s"},
        {"prompt": "q", "completion": "a", "system_prompt": "s"},
        {"system": "s", "conversations": SPOKEN},
        {"system": "s", "conversations": [{"from": "system", "value": "s"}, *SPOKEN]},
    ],
    ids=str,
)
def test_a_system_text_of_the_row(values: dict[str, Any]) -> None:
    assert turns(values) == (SYSTEM, *ASKED)
    assert turns({**values, "system": None, "system_prompt": ""})[-2:] == ASKED


def test_earlier_turns_of_the_row() -> None:
    values = {"instruction": "q", "output": "a", "system": "s", "history": [["q1", "a1"], ["q2", "a2"]]}
    earlier = [Turn("user", "q1"), Turn("assistant", "a1"), Turn("user", "q2"), Turn("assistant", "a2")]
    assert turns(values) == (SYSTEM, *earlier, *ASKED)
    assert turns({"prompt": "q", "completion": "a", "history": []}) == ASKED


def test_columns_of_a_prompt_under_other_names() -> None:
    row = {"task": "q", "doc": "p", "rule": "s", "context": "unread", "reply": "a"}
    columns = {"prompt": "task", "completion": "reply", "input": "doc", "system": "rule"}
    assert turns(row, columns=columns) == (SYSTEM, Turn("user", "q\n\n### Input:\np"), Turn("assistant", "a"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"instruction": "q", "input": "p", "context": "r", "output": "a"},
            "has `input`, `context`, needs one of them",
        ),
        ({"prompt": "q", "completion": "a", "system": "s", "system_prompt": "t"}, "has `system`, `system_prompt`"),
        ({"prompt": "q", "completion": "a", "context": ["p"]}, "`context` is list (['p']), needs text"),
        ({"prompt": "q", "completion": "a", "history": "q1"}, "`history` is str, needs a list of [question, answer]"),
        ({"prompt": "q", "completion": "a", "history": [["q1"]]}, "`history[0]` is ['q1'], needs [question, answer]"),
        ({"prompt": "q", "completion": "a", "history": [["q1", None]]}, "`history[0]` is null, needs text"),
        ({"prompt": "q", "completion": "a", "tools": "[{}]"}, "has `tools`; calls of tools cannot be trained"),
        ({"conversations": SPOKEN, "tools": [{}]}, "has `tools`; calls of tools cannot be trained"),
        (
            {"system": "t", "conversations": [{"from": "system", "value": "s"}, *SPOKEN]},
            "has a system text of its own and one among its turns",
        ),
    ],
    ids=str,
)
def test_parts_of_a_prompt_that_no_sample_can_have(values: dict[str, Any], message: str) -> None:
    assert f"f.jsonl:7: {message}" in fault(values)


@pytest.mark.parametrize("tools", [None, "", "[]", []])
def test_no_tools(tools: Any) -> None:
    assert turns({"conversations": SPOKEN, "tools": tools}) == ASKED
    assert turns({"messages": [{**turn, "tool_calls": tools} for turn in SPOKEN]}) == ASKED


@pytest.mark.parametrize("key", ["tool_calls", "function_call"])
def test_a_call_of_a_tool_is_no_empty_answer(key: str) -> None:
    call = {"role": "assistant", "content": "", key: [{"function": {"name": "get"}}]}
    message = fault({"messages": [{"role": "user", "content": "q"}, call]})
    assert message == f"f.jsonl:7: `messages[1]` has `{key}`; calls of tools cannot be trained, remove the row"


@pytest.mark.parametrize("flag", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"loss": 0}])
def test_an_answer_that_is_not_to_be_learnt(flag: dict[str, Any]) -> None:
    answered = {"role": "assistant", "content": "wrong", **flag}
    again = {"role": "assistant", "content": "right", **dict.fromkeys(flag, 1), "train": None}
    asked = {"role": "user", "content": "q"}
    assert turns({"messages": [asked, answered, asked, again]}) == (
        Turn("user", "q"),
        Turn("assistant", "wrong", learnt=False),
        Turn("user", "q"),
        Turn("assistant", "right"),
    )


@pytest.mark.parametrize("value", [0.5, "no", 2, []])
def test_a_weight_that_is_neither_0_nor_1(value: Any) -> None:
    turn = {"role": "assistant", "content": "a", "weight": value}
    assert f"`messages[0]` has weight {value!r}, needs 0 or 1" in fault({"messages": [turn]})


def test_system_texts_before_the_first_question_stay() -> None:
    spoken = [("assistant", "hi"), ("system", "s"), ("assistant", "well"), ("user", "q"), ("assistant", "a")]
    values = {"messages": [{"role": role, "content": text} for role, text in spoken]}
    assert read(values) == Conversation((SYSTEM, *ASKED), "f.jsonl:7", leading=2)


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
