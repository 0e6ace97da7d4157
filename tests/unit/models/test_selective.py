"""Selective checkpointing: the same gradients bit for bit, no product twice, and as many bytes kept as planned."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from toolkit.models.pretrained import checkpoint_activations
from toolkit.models.selective import Kept, selective
from toolkit.planner.memory.activations import layer_bytes, micro_batch_bytes
from toolkit.planner.resolve import setup_of
from toolkit.planner.setup import Setup
from toolkit.planner.strategy import Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

TOKENS, RANK = 256, 4
SHAPE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "use_cache": False,
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def model_of(
    mode: str, *, layers: int = 3, every: int = 1, lora: bool = False, precision: str = "fp32", attention: str = "sdpa"
) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, num_hidden_layers=layers, attn_implementation=attention)
    model: Any = LlamaForCausalLM(config).to(DTYPES[precision]).train()
    kept = selective(Kept(hidden=256, ffn=704, thin=RANK if lora else 0), compiled=False)
    if mode != "none":
        checkpoint_activations(model, adapters=lora, every=every, instead=kept if mode == "selective" else None)
    if not lora:
        return model
    model.enable_input_require_grads()
    adapted: Any = get_peft_model(
        model, LoraConfig(r=RANK, target_modules=TARGETS, init_lora_weights=False), autocast_adapter_dtype=False
    )
    return adapted


def gradients(model: Any) -> list[torch.Tensor]:
    ids = torch.arange(TOKENS)[None] % 160
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.requires_grad)]


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(("precision", "attention"), [("fp32", "sdpa"), ("fp32", "eager"), ("bf16", "sdpa")])
def test_nothing_changes(every: int, lora: bool, precision: str, attention: str) -> None:
    plain, selective = (
        gradients(model_of(mode, every=every, lora=lora, precision=precision, attention=attention))
        for mode in ("none", "selective")
    )
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(selective, plain, strict=True))


def flops(mode: str) -> int:
    """Of the products in a forward and a backward pass of one layer, head included; torch counts no CPU's attention."""
    model = model_of(mode, layers=1)
    with FlopCounterMode(display=False) as counted:
        gradients(model)
    return counted.get_total_flops()


def test_no_product_is_computed_twice() -> None:
    # `full` repeats all of the layer but its last one.
    repeated = 256 * (2 * 256 + 2 * 128 + 2 * 704)
    assert flops("selective") == flops("none")
    assert flops("full") == flops("none") + 2 * TOKENS * repeated


def planned(mode: str, *, lora: bool, precision: str) -> Setup:
    spec = ModelSpec.from_config(LlamaConfig(**SHAPE, num_hidden_layers=4).to_dict(), name="small")
    work: dict[str, Any] = {"seq_len": TOKENS, "global_batch": 1, "precision": precision}
    work |= {"method": "lora", "lora_rank": RANK} if lora else {}
    strategy = {"zero_stage": 0, "micro_batch": 1, "grad_accum": 1, "layout": {"dp": 1}}
    asked = Strategy.model_validate({**strategy, "activation_checkpointing": mode})
    return setup_of(spec, ClusterSpec.resolve("1xcpu"), workload=Workload.model_validate(work), strategy=asked)


def held_bytes(mode: str, *, layers: int, lora: bool, precision: str) -> int:
    """What torch has allocated in a forward pass and not given back."""
    model = model_of(mode, layers=layers, lora=lora, precision=precision)
    ids = torch.arange(TOKENS)[None] % 160
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = model(input_ids=ids)
    del kept
    return sum(event.nbytes() for event in seen.profiler.kineto_results.events() if event.name() == "[memory]")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [False, True])
def test_a_layer_keeps_what_is_planned(lora: bool, precision: str) -> None:
    # What lies outside of the layers goes out: two layers more.
    many, few = (held_bytes("selective", layers=layers, lora=lora, precision=precision) for layers in (3, 1))
    setup = planned("selective", lora=lora, precision=precision)
    assert (many - few) / 2 == pytest.approx(micro_batch_bytes(setup).kept, rel=0.02)
    assert (many - few) / 2 < 0.6 * layer_bytes(setup)


@pytest.mark.parametrize(
    ("inner", "outputs", "tp", "thin", "kept"),
    [
        (4096, 14_336, 1, 0, True),
        (4096, 4096, 1, 0, True),
        (14_336, 4096, 1, 0, False),  # the last one
        (16, 4096, 1, 16, False),  # of an adapter
        (4096, 16, 1, 16, True),
        (2048, 4096, 2, 0, False),  # summed over the ranks
        (4096, 2048, 2, 0, True),
    ],
)
def test_which_products_are_kept(inner: int, outputs: int, tp: int, thin: int, kept: bool) -> None:
    assert Kept(hidden=4096, ffn=14_336 // tp, tp=tp, thin=thin).product(inner, outputs) == kept
