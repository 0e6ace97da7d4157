"""The run that every layout must equal: one process, plain transformers and torch, the whole global batch at once."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ranks.by_hand import Clip, Clipped, at_least_fp32, norm_clipped, optimizers_by_hand, total_norm
from ranks.settings import (
    BY_NORM,
    CLIP,
    GLOBAL_BATCH,
    LEARNING_RATES,
    LORA_ALPHA,
    LORA_RANK,
    LORA_TARGETS,
    PACKED_BATCH,
    SEED,
    WEIGHT_DECAY,
)
from ranks.tiny import PAD, VOCAB_SIZE, training_packs, training_rows
from toolkit.data.batches import Batch
from toolkit.data.loader import GlobalBatches, Share, eval_batches
from toolkit.specs.clipping import ClippingConfig
from toolkit.specs.optimizer import OptimizerName

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Step:
    """What one optimizer step showed."""

    loss: float
    grad_norm: float
    supervised_tokens: int
    clipped_norm: float


@dataclass(frozen=True)
class Reference:
    """A run and the model that it left."""

    steps: tuple[Step, ...]
    model: Any


@functools.cache
def reference_run(
    folder: Path,
    *,
    precision: str = "fp32",
    mixed: str = "master",
    method: str = "full",
    num_steps: int = len(LEARNING_RATES),
    clip: float = CLIP,
    packed: bool = False,
    grouped: bool = False,
    optimizer: OptimizerName = "adamw",
    clipping: ClippingConfig = BY_NORM,
    in_parts: int = 1,
    adapters: frozenset[tuple[str, Any]] = frozenset(),
    freeze: str = "",
    new_tokens: int = 0,
    alpha: float | None = None,
    vocab_size: int = VOCAB_SIZE,
) -> Reference:
    """Train the model in `folder`.

    Args:
        folder: of the model.
        precision: `fp64` too, in which all of it is computed: how far from it another run ends says what roundings do.
        mixed: with `autocast` the weights are fp32, within torch.autocast; with `none` all that there is is bf16.
        packed: on the documents of each step's packs, a row for each.
        in_parts: micro-batches that a step's rows come in. What that changes is the order of sums: the same training,
            and how far it goes from this one says what roundings alone do.
        adapters: further settings of peft's.
        freeze: pattern of the tensors that stay as they are.
        new_tokens: rows that embedding and head get, each the mean of the old ones.
        alpha: of NEFTune's noise.
        vocab_size: of the model.
    """
    exact = precision == "fp64"
    loaded_in = "fp32" if exact or mixed == "autocast" else precision
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[loaded_in])
    if new_tokens:
        _grow(model, new_tokens)
    if method == "lora":
        model = _with_adapters(model, dict(adapters))
    if exact:
        _to_fp64(model)
    for name, parameter in model.named_parameters():
        if freeze and fnmatchcase(name, freeze):
            parameter.requires_grad_(False)
    batches = documents_of_packs(num_steps) if packed else global_batches(num_steps, vocab_size=vocab_size + new_tokens)
    clipper = functools.partial(norm_clipped, largest=clip) if clipping.kind == "norm" else Clipped(clipping)
    parts = [_in_parts(batch, in_parts) for batch in batches]
    masters = torch.float64 if exact else DTYPES["bf16" if mixed == "none" else "fp32"]
    if mixed == "autocast":
        # Entered anew by every forward pass: one context around all steps would keep the first one's rounded weights.
        model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    steps = train_in_one_process(
        model, parts, clip=clipper, grouped=grouped, optimizer_name=optimizer, alpha=alpha, masters_in=masters
    )
    return Reference(tuple(steps), model.eval())


def global_batches(count: int, *, vocab_size: int = VOCAB_SIZE) -> list[Batch]:
    """Whole global batches of the first `count` steps."""
    rows = GlobalBatches(training_rows(vocab_size), Share(1, 0, GLOBAL_BATCH), seed=SEED, pad_token_id=PAD)
    batches = rows.with_noise_seeds()
    return [batches.step(index)[0] for index in range(count)]


def documents_of_packs(count: int) -> list[Batch]:
    """The same for packed rows: their documents, side by side."""
    rows, share = training_rows(), Share(1, 0, PACKED_BATCH)
    packed = GlobalBatches(rows, share, seed=SEED, pad_token_id=PAD, packs=training_packs())
    chosen = [rows.select(packed.row_numbers(index)) for index in range(count)]
    return [eval_batches(each, Share(1, 0, len(each)), pad_token_id=PAD)[0] for each in chosen]


def mean_loss(model: Any, batch: Batch, *, alpha: float | None = None) -> torch.Tensor:
    """Mean cross-entropy over the supervised tokens, in fp32 or better; `alpha`: of NEFTune's noise."""
    embedded = model.get_input_embeddings()(batch["input_ids"])
    if alpha is not None:
        embedded = embedded + _noise(batch, embedded.shape[-1], alpha)
    logits = model(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).logits
    predicted, wanted = at_least_fp32(logits[:, :-1]), batch["labels"][:, 1:]
    return cross_entropy(predicted.flatten(0, 1), wanted.flatten(), ignore_index=-100)


