"""Chat templates: the exact text of the built-ins, and which part of it is learnt."""

from typing import Any

import pytest

from toolkit.data.samples import Conversation, Turn
from toolkit.data.template import ChatTemplate, choose_template
from toolkit.errors import DataError

TALK = Conversation(
    (
        Turn("system", "Be brief."),
        Turn("user", "Hi\n"),
        Turn("assistant", " Hello! "),
        Turn("user", "2+2?"),
        Turn("assistant", "4"),
    ),
    "f:1",
)
QUESTION = Conversation((Turn("user", "q"), Turn("assistant", "a")), "f:1")


def shown(template: ChatTemplate, sample: Conversation) -> str:
    return "".join(f"⟦{part.text}⟧" if part.learnt else part.text for part in template.segments(sample))


LLAMA2_TEXT = {
    "alpaca": "<s>Be brief.\n\n### Instruction:\nHi\n\n\n### Response:\n⟦ Hello! </s>⟧\n\n"
    "### Instruction:\n2+2?\n\n### Response:\n⟦4</s>⟧",
    "llama2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]⟦ Hello! </s>⟧<s>[INST] 2+2? [/INST]⟦ 4 </s>⟧",
    "plain": "<s>Be brief.Hi\n⟦ Hello! </s>⟧2+2?⟦4</s>⟧",
}
LLAMA3_TEXT = {
    "chatml": "<|begin_of_text|><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi\n<|im_end|>\n"
    "<|im_start|>assistant\n⟦ Hello! <|im_end|>⟧\n"
    "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n⟦4<|im_end|>⟧",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello!<|eot_id|>⟧"
    "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦4<|eot_id|>⟧",
}


@pytest.mark.parametrize("name", LLAMA2_TEXT)
def test_built_ins_of_llama2(llama2: Any, name: Any) -> None:
    assert shown(choose_template(name, llama2), TALK) == LLAMA2_TEXT[name]


@pytest.mark.parametrize("name", LLAMA3_TEXT)
def test_built_ins_of_llama3(llama3: Any, name: Any) -> None:
    assert shown(choose_template(name, llama3), TALK) == LLAMA3_TEXT[name]


