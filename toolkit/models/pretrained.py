"""Thin doors to transformers: tokenizer and weights of a LLaMA-family checkpoint, complete or not at all."""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from toolkit.errors import CheckpointError, MachineError
from toolkit.models.config import load_config
from toolkit.models.unloaded import UnloadedModel
from toolkit.models.vocabulary import GrownFiles, add_tokens
from toolkit.models.weights import WeightFiles, first_line
from toolkit.specs.model import ModelSpec
from toolkit.specs.model_source import weights_source
from toolkit.specs.workload import AttentionKind, Precision

# What transformers raises on files that are not what they should be; RuntimeError includes RecursionError.
_TOKENIZER_FAILURES = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError)
_CONFIG_FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_tokenizer(name: str, spec: ModelSpec, new_tokens: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """The model's fast tokenizer, with a padding token.

    Args:
        name: folder or hub id.
        spec: the model; with rows for new tokens if there are any.
        new_tokens: special tokens to add.

    Raises:
        CheckpointError: no usable tokenizer in the folder or hub repository, or one of another model.
        SpecError: as `load_config`; a new token that is there already.
    """
    config = load_config(name)
    try:
        # False, not left out: then transformers would ask on the terminal whether to run the repository's code.
        tokenizer = AutoTokenizer.from_pretrained(weights_source(name), config=config, trust_remote_code=False)
    except _TOKENIZER_FAILURES as error:
        local = "" if Path(weights_source(name)).is_dir() else f"no such folder in {Path.cwd()}; on the hub: "
        raise CheckpointError(
            f"{name}: {local}no usable tokenizer ({first_line(error)}); add the tokenizer files"
        ) from None
    if not tokenizer.is_fast:
        raise CheckpointError(f"{name}: has only a slow tokenizer; add tokenizer.json (the fast one)")
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"{name}: its tokenizer has no end-of-sequence token; set `eos_token` in its config")
    rows = spec.vocab_size - spec.added_rows
    if (largest := max(tokenizer.get_vocab().values())) >= rows:
        raise CheckpointError(
            f"{name}: its tokenizer has token id {largest}, the model {rows} embeddings; "
            "remove the added tokens, or use the tokenizer that came with the model"
        )
    if tokenizer.pad_token_id is None:
        # Padding is masked everywhere, so any id serves; eos is the one that every LLaMA has.
        tokenizer.pad_token = tokenizer.eos_token
    if new_tokens:
        add_tokens(tokenizer, new_tokens)
    return tokenizer


def load_pretrained(
    name: str,
    spec: ModelSpec,
    *,
    precision: Precision,
    attention: AttentionKind = "sdpa",
    new_tokens: Sequence[str] = (),
) -> UnloadedModel:
    """The model of a checkpoint, ready for training once its weights are read.

    Args:
        name: folder or hub id.
        spec: the model that was planned for.
        precision: of weights and activations.
        attention: what computes it.
        new_tokens: that the spec has rows for.

    Raises:
        CheckpointError: weights missing, damaged, not those that the config describes, or not those planned for.
        MachineError: flash-attn is not installed.
        SpecError: as `load_config`.
    """
    if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise MachineError(
            "attention=flash_attention_2: flash-attn is not installed here; `pip install flash-attn`, or plan again "
            "with attention=sdpa, whose kernels torch brings along"
        )
    files = WeightFiles(name)
    config = load_config(name)
    config.use_cache = False
    config.vocab_size += spec.added_rows
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[precision], attn_implementation=attention)
    except _CONFIG_FAILURES as error:
        raise CheckpointError(f"{name}: its config.json makes no model ({first_line(error)}); correct it") from None
    shapes = {weight: tuple(parameter.shape) for weight, parameter in model.named_parameters()}
    files.check(shapes, added_rows=spec.added_rows)
    _check_shapes(shapes, name, spec)
    # Its frequencies are computed from the config, not read: made again where they are real.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)
    if not new_tokens:
        return UnloadedModel(model, files, DTYPES[precision])
    first = load_tokenizer(name, spec, new_tokens).convert_tokens_to_ids(new_tokens[0])
    return UnloadedModel(model, GrownFiles(files, first=first, vocab_size=spec.vocab_size), DTYPES[precision])


def checkpoint_activations(
    model: PreTrainedModel,
    *,
    adapters: bool,
    every: int = 1,
    to_host: bool = False,
    pinned: bool = False,
    instead: Callable[..., Any] | None = None,
) -> None:
    """Keep only each layer's input in the forward pass; the rest is computed again in the backward pass.

    Args:
        model: a loaded model.
        adapters: LoRA will be added. Under ZeRO-3 its recomputed tensors look different to the non-reentrant
            kind, which then raises CheckpointError (transformers #47254); the reentrant kind does not look.
        every: of so many layers the first one; the others keep what they compute.
        to_host: the inputs wait in host memory.
        pinned: that memory is pinned, for copies from a GPU.
        instead: takes the place of torch's checkpoint function, and may keep more than inputs (`selective`).
    """
    kind = {"use_reentrant": adapters}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(kind)
    else:  # its name until transformers 5.23
        model.gradient_checkpointing_enable(kind)
    # Not by arguments of the calls above: releases before 5.23 have none for it, and theirs always pins.
    run = functools.partial(checkpoint, use_reentrant=adapters)
    for number, layer in enumerate(model.model.layers):
        layer.gradient_checkpointing = number % every == 0
        if instead is not None:
            layer._gradient_checkpointing_func = instead
        if to_host:
            layer._gradient_checkpointing_func = functools.partial(_with_inputs_on_host, run, pinned)


def _with_inputs_on_host(run: Callable[..., Any], pinned: bool, layer: Callable[..., Any], *inputs: Any) -> Any:
    """A checkpointed layer; what it saves is its inputs, as what it computes inside is not saved at all."""
    with save_on_cpu(pin_memory=pinned):
        return run(layer, *inputs)


def _check_shapes(shapes: dict[str, tuple[int, ...]], name: str, spec: ModelSpec) -> None:
    expected = spec.weight_shapes
    differing = sorted(weight for weight in shapes | expected if shapes.get(weight) != expected.get(weight))
    if differing:
        first = differing[0]
        raise CheckpointError(
            f"{name}: {first} is {shapes.get(first, 'missing')}, planned {expected.get(first, 'without it')}; "
            f"the plan is for {spec.name}, plan again for this model"
        )


def count_parameters(model: Any) -> tuple[int, int]:
    """(trainable, all) parameters of a model that no engine has taken yet."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
