"""A recipe's own prompts: any format, rendered as the training rows; nothing is silently left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.data.digests import fingerprint
from toolkit.data.loader import Share, prompt_batches
from toolkit.data.prepare import PreparedData, prepare
from toolkit.data.prompts import with_prompts
from toolkit.errors import DataError
from toolkit.specs.data import DataConfig

TRAIN = [{"question": f"{n} + {n}?", "reply": f"{2 * n}"} for n in range(5)]


@pytest.fixture
def config(write_rows: Callable[..., Path]) -> DataConfig:
    columns = {"prompt": "question", "completion": "reply"}
    return DataConfig(train=str(write_rows(TRAIN)), template="alpaca", format="prompt_completion", columns=columns)


@pytest.fixture
def data(config: DataConfig, small: Any, tmp_path: Path) -> PreparedData:
    return prepare(config, small, seq_len=256, seed=0, cache_dir=tmp_path / "c")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "7 + 7?", "completion": "14"},
        {"instruction": "7 + 7?", "output": "14"},
        {"messages": [{"role": "user", "content": "7 + 7?"}, {"role": "assistant", "content": "14"}]},
    ],
)
def test_any_format(
    write_rows: Callable[..., Path], tmp_path: Path, config: DataConfig, data: PreparedData, row: dict[str, Any]
) -> None:
    source = str(write_rows([row], "asked.jsonl"))
    prompts = with_prompts(data, source, config, seq_len=256, cache_dir=tmp_path / "c").prompts
    assert prompts is not None
    asked = prompt_batches(prompts, Share(1, 0, 1), encoder=data.encoder, pad_token_id=2)
    assert asked is not None
    assert asked.answers == ["14"]
    assert "7 + 7?" in asked.prompts[0]


def test_none(config: DataConfig, data: PreparedData) -> None:
    assert with_prompts(data, None, config, seq_len=256) is data


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"prompt": "7?", "completion": "14"}, {"prompt": "7 " * 400, "completion": "1"}], "1 of 2 rows have no answ"),
        ([{"text": "Once upon a time"}], "plain text has no prompts"),
    ],
)
def test_what_cannot_be_asked(
    write_rows: Callable[..., Path],
    tmp_path: Path,
    config: DataConfig,
    data: PreparedData,
    rows: list[dict[str, Any]],
    told: str,
) -> None:
    with pytest.raises(DataError, match=told):
        with_prompts(data, str(write_rows(rows, "asked.jsonl")), config, seq_len=256, cache_dir=tmp_path / "c")


def test_prompts_are_numbered_over_all_ranks(data: PreparedData) -> None:
    shares = [Share(2, rank, 2) for rank in range(2)]
    ranks = [prompt_batches(data.train, share, encoder=data.encoder, pad_token_id=2) for share in shares]
    assert [list(each.numbers) for each in ranks if each] == [[0, 1, 4], [2, 3]]


def test_a_fingerprint_tells_samples_apart(data: PreparedData) -> None:
    rows = data.train
    told = {fingerprint(rows.select(chosen)) for chosen in ([0, 1, 2, 3, 4], [0, 1, 2, 3], [1, 0, 2, 3, 4])}
    assert len(told) == 3
