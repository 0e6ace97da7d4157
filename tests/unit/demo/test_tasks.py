"""The demo's data: the same bytes every time, right answers, and a held-out split that training never shows."""

import json
import re
from collections import Counter
from datetime import date, datetime
from pathlib import Path
from random import Random

import pytest

from toolkit.demo import settings
from toolkit.demo.questions import KINDS
from toolkit.demo.settings import HELD_OUT_PER_KIND, TRAIN_PER_KIND
from toolkit.demo.tasks import demo_rows, write_demo_data
from toolkit.demo.words import ITEMS, MONTHS


def drawn(kind: str, count: int = 300) -> list[tuple[str, str]]:
    rng = Random(7)
    questions = [KINDS[kind](rng) for _ in range(count)]
    return [(question.prompt, question.completion) for question in questions]


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, again, other = (write_demo_data(tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert [path.name for path in first] == ["train.jsonl", "held_out.jsonl"]
    for one, same, different in zip(first, again, other, strict=True):
        assert one.read_bytes() == same.read_bytes()
        assert one.read_bytes() != different.read_bytes()


def test_files_hold_one_json_row_per_line(tmp_path: Path) -> None:
    train, held_out = write_demo_data(tmp_path)
    for path in (train, held_out):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert all(list(row) == ["prompt", "completion", "task"] for row in rows)
        assert all(value == value.strip() and value for row in rows for value in row.values())


def test_every_kind_is_in_both_splits_in_the_set_number() -> None:
    train, held_out = demo_rows()
    assert Counter(row["task"] for row in held_out) == dict.fromkeys(KINDS, HELD_OUT_PER_KIND)
    assert Counter(row["task"] for row in train) == dict.fromkeys(KINDS, TRAIN_PER_KIND)
    assert 250 <= len(held_out) <= 400


@pytest.mark.parametrize("seed", [0, 1])
def test_no_prompt_occurs_twice(seed: int) -> None:
    train, held_out = demo_rows(seed=seed)
    prompts = [row["prompt"] for row in train + held_out]
    assert len(prompts) == len(set(prompts))


def test_held_out_values_do_not_come_back_in_other_words() -> None:
    train, held_out = demo_rows()
    for kind in ("addition", "comparison", "clock_time", "iso_date"):
        seen = {frozenset_of_numbers(row["prompt"]) for row in train if row["task"] == kind}
        asked = {frozenset_of_numbers(row["prompt"]) for row in held_out if row["task"] == kind}
        assert len(asked) == HELD_OUT_PER_KIND
        assert not seen & asked


def frozenset_of_numbers(prompt: str) -> frozenset[str]:
    """The values of a question: its numbers, month and half of the day, in no order."""
    words = prompt.replace("24-hour", "")
    return frozenset(re.findall(rf"\d+|[AP]M|{'|'.join(MONTHS)}", words))


def test_sums() -> None:
    for prompt, completion in drawn("addition"):
        a, b = map(int, re.findall(r"\d+", prompt))
        assert int(completion) == a + b


def test_comparisons() -> None:
    for prompt, completion in drawn("comparison"):
        a, sign, b = completion.split()
        assert [a, b] == re.findall(r"\d+", prompt)
        assert (sign == "<") == (int(a) < int(b))


def test_clock_times() -> None:
    for prompt, completion in drawn("clock_time"):
        found = re.search(r"\d+:\d\d [AP]M", prompt)
        assert found is not None
        assert completion == datetime.strptime(found[0], "%I:%M %p").strftime("%H:%M")


def test_dates_in_both_directions() -> None:
    for prompt, completion in drawn("iso_date"):
        found = re.search(r"(\d+) ([A-Z][a-z]+) (\d{4})", prompt)
        assert found is not None
        day, month, year = found.groups()
        assert date.fromisoformat(completion) == date(int(year), MONTHS.index(month) + 1, int(day))
    for prompt, completion in drawn("written_date"):
        found = re.search(r"\d{4}-\d\d-\d\d", prompt)
        assert found is not None
        day, month, year = completion.split()
        assert date.fromisoformat(found[0]) == date(int(year), MONTHS.index(month) + 1, int(day))


def test_units() -> None:
    in_base = {"metres": 1000, "centimetres": 10, "millimetres": 1, "kilometres": 1_000_000}
    in_base |= {"kilograms": 1000, "grams": 1, "litres": 1000, "millilitres": 1, "euros": 100, "cents": 1}
    for prompt, completion in drawn("unit_conversion"):
        given, unit = re.findall(r"(\d+) (\w+)", prompt)[0]
        answer, asked = completion.split()
        assert asked in prompt
        assert int(answer) * in_base[asked] == int(given) * in_base[unit]


def test_json_records_parse() -> None:
    for prompt, completion in drawn("json_record"):
        record = json.loads(completion)
        assert record["name"] in prompt
        assert str(record["age"]) in prompt


def test_lists() -> None:
    for prompt, completion in drawn("counting"):
        assert len([word for word in re.findall(r"\w+", prompt) if word in ITEMS]) == int(completion)


def test_numbers_in_words() -> None:
    values = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
    values |= {"ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16}
    values |= {"seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40}
    values |= {"fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
    for prompt, completion in drawn("number_words"):
        hundreds, *rest = completion.replace(" and ", " ").replace("-", " ").split(" hundred")
        total = 100 * values[hundreds] + sum(values[word] for word in " ".join(rest).split())
        assert str(total) in re.findall(r"\d+", prompt)


def test_settings_fit_the_data() -> None:
    train, held_out = demo_rows()
    assert len(held_out) == settings.HELD_OUT_SAMPLES
    assert settings.EPOCHS * len(train) / settings.GLOBAL_BATCH == 700
