"""Chat templates: a conversation becomes text whose learnt parts are known to the character.

The learnt part of an assistant turn is what rendering the conversation up to that turn adds to the generation prompt
before it. This needs no `{% generation %}` marks, which stock Llama and Qwen templates lack: with them as the only way
every label would be masked.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, final, get_args

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from toolkit.data import sandbox
from toolkit.data.samples import Conversation, Turn, learnt_answers
from toolkit.errors import DataError
from toolkit.specs.data import TemplateName

TEMPLATES = Path(__file__).parent / "templates"
_NEEDED_TOKENS: dict[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
# Two code points that Unicode keeps free for such use; between them stands, in hexadecimal, what must stay text.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_ESCAPED = re.compile(f"{_OPEN}((?:[0-9a-f]{{2}})*){_CLOSE}", re.IGNORECASE)
_MAX_TEMPLATE_CHARS = 1_000_000
# What a template writes around contents, and how often it may repeat them.
_MAX_FRAME_CHARS, _MAX_REPEATS = 1_000_000, 4
# Of a program that was not written for these turns anything may come.
_RENDER_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TemplateError,
    TimeoutError,
    TypeError,
    ValueError,
)


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

    def segments(self, sample: Conversation, *, last_only: bool = False) -> tuple[Segment, ...]:
        """The text up to the end of the last learnt answer, cut at the edges of those; empty without one.

        Each learnt segment ends with the template's end of turn (eos or its own token), if it writes one.

        Args:
            sample: the turns.
            last_only: of these only the last is learnt; what a template makes of those before is its own affair.

        Raises:
            DataError: the template refuses the turns, leaves one out, or renders earlier turns differently later on.
        """
        answers = learnt_answers(sample)
        if not answers:
            return ()
        messages, escaped = self._messages(sample.turns[: answers[-1] + 1], sample.where)
        full = self._render(messages, sample.where)
        self._refuse_lost_system(messages, full, sample.where)
        segments = []
        at = 0
        for index in answers[-1:] if last_only else answers:
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
        messages, escaped = self._messages(turns, "the prompt")
        segments = [Segment(self._render(messages, "the prompt", ask=True), False)]
        return self._unescaped(segments) if escaped else tuple(segments)

    def prompt_text(self, turns: Sequence[Turn]) -> str:
        """The prompt as text, special tokens written out."""
        return "".join(segment.text for segment in self.prompt_segments(turns))

    def _messages(self, turns: Sequence[Turn], where: str) -> tuple[list[dict[str, str]], bool]:
        """Messages whose contents cannot be mistaken for special tokens, and whether any had to be changed."""
        messages = [{"role": turn.role, "content": self._special.sub(_escape, turn.content)} for turn in turns]
        apart = [{"role": turn.role, "content": self._apart(turn.content)} for turn in turns]
        # Contents that a template writes one after the other may only together spell a token: `</` and `s>`.
        if apart != messages and self._num_specials(apart, where) < self._num_specials(messages, where):
            messages = apart
        return messages, any(_OPEN in message["content"] for message in messages)

    def _refuse_lost_system(self, messages: list[dict[str, str]], full: str, where: str) -> None:
        """Llama-2's form has a system text only as part of the question after it; others may have none at all."""
        roles = [message["role"] for message in messages]
        if self.name == "llama2" and any(
            (role, following) in (("system", "system"), ("system", "assistant")) for role, following in pairwise(roles)
        ):
            raise DataError(
                f"{where}: the chat template (llama2) has a system text only before a user's; the turns are "
                f"{', '.join(roles)}; mend the row or name another `template`"
            )
        if any(message["role"] == "system" and message["content"].strip() not in full for message in messages):
            raise DataError(
                f"{where}: the chat template ({self.name}) leaves the system text out; mend the row or name another "
                "`template`"
            )

    def _apart(self, content: str) -> str:
        """The content, its first and last signs escaped too where they end or begin a special token."""
        body = content.strip()  # as templates do
        at = content.find(body)
        tail = next((body[-n:] for n in range(self._longest, 0, -1) if body[-n:] in self._beginnings), "")
        rest = body[: len(body) - len(tail)]
        head = next((rest[:n] for n in range(self._longest, 0, -1) if rest[:n] in self._ends), "")
        middle = self._special.sub(_escape, rest[len(head) :])
        edges = [_escaped(text) if text else "" for text in (head, tail)]
        return f"{content[:at]}{edges[0]}{middle}{edges[1]}{content[at + len(body) :]}"

    def _num_specials(self, messages: list[dict[str, str]], where: str) -> int:
        """How many tokens the rendered text would become that only the template may write."""
        found = self._special.findall(self._render(messages, where))
        return len(found) - found.count(_OPEN) - found.count(_CLOSE)

    def _unescaped(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        parts = []
        for segment in segments:
            for index, text in enumerate(_ESCAPED.split(segment.text)):
                literal = index % 2 == 1
                shown = bytes.fromhex(text).decode(errors="replace") if literal else text
                parts.append(Segment(shown, segment.learnt, literal))
        return tuple(part for part in parts if part.text)

    def _render(self, messages: list[dict[str, str]], where: str, *, ask: bool = False) -> str:
        largest = _MAX_FRAME_CHARS + _MAX_REPEATS * sum(len(message["content"]) for message in messages)
        try:
            with sandbox.bounded() if self.name == "tokenizer" else contextlib.nullcontext():
                text: str = self.tokenizer.apply_chat_template(
                    messages, chat_template=self.text, tokenize=False, add_generation_prompt=ask
                )
            if len(text) > largest:
                raise ValueError(f"it writes {len(text):,} characters")
        except _RENDER_FAILURES as error:
            reason = str(error) or f"it ends with {type(error).__name__}"
            raise DataError(
                f"{where}: the chat template ({self.name}) refuses the turns {_roles(messages)}: {reason}; "
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
        """The texts of the tokens that only the template may write, longest first."""
        added = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        # Those that mark turns are not flagged as special in every tokenizer.
        marks = _NEEDED_TOKENS.get(self.name, ())
        # Longest first: a pattern takes the first alternative that fits.
        return tuple(sorted({*added, *self.tokenizer.all_special_tokens, *marks}, key=len, reverse=True))

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, (*self.special_tokens, _OPEN, _CLOSE))))

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(token[:n] for token in self.special_tokens for n in range(1, len(token)))

    @cached_property
    def _ends(self) -> frozenset[str]:
        return frozenset(token[n:] for token in self.special_tokens for n in range(1, len(token)))

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.special_tokens), default=0)

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
        if len(own) > _MAX_TEMPLATE_CHARS:
            raise DataError(
                f"the tokenizer's chat template has {len(own):,} characters, needs at most {_MAX_TEMPLATE_CHARS:,}; "
                "name a built-in `template`"
            )
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


def _escape(found: re.Match[str]) -> str:
    return _escaped(found[0])


def _escaped(text: str) -> str:
    return f"{_OPEN}{text.encode().hex()}{_CLOSE}"


def _roles(messages: Sequence[dict[str, str]]) -> str:
    return ", ".join(message["role"] for message in messages)
