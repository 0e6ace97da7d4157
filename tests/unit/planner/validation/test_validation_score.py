"""Which rows are scored, what their measurement is, and the error measures against sums done by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import SpecError
from toolkit.planner.profile import Profile
from toolkit.planner.setup import Setup
from toolkit.planner.shape import Shape
from toolkit.planner.validation.ranking import Timed, kendall_tau, rank, regret, tables
from toolkit.planner.validation.runs import MeasuredRun
from toolkit.planner.validation.score import (
    Judged,
    check_memory_row,
    check_time_row,
    measured_bytes,
    measured_seconds,
    quantile,
    score,
    scores,
    unstated,
)
from toolkit.planner.validation.setups import Case
from toolkit.planner.validation.split import in_fit_half, table_in_fit_half
from toolkit.specs.cluster import ClusterSpec

SHAPE = Shape(
    num_layers=32,
    hidden=4096,
    query=4096,
    key_value=4096,
    ffn=11008,
    vocab=32000,
    num_heads=32,
    num_kv_heads=32,
    layer_params=202_383_360,
)


def case(cells: dict[str, str] | None = None, profile: str = "megatron", **sizes: Any) -> Case:
    """A run of LLaMA-2-7B on 8 A100."""
    setup = Setup(
        SHAPE,
        ClusterSpec.resolve("8xA100-80GB"),
        Profile.model_construct(name=profile),
        **{"seq_len": 4096, "micro_batch": 1, "dp": 8, **sizes},
    )
    return Case(MeasuredRun(cells or {}), setup, "allocated", None)


def test_error_measures_by_hand() -> None:
    found = score([0.1, -0.1, 0.3, -0.5])
    assert found.rows == 4
    assert found.mape == pytest.approx(0.25)
    assert found.bias == pytest.approx(-0.05)
    assert found.within_10 == 0.5
    # Ascending sizes 0.1 0.1 0.3 0.5: place 2.7.
    assert found.p90 == pytest.approx(0.3 + 0.7 * 0.2)


def test_no_rows_have_no_errors() -> None:
    assert score([]).model_dump() == {"rows": 0, "mape": None, "bias": None, "p90": None, "within_10": None}


@given(st.lists(st.floats(-0.99, 9.0), min_size=1))
def test_error_measures_hold_together(errors: list[float]) -> None:
    found = score(errors)
    assert found.mape is not None
    assert found.bias is not None
    assert found.p90 is not None
    assert abs(found.bias) <= found.mape + 1e-9
    assert found.p90 <= max(abs(error) for error in errors) + 1e-9


def test_quantile_of_one_value() -> None:
    assert quantile([3.0], 0.9) == 3.0


def test_parts_are_scored_apart() -> None:
    judged = [
        Judged(case({"group": "a", "source": "x"}), 110.0, 100.0),
        Judged(case({"group": "b", "source": "x"}, profile="nanotron", method="lora"), 50.0, 100.0),
    ]
    found = scores(judged)
    assert found.overall.rows == 2
    assert found.by_framework["megatron"].mape == pytest.approx(0.1)
    assert found.by_method["lora"].bias == pytest.approx(-0.5)
    assert set(found.by_group) == {"a", "b"}
    assert found.by_source["x"].rows == 2


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({}, "peak memory is not stated"),
        ({"peak_mem_gib": "3", "curated": "0"}, "not curated"),
        ({"peak_mem_gib": "3", "llama_like": "0"}, "not LLaMA-like"),
    ],
)
def test_rows_without_a_comparable_peak_are_refused(cells: dict[str, str], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        check_memory_row(MeasuredRun(cells))


def test_all_rows_may_be_asked_for() -> None:
    check_memory_row(MeasuredRun({"peak_mem_gib": "3", "curated": "0", "llama_like": "0"}), all_rows=True)
    check_time_row(MeasuredRun({"step_time_s": "3", "curated": "0"}), all_rows=True)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"act_ckpt": "full"}, "time is not stated"),
        ({"act_ckpt": "full", "mfu_pct": "40"}, "as TFLOP/s or MFU only"),
        ({"tokens_per_s_per_gpu": "9", "act_ckpt": "recipe default (not in table)"}, "checkpointing is not stated"),
        ({"tokens_per_s_per_gpu": "9", "act_ckpt": "not stated"}, "checkpointing is not stated"),
        ({"tokens_per_s_per_gpu": "9"}, "checkpointing is not stated"),
        ({"step_time_s": "9", "act_ckpt": "full", "zero_stage": "3 (ZeRO; stage not stated per row)"}, "ZeRO stage"),
        ({"step_time_s": "9", "act_ckpt": "none", "notes": "n_gpus=8 assumed single node"}, "assumed"),
        ({"step_time_s": "9", "act_ckpt": "none", "notes": "variable lengths (bucketed)"}, "lengths"),
        ({"step_time_s": "9", "act_ckpt": "none", "notes": "profiler on"}, "profiler"),
        ({"step_time_s": "9", "act_ckpt": "none", "curated": "0"}, "not curated"),
    ],
)
def test_rows_without_a_comparable_time_are_refused(cells: dict[str, str], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        check_time_row(MeasuredRun(cells))


def test_gpt_like_rows_are_scored_for_time() -> None:
    cells = {"tokens_per_s_per_gpu": "900", "act_ckpt": "none", "llama_like": "0"}
    check_time_row(MeasuredRun(cells))
    assert unstated(MeasuredRun(cells)) is None


def test_step_seconds_follow_from_tokens_per_second() -> None:
    # 8 ranks x 1 x 2 x 4096 tokens; each rank processes 2 x 4096 of them.
    timed = case({"tokens_per_s_per_gpu": "4096", "step_time_s": "99"}, grad_accum=2)
    assert measured_seconds(timed) == pytest.approx(2.0)


def test_tokens_of_model_parallel_ranks_count_once() -> None:
    timed = case({"tokens_per_s_per_gpu": "1024"}, dp=2, tp=4)
    assert measured_seconds(timed) == pytest.approx(2 * 4096 / 8 / 1024)


def test_stated_step_seconds_need_the_batch() -> None:
    assert measured_seconds(case({"step_time_s": "1.5", "global_batch": "8"})) == 1.5
    with pytest.raises(SpecError, match="samples per step"):
        measured_seconds(case({"step_time_s": "1.5"}))


def test_peak_must_be_positive() -> None:
    assert measured_bytes(MeasuredRun({"peak_mem_gib": "2"})) == 2 * 1024**3
    with pytest.raises(SpecError, match="not stated"):
        measured_bytes(MeasuredRun({"peak_mem_gib": "0"}))


@pytest.mark.parametrize(
    ("predicted", "measured", "tau"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        # Five of six pairs agree.
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        # scipy.stats.kendalltau([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]).
        ([12, 2, 1, 12, 2], [1, 4, 7, 1, 0], -0.47140452079103173),
        ([1, 1, 1], [1, 2, 3], 0.0),
    ],
)
def test_kendall_tau(predicted: list[float], measured: list[float], tau: float) -> None:
    pairs = [Timed(one, other) for one, other in zip(predicted, measured, strict=True)]
    assert kendall_tau(pairs) == pytest.approx(tau)


def test_regret_is_what_the_choice_costs() -> None:
    assert regret([Timed(1.0, 12.0), Timed(2.0, 10.0), Timed(3.0, 30.0)]) == pytest.approx(0.2)
    # Two layouts predicted equally fast: the slower one counts.
    assert regret([Timed(1.0, 10.0), Timed(1.0, 15.0)]) == pytest.approx(0.5)


def _timed(model: str, measured: float, predicted: float, **sizes: int) -> Judged:
    return Judged(case({"model": model, "source": "s"}, **sizes), predicted, measured)


def test_a_table_needs_three_layouts_and_repeats_are_one() -> None:
    rows = [
        _timed("a", 8.0, 4.0, dp=8),
        _timed("a", 12.0, 4.0, dp=8),
        _timed("a", 20.0, 5.0, dp=4, tp=2),
        _timed("a", 20.0, 9.0, dp=2, tp=4),
        _timed("b", 1.0, 2.0, dp=8),
        _timed("b", 1.0, 2.0, dp=4, tp=2),
    ]
    (table,) = tables(rows).values()
    assert len(table) == 3
    # Mean of the repeats over the tokens of a step.
    assert table[0].measured == pytest.approx(10.0 / (8 * 4096))
    found = rank(rows)
    assert (found.tables, found.layouts) == (1, 3)
    assert found.median_regret == 0.0


def test_the_worst_table_is_named() -> None:
    good = [_timed("a", 1.0 * step, 1.0 * step, dp=8 // step, tp=step) for step in (1, 2, 4)]
    # The layout predicted fastest takes four times the fastest's time.
    bad = [_timed("b", 4.0 / step**2, 1.0 * step, dp=8 // step, tp=step) for step in (1, 2, 4)]
    found = rank([*good, *bad])
    assert found.worst_table == "b"
    assert found.worst_regret == pytest.approx(3.0)
    assert found.mean_regret == pytest.approx(1.5)
    only_good = rank([*good, *bad], lambda table: "a" in table)
    assert (only_good.tables, only_good.worst_regret) == (1, 0.0)


def test_no_table_no_rank() -> None:
    assert rank([]).model_dump(exclude_none=True) == {"tables": 0, "layouts": 0, "worst_table": ""}


def test_the_split_is_by_layout_and_stable() -> None:
    first = MeasuredRun({"model": "m", "n_gpus": "8", "tp": "2", "pp": "1", "micro_batch": "1"})
    other = MeasuredRun({"model": "m", "n_gpus": "8", "tp": "2", "pp": "", "micro_batch": "4"})
    assert in_fit_half(first) == in_fit_half(other)
    # zlib.crc32(b"llama2-7b|8|1|1") is 902725318, zlib.crc32(b"llama2-13b|8|1|1") is 1103639237.
    assert in_fit_half(MeasuredRun({"model": "llama2-7b", "n_gpus": "8"}))
    assert not in_fit_half(MeasuredRun({"model": "llama2-13b", "n_gpus": "8"}))


def test_tables_are_divided_whole() -> None:
    # zlib.crc32(b"a table|llama-7b") is even, that of b"a table|llama-8b" odd.
    assert table_in_fit_half(("a table", "llama-7b")) != table_in_fit_half(("a table", "llama-8b"))
