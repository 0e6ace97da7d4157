"""Samples become token ids and labels.

Every segment is encoded on its own, never the whole text: only so are the prompt's tokens at inference always the first
tokens of the training row. Encoded as a whole, a prompt's last "." and an answer's first "-" become one token of the
Llama-2 vocabulary, and byte-level BPE splits a prompt's last blanks differently once a digit follows. What a segment
must not get is the blank that SentencePiece tokenizers put before a text: a second encoder without it serves all but
the start. Where no token crosses the edges, as with every built-in template but `plain`, both ways agree.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, final

from toolkit.data.running_text import OpenText
from toolkit.data.samples import Conversation, PlainText, Turn, learnt_answers
from toolkit.data.template import ChatTemplate, Segment
from toolkit.errors import DataError
from toolkit.specs.data import TrainOn

IGNORED = -100
"""Label of a token whose prediction does not count."""


class EncodedRow(NamedTuple):
    """One sample as tokens, or a part of a text that is longer than a row."""

    input_ids: list[int]
    """At most seq_len tokens."""
    labels: list[int]
    """The same tokens where they are learnt, -100 elsewhere; the first is never learnt as nothing predicts it."""
    prompt_length: int
    """Leading tokens that are the prompt of the first answer that is learnt; 0 for plain text."""
    answer: str | None
    """This answer as in the data; None for plain text or without an answer."""
    cut: bool
    """True if the sample was longer than seq_len and its end is lost."""
    num_supervised: int
    """Labels that count."""
    piece: int
    """Which row of its text it is, from 0; 0 for a conversation."""
    blank: bool
    """True if nothing is said in what is learnt."""
    ended: bool
    """True if eos was put behind the last answer, as the template ends it with no token of its own."""


class _Piece(NamedTuple):
    text: str
    inside: bool
    """False at the start of a text: the tokenizer's blank is wanted there."""
    literal: bool


