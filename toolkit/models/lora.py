"""LoRA adapters by peft on a loaded model."""

from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model

from toolkit.errors import SpecError
from toolkit.specs.lora import LoraConfig

PEFT_PREFIX = "base_model.model."
"""Opens the name of every weight of an adapted model."""

ADAPTER_NAME = "default"
"""peft's own name of the only adapter: part of its weights' names in a model, not in a file."""


def add_lora(model: Any, config: LoraConfig, *, rank: int, checkpointed: bool) -> Any:
    """Freeze the model and add trainable adapters of the given rank to the named linear layers.

    Args:
        model: a loaded model.
        config: which layers, how strong.
        rank: of the adapters.
        checkpointed: the model's layers are computed again in the backward pass.

    Raises:
        SpecError: a target that no layer of the model has, or a head that is tied to the embedding.
    """
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if missing := sorted(set(config.targets) - linear):
        raise SpecError(
            f"lora.targets: no layer named {', '.join(missing)}; this model has {', '.join(sorted(linear))}"
        )
    if "lm_head" in config.targets and model.config.tie_word_embeddings:
        raise SpecError("lora.targets: lm_head is the embedding's own matrix in this model; leave it out")
    adapted = get_peft_model(
        model, peft_config(config, rank=rank), adapter_name=ADAPTER_NAME, autocast_adapter_dtype=False
    )
    if checkpointed:
        # The embedding is frozen: without this nothing that enters a checkpointed layer asks for gradients.
        model.enable_input_require_grads()
    return adapted


def peft_config(config: LoraConfig, *, rank: int) -> PeftLoraConfig:
    """The same adapters in peft's words, for training and for the file that goes with them."""
    return PeftLoraConfig(
        r=rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )
