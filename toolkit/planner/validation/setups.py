"""From a row of published runs to a Setup: what its table, notes and framework say about the run.

A row that does not say enough is skipped with the reason; nothing is guessed that moves the result by more than the
model's own error. No number here belongs to one row or one model: rules read words.
"""

import re
from typing import NamedTuple

from toolkit.errors import SpecError
from toolkit.planner.buckets import sized_buckets
from toolkit.planner.profile import Profile, profiles
from toolkit.planner.setup import Setup
from toolkit.planner.shape import Shape
from toolkit.planner.validation import wording
from toolkit.planner.validation.machines import cluster_of
from toolkit.planner.validation.runs import MeasuredRun
from toolkit.specs.model import ModelSpec

PROFILE_WORDS = (
    (r"unsloth\b", "unsloth"),
    (r"nanotron.*bench_cluster|nanotron.*2024", "nanotron-2024"),
    (r"nanotron", "nanotron"),
    (r"torchtitan", "torchtitan"),
    (r"megatron.?deepspeed|vtrain", "megatron-deepspeed"),
    (r"automodel", "hf-fsdp"),
    (r"kwai", "megatron-unfused"),
    (r"megatron|nemo|mcore|simumax|transformer.?engine", "megatron"),
    (r"internevo|internlm", "internevo"),
    (r"torchtune|torchao", "torchtune"),
    (r"fsdp.?qlora", "hf-fsdp"),
    (r"llm-foundry|composer|fms|fsdp1", "fsdp"),
    (r"deepspeed|zero|arctic|xtuner|alst", "hf-deepspeed"),
    (r"fsdp", "hf-fsdp"),
    (r"plain.*loop|litgpt|lit-gpt", "hf-loop"),
    (r"", "hf-trainer"),
)
"""The first pattern that the framework's name matches says which profile describes the run."""

DATED = {("torchtitan", "2024"): "torchtitan-2024"}
"""Profiles of a framework's older versions: by the year in the source's name."""


class Case(NamedTuple):
    """A run as the planner sees it, and how its peak memory was read."""

    run: MeasuredRun
    setup: Setup
    reading: wording.Reading
    stage: int | None
    """Pipeline stage whose memory was read; None for the largest over all."""


def case_of(run: MeasuredRun) -> Case:
    """The set-up of a row.

    Raises:
        SpecError: what the row does not say.
    """
    profile = _profile(run)
    shape = shape_of(run)
    num_ranks = _need(run, "n_gpus")
    tp, pp, cp = (run.count(name) or 1 for name in ("tp", "pp", "cp"))
    sp = run.count("ulysses_sp") or wording.sp_in_name(run)
    if num_ranks % (tp * pp * cp * sp):
        raise SpecError(f"{num_ranks} GPUs are no multiple of tp x pp x cp x sp = {tp * pp * cp * sp}")
    dp = num_ranks // (tp * pp * cp * sp)
    if run.says("naive.*model.?parallel|device_map"):
        raise SpecError("layers placed over devices one after the other (device_map), which no engine here does")
    if run.says(r"settings\b.*\bnot stated", "notes"):
        raise SpecError("the table says that its settings are not stated")
    micro_batch = _need(run, "micro_batch")
    setup = Setup(
        shape=shape,
        cluster=cluster_of(run),
        profile=profile,
        seq_len=_need(run, "seq_len"),
        micro_batch=micro_batch,
        grad_accum=wording.grad_accum(run, dp * micro_batch, pp),
        dp=dp,
        tp=tp,
        pp=pp,
        vpp=run.count("vpp") or 1,
        sp=sp,
        cp=cp,
        zero_stage=wording.zero_stage(run, dp),
        offload=wording.offload(run),
        checkpointing=wording.checkpointing(run),
        method=wording.method(run),
        lora_rank=wording.lora_rank(run),
        lora_targets=wording.lora_targets(run),
        precision=wording.precision(run),
        states=wording.states(run, profile),
        tp_sequence=not run.says("SP=False", "notes"),
        flash_attention=not run.says("megatron.?deepspeed|korthikanti|2205.05198", "framework", "group", "source"),
        frozen_grads=wording.frozen_grads(run),
        fused_loss=wording.fused_loss(run),
        fused_mlp=wording.uses_liger(run),
        tiled_mlp=run.says("tiled.?mlp"),
        offloaded_activations=wording.offloaded_activations(run),
    )
    if run.says("buckets=toolkit", "notes"):
        layers = shape.num_layers * setup.adapter_params
        trainable = shape.num_params if setup.method == "full" else layers
        setup = setup._replace(buckets=sized_buckets(shape.hidden, shape.num_params, trainable=trainable))
    return Case(run, setup, wording.reading(run), wording.stage(run, pp))


def _need(run: MeasuredRun, column: str) -> int:
    value = run.count(column)
    if value is None:
        raise SpecError(f"{column} is not stated")
    return value


def _profile(run: MeasuredRun) -> Profile:
    named = next(name for words, name in PROFILE_WORDS if re.search(words, run.text("framework"), re.IGNORECASE))
    name = DATED.get((named, "2024"), named) if "2024" in run.text("source") else named
    return profiles()[name]


def shape_of(run: MeasuredRun) -> Shape:
    """The model's sizes from the row, or from the catalog where the row only names the model.

    The head counts as tied where that comes closer to the parameters that the row states.
    """
    layers, hidden, heads, ffn = (run.count(name) for name in ("n_layers", "hidden", "heads", "ffn"))
    if not (layers and hidden and heads and ffn):
        try:
            return Shape.of(ModelSpec.resolve(re.sub(r"^(llama)(\d)", r"\1-\2", run.text("model"))))
        except SpecError:
            raise SpecError("the model's sizes are not stated") from None
    vocab, kv_heads = run.count("vocab") or 50_304, run.count("kv_heads") or heads
    gated = run.llama_like or run.says("swiglu=True", "notes")
    key_value = hidden * kv_heads // heads
    matmul = hidden * (2 * hidden + 2 * key_value) + (3 if gated else 2) * hidden * ffn
    shape = Shape(
        num_layers=layers,
        hidden=hidden,
        query=hidden,
        key_value=key_value,
        ffn=ffn,
        vocab=vocab,
        num_heads=heads,
        num_kv_heads=kv_heads,
        layer_params=matmul + 2 * hidden,
        gated=gated,
    )
    stated = (run.number("params_b") or 0.0) * 1e9
    tied = shape._replace(tied=True)
    if run.says("untied=False", "notes"):
        return tied
    return tied if stated and abs(tied.num_params - stated) < abs(shape.num_params - stated) else shape
