"""megatron_args.sh: read by bash, then by a parser with Megatron-LM's own names and kinds of values."""

import argparse
import subprocess
from pathlib import Path
from typing import Any

import pytest

from toolkit.emitters.megatron_args import layout_words, megatron_args
from toolkit.planner.api import estimate
from toolkit.planner.plan import Plan
from toolkit.specs.model import ModelSpec, RopeScaling
from toolkit.specs.recipe import Recipe

WHOLE = ("num-layers", "hidden-size", "ffn-hidden-size", "num-attention-heads", "kv-channels", "num-query-groups")
WHOLE += ("max-position-embeddings", "rotary-base", "rotary-seq-len-interpolation-factor", "seq-length", "train-iters")
WHOLE += ("make-vocab-size-divisible-by", "tensor-model-parallel-size", "pipeline-model-parallel-size", "seed")
WHOLE += ("context-parallel-size", "num-layers-per-virtual-pipeline-stage", "recompute-num-layers", "lr-warmup-iters")
WHOLE += ("micro-batch-size", "global-batch-size")
REAL = ("norm-epsilon", "rope-scaling-factor", "attention-dropout", "hidden-dropout", "lr", "min-lr", "clip-grad")
REAL += ("adam-beta1", "adam-beta2", "adam-eps", "weight-decay", "lr-warmup-fraction", "initial-loss-scale")
FLAGS = ("group-query-attention", "swiglu", "disable-bias-linear", "untie-embeddings-and-output-weights", "bf16")
FLAGS += ("fp16", "use-rope-scaling", "sequence-parallel", "use-distributed-optimizer", "calculate-per-token-loss")
FLAGS += ("account-for-embedding-in-pipeline-split", "account-for-loss-in-pipeline-split")
CHOICES = {
    "normalization": ["LayerNorm", "RMSNorm"],
    "position-embedding-type": ["learned_absolute", "rope", "mrope", "relative", "none"],
    "recompute-granularity": ["full", "selective"],
    "recompute-method": ["uniform", "block"],
    "optimizer": ["adam", "sgd", "muon", "dist_muon"],
    "lr-decay-style": ["constant", "linear", "cosine", "inverse-square-root", "WSD"],
}
"""Names, kinds and choices of megatron/training/arguments.py."""

LLAMA = ModelSpec.resolve("llama-3.1-8b")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    for names, kind in ((WHOLE, int), (REAL, float), (("pipeline-model-parallel-layout",), str)):
        for name in names:
            found.add_argument(f"--{name}", type=kind)
    for name in FLAGS:
        found.add_argument(f"--{name}", action="store_true")
    for name, choices in CHOICES.items():
        found.add_argument(f"--{name}", choices=choices)
    return found


def text(model: ModelSpec = LLAMA, cluster: str = "8xA100-80GB", **given: Any) -> str:
    work = {"seq_len": 4096, "global_batch": 64, **given.pop("work", {})}
    rest = {name: given.pop(name) for name in ("optimizer", "schedule", "max_steps") if name in given}
    made = estimate(model, cluster, work=work, strategy={"engine": "mcore", **given})
    return megatron_args(made, recipe_of(made, **rest))


def recipe_of(made: Plan, **rest: Any) -> Recipe:
    return Recipe.parse({"model": made.model.name, "workload": made.workload.model_dump(), **rest}, source="test")


