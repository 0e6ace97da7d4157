"""Reading a CSV of runs: one clear error for every fault of the file."""

from pathlib import Path

import pytest

from toolkit.errors import SpecError
from toolkit.planner.validation.runs import CORPUS, NEEDED, read_runs

HEADER = ",".join(NEEDED)


def written(folder: Path, text: str) -> Path:
    path = folder / "runs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_only_the_needed_columns(tmp_path: Path) -> None:
    (run,) = read_runs(written(tmp_path, f"{HEADER}\nR1,llama2-7b,A100-80GB,8,4096,1,HF + DeepSpeed\n"))
    assert run.count("n_gpus") == 8
    assert run.count("tp") is None
    assert run.number("peak_mem_gib") is None
    assert run.curated
    assert run.llama_like


def test_numbers_with_words_behind_and_unknown_ones(tmp_path: Path) -> None:
    text = f"{HEADER},zero_stage,tp\nR1,m,A100,8,4096,1,HF,3 (FSDP2),not stated\n"
    (run,) = read_runs(written(tmp_path, text))
    assert run.number("zero_stage") == 3
    assert run.count("tp") is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty"]),
        (f"{HEADER}\n", ["holds no rows"]),
        (f"{HEADER.replace('seq_len', 'seqlen')}\nR,m,g,8,1,1,f\n", ["lacks the columns seq_len", "it has seqlen"]),
        (f"{HEADER}\nR,m,g,8,1,1,f\nR,m,g,8,long,1,f\n", [":3:", "seq_len is 'long'", "number"]),
        (f"{HEADER}\nR,m,g,8,1,1,f,more\n", [":2:", "more cells than the header"]),
    ],
)
def test_faults_of_a_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        read_runs(written(tmp_path, text))
    for part in ["runs.csv", *parts]:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read_runs(tmp_path / "none.csv")


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        read_runs(path)


def test_the_corpus_is_all_there() -> None:
    runs = read_runs(CORPUS / "runs.csv")
    assert len(runs) == len({run.text("id") for run in runs}) >= 1222
    assert all(run.text("source") for run in runs)
