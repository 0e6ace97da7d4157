"""Pictures for notebooks: what stands in them in words, and the same file for the same numbers."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

import matplotlib

import toolkit
from toolkit.errors import MachineError
from toolkit.planner.plan import Plan
from toolkit.planner.validation.api import judge_runs
from toolkit.planner.validation.runs import CORPUS, read_runs
from toolkit.planner.what_if import Answer, plan_each
from toolkit.report.compare import compare_runs
from toolkit.report.pictures import (
    Picture,
    draw_choices,
    draw_comparison,
    draw_memory,
    draw_memory_groups,
    draw_published,
    draw_training,
)
from unit.report.test_compare import GPU, write_run

MakePlan = Callable[..., Plan]
STEP = {"tokens": 8, "tokens_per_second": 8.0, "step_seconds": 1.0, "lr": 1e-3}


def recorded(folder: Path, plan: Plan, losses: list[float | None]) -> toolkit.Run:
    """A run folder with a step for each loss; null is what telemetry writes for NaN."""
    write_run(folder, plan, [1.0], peaks=GPU)
    lines = [
        {**STEP, "step": number, "loss": loss, "grad_norm": loss, "clipped_norm": loss and min(loss, 1.0)}
        for number, loss in enumerate(losses, start=1)
    ]
    (folder / "telemetry.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return toolkit.load_run(folder)


def test_jupyter_gets_the_png_with_its_size_and_words(small: Plan) -> None:
    picture = draw_memory({"chosen": Answer(small)})
    shown, about = picture._repr_mimebundle_()
    png = base64.b64decode(shown["image/png"])
    assert png == picture.png
    assert png.startswith(b"\x89PNG\r\n")
    assert shown["text/plain"] == picture.words
    assert about["image/png"] == dict(zip(("width", "height"), picture.size, strict=True))
    assert len(png) < 200_000


def test_equal_numbers_are_equal_files_and_the_readers_style_stays(small: Plan) -> None:
    before = dict(matplotlib.rcParams)
    assert draw_choices(small).png == draw_choices(small).png
    assert dict(matplotlib.rcParams) == before


def test_a_picture_is_saved_or_said_not_to_be(tmp_path: Path) -> None:
    picture = Picture(b"png", "words", (1, 1))
    assert picture.save(tmp_path / "a.png").read_bytes() == b"png"
    with pytest.raises(MachineError, match="cannot be written"):
        picture.save(tmp_path / "nowhere" / "a.png")


def test_memory_tells_what_fits_what_does_not_and_what_is_refused(small: Plan, make_plan_of: MakePlan) -> None:
    work = {"seq_len": 4096, "global_batch": 64}
    large = make_plan_of("llama-3.1-8b", "8xA100-80GB", work=work, zero_stage=1, micro_batch=8)
    moved = make_plan_of(
        "llama-3.1-8b", "8xA100-80GB", work=work, zero_stage=2, offload="optimizer", activation_checkpointing="full"
    )
    answers = {"fits": Answer(small), "large": Answer(large), "moved": Answer(moved), "none": Answer(None, "no\nway")}
    fits, too_large, offloaded, refused = draw_memory(answers, "title").words.splitlines()
    assert fits.startswith("fits: 63.2 GiB, ")
    assert fits.endswith(" per step")
    assert too_large.endswith(" GiB, does not fit")
    assert offloaded.endswith(" of host memory")
    assert refused == "none: no"


def test_groups_have_headings_and_refusals_alone_are_drawn_too(small: Plan) -> None:
    picture = draw_memory_groups({"stage": {"2": Answer(small)}, "tp": {"3": Answer(None, "tp=3 does not divide")}})
    assert [line.partition(":")[0] for line in picture.words.splitlines()] == ["stage", "2", "tp", "3"]
    assert draw_memory({"x": Answer(None, "no plan fits " * 40)}).png


def test_choices_are_numbered_from_the_fastest_and_name_the_chosen_one() -> None:
    (answer,) = plan_each(
        {"model": "llama-3.1-8b", "cluster": "8xA100-80GB", "seq_len": 4096, "global_batch": 64}, {"": {}}
    ).values()
    assert answer.plan is not None
    lines = draw_choices(answer.plan).words.splitlines()
    assert 3 <= len(lines) <= 8
    assert [line for line in lines if line.endswith("(chosen)")] == lines[:1]
    assert lines[0].startswith(answer.plan.strategy.words)


def test_a_plan_without_a_front_is_drawn_by_itself(small: Plan) -> None:
    lines = draw_choices(small.model_copy(update={"pareto": (), "alternatives": ()})).words.splitlines()
    assert len(lines) == 1


def test_curves_begin_empty_and_tell_the_last_step(small: Plan, tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", small, [4.0, 3.0, 2.0])
    assert draw_training(run, 10).words == "step 3 of 10: loss 4.000 → 2.000 in 3.0 s"
    (tmp_path / "run" / "telemetry.jsonl").unlink()
    assert draw_training(run).words == "waiting for the first step"


@pytest.mark.parametrize("losses", [[None], [2.0, None, 1.0], [None] * 80, [float(one) for one in range(1, 90)]])
def test_steps_without_a_finite_loss_are_gaps(losses: list[float | None], small: Plan, tmp_path: Path) -> None:
    assert draw_training(recorded(tmp_path / "run", small, losses)).words.startswith(f"step {len(losses)}: loss ")


def test_comparison_tells_measured_and_predicted_of_every_run(small: Plan, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, small, [seconds] * 6, peaks=GPU) for name, seconds in (("a", 9.0), ("b", 90.0))]
    memory: dict[str, Any] = {}
    runs.append(write_run(tmp_path / "c", small, [100.0] * 6, peaks=memory))
    first, second, third = draw_comparison(compare_runs(runs)).words.splitlines()
    assert first.startswith("a: 9.0 s per step, predicted 8.9 s; 12.0 GiB, predicted 62.2 GiB")
    assert second.startswith("b: 1 min 30 s per step, predicted 8.9 s; ")
    assert third == "c: 1 min 40 s per step, predicted 8.9 s", "it recorded no memory"


def test_published_runs_are_counted_with_their_error() -> None:
    judged = judge_runs(read_runs(CORPUS / "runs.csv")[::12])
    memory, time = draw_published(judged).words.splitlines()
    assert memory.startswith(f"Peak memory per GPU, GiB: {len(judged.memory)} published runs, mean error ")
    assert time.startswith(f"Seconds per step: {len(judged.time)} published runs, mean error ")
