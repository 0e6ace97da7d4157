"""Preparing: whole files end to end, split, statistics, cache, several processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from toolkit.data.cache import cached_rows
from toolkit.data.prepare import prepare
from toolkit.errors import DataError
from toolkit.specs.data import DataConfig

PREPARE = """
import logging, sys
from pathlib import Path
from transformers import AutoTokenizer
from toolkit.data.prepare import prepare
from toolkit.specs.data import DataConfig

logging.basicConfig(level=logging.INFO)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
config = DataConfig(train=sys.argv[2], template="alpaca")
data = prepare(config, tokenizer, seq_len=512, seed=0, cache_dir=Path(sys.argv[3]))
print(data.statistics.rows, data.statistics.tokens)
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", PREPARE, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def result(process: subprocess.Popen[str]) -> tuple[list[int], str]:
    """Rows and tokens, and what was logged."""
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    return [int(word) for word in out.split()], err


def qa(count: int) -> list[dict[str, str]]:
    return [{"question": f"What is {i}?", "answer": f"It is {i}."} for i in range(count)]


def answers(rows: Any) -> list[str]:
    return list(rows["answer"])


@pytest.mark.timeout(300)
def test_alpaca_in_seconds_and_at_once_from_the_cache(shared_data: Path, llama2: Any, tmp_path: Path) -> None:
    config = DataConfig(train=str(shared_data / "sft" / "alpaca_data.json"), held_out_fraction=0.01)
    began = time.process_time()
    data = prepare(config, llama2, seq_len=512, seed=1, cache_dir=tmp_path)
    # Processor seconds of all threads: 13 were measured on 2 cores, and other programs do not count.
    assert time.process_time() - began < 60
    began = time.process_time()
    again = prepare(config, llama2, seq_len=512, seed=1, cache_dir=tmp_path)
    assert time.process_time() - began < 3
    assert again.statistics == data.statistics
    assert data.held_out is not None
    assert (len(data.train), len(data.held_out)) == (51_481, 520)
    assert data.statistics.dropped_rows == 1
    assert data.statistics.longest == 512
    assert data.notes[0].startswith("the tokenizer has no chat template")


def test_gsm8k_columns_types_and_statistics(shared_data: Path, small: Any, tmp_path: Path) -> None:
    path = shared_data / "sft" / "gsm8k_test.jsonl"
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    data = prepare(DataConfig(train=str(path), template="plain"), small, seq_len=200, seed=0, cache_dir=tmp_path)
    statistics = data.statistics
    assert statistics.rows + statistics.dropped_rows == len(rows)
    assert statistics.rows == len(data.train)
    table = data.train.with_format("numpy")[:]
    assert statistics.tokens == sum(len(ids) for ids in table["input_ids"])
    assert statistics.supervised_tokens == sum(int((labels != -100).sum()) for labels in table["labels"])
    assert statistics.longest == max(len(ids) for ids in table["input_ids"]) == 200
    assert statistics.cut_rows == int(table["cut"].sum()) > 0
    assert {str(data.train.features[name].feature.dtype) for name in ("input_ids", "labels")} == {"int32"}
    assert data.held_out is None
    assert data.held_out_statistics is None
    by_answer = {row["answer"]: row["question"] for row in rows}
    for row in data.train.select(range(50)):
        prompt = data.encoder.template.tokenizer.decode(row["input_ids"][: row["prompt_length"]])
        assert prompt.removeprefix("<s> ") == by_answer[row["answer"]]


def test_the_split_depends_on_the_seed_only_and_is_disjoint(small: Any, write_rows: Any, tmp_path: Path) -> None:
    config = DataConfig(train=str(write_rows(qa(50))), held_out_fraction=0.2)
    splits = [prepare(config, small, seq_len=200, seed=seed, cache_dir=tmp_path / "c") for seed in (3, 3, 4)]
    held = [answers(split.held_out) for split in splits]
    assert held[0] == held[1] != held[2]
    for split in splits:
        assert len(answers(split.held_out)) == 10
        assert sorted(answers(split.train) + answers(split.held_out)) == sorted(row["answer"] for row in qa(50))
    assert splits[0].held_out_statistics is not None
    assert splits[0].held_out_statistics.rows == 10
    one = DataConfig(train=str(write_rows(qa(1))), held_out_fraction=0.2)
    with pytest.raises(DataError, match="takes 1 of 1 rows, none is left to train on"):
        prepare(one, small, seq_len=200, seed=0, cache_dir=tmp_path / "c")


