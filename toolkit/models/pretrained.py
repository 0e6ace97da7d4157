"""Thin doors to transformers: tokenizer and weights of a LLaMA-family checkpoint, complete or not at all."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from toolkit.errors import CheckpointError
from toolkit.specs.model import ModelSpec
from toolkit.specs.model_source import weights_source
from toolkit.specs.workload import Precision

# The last three come from a damaged pytorch_model.bin, which is a pickle.
_READ_FAILURES = (OSError, ValueError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError)

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_tokenizer(name: str, spec: ModelSpec) -> PreTrainedTokenizerFast:
    """The model's fast tokenizer, with a padding token.

    Raises:
        CheckpointError: no usable tokenizer in the folder or hub repository, or one of another model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(weights_source(name), use_fast=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        local = "" if Path(weights_source(name)).is_dir() else f"no such folder in {Path.cwd()}; on the hub: "
        raise CheckpointError(
            f"{name}: {local}no usable tokenizer ({_first_line(error)}); add the tokenizer files"
        ) from None
    if not tokenizer.is_fast:
        raise CheckpointError(f"{name}: has only a slow tokenizer; add tokenizer.json (the fast one)")
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"{name}: its tokenizer has no end-of-sequence token; set `eos_token` in its config")
    if (largest := max(tokenizer.get_vocab().values())) >= spec.vocab_size:
        raise CheckpointError(
            f"{name}: its tokenizer has token id {largest}, the model {spec.vocab_size} embeddings; "
            "remove the added tokens, or use the tokenizer that came with the model"
        )
    if tokenizer.pad_token_id is None:
        # Padding is masked everywhere, so any id serves; eos is the one that every LLaMA has.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_pretrained(name: str, spec: ModelSpec, *, precision: Precision) -> PreTrainedModel:
    """Weights on the CPU in the precision of the forward pass, ready for training.

    Args:
        name: folder or hub id.
        spec: the model that was planned for.
        precision: of weights and activations.

    Raises:
        CheckpointError: weights missing, damaged, not those that the config describes, or not those planned for.
    """
    check_safetensors(Path(weights_source(name)))
    disable_progress_bar()  # one bar per rank, all in the same lines
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            weights_source(name),
            dtype=DTYPES[precision],
            attn_implementation="sdpa",
            ignore_mismatched_sizes=True,  # refused below with their names, which transformers' own error lacks
            output_loading_info=True,
        )
    except (*_READ_FAILURES, SafetensorError) as error:
        raise CheckpointError(f"{name}: weights cannot be loaded ({_first_line(error)}); fetch them again") from None
    # transformers fills a missing weight with random numbers and goes on.
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if keys := sorted(map(_key_words, report[kind])):
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise CheckpointError(
                f"{name}: {kind.replace('_', ' ')} in its weights: {keys[0]}{more}; "
                "config.json and the weights are not of the same model"
            )
    _check_shapes(model, name, spec)
    model.config.use_cache = False
    return model


def checkpoint_activations(model: PreTrainedModel, *, adapters: bool) -> None:
    """Keep only each layer's input in the forward pass; the rest is computed again in the backward pass.

    Args:
        model: a loaded model.
        adapters: LoRA will be added. Under ZeRO-3 its recomputed tensors look different to the non-reentrant
            kind, which then raises CheckpointError (transformers #47254); the reentrant kind does not look.
    """
    kind = {"use_reentrant": adapters}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(kind)
    else:  # its name until transformers 5.23
        model.gradient_checkpointing_enable(kind)


def check_safetensors(folder: Path) -> None:
    """Refuse a folder with a truncated or unreadable safetensors file before any rank spends time on it.

    Raises:
        CheckpointError: naming the file.
    """
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged ({_first_line(error)}); fetch the file again") from None


def _check_shapes(model: PreTrainedModel, name: str, spec: ModelSpec) -> None:
    shapes = {weight: tuple(parameter.shape) for weight, parameter in model.named_parameters()}
    expected = spec.weight_shapes
    differing = sorted(weight for weight in shapes | expected if shapes.get(weight) != expected.get(weight))
    if differing:
        first = differing[0]
        raise CheckpointError(
            f"{name}: {first} is {shapes.get(first, 'missing')}, planned {expected.get(first, 'without it')}; "
            f"the plan is for {spec.name}, plan again for this model"
        )


def _key_words(key: str | tuple[str, torch.Size, torch.Size]) -> str:
    """A mismatched key comes with the shape in the file and the shape that the config describes."""
    if isinstance(key, str):
        return key
    name, given, needed = key
    return f"{name} is {tuple(given)}, needs {tuple(needed)}"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].rstrip('.')}" if text else type(error).__name__


def count_parameters(model: Any) -> tuple[int, int]:
    """(trainable, all) parameters of a model that no engine has taken yet."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