def test_stanford_alpaca_prompts(llama2: Any) -> None:
    template = choose_template("alpaca", llama2)
    assert template.prompt_text([Turn("user", "Add.")]) == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd.\n\n### Response:\n"
    )
    assert template.prompt_text([Turn("user", f"Add.{template.input_join}1 2")]) == (
        "<s>Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    )


@pytest.mark.parametrize("name", ["alpaca", "chatml", "llama2", "llama3", "plain"])
def test_the_prompt_is_the_start_of_the_sample(llama3: Any, name: Any) -> None:
    template = choose_template(name, llama3)
    odd = [
        TALK,
        Conversation((Turn("user", "q"), Turn("user", "r"), Turn("assistant", "a"), Turn("assistant", "b")), "f:1"),
        Conversation((Turn("user", ""), Turn("assistant", "")), "f:1"),
        Conversation((Turn("system", "s"), Turn("user", "<|eot_id|> q"), Turn("assistant", "a<|im_end|>")), "f:1"),
    ]
    for sample in odd:
        segments = template.segments(sample)
        first = next(index for index, turn in enumerate(sample.turns) if turn.role == "assistant")
        prompt = template.prompt_text(sample.turns[:first])
        assert "".join(part.text for part in segments).startswith(prompt)
        learnt = next(index for index, part in enumerate(segments) if part.learnt)
        assert prompt == "".join(part.text for part in segments[:learnt])


def test_turns_after_the_last_answer_are_left_out(llama2: Any) -> None:
    template = choose_template("plain", llama2)
    assert shown(template, Conversation((*QUESTION.turns, Turn("user", "more")), "f:1")) == "<s>q⟦a</s>⟧"
    assert template.segments(Conversation((Turn("user", "q"),), "f:1")) == ()
    assert template.segments(Conversation((), "f:1")) == ()


def test_the_tokenizers_own_template(llama3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot_id|>\n{% endfor %}"
    monkeypatch.setattr(llama3, "chat_template", own + "{% if add_generation_prompt %}assistant: {% endif %}")
    template = choose_template(None, llama3)
    assert (template.name, template.note) == ("tokenizer", None)
    # The template forgot bos, which this tokenizer puts before every text.
    assert shown(template, QUESTION) == "<|begin_of_text|>user: q<|eot_id|>\nassistant: ⟦a<|eot_id|>⟧"


@pytest.mark.parametrize("name", ["alpaca", "plain", "llama3"])
def test_a_built_in_carried_by_the_tokenizer_is_known(llama3: Any, monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    built_in = choose_template(name, llama3)
    monkeypatch.setattr(llama3, "chat_template", built_in.text)
    assert choose_template(None, llama3) == built_in


def test_bos_is_never_doubled(llama3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        llama3, "chat_template", "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    assert shown(choose_template(None, llama3), QUESTION) == "<|begin_of_text|>q⟦a⟧"


def test_without_any_template_alpaca_is_used_and_said(llama2: Any) -> None:
    template = choose_template(None, llama2)
    assert template.name == "alpaca"
    assert (
        template.note == "the tokenizer has no chat template: using the built-in `alpaca`; set `template` for another"
    )


def test_a_template_that_rewrites_earlier_turns(llama3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = "{% for m in messages %}{{ m.content if loop.last else '...' }}|{% endfor %}"
    monkeypatch.setattr(llama3, "chat_template", own)
    with pytest.raises(
        DataError, match=r"f:1: the chat template \(tokenizer\) renders turn 2 differently .* alpaca, chatml"
    ):
        choose_template(None, llama3).segments(QUESTION)


def test_a_template_that_refuses_the_turns(llama3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    monkeypatch.setattr(llama3, "chat_template", own)
    with pytest.raises(DataError, match=r"f:1: .* refuses the turns system, user, .*: no system here; mend the row"):
        choose_template(None, llama3).segments(TALK)


def test_tokens_that_the_tokenizer_lacks(llama2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, token in (("chatml", "<|im_start|>"), ("llama3", "<|eot_id|>")):
        with pytest.raises(DataError, match=f"template {name} needs .*use alpaca, llama2 or plain") as caught:
            choose_template(name, llama2)  # type: ignore[arg-type]
        assert token in str(caught.value)
    with pytest.raises(DataError, match="is not a fast tokenizer"):
        choose_template("alpaca", object())


def test_the_last_answer_alone(llama2: Any) -> None:
    template = choose_template("plain", llama2)
    segments = template.segments(TALK, last_only=True)
    assert [(part.text, part.learnt) for part in segments] == [
        ("<s>Be brief.Hi\n Hello! </s>2+2?", False),
        ("4</s>", True),
    ]
    assert template.segments(QUESTION, last_only=True) == template.segments(QUESTION)
    assert template.segments(Conversation((Turn("user", "q"),), "f:1"), last_only=True) == ()


def test_a_template_may_change_earlier_answers_that_are_not_learnt(
    llama3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those that leave the thoughts of earlier answers out."""
    own = (
        "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}({{ m.content|length }}){% else %}"
        "{{ m.content }}{% endif %}|{% endfor %}"
    )
    monkeypatch.setattr(llama3, "chat_template", own)
    template = choose_template(None, llama3)
    thinking = Conversation((*QUESTION.turns, Turn("user", "r"), Turn("assistant", "b")), "f:1")
    with pytest.raises(DataError, match="renders turn 2 differently"):
        template.segments(thinking)
    before, answer = template.segments(thinking, last_only=True)
    assert (before.text, answer.text) == ("<|begin_of_text|>q|(1)|r|", "b|")


def test_a_template_without_a_system_role_does_not_lose_one(small: Any) -> None:
    text = (
        "{% for m in messages if m['role'] != 'system' %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    )
    template = ChatTemplate("tokenizer", text, small)
    told = Conversation((Turn("system", "Be brief."), *QUESTION.turns), "f:1")
    with pytest.raises(
        DataError, match=r"f:1: the chat template \(tokenizer\) leaves the system text out; mend the row"
    ):
        template.segments(told)
    spoken = ChatTemplate("tokenizer", text.replace(" if m['role'] != 'system'", ""), small)
    assert "system: Be brief.</s>" in shown(spoken, told)
