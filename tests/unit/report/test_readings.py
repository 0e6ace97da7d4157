"""What follows from a plan, and the JSON that holds it all."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.planner.plan import Plan
from toolkit.report.readings import plan_json, readings

READINGS = {
    "allocated",
    "reserved",
    "total",
    "capacity_bytes",
    "usable_bytes",
    "oom_probability",
    "host_bytes",
    "host_usable_bytes",
    "fits",
    "step_seconds",
    "tokens_per_second",
    "tokens_per_second_per_gpu",
    "mfu",
    "hfu",
    "peak_flops",
    "cost_per_billion_tokens",
    "mfu_convention",
    "stages",
    "judged",
    "rejected",
}


def test_three_readings_of_one_instant(small: Plan) -> None:
    found, memory = readings(small), small.memory
    assert found.allocated.predicted == sum(
        getattr(memory, f"{term}_bytes")
        for term in ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
    )
    assert found.reserved.predicted == found.allocated.predicted + memory.fragmentation_bytes
    assert found.total.predicted == found.reserved.predicted + memory.context_bytes
    for reading in (found.allocated, found.reserved, found.total, found.step_seconds):
        # A band of equal factors up and down.
        assert reading.high / reading.predicted == pytest.approx(reading.predicted / reading.low)
        assert reading.low < reading.predicted < reading.high


def test_the_probability_is_that_of_the_band(small: Plan) -> None:
    capacity = readings(small).total.high
    # Nine of ten inside leave one of twenty above.
    assert small.memory.oom_probability(capacity) == pytest.approx(0.05, abs=1e-4)
    assert small.memory.oom_probability(small.memory.total_bytes) == pytest.approx(0.5)


def test_mfu_by_hand(small: Plan) -> None:
    model, found = small.model, readings(small)
    # PaLM's convention: 6 per parameter (the input embedding is looked up, not multiplied) and 12 L h s.
    params = model.num_params - model.vocab_size * model.hidden_size - model.hidden_size
    per_token = 6 * params + 12 * model.num_layers * model.hidden_size * 4096
    rate = 64 * 4096 / small.time.step_seconds
    assert found.mfu == pytest.approx(per_token * rate / (8 * 312e12), rel=1e-4)
    assert found.tokens_per_second == pytest.approx(rate)
    assert found.tokens_per_second_per_gpu == pytest.approx(rate / 8)


def test_the_price_of_a_billion_tokens(small: Plan, long_pipeline: Plan) -> None:
    found = readings(small)
    hours = 1e9 / found.tokens_per_second / 3600
    assert found.cost_per_billion_tokens == pytest.approx(8 * 2.0 * hours)
    assert readings(long_pipeline).cost_per_billion_tokens is None


def test_fits_means_device_host_and_disk(make_plan_of: Callable[..., Plan], long_pipeline: Plan) -> None:
    assert not readings(long_pipeline).fits
    work = {"seq_len": 2048, "global_batch": 8}
    made = make_plan_of("llama-3.1-70b", "8xH100-80GB", work=work, zero_stage=3, offload="all")
    found = readings(made)
    assert found.fits is (found.total.predicted <= found.usable_bytes and found.host_bytes <= found.host_usable_bytes)
    poor = made.model_copy(update={"cluster": made.cluster.model_copy(update={"host_memory_bytes": 2**30})})
    assert not readings(poor).fits
    on_disk = made.model_copy(update={"memory": made.memory.model_copy(update={"disk_bytes": 2**31})})
    assert readings(on_disk).fits is found.fits  # of unknown size
    small_disk = on_disk.model_copy(update={"cluster": made.cluster.model_copy(update={"nvme_bytes": 2**30})})
    assert not readings(small_disk).fits


def test_json_is_the_plan_and_its_readings(small: Plan, long_pipeline: Plan) -> None:
    for made in (small, long_pipeline):
        told = json.loads(json.dumps(plan_json(made), allow_nan=False))
        assert set(told) == {"plan", "readings"}
        assert Plan.model_validate(told["plan"]) == made
        assert set(told["readings"]) == READINGS
        stages = told["readings"]["stages"]
        assert len(stages) == made.strategy.layout.pp
        assert max(one["total_bytes"] for one in stages) == made.memory.total_bytes
        assert told["readings"]["rejected"] == 8_120
        assert set(told["readings"]["total"]) == {"predicted", "low", "high"}
        assert math.isfinite(told["readings"]["mfu"])


def test_the_page_for_users_names_every_key(small: Plan) -> None:
    page = (Path(__file__).parents[3] / "docs" / "planner.md").read_text(encoding="utf-8")
    told = plan_json(small)
    keys = {*told["readings"], *told["readings"]["stages"][0], *told["readings"]["total"]}
    keys |= told["plan"].keys() - {"version", "model", "cluster", "workload"}
    assert not {key for key in keys if f"`{key}`" not in page}
