"""Reading a CSV of runs: one clear error for every fault of the file."""

from pathlib import Path

import pytest

from toolkit.errors import SpecError
from toolkit.planner.validation.runs import CORPUS, NEEDED, MeasuredRun, read_runs

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
    text = f"{HEADER},dp,tp\nR1,m,A100,8,4096,1,HF,3 (of 8),not stated\n"
    (run,) = read_runs(written(tmp_path, text))
    assert run.number("dp") == 3
    assert run.count("tp") is None


@pytest.mark.parametrize(
    ("column", "cell", "number"),
    [
        ("seq_len", "4,096", 4096),
        ("tokens_per_s_per_gpu", "3,200.5 tokens/s", 3200.5),
        ("peak_mem_gib", "50 GiB", 50),
        ("peak_mem_gib", "44.8GB (source)", 44.8),
        ("step_time_s", "1.2 s", 1.2),
        ("step_time_s", "1.2e-1", 0.12),
        ("n_gpus", "8 GPUs", 8),
        ("mfu_pct", "41 %", 41),
        ("tp", "--", None),
    ],
)
def test_numbers_as_tables_write_them(column: str, cell: str, number: float | None) -> None:
    assert MeasuredRun({column: cell}).number(column) == number


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("seq_len", "4k"),
        ("step_time_s", "1.2 ms"),
        ("step_time_s", "1.2 GiB"),
        ("peak_mem_gib", "50 MiB"),
        ("peak_mem_gib", "50 %"),
        ("peak_mem_gib", "~50"),
        ("peak_mem_gib", "48-50"),
        ("seq_len", "4,09"),
        ("seq_len", "4,0960"),
        ("step_time_s", "1e400"),
        ("tp", "two"),
    ],
)
def test_what_is_no_number_is_refused_with_column_and_cell(column: str, cell: str) -> None:
    with pytest.raises(SpecError, match=f"^{column} is ") as caught:
        MeasuredRun({column: cell}).number(column)
    assert cell in str(caught.value)


@pytest.mark.parametrize("cell", ["1e400", "1e10", "0.5", "-8", "nan8"])
def test_what_counts_nothing_is_refused(cell: str) -> None:
    with pytest.raises(SpecError, match="n_gpus is"):
        MeasuredRun({"n_gpus": cell}).count("n_gpus")


def test_reasons_are_short() -> None:
    with pytest.raises(SpecError) as caught:
        MeasuredRun({"seq_len": "x" * 10_000}).number("seq_len")
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("no", ["0", "no", "False", "0.0"])
def test_how_tables_deny(no: str) -> None:
    run = MeasuredRun({"curated": no, "llama_like": no})
    assert not run.curated
    assert not run.llama_like


@pytest.mark.parametrize(
    ("notes", "affirmed"),
    [
        ("liger kernels", True),
        ("no liger", False),
        ("without Liger, flash attention", False),
        ("HF baseline (vs liger)", False),
        ("liger=False", False),
        ("Liger off", False),
        ("no padding; liger", True),
    ],
)
def test_what_a_text_denies_is_not_affirmed(notes: str, affirmed: bool) -> None:
    assert MeasuredRun({"notes": notes}).affirms("liger") is affirmed


def test_blanks_in_the_header_and_behind_a_row(tmp_path: Path) -> None:
    text = f"{HEADER.replace(',', ', ')}\nR1,m,A100,8,4096,1,HF,,\n"
    (run,) = read_runs(written(tmp_path, text))
    assert run.count("n_gpus") == 8


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty"]),
        (f"{HEADER}\n", ["holds no rows"]),
        (f"{HEADER.replace('seq_len', 'seqlen')}\nR,m,g,8,1,1,f\n", ["lacks the columns seq_len", "it has seqlen"]),
        (f"{HEADER},tp,tp\nR,m,g,8,1,1,f,1,2\n", ["names tp twice"]),
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
