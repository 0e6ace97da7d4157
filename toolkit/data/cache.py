"""Tokenized, masked rows on disk: once per machine and content, in flat memory.

The rows lie in an Arrow file that every process maps; its folder is named by a key of everything that the tokens depend
on, so a second run opens it at once and an edited file, another template or seq_len makes a new one.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
from datasets import Dataset
from datasets.utils import tqdm
from filelock import FileLock

from toolkit.data.digests import DIGEST_BYTES, row_digests
from toolkit.data.encode import EncodedRow, SampleEncoder
from toolkit.data.formats import RowReader, reader_for
from toolkit.data.running_text import OpenText, stretches
from toolkit.data.samples import Conversation, PlainText
from toolkit.data.source import Source, open_source
from toolkit.data.template import ChatTemplate
from toolkit.errors import DataError
from toolkit.specs.data import DataSource

FORMAT_VERSION = 3
"""Part of the cache key; raise it when the same input gives other rows."""
BATCH_ROWS = 1000
BATCH_CHARS = 4_000_000
"""Characters after which a batch is closed early, so that long documents do not add up in memory."""

_MAX_UNREAD = 40
"""Names of unread columns that are kept; where names are data there are as many as rows."""
_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("prompt_length", pa.int32()),
        ("answer", pa.string()),
        ("cut", pa.bool_()),
        ("num_supervised", pa.int32()),
        ("piece", pa.int32()),
        ("digest", pa.binary(DIGEST_BYTES)),
    ]
)
_log = logging.getLogger(__name__)


@dataclass
class Tally:
    """What the rows that are not written were; kept beside the Arrow file."""

    read: int = 0
    """Rows of the source; a text file is one."""
    pieces: int = 0
    """Further rows of texts that are longer than seq_len."""
    without_answer: int = 0
    """Rows in which nobody answers."""
    prompt_too_long: int = 0
    """Rows whose prompt fills seq_len."""
    longest_prompt: int = 0
    """Tokens of the longest of these prompts."""
    blank: int = 0
    """Rows that are kept although their answer, or text, is empty."""
    leading: int = 0
    """Rows whose answers before the first question were left out."""
    ended: int = 0
    """Rows behind whose last answer eos was put, as the template ends it with no token."""
    unread: list[str] = field(default_factory=list)
    """Columns, and keys of turns, of which nothing is made; at most 40."""
    arrow_bytes: int = 0
    """Size of the finished Arrow file."""

    @property
    def dropped(self) -> int:
        """Rows that were not written."""
        return self.without_answer + self.prompt_too_long


def cached_rows(config: DataSource, *, encoder: SampleEncoder, seq_len: int, cache: Path) -> tuple[Dataset, Tally]:
    """The rows of one source from the cache folder, made first if they are not there.

    Several processes may call it at once: one works, the others wait for it and open the same file.

    Raises:
        DataError: the source is missing, broken or has nothing to learn, or the folder cannot be written.
    """
    source = open_source(config.source, config.hub_split or "train")
    key = _cache_key(source, config, encoder=encoder, seq_len=seq_len)
    arrow, tally_file = cache / key / "rows.arrow", cache / key / "tally.json"
    try:
        arrow.parent.mkdir(parents=True, exist_ok=True)
        # The lock goes with its process: after a crash the next caller starts over, as tally.json is written last.
        with FileLock(cache / f"{key}.lock"):
            tally = _read_tally(arrow, tally_file)
            if tally is None:
                try:
                    tally = _write_rows(arrow, source, config=config, encoder=encoder, seq_len=seq_len)
                    tally_file.write_text(json.dumps(asdict(tally)), encoding="utf-8")
                finally:
                    if not tally_file.exists():
                        arrow.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{cache}: prepared rows cannot be kept here ({error.strerror}); free space or set HF_DATASETS_CACHE"
        ) from error
    return Dataset.from_file(str(arrow)), tally


def _cache_key(source: Source, config: DataSource, *, encoder: SampleEncoder, seq_len: int) -> str:
    """Of all that the rows depend on; not of a source's weight or name, nor of what is held out."""
    template, tokenizer = encoder.template, encoder.template.tokenizer
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
        encoder.train_on,
        seq_len,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _read_tally(arrow: Path, tally_file: Path) -> Tally | None:
    """The tally of a finished Arrow file; None if there is none or it was damaged since."""
    try:
        tally = Tally(**json.loads(tally_file.read_text(encoding="utf-8")))
        return tally if arrow.stat().st_size == tally.arrow_bytes else None
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write_rows(arrow: Path, source: Source, *, config: DataSource, encoder: SampleEncoder, seq_len: int) -> Tally:
    _log.info("tokenizing %s", source.name)
    tally = Tally()
    kept = 0
    begun = OpenText()
    # disable=None: no bar where nobody looks, as in a log file. stdout: `toolkit launch` reads stderr line by line.
    with (
        pa.OSFile(str(arrow), "wb") as sink,
        pa.ipc.new_stream(sink, _SCHEMA) as writer,
        tqdm(desc=f"tokenizing {Path(source.name).name}", unit=" rows", file=sys.stdout, disable=None) as progress,
    ):
        for samples in _batches(source, config, template=encoder.template, tally=tally):
            rows = [row for row in encoder.encode(samples, seq_len=seq_len, begun=begun) if _keep(row, tally)]
            writer.write_batch(_record_batch(rows))
            kept += len(rows)
            progress.update(len(samples))
    if not kept:
        raise DataError(_nothing_to_learn(source.name, tally, seq_len=seq_len))
    tally.arrow_bytes = arrow.stat().st_size
    _log.info("%s: %d rows kept of %d", source.name, kept, tally.read)
    return tally


