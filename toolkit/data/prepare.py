"""From a DataConfig to tokenized, masked rows on disk: once per machine and content, in flat memory.

The rows lie in an Arrow file that every process maps; its folder is named by a key of everything that the tokens depend
on, so a second run opens it at once and an edited file, another template or seq_len makes a new one. Call `prepare` before
the process group starts: tokenizing for minutes inside it would meet the collectives' timeout.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import torch
from datasets import Dataset
from datasets import config as datasets_config
from datasets.utils import tqdm
from filelock import FileLock
from transformers import PreTrainedTokenizerFast

from toolkit.data.encode import EncodedRow, SampleEncoder
from toolkit.data.formats import Conversation, PlainText, reader_for
from toolkit.data.source import Source, open_source
from toolkit.data.template import ChatTemplate, choose_template
from toolkit.errors import DataError
from toolkit.specs.recipe import DataConfig

FORMAT_VERSION = 1
"""Part of the cache key; raise it when the same input gives other rows."""
BATCH_ROWS = 1000
BATCH_CHARS = 4_000_000
"""Characters after which a batch is closed early, so that long documents do not add up in memory."""

_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("prompt_length", pa.int32()),
        ("answer", pa.string()),
        ("cut", pa.bool_()),
        ("num_supervised", pa.int32()),
    ]
)
_log = logging.getLogger(__name__)


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
    encoder: SampleEncoder
    """Encodes further prompts the same way; `encoder.template.text` belongs to the trained model."""
    notes: tuple[str, ...]
    """What the user should know, one sentence each."""


@dataclass
class _Tally:
    """What the rows that are not written were; kept beside the Arrow file."""

    read: int = 0
    without_answer: int = 0
    prompt_too_long: int = 0
    longest_prompt: int = 0
    arrow_bytes: int = 0

    @property
    def dropped(self) -> int:
        return self.without_answer + self.prompt_too_long


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
    rows, tally = _rows(config.train, config, encoder, seq_len=seq_len, cache=cache)
    held: Dataset | None = None
    held_tally = tally
    if config.held_out is not None:
        held, held_tally = _rows(config.held_out, config, encoder, seq_len=seq_len, cache=cache)
    elif config.held_out_fraction:
        rows, held = _split(rows, config, seed)
    statistics = _statistics(rows, tally)
    return PreparedData(
        train=rows,
        held_out=held,
        statistics=statistics,
        held_out_statistics=None if held is None else _statistics(held, held_tally),
        encoder=encoder,
        notes=_notes(encoder.template, statistics, seq_len),
    )


def _rows(
    name: str, config: DataConfig, encoder: SampleEncoder, *, seq_len: int, cache: Path
) -> tuple[Dataset, _Tally]:
    """The rows of one source from the cache, made first if they are not there."""
    source = open_source(name, config.hub_split)
    key = _cache_key(source, config, encoder.template, seq_len)
    arrow, tally_file = cache / key / "rows.arrow", cache / key / "tally.json"
    try:
        arrow.parent.mkdir(parents=True, exist_ok=True)
        # The lock goes with its process: after a crash the next caller starts over, as tally.json is written last.
        with FileLock(cache / f"{key}.lock"):
            tally = _read_tally(arrow, tally_file)
            if tally is None:
                tally = _write_rows(arrow, source, config, encoder, seq_len)
                tally_file.write_text(json.dumps(asdict(tally)), encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{cache}: prepared rows cannot be kept here ({error.strerror}); free space or set HF_DATASETS_CACHE"
        ) from error
    return Dataset.from_file(str(arrow)), tally


def _cache_key(source: Source, config: DataConfig, template: ChatTemplate, seq_len: int) -> str:
    tokenizer = template.tokenizer
    parts = [
        FORMAT_VERSION,
        source.identity(),
        config.format,
        config.columns,
        config.hub_split,
        template.name,
        template.text,
        tokenizer.backend_tokenizer.to_str(),
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        seq_len,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _read_tally(arrow: Path, tally_file: Path) -> _Tally | None:
    """The tally of a finished Arrow file; None if there is none or it was damaged since."""
    try:
        tally = _Tally(**json.loads(tally_file.read_text(encoding="utf-8")))
        return tally if arrow.stat().st_size == tally.arrow_bytes else None
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write_rows(arrow: Path, source: Source, config: DataConfig, encoder: SampleEncoder, seq_len: int) -> _Tally:
    _log.info("tokenizing %s", source.name)
    tally = _Tally()
    kept = 0
    # disable=None: no bar where nobody looks, as in a log file.
    with (
        pa.OSFile(str(arrow), "wb") as sink,
        pa.ipc.new_stream(sink, _SCHEMA) as writer,
        tqdm(desc=f"tokenizing {Path(source.name).name}", unit=" rows", disable=None) as progress,
    ):
        for samples in _batches(source, config, encoder.template):
            rows = [row for row in encoder.encode(samples, seq_len=seq_len) if _keep(row, tally)]
            columns = zip(*rows, strict=True) if rows else [[] for _ in _SCHEMA.names]
            by_name = dict(zip(EncodedRow._fields, columns, strict=True))
            writer.write_batch(pa.record_batch([pa.array(by_name[f.name], f.type) for f in _SCHEMA], schema=_SCHEMA))
            kept += len(rows)
            progress.update(len(samples))
    if not kept:
        raise DataError(_nothing_to_learn(source.name, tally, seq_len))
    tally.arrow_bytes = arrow.stat().st_size
    _log.info("%s: %d rows kept of %d", source.name, kept, tally.read)
    return tally


def _batches(source: Source, config: DataConfig, template: ChatTemplate) -> Iterator[list[Conversation | PlainText]]:
    rows = source.rows()
    first = next(rows)
    reader = reader_for(first, config, template.input_join)
    batch = [reader.read(first)]
    chars = 0
    for row in rows:
        sample = reader.read(row)
        batch.append(sample)
        chars += len(sample.text) if isinstance(sample, PlainText) else sum(len(turn.content) for turn in sample.turns)
        if len(batch) >= BATCH_ROWS or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _keep(row: EncodedRow, tally: _Tally) -> bool:
    tally.read += 1
    if row.num_supervised:
        return True
    if row.cut:
        tally.prompt_too_long += 1
        tally.longest_prompt = max(tally.longest_prompt, row.prompt_length)
    else:
        tally.without_answer += 1
    return False


def _nothing_to_learn(name: str, tally: _Tally, seq_len: int) -> str:
    causes = []
    if tally.prompt_too_long:
        causes.append(
            f"{tally.prompt_too_long} prompts fill seq_len {seq_len} before the answer begins "
            f"(longest prompt: {tally.longest_prompt} tokens; raise seq_len above it)"
        )
    if tally.without_answer:
        causes.append(f"{tally.without_answer} rows have no answer (check the roles, `format` and `columns`)")
    return f"{name}: none of its {tally.read} rows has a supervised token, nothing can be learnt: {'; '.join(causes)}"


def _split(rows: Dataset, config: DataConfig, seed: int) -> tuple[Dataset, Dataset]:
    count = max(round(len(rows) * config.held_out_fraction), 1)
    if count >= len(rows):
        raise DataError(
            f"{config.train}: held_out_fraction {config.held_out_fraction} takes {count} of {len(rows)} rows and leaves "
            "none to train on; lower it or add rows"
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    held, kept = order[:count].sort().values, order[count:].sort().values
    return rows.select(kept.numpy()), rows.select(held.numpy())


def _statistics(rows: Dataset, tally: _Tally) -> Statistics:
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


def _notes(template: ChatTemplate, statistics: Statistics, seq_len: int) -> tuple[str, ...]:
    notes = [template.note] if template.note else []
    if statistics.cut_rows:
        part = statistics.cut_rows / statistics.rows
        notes.append(f"{statistics.cut_rows} training rows ({part:.1%}) are longer than seq_len {seq_len} and were cut")
    if statistics.dropped_rows:
        notes.append(f"{statistics.dropped_rows} rows without a supervised token were left out")
    return tuple(notes)
