"""benchmarks/fit_laws.py: it finds constants that runs were made with, on the fit half alone, and writes nothing."""

import csv
from pathlib import Path

import fit_laws
import pytest

from toolkit.planner.profile import Profile, profiles
from toolkit.planner.validation.api import judge_runs, predicted_peak
from toolkit.planner.validation.runs import MeasuredRun
from toolkit.planner.validation.setups import case_of
from toolkit.planner.validation.split import in_fit_half
from toolkit.units import GiB

CATALOG = Path(fit_laws.__file__).parents[1] / "toolkit" / "specs" / "catalog" / "frameworks.yaml"


def fsdp() -> Profile:
    return profiles()["hf-fsdp"]


def run(number: int) -> MeasuredRun:
    """A run of its own layout; the name decides its half."""
    sizes = {"n_layers": "16", "hidden": "2048", "heads": "16", "ffn": "5632", "vocab": "32000", "n_gpus": "8"}
    work = {"gpu": "A100-80GB", "seq_len": str(1024 * (1 + number % 4)), "micro_batch": str(1 + number % 3)}
    words = {"framework": "HF + FSDP", "zero_stage": "3", "act_ckpt": "full", "mem_kind": "max_reserved"}
    return MeasuredRun({"id": str(number), "model": f"llama-{number}", **sizes, **work, **words})


@pytest.fixture
def runs() -> list[MeasuredRun]:
    """Peaks as a law with other constants has them; the held-out half would teach something else."""
    other = fit_laws.with_constants(fsdp(), "memory", {"fragmentation": 0.3, "logits_bytes": 10.0})
    made = []
    for number in range(12):
        case = case_of(run(number))
        peak = predicted_peak(case._replace(setup=case.setup._replace(profile=other))) / GiB
        peak *= 1 if in_fit_half(case.run) else 3
        made.append(MeasuredRun({**case.run.cells, "peak_mem_gib": repr(peak)}))
    return made


def test_the_constants_behind_the_fit_half_are_found(runs: list[MeasuredRun]) -> None:
    found = fit_laws.fit(fsdp(), "memory", judge_runs(runs).memory, rounds=60)
    assert found.rows["fit"] >= 3
    assert found.rows["held out"] >= 3
    assert found.old == {name: fit_laws.constant(fsdp(), "memory", name) for name in fsdp().memory.fitted}
    old, new, held_out = found.old_errors["fit"], found.new_errors["fit"], found.new_errors["held out"]
    assert old is not None
    assert new is not None
    assert held_out is not None
    assert new < 0.02 < old
    assert held_out > 0.5


def test_the_same_runs_give_the_same_constants(runs: list[MeasuredRun]) -> None:
    judged = judge_runs(runs).memory
    assert fit_laws.fit(fsdp(), "memory", judged, rounds=3) == fit_laws.fit(fsdp(), "memory", judged, rounds=3)


def test_descent_stays_where_nothing_is_better() -> None:
    assert fit_laws.descend(lambda at: abs(at["x"] - 2.0), {"x": 2.0}, rounds=50) == {"x": 2.0}
    found = fit_laws.descend(lambda at: abs(at["x"] - 3.0) + abs(at["y"] - 5.0), {"x": 2.0, "y": 9.0}, rounds=50)
    assert found["x"] == pytest.approx(3.0, rel=0.02)
    assert found["y"] == pytest.approx(5.0, rel=0.02)


def test_the_command_prints_both_halves_and_writes_nothing(
    runs: list[MeasuredRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, before = tmp_path / "runs.csv", CATALOG.read_bytes()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(runs[0].cells))
        writer.writeheader()
        writer.writerows(one.cells for one in runs)
    monkeypatch.setattr("sys.argv", ["fit_laws.py", "hf-fsdp", "--runs", str(path), "--rounds", "1"])
    assert fit_laws.main() == 0
    said = capsys.readouterr().out
    for part in ("fragmentation", "logits_bytes", "->", "mean |error|, fit", "mean |error|, held out", "Nothing was"):
        assert part in said
    assert "time: no fitted constants" in said
    assert CATALOG.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_read_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fit_laws.py", "hf-fsdp", "--runs", str(tmp_path / "none.csv")])
    assert fit_laws.main() == 2
    assert "cannot be read" in capsys.readouterr().err
