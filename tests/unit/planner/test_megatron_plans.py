"""Plans of engine mcore: layers of stages and chunks, and Megatron's sequence parallelism."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import SpecError
from toolkit.planner.api import estimate, plan
from toolkit.planner.engines import chunk_counts, faults
from toolkit.planner.generate import Tally, generate
from toolkit.planner.plan import Plan
from toolkit.planner.request import Fixed, Request
from toolkit.planner.resolve import setup_of
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

WORK = {"seq_len": 4096, "global_batch": 64}
LLAMA = ModelSpec.resolve("llama-3.1-8b")


def judged(model: ModelSpec = LLAMA, cluster: str = "8xA100-80GB", **layout: Any) -> Plan:
    work = {**WORK, **layout.pop("work", {})}
    return estimate(model, cluster, work=work, strategy={"engine": "mcore", **layout})


def refused(model: ModelSpec = LLAMA, cluster: str = "8xA100-80GB", **layout: Any) -> str:
    with pytest.raises(SpecError) as failure:
        judged(model, cluster, **layout)
    return str(failure.value)


def of_layers(num_layers: int) -> ModelSpec:
    return LLAMA.model_copy(update={"name": f"{num_layers} layers", "num_layers": num_layers})


@pytest.mark.parametrize(
    ("num_layers", "pp", "vpp", "stages", "chunks"),
    [
        (32, 4, 1, (8, 8, 8, 8), ((8,), (8,), (8,), (8,))),
        (32, 2, 4, (16, 16), ((4,) * 4, (4,) * 4)),
        # The head takes the place of a layer.
        (31, 4, 2, (8, 8, 8, 7), ((4, 4), (4, 4), (4, 4), (4, 3))),
        # The embedding too.
        (30, 4, 2, (7, 8, 8, 7), ((3, 4), (4, 4), (4, 4), (4, 3))),
        (6, 4, 2, (1, 2, 2, 1), ((0, 1), (1, 1), (1, 1), (1, 0))),
    ],
)
def test_stages_and_chunks_are_those_of_megatron(
    num_layers: int, pp: int, vpp: int, stages: tuple[int, ...], chunks: tuple[tuple[int, ...], ...]
) -> None:
    made = judged(of_layers(num_layers), pp=pp, vpp=vpp)
    assert made.strategy.stages == stages
    assert made.strategy.chunks == chunks
    # Nobody has given them.
    assert made.fixed.stages is None


def test_the_407_billion_parameters_of_llama_3_1_are_on_16_stages_as_published() -> None:
    """arXiv 2407.21783, 3.3.2: a layer less on the first and on the last stage, so that their ends have a chunk."""
    model = ModelSpec.resolve("llama-3.1-405b")
    made = judged(model, "16x8xH100-80GB", tp=8, pp=16, vpp=8)
    assert made.strategy.stages == (7, *(8,) * 14, 7)
    assert made.strategy.chunks[0] == (0, *(1,) * 7)
    assert made.strategy.chunks[-1] == (*(1,) * 7, 0)
    assert set(made.strategy.chunks[1:-1]) == {(1,) * 8}


@settings(max_examples=200, deadline=None)
@given(num_layers=st.integers(1, 130), pp=st.integers(1, 40))
def test_chunks_hold_every_layer_once_and_are_of_one_size(num_layers: int, pp: int) -> None:
    request = Request(
        of_layers(num_layers), ClusterSpec.resolve(f"{pp}xA100-80GB"), Workload(**WORK), Fixed(engine="mcore", pp=pp)
    )
    for group in generate(request, Tally()):
        strategy = judged(request.model, f"{pp}xA100-80GB", pp=pp, vpp=group.setup.vpp).strategy
        assert strategy.stages == group.setup.stages
        sizes = list(itertools.chain(*strategy.chunks))
        assert sum(sizes) == sum(strategy.stages) == (num_layers if pp > 1 else 0)
        assert len(set(sizes[1:-1])) <= 1
        assert all(0 <= max(sizes) - end <= 1 for end in (*sizes[:1], *sizes[-1:]))
        assert all(strategy.stages)


def test_every_plan_of_a_pipeline_has_its_stages() -> None:
    made = plan("llama-3.1-8b", "2x8xA100-80GB", **WORK, engine="mcore", pp=4)
    for one in (made, *made.alternatives, *made.pareto):
        assert one.strategy.layout.pp == len(one.strategy.stages) == 4
        assert sum(one.strategy.stages) == 32
    assert plan("llama-3.1-8b", "8xA100-80GB", **WORK, engine="mcore", pp=1).strategy.stages == ()


def test_uneven_stages_can_be_given() -> None:
    made = judged(of_layers(5), "4xA100-80GB", stages="3,2", tp=2)
    assert (made.strategy.stages, made.strategy.chunks) == ((3, 2), ((3,), (2,)))
    assert "--stages 3,2" in " ".join(made.fixed.options())
    searched = plan("llama-3.1-8b", "8xA100-80GB", **WORK, engine="mcore", stages="9,8,8,7")
    assert (searched.strategy.stages, searched.strategy.vpp) == ((9, 8, 8, 7), 1)


@pytest.mark.parametrize(
    ("layers", "layout", "words"),
    [
        (
            30,
            {"pp": 7, "cluster": "14xA100-80GB", "work": {"global_batch": 56}},
            "pp=7 does not divide 30 layers into equal stages; use 1 or 2, or stages=5,5,4,4,4,4,4",
        ),
        (32, {"stages": "17,15", "vpp": 5}, "pp=2 x vpp=5 does not divide 32 layers; use vpp=1, 2, 4, 8 or 16"),
        (
            32,
            {"stages": "17,15", "vpp": 2},
            "stages=17,15: chunks of vpp=2 are of one size; use vpp=1, or stages=16,16",
        ),
        (32, {"pp": 2, "vpp": 3}, "pp=2 x vpp=3 does not divide 32 layers; use vpp=1, 2, 4, 8 or 16"),
        (32, {"stages": "16,15"}, "stages=16,15 adds up to 31, the model has 32 layers; use numbers that do"),
        (
            32,
            {"stages": "0,32"},
            "stages=0,32: every stage but the last needs a layer; use 1 and more, and 0 for the last only",
        ),
    ],
)
def test_stages_that_cannot_be_are_refused(layers: int, layout: dict[str, Any], words: str) -> None:
    assert words in refused(of_layers(layers), **{"cluster": "8xA100-80GB", **layout}).splitlines()


def test_a_pipeline_with_an_end_without_layers_has_no_equal_stages() -> None:
    assert chunk_counts(6, 8) == [1]
    assert "pp=8 exceeds the model's 6 layers" in refused(of_layers(6), pp=8)


def test_key_value_heads_are_not_shared() -> None:
    assert refused(cluster="16xA100-80GB", tp=16) == "tp=16 does not divide 8 key/value heads; use 1, 2, 4 or 8"


def test_tensor_parallel_ranks_divide_the_tokens_unless_told_not_to() -> None:
    whole, divided = judged(tp=8, tp_sequence=False), judged(tp=8)
    assert (whole.strategy.tp_sequence, divided.strategy.tp_sequence) == (False, True)
    assert whole.memory.activations_bytes > 1.5 * divided.memory.activations_bytes
    assert "--no-tp-sequence" in whole.fixed.options()
    assert divided.fixed.tp_sequence is None
    setup = setup_of(LLAMA, whole.cluster, workload=whole.workload, strategy=whole.strategy)
    assert not setup.tp_sequence
    assert not list(faults("mcore", setup))
    assert judged(tp=8, tp_sequence=False, work={"seq_len": 4095}).strategy.layout.tp == 8
    searched = plan("llama-3.1-8b", "8xA100-80GB", **WORK, engine="mcore", tp=4, tp_sequence=False)
    assert not searched.strategy.tp_sequence
    assert any("tp_sequence=False" in reason for reason in searched.reasons)


def test_the_pin_goes_through_the_command_line_and_back() -> None:
    assert Fixed(tp_sequence=False).options() == ["--no-tp-sequence"]
    assert Fixed(tp=2, tp_sequence=True).options() == ["--tp", "2", "--tp-sequence"]
    assert Fixed.of(judged(tp=2).strategy).tp_sequence is True
    assert Fixed.of(judged(pp=2).strategy).tp_sequence is None
    zero = estimate(LLAMA, "8xA100-80GB", work=WORK, strategy={"engine": "zero", "tp": 2}).strategy
    assert not zero.tp_sequence
    assert Fixed.of(zero).tp_sequence is None


@pytest.mark.parametrize("engine", ["zero", "pipeline"])
def test_it_is_megatrons_alone(engine: str) -> None:
    pp = 2 if engine == "pipeline" else 1
    words = f"tp_sequence=true: engine {engine} keeps all tokens on every tensor-parallel rank; "
    assert refused(engine=engine, tp=2, pp=pp, tp_sequence=True) == f"{words}use engine=mcore, or leave it out"
    assert judged(engine=engine, tp=2, pp=pp, tp_sequence=False).strategy.engine == engine


@pytest.mark.parametrize(
    ("seq_len", "layout", "words"),
    [
        (4094, {"cp": 4}, "cp=4 needs a seq_len that 2 x cp = 8 divides, not 4094; use seq_len=4088 or 4096"),
        (
            4094,
            {"tp": 8},
            "tp=8 divides the tokens too, seq_len=4094 is not a multiple of 8; use seq_len=4088 or 4096, "
            "or tp_sequence=false",
        ),
        (
            4084,
            {"tp": 4, "cp": 2},
            "tp=4 x cp=2 divides the tokens too, seq_len=4084 is not a multiple of 8; use seq_len=4080 or 4088, "
            "or tp_sequence=false",
        ),
        # One fault, and lengths that satisfy both.
        (4090, {"tp": 4, "cp": 2}, "cp=2 needs a seq_len that 2 x cp = 4 divides, not 4090; use seq_len=4088 or 4096"),
    ],
)
def test_lengths_divide_over_the_ranks(seq_len: int, layout: dict[str, int], words: str) -> None:
    assert refused(work={"seq_len": seq_len}, **layout) == words
