"""What the words of published rows mean."""

from collections.abc import Callable

import pytest

from toolkit.errors import SpecError
from toolkit.planner.validation import wording
from toolkit.planner.validation.runs import MeasuredRun


def run(**cells: str) -> MeasuredRun:
    return MeasuredRun({"method": "full", **cells})


@pytest.mark.parametrize(
    ("mem_kind", "reading"),
    [
        ("max_memory_allocated, rank 0 (first PP stage)", "allocated"),
        ("max_reserved (max over ranks)", "reserved"),
        ('device used memory (NVML "NV"), includes CUDA/NCCL context', "total"),
        ("max_memory_allocated and max_memory_reserved, the plot does not say which", "reserved"),
        ("GB used (max_memory_allocated)", "allocated"),
        ("max_memory_allocated; reserved not stated", "allocated"),
        ("nvidia-smi", "total"),
        ("peak", "reserved"),
    ],
)
def test_which_reading_a_peak_is(mem_kind: str, reading: str) -> None:
    assert wording.reading(run(mem_kind=mem_kind)) == reading


@pytest.mark.parametrize(
    ("cells", "kept"),
    [
        ({"act_ckpt": "none (recompute_layer default False)"}, "none"),
        ({"act_ckpt": "selective(op)"}, "selective"),
        ({"act_ckpt": "full (reentrant)"}, "full"),
        ({"act_ckpt": "", "method": "lora"}, "full"),
        ({"act_ckpt": "", "method": "lora", "framework": "litgpt"}, "none"),
        ({"act_ckpt": "not stated"}, "none"),
        ({"act_ckpt": "recipe default (not in table)", "method": "lora"}, "full"),
        ({"act_ckpt": "off", "method": "lora"}, "none"),
        ({"act_ckpt": "0", "method": "lora"}, "none"),
        ({"act_ckpt": "disabled", "method": "lora"}, "none"),
        ({"act_ckpt": "on"}, "full"),
        ({"act_ckpt": "1"}, "full"),
        ({"act_ckpt": "enabled"}, "full"),
        ({"act_ckpt": "granularity=full"}, "full"),
        ({"act_ckpt": "gradient checkpointing"}, "full"),
        ({"act_ckpt": "selective + SP"}, "selective"),
    ],
)
def test_checkpointing(cells: dict[str, str], kept: str) -> None:
    assert wording.checkpointing(run(**cells)) == kept


@pytest.mark.parametrize(
    ("cells", "part"),
    [
        ({"notes": "ckpt=no alpha=0.4"}, 0.4),
        ({"offload": "cpu(optim+params+act-ckpt)"}, 1.0),
        ({"offload": "cpu(optim+params)"}, 0.0),
        ({"framework": "unsloth"}, 1.0),
        ({"framework": "HF (vs unsloth)"}, 0.0),
        ({"offload": "act(0.45)"}, 0.45),
        ({"offload": "act-offload ratio 0.5"}, 0.5),
        ({"offload": "activations alpha=0.6"}, 0.6),
        # The alpha of an adapter.
        ({"method": "lora", "notes": "alpha=1 r=16"}, 0.0),
    ],
)
def test_offloaded_activations(cells: dict[str, str], part: float) -> None:
    assert wording.offloaded_activations(run(**cells)) == part


def test_sequence_parallel_ranks_in_a_recipe_name() -> None:
    assert wording.sp_in_name(run(source="recipes/run-h100-sp8-llama-8b-yes-mlp.yml")) == 8
    assert wording.sp_in_name(run(source="recipes/run-h100-sp8-llama-8b-no-ulysses.yml")) == 1


def test_pipelines_are_full_where_no_batch_is_stated() -> None:
    assert wording.grad_accum(run(), 8, 4) == 4
    assert wording.grad_accum(run(global_batch="64"), 8, 4) == 8
    assert wording.grad_accum(run(grad_accum="3", global_batch="64"), 8, 4) == 3


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(SpecError, match="no multiple of dp x micro_batch"):
        wording.grad_accum(run(global_batch="60"), 8, 1)


