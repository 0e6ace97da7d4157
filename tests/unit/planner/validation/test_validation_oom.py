"""Missed and false out-of-memory predictions, longest sequences, and set-ups completed from other rows."""

from typing import Any

import pytest

from toolkit.errors import SpecError
from toolkit.planner.profile import Profile
from toolkit.planner.setup import Setup
from toolkit.planner.shape import Shape
from toolkit.planner.validation.negatives import KnownRuns, check_negative, is_bound, is_clean, is_noisy
from toolkit.planner.validation.oom import Evidence, longest_sequence, score_oom
from toolkit.planner.validation.runs import MeasuredRun
from toolkit.planner.validation.setups import Case
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.units import GiB

SHAPE = Shape.of(ModelSpec.resolve("llama-2-7b"))
CLUSTER = ClusterSpec.resolve("1xA100-80GB")
CAPACITY = CLUSTER.device.memory_bytes

RUN = {
    "id": "R1",
    "source": "them/bench@abc:table 1",
    "model": "odd-7b",
    "n_layers": "32",
    "hidden": "4096",
    "heads": "32",
    "ffn": "11008",
    "vocab": "32000",
    "gpu": "A100-80GB",
    "n_gpus": "8",
    "seq_len": "4096",
    "micro_batch": "1",
    "framework": "DeepSpeed ZeRO",
    "precision": "bf16",
    "act_ckpt": "full",
    "method": "full",
}


def case(seq_len: int = 4096, **cells: str) -> Case:
    setup = Setup(SHAPE, CLUSTER, Profile.model_construct(name="hf-trainer"), seq_len=seq_len, micro_batch=1)
    return Case(MeasuredRun(cells), setup, "allocated", None)


def negative(**cells: str) -> MeasuredRun:
    common = {key: RUN[key] for key in ("source", "model", "gpu", "n_gpus", "seq_len", "micro_batch", "method")}
    return MeasuredRun({**common, "id": "B1", "status": "oom", **cells})


def by_length(setup: Setup) -> float:
    """One MiB per token."""
    return setup.seq_len * 1024.0**2


def test_missed_and_false_by_hand() -> None:
    tokens = int(0.95 * CAPACITY / 1024**2)
    evidence = Evidence(
        clean=[case(tokens + 10), case(tokens - 10), case(2 * tokens), case(3 * tokens)],
        noisy=[case(tokens + 10), case(10)],
        bounds=[case(int(CAPACITY / 1024**2))],
        ran=[(case(tokens + 10), 1.0), (case(10), 1.0), (case(10), 1.0), (case(2 * tokens), 0.97 * CAPACITY)],
    )
    found = score_oom(evidence, by_length)
    assert (found.rows, found.missed) == (4, 0.25)
    # The run that took 97 % itself is beyond the limit for a perfect prediction, too.
    assert (found.ran, found.beyond_limit) == (3, 1)
    assert found.false == pytest.approx(1 / 3)
    assert found.false_by_framework == {"hf-trainer": pytest.approx(1 / 3)}
    # It ran all the same, and is refused.
    assert found.false_of_all_that_ran == pytest.approx(2 / 4)
    assert (found.noisy.rows, found.noisy.flagged) == (2, 0.5)
    assert found.bounds.median_ratio == pytest.approx(1.0, abs=0.01)


def test_rows_without_a_prediction_do_not_count() -> None:
    found = score_oom(Evidence([case()], [], [], [(case(), 1.0)]), lambda setup: None)
    assert found.rows == found.ran == 0
    assert found.missed is None
    assert found.false is None


def test_longest_sequence_ends() -> None:
    assert longest_sequence(case().setup, lambda setup: 0.0) == 1 << 23
    assert longest_sequence(case().setup, lambda setup: 2.0 * CAPACITY) == 0
    assert longest_sequence(case().setup, by_length) == CAPACITY // 1024**2 // 128 * 128


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("oom", "clean"),
        ("CUDA OOM", "clean"),
        ("Out of memory", "clean"),
        ("crashed_or_oom", "noisy"),
        ("max_seq_len", "bound"),
        ("fits (max seq recipe, capacity bound)", "bound"),
    ],
)
def test_kinds_of_negatives(status: str, kind: str) -> None:
    row = MeasuredRun({"status": status})
    kinds = {"clean": is_clean(row), "noisy": is_noisy(row), "bound": is_bound(row)}
    assert [name for name, holds in kinds.items() if holds] == [kind]


def completed(row: MeasuredRun, **changes: str) -> Case:
    return KnownRuns([MeasuredRun({**RUN, **changes})]).case_of(row)


def test_a_negative_is_completed_from_its_table() -> None:
    found = completed(negative(micro_batch="4", zero_stage="3"))
    assert found.setup.shape.hidden == 4096
    assert found.setup.micro_batch == 4
    assert found.setup.profile.name == "hf-deepspeed"
    assert found.setup.checkpointing == "full"
    check_negative(found)


def test_a_verdict_that_hangs_on_unstated_checkpointing_counts_for_nothing() -> None:
    # All layers' activations of 4 x 8192 tokens do not fit beside a 7B model, their inputs do.
    row = negative(method="lora", micro_batch="4", seq_len="8192", n_gpus="8")
    with pytest.raises(SpecError, match="hangs on activation checkpointing"):
        check_negative(completed(row))


def test_a_verdict_that_checkpointing_does_not_change_counts() -> None:
    check_negative(completed(negative(method="lora", micro_batch="512", seq_len="8192", n_gpus="8")))


def test_the_notes_may_state_checkpointing_and_offloaded_activations() -> None:
    found = completed(negative(notes="ckpt=no alpha=0.2"))
    assert found.setup.checkpointing == "none"
    assert found.setup.offloaded_activations == 0.2
    check_negative(found)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(SpecError, match="sizes are not stated"):
        completed(negative(model="nobody-9b"))


def test_a_gpu_may_be_named_by_its_memory() -> None:
    row = negative(gpu="24GB GPU", n_gpus="1", notes="HF+FA2: max context", source="elsewhere", method="qlora")
    found = completed(row)
    assert found.setup.cluster.device.memory_bytes == 24 * GiB
    assert found.run.text("framework") == "HF+FA2"


def test_the_nearest_run_of_a_repository_lends() -> None:
    runs = [
        MeasuredRun({**RUN, "source": "them/bench@abc:table 2", "framework": "torchtitan"}),
        MeasuredRun({**RUN, "n_gpus": "16", "act_ckpt": "none"}),
        MeasuredRun({**RUN}),
    ]
    cells: dict[str, Any] = dict(KnownRuns(runs).case_of(negative()).run.cells)
    assert cells["framework"] == "DeepSpeed ZeRO"
    assert cells["act_ckpt"] == "full"
