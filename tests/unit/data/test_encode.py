"""Tokens and labels: what is learnt is exactly the answers with their ends, and prompts are as at inference."""

import random
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from toolkit.data.encode import IGNORED, EncodedRow, SampleEncoder
from toolkit.data.formats import reader_for
from toolkit.data.samples import Conversation, PlainText, Turn
from toolkit.data.source import open_source
from toolkit.data.template import choose_template
from toolkit.errors import DataError
from toolkit.specs.data import DataConfig

FILES = [
    "sft/alpaca_data.json",
    "sft/gsm8k_train.jsonl",
    "chat/fastchat_dummy_conversation.json",
    "chat/openai_messages_wrapped.jsonl",
]
ENDS = {"alpaca": "{}</s>", "llama2": " {} </s>", "plain": "{}</s>"}
TRIMMED = ("llama2", "llama3")


def samples(path: Path, encoder: SampleEncoder, count: int = 100) -> list[Any]:
    rows = list(islice(open_source(str(path), "train").rows(), count))
    reader = reader_for(rows[0], DataConfig(train=str(path)).sources[0], input_join=encoder.template.input_join)
    return [reader.read(row) for row in rows]


def learnt(row: EncodedRow, tokenizer: Any) -> list[str]:
    """Each supervised run as text, decoded behind a bos so that its first blank stays."""
    runs = [(key, list(run)) for key, run in groupby(row.labels, key=lambda label: label != IGNORED)]
    bos = tokenizer.bos_token_id
    return [tokenizer.decode([bos, *run]).removeprefix(tokenizer.bos_token) for key, run in runs if key]


