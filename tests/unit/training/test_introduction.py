"""What a run says of its sources before the first step."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, Group
from transformers import AutoTokenizer

from toolkit.data.prepare import prepare
from toolkit.data.statistics import Statistics
from toolkit.specs.data import DataConfig
from toolkit.training.introduction import source_table


@pytest.fixture
def statistics(shared_data: Path, tmp_path: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "models" / "stories260K-hf-fp32")
    for name, count in (("a", 6), ("b", 2)):
        rows = [{"prompt": f"{name}{number}", "completion": "yes"} for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))

    def of(*sources: dict[str, Any]) -> Statistics:
        named = [{**each, "source": str(tmp_path / each["source"])} for each in sources]
        config = DataConfig.parse({"train": named, "template": "plain", "deduplicate": True}, source="test")
        return prepare(config, tokenizer, seq_len=64, seed=0, cache_dir=tmp_path / "cache").statistics

    return of


def test_each_source_has_a_line(statistics: Any) -> None:
    found = statistics(
        {"source": "a.jsonl", "name": "stories [1]"}, {"source": "b.jsonl", "name": "sums", "weight": 1.5}
    )
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(Group(*source_table(found)))
    title, headings, first, second = (line.split() for line in captured.get().splitlines() if line.strip())
    assert title == ["an", "epoch,", "source", "by", "source"]
    assert headings[:2] == ["source", "read"]
    assert first[:8] == ["stories", "[1]", "7", "1", "0", "6", "1", "6"]
    assert second[:7] == ["sums", "3", "1", "0", "2", "1.5", "3"]
    share = float(first[-1].rstrip("%")) + float(second[-1].rstrip("%"))
    assert share == pytest.approx(100, abs=0.11)
    kept = json.loads(json.dumps(asdict(found)))["sources"]  # as in summary.json
    assert [(each["name"], each["rows"], each["duplicates"]) for each in kept] == [
        ("stories [1]", 6, 1),
        ("sums", 3, 1),
    ]


def test_a_single_source_needs_no_table(statistics: Any) -> None:
    assert source_table(statistics({"source": "a.jsonl"})) == []
