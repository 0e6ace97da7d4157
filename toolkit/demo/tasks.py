"""The demo's data set: a few thousand instruction pairs of several kinds, made on the spot from a seed.

Training and held-out questions of one kind never share their values, so a right held-out answer was worked out and
not remembered.
"""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from random import Random

from toolkit.demo.questions import KINDS, Question
from toolkit.demo.settings import HELD_OUT_PER_KIND, TRAIN_PER_KIND
from toolkit.errors import SpecError

Row = dict[str, str]


def demo_rows(*, seed: int = 0, kinds: Collection[str] = tuple(KINDS)) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows {"prompt", "completion", "task"}, shuffled; the same for the same seed.

    Raises:
        SpecError: there is no such kind.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise SpecError(f"there is no kind of question {unknown[0]!r}; there are {', '.join(KINDS)}")
    train: list[Row] = []
    held_out: list[Row] = []
    for kind in KINDS:
        if kind not in kinds:
            continue
        # A stream per kind: adding or changing one kind leaves the questions of all others as they were.
        rng = Random(f"{seed} {kind}")
        test = _distinct_values(kind, rng)
        tested = {question.values for question in test}
        held_out += [_row(kind, question) for question in test]
        train += [_row(kind, question) for question in _distinct_prompts(kind, rng, tested)]
    Random(f"{seed} order").shuffle(train)
    Random(f"{seed} order").shuffle(held_out)
    return train, held_out


def write_demo_data(folder: Path, *, seed: int = 0, kinds: Collection[str] = tuple(KINDS)) -> tuple[Path, Path]:
    """Write train.jsonl and held_out.jsonl into `folder`; equal bytes for the same seed. Returns both paths."""
    train, held_out = demo_rows(seed=seed, kinds=kinds)
    folder.mkdir(parents=True, exist_ok=True)
    return _write(folder / "train.jsonl", train), _write(folder / "held_out.jsonl", held_out)


def _distinct_values(kind: str, rng: Random) -> list[Question]:
    """HELD_OUT_PER_KIND questions, no two about the same values."""
    found: dict[tuple[int | str, ...], Question] = {}
    while len(found) < HELD_OUT_PER_KIND:
        question = KINDS[kind](rng)
        found.setdefault(question.values, question)
    return list(found.values())


def _distinct_prompts(kind: str, rng: Random, tested: set[tuple[int | str, ...]]) -> list[Question]:
    """TRAIN_PER_KIND questions about other values than the tested ones; other wordings of one question may occur."""
    found: dict[str, Question] = {}
    while len(found) < TRAIN_PER_KIND:
        question = KINDS[kind](rng)
        if question.values not in tested:
            found.setdefault(question.prompt, question)
    return list(found.values())


def _row(kind: str, question: Question) -> Row:
    return {"prompt": question.prompt, "completion": question.completion, "task": kind}


def _write(path: Path, rows: Iterable[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path
