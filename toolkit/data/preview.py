"""One training row as the model sees it, the learnt part marked: the quickest check that the labels are right."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.text import Text
from transformers import PreTrainedTokenizerFast

from toolkit.data.encode import IGNORED

OPEN, CLOSE = "⟦", "⟧"


def decoded_example(row: Mapping[str, Sequence[int]], tokenizer: PreTrainedTokenizerFast) -> Text:
    """The row's tokens decoded, special tokens written out; the supervised part is green and stands in ⟦ ⟧."""
    text = Text()
    for supervised, part in decoded_parts(row, tokenizer):
        if supervised:
            text.append(f"{OPEN}{part}{CLOSE}", style="bold green")
        else:
            text.append(part, style="dim")
    return text


def decoded_parts(row: Mapping[str, Sequence[int]], tokenizer: PreTrainedTokenizerFast) -> list[tuple[bool, str]]:
    """(supervised?, text) of each run of the row's tokens; the texts join to the decoded row."""
    ids: Sequence[Any] = row["input_ids"]
    parts = []
    end = 0
    before = ""
    for supervised, run in groupby(row["labels"], key=lambda label: label != IGNORED):
        end += sum(1 for _ in run)
        # Each run is the difference of two decoded beginnings: decoded alone it would lose its leading blank.
        so_far: str = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        parts.append((supervised, so_far[len(before) :]))
        before = so_far
    return parts
