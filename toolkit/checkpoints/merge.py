"""Folds LoRA adapters into the weights they belong to while the weights stream by."""

from collections.abc import Iterator

import torch

from toolkit.models.names import plain_name


def merge_lora(
    weights: Iterator[tuple[str, torch.Tensor]], *, scale: float, dora: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    """Plain weights `W + scale * B @ A` under the base model's own names.

    With DoRA each row of that gets the length that was learnt for it (2402.09353, equation 5).

    Args:
        weights: names and tensors in peft's order: `base_layer.weight` [out, in], then its `lora_A` [rank, in] and
            `lora_B` [out, rank], and with DoRA its `lora_magnitude_vector` [out].
        scale: of the adapters, `LoraConfig.scale`.
        dora: there are magnitudes.
    """
    base: tuple[str, torch.Tensor] | None = None
    lora_a = merged = None
    for name, tensor in weights:
        plain = plain_name(name)
        if ".base_layer.weight" in name:
            base = (plain, tensor)
        elif ".lora_A." in plain:
            lora_a = tensor
        elif ".lora_B." in plain:
            assert base is not None, f"{name} came before the weight that it adapts"
            assert lora_a is not None, f"{name} came before its lora_A"
            # The product in fp32: bf16 would lose the update's low bits twice.
            merged = base[1].float() + scale * (tensor.float() @ lora_a.float())
            if not dora:
                yield base[0], merged.to(base[1].dtype)
                base = lora_a = merged = None
        elif ".lora_magnitude_vector." in plain:
            assert base is not None, f"{name} came before the weight that it adapts"
            assert merged is not None, f"{name} came before its lora_B"
            length = torch.linalg.norm(merged, dim=1, keepdim=True)
            yield base[0], (merged * (tensor.float()[:, None] / length)).to(base[1].dtype)
            base = lora_a = merged = None
        else:
            yield plain, tensor
