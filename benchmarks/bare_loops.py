"""What one writes by hand with DeepSpeed: its engine, the model's own loss, nothing measured."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.pipe import LayerSpec, PipelineModule
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

Step = Callable[[Sequence[Any]], None]


def zero_loop(model: str | Path, config: dict[str, Any], learning_rate: float) -> Step:
    """ZeRO, with AutoTP where the config asks for it: DeepSpeed's documented way."""
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=learning_rate, fused=True)
    engine, *_ = deepspeed.initialize(model=whole, optimizer=optimizer, config=config)

    def step(micro_batches: Sequence[Any]) -> None:
        for batch in micro_batches:
            loss = engine(**batch, use_cache=False).loss
            engine.backward(loss)
            engine.step()

    return step


def pipeline_loop(model: str | Path, config: dict[str, Any], learning_rate: float, *, stages: Sequence[int]) -> Step:
    """PipelineEngine over the layers of `transformers`, divided as the plan divides them."""
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    starts = [sum(stages[:index]) for index in range(len(stages))]
    bodies = [LayerSpec(_Layers, whole, start, start + count) for start, count in zip(starts, stages, strict=True)]
    module = PipelineModule(
        layers=[LayerSpec(_Tokens, whole), *bodies, LayerSpec(_Logits, whole)],
        num_stages=len(stages),
        loss_fn=_mean_loss,
        partition_method="type:_Layers",
        dynamic_shape=True,
    )
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, fused=True)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)

    def step(micro_batches: Sequence[Any]) -> None:
        pairs = (((batch["input_ids"], batch["attention_mask"]), batch["labels"]) for batch in micro_batches)
        engine.train_batch(data_iter=pairs)

    return step


class _Tokens(torch.nn.Module):
    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.embed_tokens = whole.model.embed_tokens

    def forward(self, inputs: Any) -> Any:
        ids, mask = inputs
        return self.embed_tokens(ids), mask


class _Layers(torch.nn.Module):
    def __init__(self, whole: Any, first: int, last: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(whole.model.layers[first:last])
        self.rotary = whole.model.rotary_emb

    def forward(self, inputs: Any) -> Any:
        # Rows are padded on the right, where causal attention does not look: no mask.
        hidden, mask = inputs
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        embedded = self.rotary(hidden, position_ids=positions)
        for layer in self.layers:
            hidden = layer(hidden, position_ids=positions, position_embeddings=embedded)
        return hidden, mask


class _Logits(torch.nn.Module):
    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.norm, self.lm_head = whole.model.norm, whole.lm_head

    def forward(self, inputs: Any) -> Any:
        return self.lm_head(self.norm(inputs[0]))


def _mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
