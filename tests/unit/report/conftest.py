"""Plans without a search, with the planner's own estimates; run folders as training leaves them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit.planner.cost.estimate import estimate_time
from toolkit.planner.memory import estimate_memory
from toolkit.planner.plan import Candidate, Plan, Rejection
from toolkit.planner.resolve import setup_of
from toolkit.planner.strategy import Layout, Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

MakePlan = Callable[..., Plan]


def candidate(model: ModelSpec, cluster: ClusterSpec, workload: Workload, strategy: Strategy) -> Candidate:
    setup = setup_of(model, cluster, workload=workload, strategy=strategy)
    return Candidate(strategy=strategy, memory=estimate_memory(setup), time=estimate_time(setup))


def plan_of(name: str, machines: str, *, work: dict[str, Any], price: float | None = None, **choices: Any) -> Plan:
    """A plan of the given strategy; `choices` are its fields, `tp`, `pp`, `sp` and `cp` those of its layout."""
    model = ModelSpec.resolve(name)
    cluster = ClusterSpec.resolve(machines).model_copy(update={"price_per_gpu_hour": price})
    workload = Workload.parse(work, source="test")
    sizes = {size: choices.pop(size) for size in ("tp", "pp", "sp", "cp") if size in choices}
    replica = Layout(dp=1, **sizes).world_size
    layout = Layout(dp=cluster.world_size // replica, **sizes)
    micro = choices.pop("micro_batch", 1)
    accum = workload.global_batch // (layout.dp * micro)
    assert accum * layout.dp * micro == workload.global_batch
    strategy = Strategy.parse(
        {"layout": layout, "zero_stage": 1, "micro_batch": micro, "grad_accum": accum, **choices}, source="test"
    )
    one = candidate(model, cluster, workload, strategy)
    other = candidate(model, cluster, workload, strategy.model_copy(update={"activation_checkpointing": "full"}))
    setup = setup_of(model, cluster, workload=workload, strategy=strategy)
    stages = tuple(estimate_memory(setup, stage) for stage in range(layout.pp)) if layout.pp > 1 else ()
    return Plan(
        model=model,
        cluster=cluster,
        workload=workload,
        strategy=strategy,
        memory=one.memory,
        time=one.time,
        gradient_clipping=1.0,
        reasons=("It fits.", "It is the fastest of 17 strategies that fit."),
        stage_memory=stages,
        alternatives=(other,),
        pareto=(one, other),
        rejected=(Rejection(strategy="ZeRO-0, micro-batch 1", reason="needs 128.0 GiB", knob="zero_stage 2"),),
        judged=10_412,
        rejections={"heads": 2_119, "device memory": 6_001},
    )


@pytest.fixture
def small() -> Plan:
    """8 GPUs, one stage, everything in view."""
    return plan_of("llama-3.1-8b", "8xA100-80GB", work={"seq_len": 4096, "global_batch": 64}, zero_stage=2, price=2.0)


@pytest.fixture
def long_pipeline() -> Plan:
    """Tensor and pipeline parallelism over 16 stages."""
    return plan_of(
        "llama-3.1-405b",
        "16x8xH100-80GB",
        work={"seq_len": 8192, "global_batch": 64},
        engine="mcore",
        tp=8,
        pp=16,
        micro_batch=1,
    )


@pytest.fixture
def make_plan_of() -> MakePlan:
    """`plan_of`, for other plans."""
    return plan_of


MakeRun = Callable[..., Path]

STEP = {"loss": 2.0, "grad_norm": 3.0, "clipped_norm": 1.0, "lr": 1e-3, "tokens": 64, "supervised_tokens": 30}
STEP |= {"tokens_per_second": 128.0, "step_seconds": 0.5, "peak_rss_bytes": 3 * 2**30, "loss_scale": 1.0}
PHASES = {"data_seconds": 0.01, "forward_seconds": 0.1, "backward_seconds": 0.3, "optimizer_seconds": 0.05}


def step_lines(count: int, **changes: Any) -> list[dict[str, Any]]:
    """Telemetry of a run whose loss falls; a change may be a function of the step's number."""
    lines = []
    for number in range(1, count + 1):
        told = {name: change(number) if callable(change) else change for name, change in changes.items()}
        line = {"step": number, **STEP, **PHASES, "loss": 1 + 1 / number, "skipped": False, **told}
        lines.append({name: value for name, value in line.items() if value is not ...})
    return lines


@pytest.fixture(scope="session")
def tiny() -> Plan:
    """Of a model on two CPU ranks."""
    work = {"seq_len": 8, "global_batch": 8}
    return plan_of("smollm-135m", "2xcpu", work=work, zero_stage=1, micro_batch=4)


@pytest.fixture
def make_run(tmp_path: Path, tiny: Plan) -> MakeRun:
    """Writes a run folder as training leaves it: `make_run("a", steps=[...], events=[...], summary={...}, seed=1)`."""

    def write(name: str, *, plan: Plan = tiny, summary: Any = None, ds_config: Any = None, **files: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        plan.save(folder / "plan.json")
        lines = {part: files.pop(part, None) for part in ("steps", "events", "evaluations")}
        recipe = {"model": plan.model.name, "workload": plan.workload.model_dump(), **files}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (folder / "ds_config.json").write_text(json.dumps(ds_config or {}))
        (folder / "accelerate.yaml").write_text("{}")
        for part, file in (("steps", "telemetry"), ("events", "events"), ("evaluations", "evaluations")):
            if lines[part] is not None:
                (folder / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[part]))
        if summary is not None:
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return write