def _to_fp64(model: Any) -> None:
    """What was read and drawn in fp32; transformers' norms would compute in fp32 all the same."""
    model.double()
    for owner in list(model.modules()):
        for name, layer in list(owner.named_children()):
            if isinstance(layer, LlamaRMSNorm):
                exact = torch.nn.RMSNorm(layer.weight.shape, eps=layer.variance_epsilon)
                exact.weight = layer.weight
                setattr(owner, name, exact)


def _grow(model: Any, count: int) -> None:
    """New tokens by transformers' own means, their rows by hand."""
    old = model.config.vocab_size
    model.resize_token_embeddings(old + count, mean_resizing=False)
    for end in {model.get_input_embeddings(), model.get_output_embeddings()}:
        end.weight.data[old:] = end.weight.data[:old].mean(0)


def _noise(batch: Batch, width: int, alpha: float) -> torch.Tensor:
    """Of rows that are padded on the right: uniform, up to alpha / sqrt(length x width)."""
    noise = torch.zeros(*batch["input_ids"].shape, width)
    for row, seed in enumerate(batch["noise_seeds"].tolist()):
        length = int(batch["attention_mask"][row].sum())
        drawn = torch.rand(length, width, generator=torch.Generator().manual_seed(seed))
        noise[row, :length] = (drawn * 2 - 1) * alpha / math.sqrt(length * width)
    return noise


def _with_adapters(model: Any, more: dict[str, Any]) -> Any:
    """peft's own adapters, drawn from the recipe's seed."""
    usual = {"r": LORA_RANK, "lora_alpha": LORA_ALPHA, "target_modules": list(LORA_TARGETS)}
    more = {name: list(value) if isinstance(value, tuple) else value for name, value in more.items()}
    config = LoraConfig(**usual, **more, task_type="CAUSAL_LM")
    torch.manual_seed(SEED)
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def _in_parts(batch: Batch, count: int) -> list[Batch]:
    pieces = {name: rows.tensor_split(count) for name, rows in batch.items()}
    return [{name: pieces[name][number] for name in batch} for number in range(count)]


def train_in_one_process(
    model: Any,
    steps: Sequence[Sequence[Batch]],
    *,
    clip: Clip,
    grouped: bool = False,
    optimizer_name: OptimizerName = "adamw",
    alpha: float | None = None,
    masters_in: torch.dtype = torch.float32,
) -> Iterator[Step]:
    """An optimizer on fp32 weights; a bf16 or fp16 model computes on rounded copies of them.

    With weights in bf16 too, as with `masters_in`, gradients are clipped by their norm in fp32, as everywhere here:
    torch's own clipping would round the norm to bf16.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters = list(named.values())
    masters = [p.detach().to(masters_in).clone() for p in parameters]
    settings = [_settings_by_hand(name) if grouped else (WEIGHT_DECAY, 1.0) for name in named]
    groups = [
        {"params": [master], "weight_decay": decay, "ratio": ratio}
        for master, (decay, ratio) in zip(masters, settings, strict=True)
    ]
    optimizers = optimizers_by_hand(
        optimizer_name, dict(zip(named, groups, strict=True)), fused=masters_in == torch.bfloat16
    )
    model.train()
    for batches, rate in zip(steps, LEARNING_RATES, strict=False):
        supervised = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
        loss = 0.0
        for batch, count in zip(batches, supervised, strict=True):
            share = (
                mean_loss(model, batch, alpha=alpha) * (count / sum(supervised))
                if count
                else torch.zeros((), requires_grad=True)
            )
            share.backward()
            loss += share.item()
        for master, parameter in zip(masters, parameters, strict=True):
            master.grad = parameter.grad.to(masters_in)
            parameter.grad = None
        norm = total_norm(masters)
        clip(masters)
        clipped = total_norm(masters)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["ratio"]
            optimizer.step()
        with torch.no_grad():
            for master, parameter in zip(masters, parameters, strict=True):
                parameter.copy_(master)
        yield Step(loss, norm, sum(supervised), clipped)


def _settings_by_hand(name: str) -> tuple[float, float]:
    """Weight decay and part of the learning rate that `GROUPS` means."""
    if ".layers.1." in name:
        return 0.1, 0.5
    if ".layers.0.mlp." in name:
        return 0.3, 2.0
    return (0.0 if "norm" in name or "embed_tokens" in name else 0.3), 1.0