def answers(sample: Conversation) -> list[str]:
    return [turn.content for turn in sample.turns if turn.role == "assistant"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", ENDS)
def test_the_answers_and_their_ends_are_learnt(shared_data: Path, llama2: Any, file: str, name: Any) -> None:
    encoder = SampleEncoder(choose_template(name, llama2))
    for sample in (given := samples(shared_data / file, encoder)):
        assert isinstance(sample, Conversation)
    for sample, row in zip(given, encoder.encode(given, seq_len=1 << 20), strict=True):
        expected = [ENDS[name].format(text.strip() if name in TRIMMED else text) for text in answers(sample)]
        assert learnt(row, llama2) == expected
        assert row.answer == answers(sample)[0]
        assert len(row.input_ids) == len(row.labels)
        assert all(label in (IGNORED, token) for token, label in zip(row.input_ids, row.labels, strict=True))
        assert row.num_supervised == sum(label != IGNORED for label in row.labels)
        first = next(index for index, turn in enumerate(sample.turns) if turn.role == "assistant")
        assert row.input_ids[: row.prompt_length] == encoder.prompt_ids(sample.turns[:first])
        assert row.input_ids[: row.prompt_length].count(llama2.bos_token_id) == 1


@pytest.mark.parametrize("name", ["alpaca", "chatml", "llama2", "llama3", "plain"])
def test_byte_level_tokenizers(shared_data: Path, llama3: Any, name: Any) -> None:
    encoder = SampleEncoder(choose_template(name, llama3))
    given = [
        *samples(shared_data / FILES[2], encoder),
        Conversation((Turn("user", "2 + 2 =  "), Turn("assistant", "\n4")), "f:1"),
        Conversation((Turn("user", "q "), Turn("assistant", "")), "f:2"),
    ]
    ends = {"chatml": "{}<|im_end|>", "llama2": " {} <|end_of_text|>", "llama3": "{}<|eot_id|>"}
    for sample, row in zip(given, encoder.encode(given, seq_len=1 << 20), strict=True):
        end = ends.get(name, "{}<|end_of_text|>")
        assert learnt(row, llama3) == [end.format(t.strip() if name in TRIMMED else t) for t in answers(sample)]
        text = "".join(part.text for part in encoder.template.segments(sample))
        assert llama3.decode(row.input_ids) == text
        assert row.input_ids[: row.prompt_length] == encoder.prompt_ids(sample.turns[:-1][:1]) or len(sample.turns) > 2
        assert row.input_ids[0] == llama3.bos_token_id


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", ["alpaca", "llama2"])
def test_marked_templates_encode_as_the_whole_text_does(shared_data: Path, llama2: Any, file: str, name: Any) -> None:
    encoder = SampleEncoder(choose_template(name, llama2))
    given = samples(shared_data / file, encoder)
    for sample, row in zip(given, encoder.encode(given, seq_len=1 << 20), strict=True):
        text = "".join(part.text for part in encoder.template.segments(sample))
        assert row.input_ids == llama2(text, add_special_tokens=False).input_ids


def test_tokenizers_that_put_a_blank_after_special_tokens(shared_data: Path) -> None:

    tokenizer = PreTrainedTokenizerFast.from_pretrained(shared_data / "tokenizers" / "llama2")
    assert tokenizer.tokenize("</s>a") == ["</s>", "▁a"]
    encoder = SampleEncoder(choose_template("llama2", tokenizer))
    given = samples(shared_data / FILES[2], encoder)
    for sample, row in zip(given, encoder.encode(given, seq_len=1 << 20), strict=True):
        text = "".join(part.text for part in encoder.template.segments(sample))
        assert row.input_ids == tokenizer(text, add_special_tokens=False).input_ids


def test_where_the_whole_text_would_merge_over_the_edge(llama2: Any, llama3: Any) -> None:
    prompt, answer = "It ends here.", "-Yes"
    row = _plain(llama2, prompt, answer)
    assert llama2.convert_ids_to_tokens(row.input_ids) == ["<s>", "▁It", "▁ends", "▁here", ".", "-", "Yes", "</s>"]
    assert row.input_ids[: row.prompt_length] == llama2(prompt).input_ids
    assert ".-" in llama2.tokenize(prompt + answer)
    row = _plain(llama3, "2 + 2 =  ", "4")
    whole = llama3("2 + 2 =  4").input_ids
    assert row.input_ids[: row.prompt_length] == llama3("2 + 2 =  ").input_ids
    assert whole[: row.prompt_length] != row.input_ids[: row.prompt_length]


def _plain(tokenizer: Any, prompt: str, answer: str) -> EncodedRow:
    sample = Conversation((Turn("user", prompt), Turn("assistant", answer)), "f:1")
    return SampleEncoder(choose_template("plain", tokenizer)).encode([sample], seq_len=64)[0]


def test_special_tokens_in_contents_stay_text(llama2: Any) -> None:
    encoder = SampleEncoder(choose_template("llama2", llama2))
    turns = (Turn("user", "What is </s> for?"), Turn("assistant", "<s> opens, </s> closes."))
    row = encoder.encode([Conversation(turns, "f:1")], seq_len=100)[0]
    assert row.input_ids.count(llama2.bos_token_id) == 1
    assert row.input_ids.count(llama2.eos_token_id) == 1
    assert row.input_ids[-1] == llama2.eos_token_id
    assert learnt(row, llama2) == [" <s> opens, </s> closes. </s>"]
    assert encoder.prompt_ids(turns[:1]) == row.input_ids[: row.prompt_length]


def test_plain_text_is_learnt_as_a_whole(llama2: Any) -> None:
    encoder = SampleEncoder(choose_template("alpaca", llama2))
    row = encoder.encode([PlainText("  Once </s> upon", "f:1")], seq_len=100)[0]
    assert (
        row.input_ids[1:-1] == llama2("  Once </s> upon", add_special_tokens=False, split_special_tokens=True).input_ids
    )
    assert (row.input_ids[0], row.input_ids[-1]) == (llama2.bos_token_id, llama2.eos_token_id)
    assert row.labels == [IGNORED, *row.input_ids[1:]]
    assert (row.prompt_length, row.answer) == (0, None)


def test_rows_are_cut(llama2: Any) -> None:
    encoder = SampleEncoder(choose_template("plain", llama2))
    sample = Conversation((Turn("user", "one two three"), Turn("assistant", "four five six")), "f:1")
    whole = encoder.encode([sample], seq_len=100)[0]
    assert not whole.cut
    for seq_len in range(1, len(whole.input_ids) + 1):
        row = encoder.encode([sample], seq_len=seq_len)[0]
        assert row.input_ids == whole.input_ids[:seq_len]
        assert row.labels == whole.labels[:seq_len]
        assert row.cut == (seq_len < len(whole.input_ids))
        assert row.num_supervised == max(seq_len - whole.prompt_length, 0)


def test_unicode_survives(llama2: Any) -> None:
    signs = "aé字🙂 \n\t\u2028\u00a0\ufeff0<|"
    rng = random.Random(0)
    encoder = SampleEncoder(choose_template("plain", llama2))
    texts = ["".join(rng.choices(signs, k=rng.randrange(12))) for _ in range(400)]
    given = [Conversation((Turn("user", "x"), Turn("assistant", text)), "f:1") for text in texts]
    for text, row in zip(texts, encoder.encode(given, seq_len=999), strict=True):
        assert llama2.decode(row.input_ids) == f"<s> x{text}</s>"
        assert learnt(row, llama2) == [f"{text}</s>"]


def test_where_generation_stops(llama2: Any, llama3: Any) -> None:
    assert SampleEncoder(choose_template("alpaca", llama2)).stop_token_ids() == [llama2.eos_token_id]
    eot, eos = (llama3.convert_tokens_to_ids(token) for token in ("<|eot_id|>", "<|end_of_text|>"))
    assert SampleEncoder(choose_template("llama3", llama3)).stop_token_ids() == sorted([eos, eot])


def test_the_tokenizer_is_left_as_it_was(llama2: Any) -> None:
    before = llama2.backend_tokenizer.to_str()
    encoder = SampleEncoder(choose_template("alpaca", llama2))
    encoder.encode([PlainText("</s>", "f:1")], seq_len=10)
    assert llama2.backend_tokenizer.to_str() == before
    assert llama2("</s>").input_ids == [llama2.bos_token_id, llama2.eos_token_id]


@pytest.mark.parametrize("name", ["alpaca", "llama2", "plain"])
def test_the_last_turn_alone_has_the_tokens_of_all_turns(llama2: Any, name: Any) -> None:
    """The same row, but what is learnt is the last answer; its prompt is all that came before."""
    turns = (Turn("user", "Hi"), Turn("assistant", "Hello!"), Turn("user", "2+2?"), Turn("assistant", "It is 4."))
    talk = Conversation(turns, "f:1")
    template = choose_template(name, llama2)
    (every,) = SampleEncoder(template).encode([talk], seq_len=200)
    encoder = SampleEncoder(template, train_on="last_turn")
    (last,) = encoder.encode([talk], seq_len=200)
    assert (every.answer, last.answer) == ("Hello!", "It is 4.")
    assert last.input_ids[: last.prompt_length] == encoder.prompt_ids(turns[:3])
    assert last.labels == [IGNORED] * last.prompt_length + last.input_ids[last.prompt_length :]
    assert last.labels[last.prompt_length :] == every.labels[-last.num_supervised :]
    if name != "plain":  # which has no marks: there a token may reach over the edge of two turns
        assert last.input_ids == every.input_ids
    assert encoder.encode([talk], seq_len=last.prompt_length)[0].num_supervised == 0


@pytest.mark.parametrize("train_on", ["all_turns", "last_turn"])
@pytest.mark.parametrize("name", ["alpaca", "llama2"])
def test_an_answer_with_weight_0_is_only_read(llama2: Any, name: Any, train_on: Any) -> None:
    first, second = Turn("assistant", "Wrong."), Turn("assistant", "It is 4.")
    turns = (Turn("user", "2+2?"), first, Turn("user", "No."), second, Turn("user", "And?"), first)
    flagged = tuple(turn._replace(learnt=False) if turn is first else turn for turn in turns)
    encoder = SampleEncoder(choose_template(name, llama2), train_on=train_on)
    (row,) = encoder.encode([Conversation(flagged, "f:1")], seq_len=200)
    assert learnt(row, llama2) == [ENDS[name].format("It is 4.")]
    assert row.answer == "It is 4."
    assert row.input_ids[: row.prompt_length] == encoder.prompt_ids(turns[:3])
    (none,) = encoder.encode([Conversation(flagged[:2], "f:1")], seq_len=200)
    assert (none.num_supervised, none.answer) == (0, None)


UNENDED = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture
def unended(shared_data: Path) -> Any:
    """A tokenizer whose template ends a turn with a line end alone."""
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "models" / "stories260K-hf-fp32")
    tokenizer.chat_template = UNENDED
    return tokenizer


