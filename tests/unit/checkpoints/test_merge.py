"""Merged adapters are peft's own merge, under the base model's names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from ranks.settings import LORA_TARGETS
from toolkit.checkpoints.merge import merge_lora
from toolkit.models.lora import peft_config
from toolkit.specs.lora import LoraConfig

RANK, ALPHA = 4, 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", [LORA_TARGETS, ("q_proj", "down_proj")])
@pytest.mark.parametrize("variant", [{}, {"rslora": True}, {"dora": True}], ids=str)
def test_equals_peft(base: Path, targets: tuple[str, ...], dtype: torch.dtype, variant: dict[str, Any]) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    ours = LoraConfig(alpha=ALPHA, targets=targets, **variant)
    config = peft_config(ours, rank=RANK)
    config.init_lora_weights = False
    torch.manual_seed(0)
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    for name, parameter in adapted.named_parameters():
        if ".lora_magnitude_vector." in name:
            parameter.data *= 1.5

    stream = merge_lora(adapted.named_parameters(), scale=ours.scale(RANK), dora=ours.dora)
    merged = {name: tensor.clone() for name, tensor in stream}
    before = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).state_dict()
    expected = dict(adapted.merge_and_unload().named_parameters())

    assert list(merged) == list(expected)
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in expected if name.split(".")[-2] in targets}
    # bf16: peft rounds the update before it adds it, we round the sum alone; one unit of the last of 8 bits, and with
    # DoRA, whose lengths and factors it rounds too, some more.
    relative = 1e-6 if dtype == torch.float32 else 2**-5 if ours.dora else 2**-7
    for name, tensor in merged.items():
        assert tensor.dtype == dtype
        torch.testing.assert_close(tensor, expected[name], rtol=relative, atol=relative / 10)


def test_bf16_merge_rounds_once(base: Path) -> None:
    """Closer to the merge in fp32 than half a unit in the last place."""
    weight = torch.randn(32, 16).bfloat16()
    lora_a, lora_b = torch.randn(4, 16).bfloat16(), torch.randn(32, 4).bfloat16()
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    stream = [
        (f"{layer}.base_layer.weight", weight),
        (f"{layer}.lora_A.default.weight", lora_a),
        (f"{layer}.lora_B.default.weight", lora_b),
    ]
    ((name, merged),) = merge_lora(iter(stream), scale=0.5)
    assert name == "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(merged, (weight.float() + 0.5 * lora_b.float() @ lora_a.float()).bfloat16())


def test_biases_keep_their_place() -> None:
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    stream = [
        ("base_model.model.model.embed_tokens.weight", torch.zeros(1)),
        (f"{layer}.base_layer.weight", torch.zeros(2, 2)),
        (f"{layer}.base_layer.bias", torch.ones(2)),
        (f"{layer}.lora_A.default.weight", torch.ones(1, 2)),
        (f"{layer}.lora_B.default.weight", torch.ones(2, 1)),
    ]
    merged = dict(merge_lora(iter(stream), scale=3.0))
    plain = "model.layers.0.self_attn.q_proj"
    assert merged.keys() == {"model.embed_tokens.weight", f"{plain}.weight", f"{plain}.bias"}
    assert torch.equal(merged[f"{plain}.weight"], torch.full((2, 2), 3.0))
    assert torch.equal(merged[f"{plain}.bias"], torch.ones(2))


@pytest.mark.parametrize(("rslora", "expected"), [(False, 0.5), (True, 2.0)])
def test_scale_by_hand(rslora: bool, expected: float) -> None:
    assert LoraConfig(alpha=8, rslora=rslora).scale(16) == expected
