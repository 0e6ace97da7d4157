"""Prompts that a recipe wants answered, beside its held-out samples; and what tells one set of samples from another."""

import hashlib
from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from datasets import config as datasets_config

from toolkit.data.batches import samples_of, spaced_rows
from toolkit.data.cache import cached_rows
from toolkit.data.prepare import PreparedData
from toolkit.errors import DataError
from toolkit.specs.data import DataConfig, DataSource

_SAMPLE_ROWS = 64


def with_prompts(
    data: PreparedData, source: str | None, config: DataConfig, *, seq_len: int, cache_dir: Path | None = None
) -> PreparedData:
    """The same with further prompts and their answers, rendered as the training rows are.

    Args:
        data: prepared.
        source: of the prompts, whose format is recognised by itself; None for none.
        config: of the training rows.
        seq_len: which every prompt must be shorter than.
        cache_dir: as for `prepare`.

    Raises:
        DataError: the source is missing or broken, it is plain text, or a prompt is too long to be answered.
    """
    if source is None:
        return data
    cache = cache_dir or Path(datasets_config.HF_DATASETS_CACHE) / "toolkit"
    own = DataSource(source=source, hub_split=config.hub_split, columns={}, template=config.template)
    rows, tally = cached_rows(own, encoder=data.encoder, seq_len=seq_len, cache=cache)
    if tally.dropped:
        # A part that silently leaves hard rows out would be compared with others that did not.
        raise DataError(
            f"evaluation.prompts: {source}: {tally.dropped} of {tally.read} rows have no answer, or a prompt that "
            f"fills seq_len {seq_len}; mend or remove them"
        )
    if any(answer is None for answer in rows["answer"]):
        raise DataError(f"evaluation.prompts: {source}: plain text has no prompts; give rows of prompt and completion")
    return replace(data, prompts=rows)


def fingerprint_of(rows: Dataset, limit: int) -> str:
    """Tells the rows whose loss is measured, at most `limit`, from others by their number and a sample of them."""
    chosen = spaced_rows(len(rows), limit)
    count = len(chosen)
    sample = sorted({place * count // _SAMPLE_ROWS for place in range(_SAMPLE_ROWS)}) if count else []
    return hashlib.sha256(f"{count} {samples_of(rows, [chosen[at] for at in sample])}".encode()).hexdigest()[:16]