@pytest.mark.parametrize(
    ("notes", "rank"),
    [
        ("lora--llama-3.2-3B-rank32-dora", 32),
        ("4-bit QLoRA r=32 all linear", 32),
        ("lora_rank 64", 64),
        ("lora_r 16", 16),
        ("LoRA r 8", 8),
        ("R:32", 32),
        ("rank-32", 32),
        ("alpha 16 rank 8", 8),
        ("rank-0 peak; r=64", 64),
        ("peak of rank 0", 8),
        ("", 8),
    ],
)
def test_the_rank_of_adapters(notes: str, rank: int) -> None:
    assert wording.lora_rank(run(notes=notes)) == rank


def test_the_rank_of_a_framework() -> None:
    assert wording.lora_rank(run(framework="fsdp_qlora (FSDP1)")) == 64


@pytest.mark.parametrize(
    ("cell", "method"),
    [
        ("", "full"),
        ("full fine-tuning", "full"),
        ("pretraining", "full"),
        ("LoRA (emb)", "lora"),
        ("DoRA", "lora"),
        ("rsLoRA", "lora"),
        ("Q-LoRA", "qlora"),
        ("q_lora", "qlora"),
    ],
)
def test_methods(cell: str, method: str) -> None:
    assert wording.method(run(method=cell)) == method


@pytest.mark.parametrize("cell", ["adapter", "IA3", "freeze", "GaLore", "AdaLoRA", "dpo"])
def test_methods_of_which_the_memory_is_not_known(cell: str) -> None:
    with pytest.raises(SpecError, match=cell.lower()):
        wording.method(run(method=cell))


@pytest.mark.parametrize(
    ("cells", "trained"),
    [
        ({"method": "lora (emb)"}, True),
        ({"method": "lora", "notes": "modules_to_save wte, lm_head"}, True),
        ({"method": "lora", "notes": "embedding and lm_head trained as well"}, True),
        ({"method": "lora", "notes": "embedding not trained"}, False),
        ({"method": "lora"}, False),
        ({"method": "full", "notes": "modules_to_save"}, False),
    ],
)
def test_trained_embedding_and_head(cells: dict[str, str], trained: bool) -> None:
    assert wording.trained_ends(run(**cells)) is trained


@pytest.mark.parametrize(
    ("cell", "kept"),
    [
        ("cpu", "optimizer"),
        ("cpu(Adam)", "optimizer"),
        ("ZeRO-Offload", "optimizer"),
        ("cpu(optim)", "optimizer"),
        ("cpu(optim+params)", "all"),
        ("nvme(params)", "all"),
        ("no param offload", "none"),
        ("optimizer, no params", "optimizer"),
        ("act alpha=0.4", "none"),
        ("not stated", "none"),
        ("none", "none"),
        ("no", "none"),
    ],
)
def test_offload(cell: str, kept: str) -> None:
    assert wording.offload(run(offload=cell)) == kept


@pytest.mark.parametrize(
    ("cell", "stage"),
    [
        ("3 (FSDP2)", 3),
        ("ZeRO-3", 3),
        ("stage 2", 2),
        ("1 (distributed optimizer)", 1),
        ("distributed optimizer", 1),
        ("1 (8-way inside node)", 1),
        ("FSDP2", 3),
        ("2 (FSDP SHARD_GRAD_OP)", 2),
        ("0/1", 0),
        ("none", 0),
        ("", 1),
    ],
)
def test_zero_stages(cell: str, stage: int) -> None:
    assert wording.zero_stage(run(zero_stage=cell, framework="Megatron-LM"), 8) == stage


@pytest.mark.parametrize(
    ("read", "column", "cell"),
    [
        (wording.checkpointing, "act_ckpt", "every 2nd layer"),
        (wording.offload, "offload", "disk of a friend"),
        (lambda one: wording.zero_stage(one, 8), "zero_stage", "7"),
        (lambda one: wording.zero_stage(one, 8), "zero_stage", "some"),
    ],
)
def test_unknown_words_are_refused(read: Callable[[MeasuredRun], object], column: str, cell: str) -> None:
    with pytest.raises(SpecError, match=cell):
        read(run(**{column: cell}))
