"""Plans of engine mcore: layers of stages and chunks, Megatron's sequence parallelism, and what is refused by name."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import ConfigError, SpecError
from toolkit.planner.api import estimate, plan, plan_for, plan_that_follows
from toolkit.planner.engines import chunk_counts, faults
from toolkit.planner.generate import Tally, generate
from toolkit.planner.plan import Plan
from toolkit.planner.request import Fixed, Request
from toolkit.planner.resolve import setup_of
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec, RopeScaling
from toolkit.specs.recipe import Recipe
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
    assert whole.fixed.options()[-1:] != divided.fixed.options()[-1:] or "--no-tp-sequence" in whole.fixed.options()
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
        (4094, {"tp": 8, "cp": 1}, None),
        (4090, {"tp": 4, "cp": 2}, "cp=2 needs a seq_len that 2 x cp = 4 divides, not 4090; use seq_len=4088 or 4096"),
    ],
)
def test_lengths_divide_over_the_ranks(seq_len: int, layout: dict[str, int], words: str | None) -> None:
    told = refused(work={"seq_len": seq_len}, **layout)
    assert len(told.splitlines()) == 1
    assert words in (None, told)


STEP = {
    "loss=chunked: engine mcore has a loss of its own; use loss=full": {"work": {"loss": "chunked"}},
    "compile=true: engine mcore compiles what it can by itself; use compile=false": {"work": {"compile": True}},
    "attention=eager: engine mcore chooses its own kernels; leave it out": {"work": {"attention": "eager"}},
    "mixed=autocast: engine mcore has master; use it, or engine=zero": {"work": {"mixed": "autocast"}},
    "optimizer=sgd: engine mcore has adamw; use one of them, or engine=zero": {"work": {"optimizer": "sgd"}},
    "checkpointing_every=2: engine mcore recomputes all layers or none; use checkpointing_every=1": {
        "checkpointing_every": 2
    },
    "offload_activations=cpu: engine mcore keeps them on the device; use none": {"offload_activations": "cpu"},
    "sp=2: engine mcore has no sequence parallelism; use sp=1": {"sp": 2},
    "lora_targets=lm_head: engine mcore adapts layers of the decoder; leave lm_head out": {
        "work": {"method": "lora", "lora_targets": ("q_proj", "lm_head")}
    },
}


@pytest.mark.parametrize("words", STEP)
def test_what_a_step_cannot_have_is_refused(words: str) -> None:
    assert refused(**STEP[words]) == words


MODELS = {
    "rope_type=yarn": {"rope_scaling": RopeScaling(rope_type="yarn", factor=4.0)},
    "rope_type=dynamic": {"rope_scaling": RopeScaling(rope_type="dynamic", factor=4.0)},
    "rope_type=longrope": {"rope_scaling": RopeScaling(rope_type="longrope")},
    "attention_bias=true": {"attention_bias": True},
    "mlp_bias=true": {"mlp_bias": True},
    "seq_len=4096": {"sliding_window": 2048},
}


@pytest.mark.parametrize("words", MODELS)
def test_models_whose_layers_it_does_not_have_are_refused_and_planned_for_others(words: str) -> None:
    model = LLAMA.model_copy(update=MODELS[words])
    told = refused(model)
    assert told.startswith(words)
    assert told.endswith("engine=zero")
    assert len(told.splitlines()) == 1
    free = plan(model, "8xA100-80GB", **WORK)
    assert {free.strategy.engine, *(one.strategy.engine for one in free.pareto)} <= {"zero", "pipeline"}


@pytest.mark.parametrize(
    "update",
    [
        {},
        {"rope_scaling": RopeScaling(rope_type="linear", factor=2.0)},
        {"rope_scaling": None},
        # No token is as far away as the window is wide.
        {"sliding_window": 4096},
    ],
)
def test_models_whose_layers_it_has_are_planned(update: dict[str, Any]) -> None:
    assert judged(LLAMA.model_copy(update=update)).strategy.engine == "mcore"


def recipe(method: str = "full", **rest: Any) -> Recipe:
    work = {**WORK, "method": method}
    return Recipe.parse({"model": "llama-3.1-8b", "workload": work, **rest}, source="test")


RECIPES: dict[str, dict[str, Any]] = {
    "clipping.kind=agc: engine mcore clips all gradients by one factor; use norm": {"clipping": {"kind": "agc"}},
    "neftune_alpha=5: engine mcore adds no noise to embeddings; leave it out": {"neftune_alpha": 5},
    "lora.dora=true: engine mcore learns no lengths of rows; use lora.dora=false": {
        "method": "lora",
        "lora": {"dora": True},
    },
    "lora.dropout=0.1: engine mcore has no dropout before adapters; use 0": {
        "method": "lora",
        "lora": {"dropout": 0.1},
    },
}


@pytest.mark.parametrize("words", RECIPES)
def test_recipes_that_it_cannot_follow_are_refused(words: str) -> None:
    asked = recipe(**RECIPES[words])
    made = judged(work={"method": asked.workload.method})
    assert made.recipe_faults(asked) == [words]
    with pytest.raises(ConfigError) as failure:
        made.check_recipe(asked)
    assert str(failure.value) == f"{words}; or plan again with --engine zero"
    other = estimate(LLAMA, "8xA100-80GB", work=made.workload.model_dump(), strategy={"engine": "zero"})
    assert other.recipe_faults(asked) == []
    other.check_recipe(asked)


def test_all_that_a_recipe_asks_for_is_told_at_once() -> None:
    asked = recipe("lora", neftune_alpha=5, lora={"dora": True, "dropout": 0.1}, clipping={"kind": "value"})
    assert len(judged(work={"method": "lora"}).recipe_faults(asked)) == 4
    # Numbers of adapters count where there are some.
    assert judged().recipe_faults(recipe(lora={"dropout": 0.1})) == []


def test_ranks_that_accelerate_started_for_another_layout_are_refused() -> None:
    made = judged(tp=2, pp=2)
    planned = {"MEGATRON_LM_TP_DEGREE": "2", "MEGATRON_LM_PP_DEGREE": "2", "MEGATRON_LM_CONTEXT_PARALLEL_SIZE": "1"}
    planned |= {"MEGATRON_LM_SEQUENCE_PARALLELISM": "true", "MEGATRON_LM_GRADIENT_CLIPPING": "1.0"}
    made.check_launcher({})
    made.check_launcher(planned)
    others = {"TP_DEGREE": "4", "CONTEXT_PARALLEL_SIZE": "2", "RECOMPUTE_GRANULARITY": "full"}
    changed = {**planned, **{f"MEGATRON_LM_{name}": value for name, value in others.items()}}
    with pytest.raises(ConfigError) as failure:
        made.check_launcher(changed)
    assert str(failure.value).partition("; change it back")[0] == (
        "accelerate launches another run than plan.json: megatron_lm_tp_degree is 4, planned 2; "
        "megatron_lm_context_parallel_size is 2, planned 1; megatron_lm_recompute_granularity is full, "
        "planned without it"
    )
    # DeepSpeed's engines are started with a file of their own.
    estimate(LLAMA, "8xA100-80GB", work=WORK, strategy={"engine": "zero"}).check_launcher(changed)


def test_other_ranks_than_planned_are_refused(tmp_path: Path) -> None:
    made = judged(tp=2)
    made.check_ranks({"WORLD_SIZE": "8"}, tmp_path)
    with pytest.raises(ConfigError, match=r"^4 process"):
        made.check_ranks({"WORLD_SIZE": "4"}, tmp_path)
    with pytest.raises(ConfigError, match="megatron_lm_tp_degree is 1, planned 2"):
        made.check_ranks({"WORLD_SIZE": "8", "MEGATRON_LM_TP_DEGREE": "1"}, tmp_path)


def followed(asked: Recipe, **fixed: Any) -> tuple[Plan, Plan]:
    search = partial(plan_for, LLAMA, "8xA100-80GB", work={**WORK, "method": asked.workload.method})
    chosen = search(fixed=fixed)
    return chosen, plan_that_follows(asked, chosen, search=search)


def test_a_recipe_leaves_out_the_engine_that_cannot_follow_it() -> None:
    chosen, followed_by = followed(recipe(neftune_alpha=5))
    assert chosen.strategy.engine == "mcore"
    assert followed_by.strategy.engine != "mcore"
    assert followed_by.fixed.without == ("mcore",)
    assert any(one.startswith("Left out by the recipe: neftune_alpha=5: engine mcore") for one in followed_by.reasons)
    followed_by.check_recipe(recipe(neftune_alpha=5))


@pytest.mark.parametrize("fixed", [{"engine": "mcore"}, {"cp": 2}, {"without": "zero,pipeline"}])
def test_what_the_user_has_asked_for_is_not_replaced(fixed: dict[str, Any]) -> None:
    chosen, followed_by = followed(recipe(neftune_alpha=5), **fixed)
    assert followed_by == chosen
    assert chosen.strategy.engine == "mcore"


def test_a_recipe_that_every_engine_can_follow_changes_nothing() -> None:
    chosen, followed_by = followed(recipe())
    assert followed_by is chosen
