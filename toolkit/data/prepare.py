"""From a DataConfig to rows ready for batches.

Call `prepare` before the process group starts: tokenizing for minutes inside it would meet the collectives' timeout.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import torch
from datasets import Dataset
from datasets import config as datasets_config
from transformers import PreTrainedTokenizerFast

from toolkit.data.cache import Tally, cached_rows
from toolkit.data.encode import SampleEncoder
from toolkit.data.packing import Packs, pack, token_counts
from toolkit.data.template import ChatTemplate, choose_template
from toolkit.errors import DataError
from toolkit.specs.data import DataConfig


@dataclass(frozen=True)
class Statistics:
    """What the kept rows of one split hold."""

    rows: int
    """Rows kept."""
    tokens: int
    """Tokens of all rows, without padding."""
    supervised_tokens: int
    """Tokens whose prediction counts in the loss."""
    cut_rows: int
    """Rows longer than seq_len, cut there."""
    dropped_rows: int
    """Rows of the whole source without a supervised token, left out."""
    longest: int
    """Tokens of the longest row after cutting."""


@dataclass(frozen=True)
class PreparedData:
    """Rows ready for batches: columns input_ids, labels (int32 lists), prompt_length, answer, cut, num_supervised."""

    train: Dataset
    """Training rows, memory-mapped."""
    held_out: Dataset | None
    """Evaluation rows, disjoint from `train`; None if none were asked for."""
    statistics: Statistics
    """Of `train`."""
    held_out_statistics: Statistics | None
    """Of `held_out`."""
    packs: Packs | None
    """Which rows of `train` share a packed row; None without packing."""
    encoder: SampleEncoder
    """Encodes further prompts the same way; `encoder.template.text` belongs to the trained model."""
    notes: tuple[str, ...]
    """What the user should know, one sentence each."""
    prompts: Dataset | None = None
    """Further prompts with their answers, as `with_prompts` adds them."""


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seq_len: int,
    seed: int,
    cache_dir: Path | None = None,
) -> PreparedData:
    """Read, render, tokenize and mask the samples, or open them from the cache.

    Several processes may call it at once: one works, the others wait for it and open the same file.

    Args:
        config: sources, format, template and split.
        tokenizer: a fast tokenizer.
        seq_len: tokens after which a row is cut.
        seed: chooses the held-out rows.
        cache_dir: where prepared rows are kept; the `datasets` cache by default.

    Raises:
        DataError: a source is missing, broken or unusable, or nothing in it can be learnt; with file and line.
    """
    encoder = SampleEncoder(choose_template(config.template, tokenizer))
    cache = cache_dir or Path(datasets_config.HF_DATASETS_CACHE) / "toolkit"
    rows, tally = cached_rows(config.train, config, encoder=encoder, seq_len=seq_len, cache=cache)
    held: Dataset | None = None
    held_tally = tally
    if config.held_out is not None:
        held, held_tally = cached_rows(config.held_out, config, encoder=encoder, seq_len=seq_len, cache=cache)
    elif config.held_out_fraction:
        rows, held = _split(rows, config, seed=seed)
    statistics = _statistics(rows, tally)
    packs = pack(token_counts(rows), capacity=seq_len) if config.packing else None
    return PreparedData(
        train=rows,
        held_out=held,
        statistics=statistics,
        held_out_statistics=None if held is None else _statistics(held, held_tally),
        packs=packs,
        encoder=encoder,
        notes=(
            *_notes(encoder.template, statistics, tally, seq_len=seq_len),
            *_packing_notes(statistics, packs, seq_len=seq_len),
        ),
    )


def _split(rows: Dataset, config: DataConfig, *, seed: int) -> tuple[Dataset, Dataset]:
    count = max(round(len(rows) * config.held_out_fraction), 1)
    if count >= len(rows):
        raise DataError(
            f"{config.train}: held_out_fraction {config.held_out_fraction} takes {count} of {len(rows)} rows, "
            "none is left to train on; lower it or add rows"
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    held, kept = order[:count].sort().values, order[count:].sort().values
    return rows.select(kept.numpy()), rows.select(held.numpy())


def _statistics(rows: Dataset, tally: Tally) -> Statistics:
    tokens = supervised = cut = longest = 0
    for batch in rows.with_format("arrow").iter(batch_size=10_000):
        lengths = batch["input_ids"].combine_chunks().value_lengths()
        tokens += pa.compute.sum(lengths).as_py()
        longest = max(longest, pa.compute.max(lengths).as_py())
        supervised += pa.compute.sum(batch["num_supervised"]).as_py()
        cut += pa.compute.sum(batch["cut"]).as_py()
    return Statistics(
        rows=len(rows),
        tokens=tokens,
        supervised_tokens=supervised,
        cut_rows=cut,
        dropped_rows=tally.dropped,
        longest=longest,
    )


def _notes(template: ChatTemplate, statistics: Statistics, tally: Tally, *, seq_len: int) -> tuple[str, ...]:
    notes = [template.note] if template.note else []
    if statistics.cut_rows:
        part = statistics.cut_rows / statistics.rows
        notes.append(f"{statistics.cut_rows} training rows ({part:.1%}) are longer than seq_len {seq_len} and were cut")
    if tally.prompt_too_long:
        notes.append(
            f"{tally.prompt_too_long} of {tally.read} rows were left out: their prompts fill seq_len {seq_len} "
            f"(longest: {tally.longest_prompt} tokens)"
        )
    if tally.without_answer:
        notes.append(f"{tally.without_answer} of {tally.read} rows were left out: they have no answer")
    return tuple(notes)


def _packing_notes(statistics: Statistics, packs: Packs | None, *, seq_len: int) -> tuple[str, ...]:
    if packs is None:
        return ()
    waste = 1 - statistics.tokens / (len(packs) * seq_len)
    return (
        f"packing: {statistics.rows:,} samples in {len(packs):,} rows of {seq_len} tokens, {waste:.1%} padding; "
        f"{statistics.rows / len(packs):.1f} samples per row",
    )
