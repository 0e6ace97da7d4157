"""Folds LoRA adapters into the weights they belong to while the weights stream by."""

from collections.abc import Iterator

import torch

from toolkit.models.lora import PEFT_PREFIX


def merge_lora(weights: Iterator[tuple[str, torch.Tensor]], *, scale: float) -> Iterator[tuple[str, torch.Tensor]]:
    """Plain weights `W + scale * B @ A` under the base model's own names.

    Args:
        weights: names and tensors in peft's order: `base_layer.weight` [out, in], then its `lora_A` [rank, in] and
            `lora_B` [out, rank].
        scale: of the adapters, `LoraConfig.scale`.
    """
    base: tuple[str, torch.Tensor] | None = None
    lora_a: torch.Tensor | None = None
    for name, tensor in weights:
        plain = name.removeprefix(PEFT_PREFIX)
        if ".lora_A." in plain:
            lora_a = tensor
        elif ".lora_B." in plain:
            assert base is not None, f"{name} came before the weight that it adapts"
            assert lora_a is not None, f"{name} came before its lora_A"
            # The product in fp32: bf16 would lose the update's low bits twice.
            delta = scale * (tensor.float() @ lora_a.float())
            yield base[0], (base[1].float() + delta).to(base[1].dtype)
            base = lora_a = None
        elif ".base_layer.weight" in plain:
            base = (plain.replace(".base_layer.weight", ".weight"), tensor)
        else:
            yield plain.replace(".base_layer.", "."), tensor