def read(script: str, tmp_path: Path) -> argparse.Namespace:
    """What Megatron-LM's parser makes of the array that bash makes of the file."""
    (tmp_path / "megatron_args.sh").write_text(script)
    words = 'source megatron_args.sh && printf "%s\\n" "${MEGATRON_ARGS[@]}"'
    done = subprocess.run(["bash", "-euc", words], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    return parser().parse_args(done.stdout.splitlines())


def test_the_model_and_the_step_are_the_plans(tmp_path: Path) -> None:
    numbers = {"learning_rate": 1e-4, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.1, "decay_all": True}
    schedule = {"kind": "linear", "min_ratio": 0.1, "warmup_steps": 20}
    found = read(text(tp=2, micro_batch=2, optimizer=numbers, schedule=schedule, max_steps=100), tmp_path)
    assert (found.num_layers, found.hidden_size, found.ffn_hidden_size) == (32, 4096, 14336)
    assert (found.num_attention_heads, found.kv_channels, found.num_query_groups) == (32, 128, 8)
    assert (found.group_query_attention, found.untie_embeddings_and_output_weights, found.swiglu) == (True, True, True)
    assert (found.normalization, found.norm_epsilon, found.disable_bias_linear) == ("RMSNorm", 1e-5, True)
    # Both are 0.1 where they are not given.
    assert (found.attention_dropout, found.hidden_dropout) == (0, 0)
    assert (found.seq_length, found.micro_batch_size, found.global_batch_size) == (4096, 2, 64)
    assert found.calculate_per_token_loss
    assert (found.bf16, found.fp16) == (True, False)
    assert (found.lr, found.min_lr, found.clip_grad) == (1e-4, 1e-5, 1.0)
    assert (found.adam_beta1, found.adam_beta2, found.adam_eps, found.weight_decay) == (0.9, 0.95, 1e-6, 0.1)
    assert (found.lr_decay_style, found.lr_warmup_iters, found.train_iters) == ("linear", 20, 100)


def test_the_vocabulary_is_filled_up_to_the_ranks_and_no_further(tmp_path: Path) -> None:
    """Megatron-LM fills up to a multiple of this number times the tensor-parallel size."""
    for tp in (1, 2, 8):
        assert read(text(tp=tp), tmp_path).make_vocab_size_divisible_by == 1


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({"tp": 2}, {"sequence_parallel": True, "recompute_granularity": None}),
        ({"tp": 2, "tp_sequence": False}, {"sequence_parallel": False}),
        ({"tp": 1}, {"sequence_parallel": False}),
        ({"cp": 2}, {"context_parallel_size": 2, "use_distributed_optimizer": True}),
        ({"pp": 2}, {"pipeline_model_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": None}),
        ({"pp": 2, "vpp": 4}, {"num_layers_per_virtual_pipeline_stage": 4, "pipeline_model_parallel_layout": None}),
        ({"stages": "9,8,8,7"}, {"pipeline_model_parallel_layout": "Et*9|t*8|t*8|t*7L"}),
        ({"activation_checkpointing": "selective"}, {"recompute_granularity": "selective", "recompute_method": None}),
        (
            {"activation_checkpointing": "full"},
            {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
        ),
        ({"work": {"precision": "fp32"}}, {"bf16": False, "fp16": False}),
        ({"work": {"precision": "fp16"}}, {"fp16": True, "initial_loss_scale": 65536.0}),
    ],
    ids=str,
)
def test_layouts(layout: dict[str, Any], expected: dict[str, object], tmp_path: Path) -> None:
    found = vars(read(text(**layout), tmp_path))
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(("num_layers", "embedding", "loss"), [(32, False, False), (31, False, True), (30, True, True)])
@pytest.mark.parametrize("vpp", [1, 2])
def test_ends_that_take_the_place_of_a_layer(
    num_layers: int, embedding: bool, loss: bool, vpp: int, tmp_path: Path
) -> None:
    found = read(text(LLAMA.model_copy(update={"num_layers": num_layers}), pp=4, vpp=vpp), tmp_path)
    assert found.account_for_embedding_in_pipeline_split is embedding
    assert found.account_for_loss_in_pipeline_split is loss
    assert found.num_layers_per_virtual_pipeline_stage == (None if vpp == 1 else 4)
    # What Megatron-LM computes the number of chunks from: layers and the ends that count, over stages and this.
    assert (num_layers + embedding + loss) // 4 // (4 if vpp == 2 else 8) == vpp


@pytest.mark.parametrize("chunks", [((9,), (8,), (8,), (7,)), ((3, 2), (4, 1)), ((5,), (4,), (0,))])
def test_megatron_reads_the_words_for_stages(chunks: tuple[tuple[int, ...], ...]) -> None:
    module = pytest.importorskip("megatron.core.transformer.pipeline_parallel_layer_layout")
    layers = sum(map(sum, chunks))
    layout = module.PipelineParallelLayerLayout(layout_words(chunks), len(chunks))
    layout.validate_layer_layout(layers, None)
    found = [[part.count(module.LayerType.decoder) for part in stage] for stage in layout.layout]
    assert tuple(map(tuple, found)) == chunks


ROPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama3": ({}, {"use_rope_scaling": True, "rope_scaling_factor": 8.0, "rotary_base": 500_000}),
    "default": ({"rope_scaling": None}, {"use_rope_scaling": False, "rotary_base": 500_000}),
    "linear": (
        {"rope_scaling": RopeScaling(rope_type="linear", factor=4.0)},
        {"use_rope_scaling": False, "rotary_seq_len_interpolation_factor": 4},
    ),
}


@pytest.mark.parametrize("name", ROPES)
def test_rotary_embeddings_that_have_arguments(name: str, tmp_path: Path) -> None:
    update, expected = ROPES[name]
    script = text(LLAMA.model_copy(update=update))
    found = vars(read(script, tmp_path))
    assert found["position_embedding_type"] == "rope"
    assert {key: found[key] for key in expected} == expected
    assert "NOT THE SAME" not in script


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "pretrained on 4096": (
        {"rope_scaling": RopeScaling.model_validate({**LLAMA3, "original_max_position_embeddings": 4096})},
        "llama3 frequencies with (1.0, 4.0, 4096); --use-rope-scaling has 1, 4, 8192 built in",
    ),
    "half a factor": (
        {"rope_scaling": RopeScaling(rope_type="linear", factor=2.5)},
        "rope_type linear with factor 2.5 has no argument",
    ),
    "half a base": ({"rope_theta": 10_000.5}, "rope_theta is 10000.5, --rotary-base takes whole numbers only"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_has_no_argument_is_told(name: str, tmp_path: Path) -> None:
    update, words = OTHERS[name]
    script = text(LLAMA.model_copy(update=update))
    assert f"  # NOT THE SAME: {words}" in script.splitlines()
    read(script, tmp_path)


def test_adapters_and_schedules_of_our_own_are_told(tmp_path: Path) -> None:
    script = text(work={"method": "lora"}, schedule={"kind": "wsd"}, optimizer={"weight_decay": 0.1})
    told = [line for line in script.splitlines() if "NOT THE SAME" in line]
    assert len(told) == 3
    assert any("adapters" in line for line in told)
    read(script, tmp_path)


def test_a_name_cannot_leave_its_comment(tmp_path: Path) -> None:
    model = LLAMA.model_copy(update={"name": "a\ntouch owned\n"})
    read(text(model), tmp_path)
    assert not (tmp_path / "owned").exists()
