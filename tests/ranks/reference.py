"""The run that every layout must equal: one process, plain transformers and torch, the whole global batch at once."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from ranks.settings import (
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
from ranks.tiny import PAD, training_packs, training_rows
from toolkit.data.batches import Batch
from toolkit.data.loader import GlobalBatches, Share, eval_batches

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Step:
    """What one optimizer step showed."""

    loss: float
    grad_norm: float
    supervised_tokens: int


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
    method: str = "full",
    num_steps: int = len(LEARNING_RATES),
    clip: float = CLIP,
    packed: bool = False,
    grouped: bool = False,
    alpha: float | None = None,
) -> Reference:
    """Train the model in `folder`.

    `packed`: on the documents of each step's packs, a row for each; `alpha`: of NEFTune's noise.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[precision])
    if method == "lora":
        model = _with_adapters(model)
    batches = documents_of_packs(num_steps) if packed else global_batches(num_steps)
    steps = tuple(_train(model, batches, clip=clip, grouped=grouped, alpha=alpha))
    return Reference(steps, model.eval())


def global_batches(count: int) -> list[Batch]:
    """Whole global batches of the first `count` steps."""
    batches = GlobalBatches(training_rows(), Share(1, 0, GLOBAL_BATCH), seed=SEED, pad_token_id=PAD).with_noise_seeds()
    return [batches.step(index)[0] for index in range(count)]


def documents_of_packs(count: int) -> list[Batch]:
    """The same for packed rows: their documents, side by side."""
    rows, share = training_rows(), Share(1, 0, PACKED_BATCH)
    packed = GlobalBatches(rows, share, seed=SEED, pad_token_id=PAD, packs=training_packs())
    chosen = [rows.select(packed.row_numbers(index)) for index in range(count)]
    return [eval_batches(each, Share(1, 0, len(each)), pad_token_id=PAD)[0] for each in chosen]


def mean_loss(model: Any, batch: Batch, *, alpha: float | None = None) -> torch.Tensor:
    """Mean cross-entropy over the supervised tokens, in fp32; `alpha`: of NEFTune's noise."""
    embedded = model.get_input_embeddings()(batch["input_ids"])
    if alpha is not None:
        embedded = embedded + _noise(batch, embedded.shape[-1], alpha)
    logits = model(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).logits
    predicted, wanted = logits[:, :-1].float(), batch["labels"][:, 1:]
    return cross_entropy(predicted.flatten(0, 1), wanted.flatten(), ignore_index=-100)


def _noise(batch: Batch, width: int, alpha: float) -> torch.Tensor:
    """Of rows that are padded on the right: uniform, up to alpha / sqrt(length x width)."""
    noise = torch.zeros(*batch["input_ids"].shape, width)
    for row, seed in enumerate(batch["noise_seeds"].tolist()):
        length = int(batch["attention_mask"][row].sum())
        drawn = torch.rand(length, width, generator=torch.Generator().manual_seed(seed))
        noise[row, :length] = (drawn * 2 - 1) * alpha / math.sqrt(length * width)
    return noise


def _with_adapters(model: Any) -> Any:
    """peft's own adapters, drawn from the recipe's seed."""
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM")
    torch.manual_seed(SEED)
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def _train(model: Any, batches: Sequence[Batch], *, clip: float, grouped: bool, alpha: float | None) -> Iterator[Step]:
    """AdamW on fp32 weights; a bf16 or fp16 model computes on rounded copies of them."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters = list(named.values())
    masters = [p.detach().float().clone() for p in parameters]
    settings = [_settings_by_hand(name) if grouped else (WEIGHT_DECAY, 1.0) for name in named]
    groups = [
        {"params": [master], "weight_decay": decay, "ratio": ratio}
        for master, (decay, ratio) in zip(masters, settings, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)
    model.train()
    for batch, rate in zip(batches, LEARNING_RATES, strict=False):
        loss = mean_loss(model, batch, alpha=alpha)
        loss.backward()
        for master, parameter in zip(masters, parameters, strict=True):
            master.grad = parameter.grad.float()
            parameter.grad = None
        norm = torch.nn.utils.clip_grad_norm_(masters, clip)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["ratio"]
        optimizer.step()
        with torch.no_grad():
            for master, parameter in zip(masters, parameters, strict=True):
                parameter.copy_(master)
        yield Step(loss.item(), norm.item(), int((batch["labels"][:, 1:] != -100).sum()))


def _settings_by_hand(name: str) -> tuple[float, float]:
    """Weight decay and part of the learning rate that `GROUPS` means."""
    if ".layers.1." in name:
        return 0.1, 0.5
    if ".layers.0.mlp." in name:
        return 0.3, 2.0
    return (0.0 if "norm" in name or "embed_tokens" in name else 0.3), 1.0
