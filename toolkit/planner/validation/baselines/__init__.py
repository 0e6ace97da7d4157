"""Published estimators of peak memory, written anew from their formulas, to score next to the planner.

Each takes a Setup and gives bytes on one device, or None where its formula has nothing to say.
"""

from collections.abc import Callable
from typing import NamedTuple

from toolkit.planner.setup import Setup
from toolkit.planner.validation.baselines import deepspeed, eleutherai, megatron, unsloth


class Baseline(NamedTuple):
    """One estimator."""

    source: str
    """Where the formula is published."""
    scope: str
    """The runs it is made for, in words."""
    made_for: Callable[[Setup], bool]
    """True for those runs."""
    predict: Callable[[Setup], float | None]
    """Bytes on the fullest device."""


BASELINES: dict[str, Baseline] = {
    "deepspeed_estimate_zero": Baseline(
        "DeepSpeed 0.19.8, runtime/zero: estimate_zero2_ and estimate_zero3_model_states_mem_needs",
        "model states of full fine-tuning with ZeRO-2 or ZeRO-3",
        deepspeed.made_for_zero,
        deepspeed.estimate_zero,
    ),
    "deepspeed_autotuner": Baseline(
        "DeepSpeed 0.19.8, autotuning/autotuner.py: get_instantiation_memory_required_per_gpu",
        "model states of full fine-tuning with ZeRO, without offload",
        deepspeed.made_for_autotuner,
        deepspeed.autotuner,
    ),
    "accelerate_estimate_memory": Baseline(
        "accelerate 1.12, commands/estimate.py: estimate_training_usage",
        "full fine-tuning with Adam on one device, micro-batch 1",
        deepspeed.made_for_accelerate,
        deepspeed.accelerate,
    ),
    "megatron_theoretical": Baseline(
        "Megatron-LM 00caa53a, megatron/training/theoretical_memory_usage.py",
        "Megatron with sequence parallelism and selective recomputation or flash attention",
        megatron.made_for,
        megatron.theoretical,
    ),
    "eleutherai_calc": Baseline(
        "EleutherAI/cookbook 069ae2ef, calc/calc_transformer_mem.py",
        "full fine-tuning with ZeRO, tensor and pipeline parallelism",
        eleutherai.made_for,
        eleutherai.calc,
    ),
    "unsloth_vram": Baseline(
        "unslothai/unsloth 04f95609, studio/backend/utils/hardware/VRAM_ESTIMATION.md",
        "LoRA and QLoRA with the whole model on each device",
        unsloth.made_for,
        unsloth.vram,
    ),
}
"""Name -> estimator."""
