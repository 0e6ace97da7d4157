"""From a DataConfig to rows ready for batches.

Call `prepare` before the process group starts: tokenizing for minutes inside it would meet the collectives' timeout.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from datasets import config as datasets_config
from transformers import PreTrainedTokenizerFast

from toolkit.data.cache import cached_rows
from toolkit.data.encode import SampleEncoder
from toolkit.data.mixing import Opened, mixture, rows_of, spread
from toolkit.data.overlap import overlap_notes, refuse_overlap
from toolkit.data.packing import Packs, pack
from toolkit.data.statistics import Statistics, lengths_of, notes_of, packing_notes, statistics_of
from toolkit.data.template import choose_template
from toolkit.specs.data import DataConfig, DataSource, TemplateName


@dataclass(frozen=True)
class PreparedData:
    """Rows ready for batches: columns input_ids, labels (int32 lists), prompt_length, answer, cut, num_supervised,
    piece, digest."""

    train: Dataset
    """Training rows of an epoch, memory-mapped; a row may stand here more than once."""
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
    cache = cache_dir or Path(datasets_config.HF_DATASETS_CACHE) / "toolkit"

    @functools.cache
    def encoder_of(template: TemplateName | None) -> SampleEncoder:
        return SampleEncoder(choose_template(template, tokenizer), train_on=config.train_on)

    def opened(source: DataSource) -> Opened:
        return Opened(source, *cached_rows(source, encoder=encoder_of(source.template), seq_len=seq_len, cache=cache))

    refuse_overlap(config)
    encoder = encoder_of(config.template)
    sources = [opened(source) for source in config.sources]
    evaluated = None if config.held_out_source is None else opened(config.held_out_source)
    chosen = mixture(sources, config, held_out=evaluated, seed=seed)
    lengths = [lengths_of(each) for each in sources]
    epoch, kept = [each.epoch for each in chosen], [each.held_out for each in chosen]
    held_out = held_out_statistics = None
    measured: list[tuple[Opened, np.ndarray]] = []
    if evaluated is not None:
        held_out, measured = evaluated.rows, [(evaluated, np.arange(len(evaluated.rows)))]
        held_out_statistics = statistics_of([evaluated], [lengths_of(evaluated)], [measured[0][1]])
    elif any(map(len, kept)):
        held_out, measured = spread(sources, kept), list(zip(sources, kept, strict=True))
        held_out_statistics = statistics_of(sources, lengths, kept)
    statistics = statistics_of(sources, lengths, epoch, chosen=chosen)
    tokens = np.concatenate([own.tokens[rows] for own, rows in zip(lengths, epoch, strict=True)])
    packs = pack(tokens, capacity=seq_len) if config.packing else None
    notes = (
        *([encoder.template.note] if encoder.template.note else []),
        *_other_templates(encoder, sources),
        *notes_of(statistics, sources, seq_len=seq_len),
        *overlap_notes(sources, epoch, measured),
        *packing_notes(statistics, packs, seq_len=seq_len),
    )
    train = rows_of(sources, epoch)
    return PreparedData(train, held_out, statistics, held_out_statistics, packs, encoder, notes)


def _other_templates(encoder: SampleEncoder, sources: Sequence[Opened]) -> list[str]:
    name = encoder.template.name
    others = [each.source for each in sources if each.source.template not in (None, name)]
    return [f"{each.label} is in template {each.template}; the model is saved with {name}" for each in others]
