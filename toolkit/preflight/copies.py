"""The plan of a tiny copy of a run: the same layout, engine and hand-edited ds_config.json, a model of no size."""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from toolkit.emitters.ds_config import ds_config
from toolkit.planner.plan import Plan
from toolkit.planner.strategy import Layout, Strategy
from toolkit.specs.communication import CommunicationConfig
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe
from toolkit.specs.workload import Workload

TOKENS = 64
"""Longest row for each part that a sequence is divided into."""
_MOST = 2
"""Rows of a micro-batch, and micro-batches: more of them show nothing else."""
_RANK = 8
_SENT = ("zero_quantized_weights", "zero_quantized_gradients", "zero_hpz_partition_size")


def num_layers(strategy: Strategy) -> int:
    """Two per chunk of a stage; a stage that has a layer less than another keeps that."""
    stages = tiny_stages(strategy)
    return sum(stages) if stages else 2 * strategy.layout.pp * strategy.vpp


def tiny_stages(strategy: Strategy) -> tuple[int, ...]:
    """Layers of each stage; empty where the plan has none."""
    if not strategy.stages:
        return ()
    return tuple(2 * strategy.vpp - int(layers < max(strategy.stages)) for layers in strategy.stages)


def num_shards(layout: Layout) -> int:
    """Ways in which a layer is divided."""
    return layout.tp * layout.sp


def tiny_plan(plan: Plan, model: ModelSpec) -> Plan:
    """The same decisions for the tiny model; what was predicted for the other one is of no use here."""
    strategy, work = plan.strategy, plan.workload
    micro, accumulation = min(strategy.micro_batch, _MOST), min(strategy.grad_accum, _MOST)
    small = strategy.model_copy(
        update={"micro_batch": micro, "grad_accum": accumulation, "stages": tiny_stages(strategy)}
    )
    names = model.weight_shapes
    changes: dict[str, Any] = {
        "seq_len": TOKENS * max(strategy.layout.sp, 2 * strategy.layout.cp if strategy.layout.cp > 1 else 1),
        "global_batch": strategy.layout.dp * micro * accumulation,
        "lora_rank": min(work.lora_rank, _RANK),
        "new_tokens": (),
        "vocab_multiple": 1,
        "freeze": _matching(work.freeze, names),
        "train_only": _matching(work.train_only, names),
        # A minute of compiling shows nothing of the layout.
        "compile": False,
    }
    return plan.model_copy(update={"model": model, "strategy": small, "workload": work.model_copy(update=changes)})


def alone(plan: Plan) -> Plan:
    """The same on one rank, which holds everything; with states in bf16 alone DeepSpeed needs stage 1."""
    work, strategy = plan.workload, plan.strategy
    stage = 1 if work.mixed == "none" else 0
    changes = {
        "engine": "zero",
        "layout": Layout(dp=1),
        "zero_stage": stage,
        "offload": "none",
        "activation_checkpointing": "none",
        "vpp": 1,
        "stages": (),
        "grad_accum": work.global_batch // strategy.micro_batch,
    }
    return plan.model_copy(update={"strategy": strategy.model_copy(update=changes)})


def tiny_recipe(recipe: Recipe, workload: Workload, *, model: ModelSpec, folder: Path) -> Recipe:
    """Without what is random, lossy, or about data."""
    groups = tuple(one for one in recipe.optimizer.groups if _matching((one.match,), model.weight_shapes))
    changes = {
        "model": str(folder),
        "workload": workload,
        "data": None,
        "optimizer": recipe.optimizer.model_copy(update={"groups": groups}),
        "communication": CommunicationConfig(),
        "lora": recipe.lora.model_copy(update={"dropout": 0.0}),
        "neftune_alpha": None,
    }
    return recipe.model_copy(update=changes)


def tiny_ds_config(plan: Plan, edited: Path | None) -> dict[str, Any]:
    """Of the copy.

    Args:
        plan: of the copy.
        edited: the run's own file, which people change by hand; None for what the toolkit would write.
    """
    content = ds_config(plan) if edited is None else json.loads(edited.read_text(encoding="utf-8"))
    content.pop("train_batch_size", None)
    content["train_micro_batch_size_per_gpu"] = plan.strategy.micro_batch
    content["gradient_accumulation_steps"] = plan.strategy.grad_accum
    if plan.world_size == 1:
        content = {key: value for key, value in content.items() if key not in ("tensor_parallel", "pipeline")}
        content["zero_optimization"] = {"stage": plan.strategy.zero_stage}
    zero = content["zero_optimization"] = {k: v for k, v in content["zero_optimization"].items() if k not in _SENT}
    if zero.get("stage") == 3:
        # Else so small weights would all be kept whole.
        zero["stage3_param_persistence_threshold"] = 0
    if content.get("fp16", {}).get("enabled") and not content["fp16"].get("loss_scale"):
        # A scale that overflows in the first steps would leave them out.
        content["fp16"] = {**content["fp16"], "initial_scale_power": 8}
    return content


def _matching(patterns: tuple[str, ...], names: Any) -> tuple[str, ...]:
    return tuple(pattern for pattern in patterns if any(fnmatchcase(name, pattern) for name in names))
