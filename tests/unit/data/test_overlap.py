"""No row is measured and trained on: neither under another name of its file, nor unseen as a copy of it."""

from pathlib import Path
from typing import Any

import pytest

from toolkit.data.prepare import PreparedData, prepare
from toolkit.errors import DataError, SpecError
from toolkit.specs.data import DataConfig


def qa(count: int, mark: str = "a") -> list[dict[str, str]]:
    return [{"question": f"{mark} {i}?", "answer": f"{mark}{i}"} for i in range(count)]


@pytest.fixture
def prepared(small: Any, write_rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Folder d with train.jsonl (20 rows) and test.jsonl (5); the settings name them from beside it."""
    (tmp_path / "d").mkdir()
    write_rows(qa(20), "d/train.jsonl")
    write_rows(qa(5, "t"), "d/test.jsonl")
    monkeypatch.chdir(tmp_path)

    def make(train: Any, **config: Any) -> PreparedData:
        given = DataConfig.parse({"train": train, "template": "plain", **config}, source="test")
        return prepare(given, small, seq_len=64, seed=0, cache_dir=tmp_path / "cache")

    return make


@pytest.mark.parametrize("held_out", ["d/test.jsonl", "./d/../d/test.jsonl", "link.jsonl", "d"])
def test_a_held_out_file_in_a_folder_that_is_trained_on(prepared: Any, held_out: str) -> None:
    Path("link.jsonl").symlink_to("d/test.jsonl")
    with pytest.raises((DataError, SpecError), match="held_out") as caught:
        prepared("d", held_out=held_out)
    assert "of its own" in str(caught.value) or "held_out_fraction" in str(caught.value)


def test_the_same_name_is_refused_before_any_file_is_looked_at() -> None:
    for held_out in ("no.jsonl", "./no.jsonl"):
        with pytest.raises(SpecError, match=r"held_out names no.jsonl, which is trained on"):
            DataConfig.parse({"train": "no.jsonl", "held_out": held_out}, source="test")
    with pytest.raises(SpecError, match=r"train names ./no.jsonl twice"):
        DataConfig.parse({"train": ["no.jsonl", "./no.jsonl"], "held_out_fraction": 0.1}, source="test")


def test_two_names_of_one_training_file(prepared: Any, tmp_path: Path) -> None:
    for other in ("d", str(tmp_path / "d" / "train.jsonl")):
        with pytest.raises(
            DataError, match=r"data.train: d/train.jsonl and .* both read .*/d/train.jsonl; name it once"
        ):
            prepared(["d/train.jsonl", other], held_out_fraction=0.1)


def test_what_is_no_overlap(prepared: Any) -> None:
    assert len(prepared("d/train.jsonl", held_out="d/test.jsonl").held_out) == 5
    backwards = {"source": "d/train.jsonl", "name": "b", "columns": {"prompt": "answer", "completion": "question"}}
    assert len(prepared(["d/train.jsonl", backwards]).train) == 40


def test_copies_in_other_files_are_counted(prepared: Any, write_rows: Any) -> None:
    write_rows([*qa(3), *qa(2, "new"), *qa(1)], "test.jsonl")
    copies = "4 of 6 held-out rows have the tokens and labels of a training row"
    assert any(note.startswith(copies) for note in prepared("d/train.jsonl", held_out="test.jsonl").notes)
    kept = prepared("d/train.jsonl", held_out="test.jsonl", deduplicate=True)
    assert not any("of a training row" in note for note in kept.notes)
    assert not any("of a training row" in note for note in prepared("d", held_out_fraction=0.3).notes)
    write_rows([row for row in qa(10) for _ in range(2)], "twice.jsonl")
    leaking = prepared("twice.jsonl", held_out_fraction=0.25)
    both = [answer for answer in leaking.held_out["answer"] if answer in set(leaking.train["answer"])]
    assert both
    assert any(note.startswith(f"{len(both)} of 5 held-out rows have the tokens") for note in leaking.notes)