def _batches(
    source: Source, config: DataSource, *, template: ChatTemplate, tally: Tally
) -> Iterator[list[Conversation | PlainText]]:
    batch: list[Conversation | PlainText] = []
    chars = 0
    for sample in _samples(source, config, template=template, tally=tally):
        batch.append(sample)
        chars += len(sample.text) if isinstance(sample, PlainText) else sum(len(turn.content) for turn in sample.turns)
        if len(batch) >= BATCH_ROWS or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _samples(
    source: Source, config: DataSource, *, template: ChatTemplate, tally: Tally
) -> Iterator[Conversation | PlainText]:
    """Of every row, long texts in parts; what is not read of the rows is noted."""
    reader: RowReader | None = None
    unread: set[str] = set()
    for row in source.rows():
        reader = reader or reader_for(row, config, input_join=template.input_join)
        sample = reader.read(row)
        if len(unread) < _MAX_UNREAD:
            unread |= reader.unread(row)
        if isinstance(sample, PlainText):
            for part in stretches([sample.text]):
                begins, ends = part.begins and sample.begins, part.ends and sample.ends
                yield PlainText(part.text, sample.where, begins, ends)
        else:
            tally.leading += sample.leading > 0
            yield sample
    tally.unread = sorted(unread)[:_MAX_UNREAD]


def _record_batch(rows: list[EncodedRow]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [[] for _ in EncodedRow._fields]
    by_name = dict(zip(EncodedRow._fields, columns, strict=True))
    arrays = [pa.array(by_name[field.name], field.type) for field in _SCHEMA if field.name in by_name]
    digests = pa.array(row_digests(arrays[0], arrays[1]), pa.binary(DIGEST_BYTES))
    return pa.record_batch([*arrays, digests], schema=_SCHEMA)


def _keep(row: EncodedRow, tally: Tally) -> bool:
    tally.read += row.piece == 0
    if row.num_supervised:
        tally.pieces += row.piece > 0
        tally.blank += row.blank and row.piece == 0
        tally.ended += row.ended
        return True
    if row.cut:
        tally.prompt_too_long += 1
        tally.longest_prompt = max(tally.longest_prompt, row.prompt_length)
    else:
        tally.without_answer += 1
    return False


def _nothing_to_learn(name: str, tally: Tally, *, seq_len: int) -> str:
    causes = []
    if tally.prompt_too_long:
        causes.append(
            f"{tally.prompt_too_long} prompts fill seq_len {seq_len} before the answer begins "
            f"(longest prompt: {tally.longest_prompt} tokens; raise seq_len above it)"
        )
    if tally.without_answer:
        causes.append(f"{tally.without_answer} rows have no answer (check the roles, `format` and `columns`)")
    return f"{name}: none of its {tally.read} rows has a supervised token, nothing can be learnt: {'; '.join(causes)}"