@final
class SampleEncoder:
    """Encodes samples under one chat template; batches run on the tokenizer's own threads.

    Args:
        template: renders conversations.
        train_on: which answers of a conversation are learnt.
    """

    def __init__(self, template: ChatTemplate, *, train_on: TrainOn = "all_turns") -> None:
        self.template, self.train_on = template, train_on
        tokenizer = template.tokenizer
        self._bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self._eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        described = json.loads(tokenizer.backend_tokenizer.to_str())
        # Copies: truncation, padding and the literal switch must not leak into the user's tokenizer, nor from it.
        described |= {"truncation": None, "padding": None, "added_tokens": self._marked(described["added_tokens"])}
        self._start = _built_like(tokenizer, described)
        self._inside = _built_like(tokenizer, _without_leading_blank(described))
        self._special_ids = set(tokenizer.convert_tokens_to_ids(list(template.special_tokens)))
        self._blank_after_special = self._puts_blank_after_special()

    def encode(
        self, samples: Sequence[Conversation | PlainText], *, seq_len: int, begun: OpenText | None = None
    ) -> list[EncodedRow]:
        """Rows of at most `seq_len` tokens: one of each conversation, cut there, and as many as a text needs.

        A conversation without an answer has no tokens.

        Args:
            samples: of which the parts of a text stand one after the other.
            seq_len: tokens of a row.
            begun: what is left of a text whose end is in a later call.

        Raises:
            DataError: the template refuses a conversation, with its file and line.
        """
        begun = OpenText() if begun is None else begun
        last_only = self.train_on == "last_turn"
        opened = [
            (self._bos if sample.begins else [], (Segment(sample.text, learnt=True, literal=True),))
            if isinstance(sample, PlainText)
            else self._opened(self.template.segments(sample, last_only=last_only))
            for sample in samples
        ]
        inside = [isinstance(sample, PlainText) and not sample.begins for sample in samples]
        pieces = [self._pieces(segments, inside=within) for (_, segments), within in zip(opened, inside, strict=True)]
        encoded = iter(self._encode([piece for each in pieces for piece in each]))
        rows: list[EncodedRow] = []
        for sample, (opening, segments) in zip(samples, opened, strict=True):
            parts = [(opening, False), *((next(encoded), segment.learnt) for segment in segments)]
            if isinstance(sample, PlainText):
                tokens = [token for ids, _ in parts for token in ids] + (self._eos if sample.ends else [])
                rows += _text_rows(begun.rows(tokens, ends=sample.ends, seq_len=seq_len), sample)
                continue
            ended = bool(segments) and not self._ends_turn(parts, sample)
            parts += [(self._eos, True)] if ended else []
            rows.append(_joined(parts, answer=_answer(sample, last=last_only), seq_len=seq_len, ended=ended))
        return rows

    def prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        """Tokens from which the model answers the last turn; the same as in training."""
        opening, segments = self._opened(self.template.prompt_segments(turns))
        return opening + [token for ids in self._encode(self._pieces(segments)) for token in ids]

    def stop_token_ids(self) -> list[int]:
        """Tokens at which generation stops: the template's end of turn and eos."""
        sample = Conversation((Turn("user", "a"), Turn("assistant", "b")), "template")
        _, segments = self._opened(self.template.segments(sample))
        last = self._encode(self._pieces(segments))[-1][-1:]
        return sorted({*self._eos, *self._special_ids.intersection(last)})

    def _ends_turn(self, parts: Sequence[tuple[list[int], bool]], sample: Conversation) -> bool:
        """True if the last answer ends with a token at which generation stops."""
        last = next((ids[-1] for ids, _ in reversed(parts) if ids), None)
        if last in self._special_ids or last in self._eos:
            return True
        if not self._eos:
            raise DataError(
                f"{sample.where}: the chat template ({self.template.name}) ends an answer with no token of its own, "
                "the tokenizer has no eos: the model would never stop; set its eos_token or name a built-in `template`"
            )
        return False

    def _marked(self, added: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Added tokens, those of the template marked as special: only such are left alone in text that stays text."""
        special = set(self.template.special_tokens)
        return [token | {"special": token["special"] or token["content"] in special} for token in added]

    def _opened(self, segments: tuple[Segment, ...]) -> tuple[list[int], tuple[Segment, ...]]:
        """The ids that open the row, and what is left to encode.

        A marked prompt is served as rendered text, bos written out. A plain one is served as `tokenizer(prompt)`, which
        puts the SentencePiece blank after bos where the same text with bos written out may get none.
        """
        bos = self.template.tokenizer.bos_token
        if self.template.name != "plain" or not bos or not segments or not segments[0].text.startswith(bos):
            return [], segments
        return self._bos, (segments[0]._replace(text=segments[0].text.removeprefix(bos)), *segments[1:])

    def _pieces(self, segments: Sequence[Segment], *, inside: bool = False) -> list[_Piece]:
        pieces = []
        for segment in segments:
            pieces.append(_Piece(segment.text, inside, segment.literal))
            if not segment.text:
                continue
            ends_special = not segment.literal and segment.text.endswith(self.template.special_tokens)
            inside = not (self._blank_after_special and ends_special)
        return pieces

    def _encode(self, pieces: Sequence[_Piece]) -> list[list[int]]:
        ids: list[list[int]] = [[] for _ in pieces]
        for literal in (False, True):
            for inside, encoder in ((False, self._start), (True, self._inside)):
                chosen = [
                    index for index, piece in enumerate(pieces) if (piece.inside, piece.literal) == (inside, literal)
                ]
                encoder.encode_special_tokens = literal
                texts = [pieces[index].text for index in chosen]
                encodings = encoder.encode_batch_fast(texts, add_special_tokens=False)
                for index, encoding in zip(chosen, encodings, strict=True):
                    ids[index] = encoding.ids
        return ids

    def _puts_blank_after_special(self) -> bool:
        """True for tokenizers whose normalizer writes the blank after each special token too, not only at the start."""
        marker = self.template.tokenizer.eos_token or self.template.tokenizer.bos_token
        if not marker:
            return False
        after, start, inside = self._encode(
            [_Piece(f"{marker}a", False, False), _Piece("a", False, False), _Piece("a", True, False)]
        )
        return start != inside and after[1:] == start


def _answer(sample: Conversation, *, last: bool) -> str | None:
    """What is learnt first; None without an answer."""
    answers = learnt_answers(sample)
    return sample.turns[answers[-1 if last else 0]].content if answers else None


def _text_rows(pieces: Iterator[tuple[int, list[int]]], sample: PlainText) -> list[EncodedRow]:
    blank = not sample.text or sample.text.isspace()
    return [
        EncodedRow(
            input_ids=ids,
            labels=[IGNORED, *ids[1:]][: len(ids)],
            prompt_length=0,
            answer=None,
            cut=False,
            num_supervised=max(len(ids) - 1, 0),
            piece=piece,
            blank=blank,
            ended=False,
        )
        for piece, ids in pieces
    ]


def _joined(parts: list[tuple[list[int], bool]], *, answer: str | None, seq_len: int, ended: bool) -> EncodedRow:
    input_ids: list[int] = []
    labels: list[int] = []
    prompt_length = 0
    answering = False
    for ids, learnt in parts:
        answering = answering or learnt
        prompt_length += 0 if answering else len(ids)
        input_ids += ids
        labels += ids if learnt else [IGNORED] * len(ids)
    labels[:1] = [IGNORED] * len(labels[:1])
    kept = labels[:seq_len]
    return EncodedRow(
        input_ids=input_ids[:seq_len],
        labels=kept,
        prompt_length=0 if answer is None else prompt_length,
        answer=answer,
        cut=len(input_ids) > seq_len,
        num_supervised=len(kept) - kept.count(IGNORED),
        piece=0,
        blank=not answer or answer.isspace(),
        ended=ended,
    )


def _built_like(tokenizer: Any, described: dict[str, Any]) -> Any:
    return type(tokenizer.backend_tokenizer).from_str(json.dumps(described))


def _without_leading_blank(described: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer that takes its text for the continuation of another."""
    return described | {
        "normalizer": _continuing(described.get("normalizer")),
        "pre_tokenizer": _continuing(described.get("pre_tokenizer")),
    }


def _continuing(part: dict[str, Any] | None) -> dict[str, Any] | None:
    if part is None:
        return None
    match part["type"]:
        case "Sequence":
            key = "normalizers" if "normalizers" in part else "pretokenizers"
            inner = [_continuing(each) for each in part[key]]
            return part | {key: [each for each in inner if each is not None]}
        case "Prepend":
            return None
        case "Metaspace":
            return part | {"prepend_scheme": "never"}
        case "ByteLevel":
            return part | {"add_prefix_space": False}
        case _:
            return part
