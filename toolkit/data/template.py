"""Chat templates: a conversation becomes text whose learnt parts are known to the character.

The learnt part of an assistant turn is what rendering the conversation up to that turn adds to the generation prompt
before it. This needs no `{% generation %}` marks, which stock Llama and Qwen templates lack: with them as the only way
every label would be masked.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, final, get_args

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from toolkit.data.formats import Conversation, Turn
from toolkit.errors import DataError
from toolkit.specs.recipe import TemplateName

TEMPLATES = Path(__file__).parent / "templates"
_NEEDED_TOKENS: dict[TemplateName, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
# Two code points that Unicode keeps free for such use: `\ufdd0<number>\ufdd1` stands for a special token's own text.
_ESCAPED = re.compile("\ufdd0(\\d+)\ufdd1")


class Segment(NamedTuple):
    """A stretch of the rendered text that is learnt as a whole or not at all."""

    text: str
    learnt: bool
    literal: bool = False
    """True for content that spells a special token, such as `</s>`: it stays plain text."""


@final
@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template with the tokenizer whose special tokens it writes; see `choose_template`."""

    name: str
    """A built-in's name, or `tokenizer` for the tokenizer's own."""
    text: str
    """Jinja source in Hugging Face's `chat_template` form; save it with the model so that serving renders the same."""
    tokenizer: PreTrainedTokenizerFast = field(repr=False)
    """Gives bos, eos and the renderer."""
    note: str | None = None
    """What the user should know about the choice."""

    @property
    def input_join(self) -> str:
        """Between instruction and input of an alpaca row; the built-in alpaca template knows its marker."""
        return "\n\n### Input:\n" if self.name == "alpaca" else "\n\n"

    def segments(self, sample: Conversation) -> tuple[Segment, ...]:
        """The text up to the end of the last answer, cut at the edges of the answers; empty without an answer.

        Each learnt segment ends with the template's end of turn (eos or its own token).

        Raises:
            DataError: the template refuses the turns, or renders earlier turns differently later on.
        """
        messages, escaped = self._messages(sample.turns)
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            return ()
        full = self._render(messages[: answers[-1] + 1], sample.where)
        segments = []
        at = 0
        for index in answers:
            before = self._render(messages[:index], sample.where, ask=True)
            after = full if index == answers[-1] else self._render(messages[: index + 1], sample.where)
            if not (full.startswith(after) and full.startswith(before) and at <= len(before) < len(after)):
                raise DataError(
                    f"{sample.where}: the chat template ({self.name}) renders turn {index + 1} differently as the "
                    "conversation goes on, so the answer cannot be told from the prompt; name a built-in `template`: "
                    f"{', '.join(get_args(TemplateName))}"
                )
            end = len(before) + len(self._without_tail(full[len(before) : len(after)]))
            segments += [Segment(full[at : len(before)], False), Segment(full[len(before) : end], True)]
            at = end
        return self._unescaped(segments) if escaped else tuple(segments)

    def prompt_segments(self, turns: Sequence[Turn]) -> tuple[Segment, ...]:
        """What the model sees before it answers the last turn; the start of the answered sample's `segments`."""
        messages, escaped = self._messages(turns)
        segments = [Segment(self._render(messages, "the prompt", ask=True), False)]
        return self._unescaped(segments) if escaped else tuple(segments)

    def prompt_text(self, turns: Sequence[Turn]) -> str:
        """The prompt as text, special tokens written out."""
        return "".join(segment.text for segment in self.prompt_segments(turns))

    def _messages(self, turns: Sequence[Turn]) -> tuple[list[dict[str, str]], bool]:
        """Messages whose contents cannot be mistaken for special tokens, and whether any had to be changed."""
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        if not any(self._special.search(turn.content) for turn in turns):
            return messages, False

        def escape(found: re.Match[str]) -> str:
            return f"\ufdd0{self.special_tokens.index(found[0])}\ufdd1"

        return [message | {"content": self._special.sub(escape, message["content"])} for message in messages], True

    def _unescaped(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        parts = []
        for segment in segments:
            for index, text in enumerate(_ESCAPED.split(segment.text)):
                literal = index % 2 == 1
                parts.append(Segment(self.special_tokens[int(text)] if literal else text, segment.learnt, literal))
        return tuple(part for part in parts if part.text)

    def _render(self, messages: list[dict[str, str]], where: str, *, ask: bool = False) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, chat_template=self.text, tokenize=False, add_generation_prompt=ask
            )
        except TemplateError as error:
            raise DataError(
                f"{where}: the chat template ({self.name}) refuses the turns {_roles(messages)}: {error}; "
                "mend the row or name another `template`"
            ) from None
        bos = self.tokenizer.bos_token
        if not bos:
            return text
        # Exactly one bos: SmolLM's bos is ChatML's own <|im_start|>, and some templates leave bos to the tokenizer.
        if text.startswith(bos + bos):
            return text.removeprefix(bos)
        return text if text.startswith(bos) or not self._adds_bos else bos + text

    def _without_tail(self, answer: str) -> str:
        """Without the blanks that ChatML writes after its end of turn: generation stops before them."""
        bare = answer.rstrip()
        ended = len(bare) < len(answer) and bare.endswith(self.special_tokens)
        return bare if ended else answer

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens' texts, longest first."""
        added = self.tokenizer.added_tokens_decoder.values()
        # Longest first: a pattern takes the first alternative that fits.
        return tuple(sorted((str(token) for token in added if token.special), key=len, reverse=True))

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.special_tokens)) or "(?!)")

    @cached_property
    def _adds_bos(self) -> bool:
        return bool(self.tokenizer("a").input_ids[:1] == [self.tokenizer.bos_token_id])


def choose_template(name: TemplateName | None, tokenizer: PreTrainedTokenizerFast) -> ChatTemplate:
    """The named built-in, else the tokenizer's own template, else the built-in alpaca (with a note).

    Raises:
        DataError: the tokenizer is not a fast one, or lacks tokens that the template is made of.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise DataError(f"{type(tokenizer).__name__} is not a fast tokenizer; give a folder with tokenizer.json")
    if name is None and tokenizer.chat_template:
        own = tokenizer.get_chat_template()
        # A model that was trained under a built-in carries its text; trained further it is the same built-in.
        return ChatTemplate(_built_in_with(own) or "tokenizer", own, tokenizer)
    note = (
        None if name else "the tokenizer has no chat template: using the built-in `alpaca`; set `template` for another"
    )
    name = name or "alpaca"
    missing = [
        token for token in _NEEDED_TOKENS.get(name, ()) if tokenizer.backend_tokenizer.token_to_id(token) is None
    ]
    if missing:
        # As plain text these would be a dozen tokens each, and generation would never meet its end of turn.
        lacking = " ".join(missing)
        raise DataError(f"template {name} needs {lacking}, which the tokenizer lacks; use alpaca, llama2 or plain")
    if name not in _NEEDED_TOKENS and not tokenizer.eos_token:
        raise DataError(f"template {name} ends answers with eos, which the tokenizer lacks; set its eos_token")
    text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return ChatTemplate(name, text, tokenizer, note)


def _built_in_with(text: str) -> str | None:
    files = sorted(TEMPLATES.glob("*.jinja"))
    return next((file.stem for file in files if file.read_text(encoding="utf-8") == text), None)


def _roles(messages: Sequence[dict[str, str]]) -> str:
    return ", ".join(message["role"] for message in messages)