def test_a_held_out_source_of_its_own(small: Any, write_rows: Any, tmp_path: Path) -> None:
    config = DataConfig(train=str(write_rows(qa(5))), held_out=str(write_rows(qa(9)[5:], "test.jsonl")))
    data = prepare(config, small, seq_len=200, seed=0, cache_dir=tmp_path / "c")
    assert answers(data.held_out) == [row["answer"] for row in qa(9)[5:]]


def test_rows_without_anything_to_learn_are_left_out(small: Any, write_rows: Any, tmp_path: Path) -> None:
    rows = [*qa(3), {"question": "x" * 500, "answer": "y"}]
    data = prepare(
        DataConfig(train=str(write_rows(rows)), template="plain"), small, seq_len=60, seed=0, cache_dir=tmp_path / "c"
    )
    assert (data.statistics.rows, data.statistics.dropped_rows, data.statistics.cut_rows) == (3, 1, 0)
    assert data.notes == ("1 of 4 rows were left out: their prompts fill seq_len 60 (longest: 502 tokens)",)


def test_nothing_to_learn_at_all_is_refused_with_the_reason(small: Any, write_rows: Any, tmp_path: Path) -> None:
    def fault(rows: list[Any], **config: Any) -> str:
        given = DataConfig(train=str(write_rows(rows)), template="plain", **config)
        with pytest.raises(DataError) as caught:
            prepare(given, small, seq_len=16, seed=0, cache_dir=tmp_path / "c")
        return str(caught.value)

    message = fault([{"question": "x" * 100, "answer": "y"}] * 3)
    assert (
        "train.jsonl: none of its 3 rows has a supervised token, nothing can be learnt: 3 prompts fill seq_len 16"
        in message
    )
    assert "raise seq_len above it" in message
    message = fault([{"messages": [{"role": "user", "content": "hi"}]}])
    assert "1 rows have no answer (check the roles, `format` and `columns`)" in message


def test_a_broken_row_ends_in_its_own_error_and_leaves_no_cache(small: Any, write_rows: Any, tmp_path: Path) -> None:
    path = write_rows([*qa(1500), {"question": "q"}])
    config = DataConfig(train=str(path))
    for _ in range(2):
        with pytest.raises(DataError, match=r"train.jsonl:1501: no column `answer`") as caught:
            prepare(config, small, seq_len=300, seed=0, cache_dir=tmp_path / "c")
        assert caught.value.__cause__ is None
    assert not list((tmp_path / "c").glob("*/*"))
    write_rows(qa(1500))
    assert prepare(config, small, seq_len=300, seed=0, cache_dir=tmp_path / "c").statistics.rows == 1500


def test_the_cache_follows_everything_that_tokens_depend_on(
    small: Any, llama2: Any, write_rows: Any, tmp_path: Path
) -> None:
    config = DataConfig(train=str(write_rows(qa(5))), template="plain")
    cache = tmp_path / "c"

    def folders(config: DataConfig, tokenizer: Any = small, *, seq_len: int = 300, seed: int = 0) -> int:
        prepare(config, tokenizer, seq_len=seq_len, seed=seed, cache_dir=cache)
        return sum(1 for path in cache.iterdir() if path.is_dir())

    assert folders(config) == 1
    assert folders(config, seed=9) == 1
    assert folders(config.model_copy(update={"held_out_fraction": 0.4})) == 1
    assert folders(config.model_copy(update={"template": "alpaca"})) == 2
    assert folders(config, seq_len=50) == 3
    assert folders(config, llama2) == 4
    assert folders(config.model_copy(update={"columns": {"prompt": "answer", "completion": "question"}})) == 5
    write_rows(qa(6))
    assert folders(config) == 6


def test_a_damaged_cache_is_made_again(small: Any, write_rows: Any, tmp_path: Path) -> None:
    config = DataConfig(train=str(write_rows(qa(5))))
    prepare(config, small, seq_len=300, seed=0, cache_dir=tmp_path / "c")
    arrow = next((tmp_path / "c").glob("*/rows.arrow"))
    for name, content in (("rows.arrow", arrow.read_bytes()[:-100]), ("tally.json", b'{"read"')):
        arrow.with_name(name).unlink()
        arrow.with_name(name).write_bytes(content)
        assert prepare(config, small, seq_len=300, seed=0, cache_dir=tmp_path / "c").statistics.rows == 5


