"""A row as the model sees it."""

from typing import Any

from toolkit.data.encode import SampleEncoder
from toolkit.data.preview import decoded_example
from toolkit.data.samples import Conversation, Turn
from toolkit.data.template import choose_template


def test_the_learnt_part_is_marked(llama2: Any) -> None:
    encoder = SampleEncoder(choose_template("llama2", llama2))
    turns = (Turn("user", "Hi 🙂"), Turn("assistant", "字!"), Turn("user", "[b]?"), Turn("assistant", "Bye"))
    row = encoder.encode([Conversation(turns, "f:1")], seq_len=100)[0]
    text = decoded_example(row._asdict(), llama2)
    assert text.plain == "<s>[INST] Hi 🙂 [/INST]⟦ 字! </s>⟧<s>[INST] [b]? [/INST]⟦ Bye </s>⟧"
    assert [text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style)] == [
        "⟦ 字! </s>⟧",
        "⟦ Bye </s>⟧",
    ]
