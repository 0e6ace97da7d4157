"""LoRA adapters by peft on a loaded model."""

from collections.abc import Collection
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model

from toolkit.errors import SpecError
from toolkit.models.names import ADAPTER_NAME
from toolkit.specs.lora import LoraConfig


def add_lora(model: Any, config: LoraConfig, *, rank: int, checkpointed: bool, trained: Collection[str] = ()) -> Any:
    """Freeze the model and add trainable adapters of the given rank to the named linear layers.

    Args:
        model: a loaded model.
        config: which layers, how strong.
        rank: of the adapters.
        checkpointed: the model's layers are computed again in the backward pass.
        trained: names of the model's own weights that train too. In their place, where peft's modules_to_save would
            train copies: that keeps the originals in memory, and takes a tied head apart without a word (peft #2777).

    Raises:
        SpecError: a target that no layer of the model has, a head that is tied to the embedding or trained in full.
    """
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if missing := sorted(set(config.targets) - linear):
        raise SpecError(
            f"lora.targets: no layer named {', '.join(missing)}; this model has {', '.join(sorted(linear))}"
        )
    if "lm_head" in config.targets and model.config.tie_word_embeddings:
        raise SpecError("lora.targets: lm_head is the embedding's own matrix in this model; leave it out")
    if "lm_head" in config.targets and "lm_head.weight" in trained:
        raise SpecError("lora.targets and modules_to_save both name lm_head; an adapter beside it adds nothing")
    adapted = get_peft_model(
        model, peft_config(config, rank=rank), adapter_name=ADAPTER_NAME, autocast_adapter_dtype=False
    )
    for name, parameter in model.named_parameters():
        if name in trained:
            parameter.requires_grad_(True)
    if checkpointed:
        # The embedding may be frozen: without this nothing that enters a checkpointed layer asks for gradients.
        model.enable_input_require_grads()
    return adapted


def set_magnitudes(part: torch.nn.Module) -> None:
    """Give the DoRA layers of a part their first magnitudes, once its weights have been read.

    peft takes them from the weights when it adds the adapters, where ours are not there yet. As there the adapters must
    be new: they change nothing, and the magnitudes are the lengths of the weights' rows.
    """
    layer: Any
    for layer in part.modules():
        if magnitudes := getattr(layer, "lora_magnitude_vector", None):
            length = torch.linalg.norm(layer.get_base_layer().weight.detach(), dim=1)
            magnitudes[ADAPTER_NAME].weight.data.copy_(length)


def peft_config(config: LoraConfig, *, rank: int) -> PeftLoraConfig:
    """The same adapters in peft's words, for training and for the file that goes with them."""
    return PeftLoraConfig(
        r=rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        use_dora=config.dora,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )
