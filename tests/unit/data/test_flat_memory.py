"""Five times the data in the same memory: reading, tokenizing, choosing rows, packing, grouping, and every batch."""

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

FEW, MANY = 5_000, 25_000  # the fewer already fill every buffer and window
EVERYTHING = """
import sys, threading, time
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from toolkit.data.loader import GlobalBatches, Share
from toolkit.data.prepare import prepare
from toolkit.specs.data import DataConfig

peak = 0

def own_memory():
    # Pages of mapped files are the system's to take back.
    line = next(line for line in Path("/proc/self/status").open() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

def watch():
    global peak
    while True:
        peak = max(peak, own_memory())
        time.sleep(0.002)

words = {"<unk>": 0, "<s>": 1, "</s>": 2, "word": 3}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")

def use(file, read):
    config = DataConfig(train=file, template="plain", held_out_fraction=0.1, packing=True, deduplicate=True)
    data = prepare(config, tokenizer, seq_len=256, seed=0, cache_dir=Path(sys.argv[1]))
    for packs, grouped in [(None, True), (data.packs, False)] if read else []:
        batches = GlobalBatches(data.train, Share(1, 0, 64), seed=0, pad_token_id=2, packs=packs, grouped=grouped)
        batches.fingerprint()
        for step in range(batches.steps_per_epoch):
            batches.step(step)
    return data.statistics.tokens

threading.Thread(target=watch, daemon=True).start()
few, many = sys.argv[2:]
read = many.endswith(".jsonl")  # the prepared rows of all kinds of files are the same
use(few, read)
before, peak = peak, 0
print(use(many, read), peak - before)
"""


def write_json(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text(json.dumps(rows))


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_packed_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), compresslevel=1))


def write_parquet(path: Path, rows: list[dict[str, str]]) -> None:
    """One row group, as pandas writes it."""
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=len(rows))


def write_text(path: Path, rows: list[dict[str, str]]) -> None:
    """One text of all of them."""
    path.write_text("\n".join(value for row in rows for value in row.values()))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """Some 1,700 characters each, that no file format makes small, in some 130 tokens."""
    draw = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"{draw.getrandbits(80):020x}" if index % 2 else "word" for index in range(count))

    return [
        {"prompt": f"{number} {words(draw.randint(4, 40))}", "completion": words(draw.randint(40, 180))}
        for number in range(MANY)
    ]


@pytest.mark.timeout(400)
@pytest.mark.soak
@pytest.mark.parametrize(
    ("ending", "write"),
    [
        ("jsonl", write_lines),
        # 1.4 MiB alone, 16 beside other work: what Arrow's threads hold at a moment depends on the machine.
        ("parquet", write_parquet),
        ("txt", write_text),
        ("json", write_json),
        ("jsonl.gz", write_packed_lines),
    ],
)
def test_five_times_the_rows(tmp_path: Path, rows: Any, ending: str, write: Callable[[Path, Any], None]) -> None:
    files = [tmp_path / f"{count}.{ending}" for count in (FEW, MANY)]
    for file, count in zip(files, (FEW, MANY), strict=True):
        write(file, rows[:count])
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING, str(tmp_path / "cache"), *map(str, files)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tokens, grown = map(int, done.stdout.split()[-2:])
    text = sum(len(value) for row in rows[FEW:] for value in row.values())
    print(f"\n{ending}: {text >> 20} MiB more of text, {tokens:,} tokens, {grown / 2**20:.1f} MiB more memory")
    # Kept in memory, the further rows' text alone would be more than this, and their tokens as Python's numbers.
    assert grown < text / 3
    assert grown < tokens * 16 / 3
