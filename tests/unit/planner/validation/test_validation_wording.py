"""What the words of published rows mean."""

import pytest

from toolkit.planner.profile import profiles
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
    ],
)
def test_checkpointing(cells: dict[str, str], kept: str) -> None:
    assert wording.checkpointing(run(**cells)) == kept


@pytest.mark.parametrize(
    ("cells", "weight", "grad", "optimizer"),
    [
        ({"precision": "bf16"}, 2, 2, 12),
        ({"precision": "bf16 (pure)"}, 2, 2, 4),
        ({"precision": "bf16 (pure)", "optimizer": "bnb AdamW8bit"}, 2, 2, 2),
        ({"precision": "bf16 (pure)", "optimizer": "PagedAdamW8bit+opt_in_bwd"}, 2, 0, 0),
        ({"precision": "bf16", "optimizer": "AdamW8bit"}, 2, 2, 6),
    ],
)
def test_bytes_per_parameter(cells: dict[str, str], weight: float, grad: float, optimizer: float) -> None:
    states = wording.states(run(**cells), profiles()["hf-deepspeed"])
    assert (states.weight, states.grad, states.optimizer) == (weight, grad, optimizer)


def test_quantised_weights() -> None:
    def frozen(precision: str) -> float:
        return wording.states(run(method="qlora", precision=precision), profiles()["hf-trainer"]).frozen

    assert 0.5 < frozen("bf16+nf4") < 0.53 < frozen("int4 (gptq)") < 1 < frozen("int8 (gptq)") < 1.1


@pytest.mark.parametrize(
    ("cells", "part"),
    [
        ({"notes": "ckpt=no alpha=0.4"}, 0.4),
        ({"offload": "cpu(optim+params+act-ckpt)"}, 1.0),
        ({"offload": "cpu(optim+params)"}, 0.0),
        ({"framework": "unsloth"}, 1.0),
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


def test_the_rank_of_adapters() -> None:
    assert wording.lora_rank(run(notes="lora--llama-3.2-3B-rank32-dora")) == 32
    assert wording.lora_rank(run(notes="4-bit QLoRA r=32 all linear")) == 32
    assert wording.lora_rank(run(framework="fsdp_qlora (FSDP1)")) == 64
    assert wording.lora_rank(run()) == 8