def test_eos_follows_where_the_template_ends_no_answer(unended: Any) -> None:
    encoder = SampleEncoder(choose_template(None, unended))
    turns = (Turn("user", "q"), Turn("assistant", "a"), Turn("user", "r"), Turn("assistant", "b"))
    (row,) = encoder.encode([Conversation(turns, "f:1")], seq_len=200)
    eos = unended.eos_token_id
    assert row.ended
    assert (row.input_ids.count(eos), row.labels[-1], row.input_ids[-1]) == (1, eos, eos)
    # What the model is asked later on is still what it was trained on.
    assert encoder.prompt_ids(turns[:1]) == row.input_ids[: row.prompt_length]
    last = SampleEncoder(choose_template(None, unended), train_on="last_turn")
    (row,) = last.encode([Conversation(turns, "f:1")], seq_len=200)
    assert last.prompt_ids(turns[:3]) == row.input_ids[: row.prompt_length]
    (none,) = encoder.encode([Conversation(turns[:1], "f:1")], seq_len=200)
    assert (none.input_ids, none.ended) == ([], False)
    assert encoder.stop_token_ids() == [eos]


def test_without_any_token_to_end_with(unended: Any) -> None:
    unended.eos_token = None
    encoder = SampleEncoder(choose_template(None, unended))
    asked = Conversation((Turn("user", "q"), Turn("assistant", "a")), "f:1")
    with pytest.raises(DataError, match=r"f:1: .*\(tokenizer\) ends an answer with no token of its own, .*set its eos"):
        encoder.encode([asked], seq_len=200)
    assert encoder.encode([PlainText("once", "f:1")], seq_len=200)[0].num_supervised


@pytest.mark.parametrize("name", ["alpaca", "llama2", "plain"])
def test_no_second_eos_where_there_is_one(llama2: Any, name: Any) -> None:
    encoder = SampleEncoder(choose_template(name, llama2))
    (row,) = encoder.encode([Conversation((Turn("user", "q"), Turn("assistant", "a")), "f:1")], seq_len=200)
    assert not row.ended
    assert row.input_ids.count(llama2.eos_token_id) == 1
