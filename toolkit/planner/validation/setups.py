"""From a row of published runs to a Setup: what its table, notes and framework say about the run.

A row that does not say enough is skipped with the reason; nothing is guessed that moves the result by more than the
model's own error. No number here belongs to one row or one model: rules read words.
"""

import re
from typing import NamedTuple

from toolkit.errors import SpecError
from toolkit.planner.buckets import sized_buckets
from toolkit.planner.profile import Profile
from toolkit.planner.setup import Setup
from toolkit.planner.shape import Shape
from toolkit.planner.validation import states_wording, wording
from toolkit.planner.validation.frameworks import profile_of
from toolkit.planner.validation.machines import cluster_of
from toolkit.planner.validation.runs import MeasuredRun
from toolkit.specs.model import ModelSpec

GPT_VOCAB = 50_304
"""GPT-2's vocabulary padded to 128: GPT-like tables seldom state it, LLaMA-like models differ too much to guess."""


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
    if run.says("naive.*model.?parallel|device_map"):
        raise SpecError("layers placed over devices one after the other (device_map), which no engine here does")
    if run.says(r"settings\b.*\bnot stated", "notes"):
        raise SpecError("the table says that its settings are not stated")
    profile, shape = profile_of(run), shape_of(run)
    ranks = _ranks(run, shape, profile)
    micro_batch = _need(run, "micro_batch")
    setup = Setup(
        shape=shape,
        cluster=cluster_of(run),
        profile=profile,
        seq_len=_need(run, "seq_len"),
        micro_batch=micro_batch,
        grad_accum=wording.grad_accum(run, ranks.dp * micro_batch, ranks.pp),
        **ranks._asdict(),
        zero_stage=wording.zero_stage(run, ranks.dp),
        offload=wording.offload(run),
        offload_to="nvme" if run.affirms("nvme", "offload") else "cpu",
        checkpointing=wording.checkpointing(run),
        method=wording.method(run),
        lora_rank=wording.lora_rank(run),
        lora_targets=wording.lora_targets(run),
        trained_ends=wording.trained_ends(run),
        precision=states_wording.precision(run),
        states=states_wording.states(run, profile),
        tp_sequence=not run.says("SP=False", "notes"),
        flash_attention=not run.says("megatron.?deepspeed|korthikanti|2205.05198", "framework", "group", "source"),
        frozen_grads=wording.frozen_grads(run),
        fused_loss=wording.fused_loss(run),
        fused_mlp=wording.uses_liger(run),
        tiled_mlp=run.affirms("tiled.?mlp"),
        offloaded_activations=wording.offloaded_activations(run),
    )
    return Case(run, _with_buckets(setup, run), wording.reading(run), wording.stage(run, ranks.pp))


class _Ranks(NamedTuple):
    """Sizes of the groups that the devices are divided into, with Setup's names."""

    dp: int
    tp: int
    pp: int
    vpp: int
    sp: int
    cp: int


def _ranks(run: MeasuredRun, shape: Shape, profile: Profile) -> _Ranks:
    num_ranks = _need(run, "n_gpus")
    tp, pp, vpp, cp = (run.count(name) or 1 for name in ("tp", "pp", "vpp", "cp"))
    sp = run.count("ulysses_sp") or wording.sp_in_name(run)
    if num_ranks % (tp * pp * cp * sp):
        raise SpecError(f"{num_ranks} GPUs are no multiple of tp x pp x cp x sp = {tp * pp * cp * sp}")
    # nanotron alone puts embedding, norm and head on stages of their own and runs with stages that hold no layer.
    if pp * vpp > shape.num_layers and profile.memory.split != "by_cost":
        raise SpecError(f"{shape.num_layers} layers cannot be divided over pp x vpp = {pp * vpp} stages")
    return _Ranks(dp=num_ranks // (tp * pp * cp * sp), tp=tp, pp=pp, vpp=vpp, sp=sp, cp=cp)


def _with_buckets(setup: Setup, run: MeasuredRun) -> Setup:
    """With the toolkit's own bucket sizes where the notes say so."""
    if not run.says("buckets=toolkit", "notes"):
        return setup
    shape = setup.shape
    trainable = shape.num_params if setup.method == "full" else shape.num_layers * setup.adapter_params
    return setup._replace(buckets=sized_buckets(shape.hidden, shape.num_params, trainable=trainable))


def _need(run: MeasuredRun, column: str) -> int:
    value = run.count(column)
    if value is None:
        raise SpecError(f"{column} is not stated")
    return value


def shape_of(run: MeasuredRun) -> Shape:
    """The model's sizes from the row, or from the catalog where the row only names the model.

    The head counts as tied where that comes closer to the parameters that the row states.

    Raises:
        SpecError: neither states them, or they do not go together.
    """
    layers, hidden, heads, ffn = (run.count(name) for name in ("n_layers", "hidden", "heads", "ffn"))
    if not (layers and hidden and heads and ffn):
        if (known := _in_catalog(run)) is None:
            raise SpecError("the model's sizes are not stated")
        return known
    kv_heads = run.count("kv_heads") or heads
    if hidden % heads or heads % kv_heads:
        raise SpecError(f"{heads} heads, {kv_heads} of keys and values, do not divide a hidden size of {hidden}")
    vocab = _vocab(run)
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
    if run.says("untied=False", "notes"):
        return shape._replace(tied=True)
    stated = (run.number("params_b") or 0.0) * 1e9
    tied = shape._replace(tied=True)
    return tied if stated and abs(tied.num_params - stated) < abs(shape.num_params - stated) else shape


def _vocab(run: MeasuredRun) -> int:
    if stated := run.count("vocab"):
        return stated
    if not run.llama_like:
        return GPT_VOCAB
    if (known := _in_catalog(run)) is None:
        raise SpecError("the vocabulary is not stated")
    return known.vocab


def _in_catalog(run: MeasuredRun) -> Shape | None:
    try:
        return Shape.of(ModelSpec.resolve(re.sub(r"^(llama)(\d)", r"\1-\2", run.text("model"))))
    except SpecError:
        return None