def test_a_cache_folder_that_cannot_be_made(small: Any, write_rows: Any, tmp_path: Path) -> None:
    path = write_rows(qa(5))
    with pytest.raises(DataError, match=r"prepared rows cannot be kept here .*set HF_DATASETS_CACHE"):
        prepare(DataConfig(train=str(path)), small, seq_len=300, seed=0, cache_dir=path / "c")


@pytest.mark.timeout(200)
def test_two_processes_at_once_do_the_work_once(shared_data: Path, tmp_path: Path) -> None:
    model = shared_data / "models" / "stories260K-hf-fp32"
    data = shared_data / "sft" / "gsm8k_train.jsonl"
    (first, first_log), (second, second_log) = map(result, [start(model, data, tmp_path) for _ in range(2)])
    assert first == second
    assert (first_log + second_log).count("tokenizing") == 1
    assert len(list(tmp_path.glob("*/rows.arrow"))) == 1


def test_the_arrow_file_is_mapped_and_the_same_for_each_caller(small: Any, write_rows: Any, tmp_path: Path) -> None:
    config = DataConfig(train=str(write_rows(qa(2500))), template="plain")
    encoder = prepare(config, small, seq_len=300, seed=0, cache_dir=tmp_path / "c").encoder
    rows, tally = cached_rows(config.sources[0], encoder=encoder, seq_len=300, cache=tmp_path / "c")
    assert rows.cache_files
    assert (tally.read, tally.dropped) == (2500, 0)
    assert answers(rows) == [row["answer"] for row in qa(2500)]
    assert np.array_equal(rows.with_format("numpy")[7]["input_ids"], rows[7]["input_ids"])


def test_what_is_not_read_is_told_once(small: Any, write_rows: Any, tmp_path: Path) -> None:
    def notes(rows: list[Any]) -> tuple[str, ...]:
        given = DataConfig(train={"source": str(write_rows(rows)), "name": "rows"}, template="plain")
        return [prepare(given, small, seq_len=60, seed=0, cache_dir=tmp_path / "c").notes for _ in range(2)][
            1
        ]  # from the cache, too

    rows = [{"prompt": "q", "completion": "a", "id": 1}, {"prompt": "q", "completion": "a", "topic": "t", "id": None}]
    assert notes(rows) == ("rows: nothing is read of `id`, `topic`",)
    turns = [{"role": "user", "content": "q", "name": "Ada"}, {"role": "assistant", "content": "a", "name": None}]
    told = ("rows: nothing is read of `messages[].name`, `score`",)
    assert notes([{"messages": turns, "score": 1, "tools": [], "note": ""}]) == told
    assert notes([{"prompt": "q", "completion": "a", f"key{number}": 1} for number in range(99)])[0].endswith(
        "and others"
    )
    assert notes([{"instruction": "q", "input": "p", "output": "a", "system": "s", "history": [["q", "a"]]}]) == ()


def test_answers_before_the_first_question_are_counted(small: Any, write_rows: Any, tmp_path: Path) -> None:
    greeting = [("assistant", "hi"), ("system", "s"), ("user", "q"), ("assistant", "a")]
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in spoken]}
        for spoken in (greeting, greeting[1:], greeting)
    ]
    data = prepare(
        DataConfig(train=str(write_rows(rows)), template="plain"), small, seq_len=60, seed=0, cache_dir=tmp_path / "c"
    )
    assert data.notes == ("2 of 3 rows begin with an answer: what stands before the first question is left out",)
    assert [small.decode(ids) for ids in data.train["input_ids"]] == ["<s> sqa</s>"] * 3


def test_eos_behind_answers_is_told(shared_data: Path, write_rows: Any, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "models" / "stories260K-hf-fp32")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    data = prepare(DataConfig(train=str(write_rows(qa(3)))), tokenizer, seq_len=99, seed=0, cache_dir=tmp_path / "c")
    assert [row[-1] for row in data.train["labels"]] == [tokenizer.eos_token_id] * 3
    assert any("eos was put behind the last answer of 3 rows" in note for note in data.notes)
