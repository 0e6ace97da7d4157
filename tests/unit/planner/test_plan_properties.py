"""What holds for every plan: ranks and batches multiply out, states only shrink, engines are able."""

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toolkit.emitters import emit
from toolkit.errors import NoFeasiblePlan, SpecError
from toolkit.planner.engines import fault, faults
from toolkit.planner.estimates import MEMORY_TERMS
from toolkit.planner.generate import Tally, generate
from toolkit.planner.judge import judge
from toolkit.planner.memory import estimate_memory
from toolkit.planner.memory.states import states_of
from toolkit.planner.plan import Plan
from toolkit.planner.request import Fixed, Request
from toolkit.planner.resolve import base_setup, setup_of, state_bytes
from toolkit.planner.rules import ENGINES
from toolkit.planner.search import make_plan
from toolkit.planner.setup import Setup
from toolkit.run_folder import RunFolder
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe
from toolkit.specs.workload import Workload

MODELS = st.sampled_from(["smollm-135m", "llama-3.2-1b", "llama-2-7b", "llama-3.1-70b"]).map(ModelSpec.resolve)
CLUSTERS = st.sampled_from(["1xA100-80GB", "8xA100-80GB", "6xRTX4090-24GB", "4x8xH100-80GB", "3x4xL40S"]).map(
    ClusterSpec.resolve
)
PINS = st.sampled_from(
    [
        *({}, {}, {"sp": 2}, {"tp": 2}, {"tp": 2, "sp": 2}, {"pp": 2}, {"pp": 3}, {"pp": 2, "tp": 2}),
        *({"engine": "pipeline"}, {"without": "mcore"}, {"engine": "mcore", "tp": 2}),
        *({"engine": "mcore", "pp": 2, "vpp": 3}, {"cp": 2}),
    ]
).map(Fixed.model_validate)
"""Nothing, and every way to divide a replica."""
WORKLOADS = st.builds(
    Workload,
    seq_len=st.sampled_from([256, 1000, 2048]),
    global_batch=st.sampled_from([24, 48, 96, 192]),
    method=st.sampled_from(["full", "lora", "qlora"]),
    precision=st.sampled_from(["fp32", "bf16"]),
)
"""96 and 192 divide by every cluster; 24 and 48 not by the largest."""


def candidates(request: Request) -> list[tuple[str, Setup]]:
    return [
        (
            group.engine,
            group.setup._replace(micro_batch=micro, grad_accum=group.replica_batch // micro, checkpointing=mode),
        )
        for group in generate(request, Tally())
        for micro in group.micro_batches
        for mode in group.checkpointing
    ]


@settings(max_examples=25, deadline=None)
@given(model=MODELS, cluster=CLUSTERS, workload=WORKLOADS)
def test_every_candidate_is_legal_and_multiplies_out(
    model: ModelSpec, cluster: ClusterSpec, workload: Workload
) -> None:
    found = candidates(Request(model, cluster, workload, Fixed()))
    # Few ranks per replica are left to methods that only data parallelism has.
    assert found or workload.global_batch % cluster.world_size
    for engine, setup in found:
        assert fault(engine, setup) is None  # type: ignore[arg-type]
        assert setup.dp * setup.tp * setup.pp * setup.sp * setup.cp == cluster.world_size
        assert setup.micro_batch * setup.grad_accum * setup.dp == workload.global_batch
        assert sum(setup.stages) == (model.num_layers if setup.pp > 1 else 0)
    assert len({(engine, setup[4:]) for engine, setup in found}) == len(found), "nothing is judged twice"


@settings(max_examples=15, deadline=None)
@given(model=MODELS, cluster=CLUSTERS, workload=WORKLOADS)
def test_cheap_bounds_reject_nothing_that_fits(model: ModelSpec, cluster: ClusterSpec, workload: Workload) -> None:
    request = Request(model, cluster, workload, Fixed())
    verdict = judge(request)
    usable = cluster.device.memory_bytes * 0.95, cluster.host_memory_bytes * 0.95
    fits = 0
    for _, setup in candidates(request):
        memory = estimate_memory(setup)
        fits += memory.total_bytes <= usable[0] and memory.host_bytes <= usable[1]
    assert len(verdict.fits) == fits
    for one in verdict.fits[:50]:
        assert one.memory == estimate_memory(one.setup)


@settings(max_examples=40, deadline=None)
@given(model=MODELS, workload=WORKLOADS, stage=st.integers(0, 3), data=st.data())
def test_more_ranks_and_more_zero_never_raise_states(
    model: ModelSpec, workload: Workload, stage: int, data: st.DataObject
) -> None:
    machines = ClusterSpec.resolve("8xA100-80GB")
    engine = data.draw(st.sampled_from(list(ENGINES)))
    base = base_setup(model, machines, workload=workload, engine=engine)

    def held(dp: int, zero: int) -> float:
        setup = base._replace(dp=dp, zero_stage=zero, states=state_bytes(base, zero))
        states = states_of(setup, 0)
        return states.weights + states.gradients + states.optimizer

    by_ranks = [held(dp, stage) for dp in (1, 2, 3, 8, 64, 1024)]
    assert by_ranks == sorted(by_ranks, reverse=True)
    # fp32: stages 1 and 2 keep a second copy of the weights that 0 does without.
    stages = range(1 if workload.precision == "fp32" else 0, 4)
    by_stage = [held(8, zero) for zero in stages]
    assert all(more <= less for less, more in itertools.pairwise(by_stage))


@settings(max_examples=60, deadline=None)
@given(model=MODELS, cluster=CLUSTERS, workload=WORKLOADS, fixed=PINS)
def test_a_plan_is_consistent_and_loads_again(
    model: ModelSpec, cluster: ClusterSpec, workload: Workload, fixed: Fixed
) -> None:
    try:
        made = make_plan(model, cluster, workload, fixed=fixed)
    except (NoFeasiblePlan, SpecError):
        assume(False)
        return
    layout = made.strategy.layout
    assert layout.dp * layout.tp * layout.pp * layout.sp * layout.cp == made.world_size == cluster.world_size
    for one in (made, *made.alternatives, *made.pareto):
        setup = setup_of(model, cluster, workload=workload, strategy=one.strategy)
        assert not list(faults(one.strategy.engine, setup))
        assert setup.stages == one.strategy.stages
        if one.strategy.layout.pp > 1:
            assert len(one.strategy.stages) == one.strategy.layout.pp
            assert sum(one.strategy.stages) == sum(map(sum, one.strategy.chunks)) == model.num_layers
        assert one.memory.total_bytes == sum(getattr(one.memory, term) for term in MEMORY_TERMS)
        assert one.memory == estimate_memory(setup)
        assert 0 < one.memory.total_bytes <= cluster.device.memory_bytes * 0.95
    with tempfile.TemporaryDirectory() as folder:
        if workload.method == "qlora":
            made.save(Path(folder) / "plan.json")
            assert Plan.load(Path(folder) / "plan.json") == made
            return
        run = emit(made, Path(folder) / "run", Recipe(model=model.name, workload=workload))
        assert Plan.load(run / "plan.json") == made
        if not made.strategy.on_deepspeed:
            assert RunFolder(run).megatron_args.is_file()
            return
        # DeepSpeed's own parser, and every value compared with the plan.
        config = pytest.importorskip(
            "toolkit.engines.ds.config", reason="needs the training half", exc_type=ImportError
        )
        assert config.load_ds_config(RunFolder(run), made)
