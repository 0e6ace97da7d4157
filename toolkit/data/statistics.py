"""What the rows of an epoch hold, source by source, and what was left out and why."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.data.mixing import Chosen, Opened, column
from toolkit.data.packing import Packs, token_counts
from toolkit.data.samples import quoted

_NAMED_COLUMNS = 12


@dataclass(frozen=True)
class SourceStatistics:
    """What becomes of the rows of one source; `read` and `pieces` are the sum of the other counts up to `samples`."""

    name: str
    """As the recipe calls it."""
    read: int
    """Rows of the source; a text file is one."""
    pieces: int
    """Further rows, of texts longer than seq_len."""
    without_answer: int
    """Left out: nothing in them is learnt."""
    prompt_too_long: int
    """Left out: their prompts fill seq_len."""
    duplicates: int
    """Left out: an earlier row has the same tokens and labels."""
    held_out_copies: int
    """Left out: a held-out row has the same tokens and labels."""
    held_out: int
    """Kept for evaluation."""
    samples: int
    """Rows to train on; with a weight below 1 an epoch has a part of them."""
    weight: float
    """Passes over the samples in an epoch."""
    rows: int
    """Rows of an epoch: samples times weight."""
    tokens: int
    """Tokens of these, without padding."""
    supervised_tokens: int
    """Tokens whose prediction counts in the loss."""
    share: float
    """Part of the epoch's tokens, 0 .. 1."""


@dataclass(frozen=True)
class Statistics:
    """What the rows of one split hold; in training those of an epoch, where some may occur more than once."""

    rows: int
    """Rows kept."""
    tokens: int
    """Tokens of all rows, without padding."""
    supervised_tokens: int
    """Tokens whose prediction counts in the loss."""
    cut_rows: int
    """Rows longer than seq_len, cut there."""
    dropped_rows: int
    """Rows of the whole sources without a supervised token, left out."""
    duplicate_rows: int
    """Rows left out for an earlier or a held-out one with the same tokens and labels."""
    longest: int
    """Tokens of the longest row after cutting."""
    sources: tuple[SourceStatistics, ...]
    """Of each source of `train`; none for held-out rows."""


@dataclass(frozen=True)
class Lengths:
    """Numbers of each prepared row of a source."""

    tokens: np.ndarray
    supervised: np.ndarray
    cut: np.ndarray


def lengths_of(opened: Opened) -> Lengths:
    """Read off the file's offsets and columns of numbers; the tokens themselves are not touched."""
    rows = opened.rows
    return Lengths(token_counts(rows), column(rows, "num_supervised"), column(rows, "cut"))


def statistics_of(
    sources: Sequence[Opened],
    lengths: Sequence[Lengths],
    numbers: Sequence[np.ndarray],
    *,
    chosen: Sequence[Chosen] = (),
) -> Statistics:
    """Of some rows of each source.

    Args:
        sources: the prepared rows.
        lengths: theirs.
        numbers: which rows of each, with repetition.
        chosen: what became of the rows, for figures of each source.
    """
    tokens = [own.tokens[rows] for own, rows in zip(lengths, numbers, strict=True)]
    supervised = [int(own.supervised[rows].sum()) for own, rows in zip(lengths, numbers, strict=True)]
    whole = sum(int(own.sum()) for own in tokens)
    return Statistics(
        rows=sum(map(len, numbers)),
        tokens=whole,
        supervised_tokens=sum(supervised),
        cut_rows=sum(int(own.cut[rows].sum()) for own, rows in zip(lengths, numbers, strict=True)),
        dropped_rows=sum(each.tally.dropped for each in sources),
        duplicate_rows=sum(each.duplicates + each.copies for each in chosen),
        longest=max((int(own.max()) for own in tokens if len(own)), default=0),
        sources=tuple(
            SourceStatistics(
                name=opened.source.label,
                read=opened.tally.read,
                pieces=opened.tally.pieces,
                without_answer=opened.tally.without_answer,
                prompt_too_long=opened.tally.prompt_too_long,
                duplicates=each.duplicates,
                held_out_copies=each.copies,
                held_out=len(each.held_out),
                samples=len(each.samples),
                weight=opened.source.weight,
                rows=len(each.epoch),
                tokens=int(own.sum()),
                supervised_tokens=learnt,
                share=int(own.sum()) / whole,
            )
            for opened, each, own, learnt in zip(sources, chosen, tokens, supervised, strict=True)
        )
        if chosen
        else (),
    )


def notes_of(statistics: Statistics, sources: Sequence[Opened], *, seq_len: int) -> list[str]:
    """What the user should know of the training rows, one sentence each."""
    tallies = [each.tally for each in sources]
    read = sum(tally.read for tally in tallies)
    notes = []
    if statistics.cut_rows:
        part = statistics.cut_rows / statistics.rows
        notes.append(f"{statistics.cut_rows} training rows ({part:.1%}) are longer than seq_len {seq_len} and were cut")
    if too_long := sum(tally.prompt_too_long for tally in tallies):
        longest = max(tally.longest_prompt for tally in tallies)
        notes.append(
            f"{too_long} of {read} rows were left out: their prompts fill seq_len {seq_len} (longest: {longest} tokens)"
        )
    if unanswered := sum(tally.without_answer for tally in tallies):
        notes.append(f"{unanswered} of {read} rows were left out: they have no answer")
    if copied := sum(each.held_out_copies for each in statistics.sources):
        notes.append(f"{copied} of {read} rows were left out: a held-out row has the same tokens and labels")
    if repeated := statistics.duplicate_rows - copied:
        notes.append(f"{repeated} of {read} rows were left out: an earlier row has the same tokens and labels")
    if leading := sum(tally.leading for tally in tallies):
        notes.append(
            f"{leading} of {read} rows begin with an answer: what stands before the first question is left out"
        )
    if pieces := sum(tally.pieces for tally in tallies):
        notes.append(f"texts longer than seq_len {seq_len} go on in {pieces:,} further rows")
    if ended := sum(tally.ended for tally in tallies):
        notes.append(
            f"the chat template ends answers with no token of its own: eos was put behind the last answer of {ended} "
            "rows, so that the model learns to stop"
        )
    notes += [_unread(each) for each in sources if each.tally.unread]
    if blank := sum(tally.blank for tally in tallies):
        notes.append(f"{blank} of {read} rows have an empty answer or text: they teach to say nothing")
    return notes


def _unread(opened: Opened) -> str:
    names = opened.tally.unread
    listed = quoted(names[:_NAMED_COLUMNS]) + (" and others" if len(names) > _NAMED_COLUMNS else "")
    return f"{opened.source.label}: nothing is read of {listed}"


def packing_notes(statistics: Statistics, packs: Packs | None, *, seq_len: int) -> list[str]:
    """What packing made of the rows."""
    if packs is None:
        return []
    waste = 1 - statistics.tokens / (len(packs) * seq_len)
    return [
        f"packing: {statistics.rows:,} samples in {len(packs):,} rows of {seq_len} tokens, {waste:.1%} padding; "
        f"{statistics.rows / len(packs):.1f} samples per row"
    ]
