"""A model's config.json as a `transformers` configuration: the keys that describe a LLaMA, and no others.

`transformers` makes an attribute of whatever the file holds and acts on some of it: `auto_map` names code to import,
`attn_implementation` a kernel to download, and what was read is written out again with the fine-tuned model.
"""

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, LlamaConfig, MistralConfig

from toolkit.errors import SpecError
from toolkit.specs.model import ModelSpec
from toolkit.specs.model_source import own_config, weights_source

_KEPT = (
    "architectures",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "pretraining_tp",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "tokenizer_class",
    "vocab_size",
)
_GENERATION = (
    "bos_token_id",
    "do_sample",
    "max_length",
    "max_new_tokens",
    "min_p",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
)
# Of all that transformers knows these import nothing further.
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")


def load_config(name: str) -> LlamaConfig | MistralConfig:
    """The configuration of a checkpoint; code that it names is neither run nor fetched nor passed on.

    Args:
        name: folder, hub id or catalog name.

    Raises:
        SpecError: no config.json, one of another architecture, or one that changes what the weights mean.
    """
    given, source = own_config(name)
    kind = ModelSpec.from_config(given, name=name, source=source).model_type
    if given.get("quantization_config") is not None:
        raise SpecError(f"{source}: holds `quantization_config`, needs plain weights; give the model it was made from")
    if kind == "mistral" and given.get("layer_types") is not None:
        raise SpecError(f"{source}: `layer_types` differ from layer to layer, which is not supported; give a Mistral")
    if (activation := given.get("hidden_act", "silu")) not in _ACTIVATIONS:
        raise SpecError(f"{source}: hidden_act is {activation!r}, needs one of {', '.join(_ACTIVATIONS)}")
    kept: dict[str, Any] = {key: given[key] for key in _KEPT if key in given}
    if "rope_parameters" in kept:
        kept.pop("rope_scaling", None)  # their name since transformers 5: of the two the plan counts with the new one
    # By the name transformers knows checkpoints whose tokenizers are not what their files say.
    kept["name_or_path"] = weights_source(name)
    try:
        return MistralConfig(**kept) if kind == "mistral" else LlamaConfig(**kept)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise SpecError(f"{source}: cannot be used ({reason}); correct config.json") from None


def load_generation(name: str) -> GenerationConfig:
    """How a checkpoint generates: the numbers of its generation_config.json, or what its config.json says.

    Never an error: it is asked for when training has ended.
    """
    try:
        found = GenerationConfig.from_pretrained(weights_source(name)).to_dict()
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError):
        # Old checkpoints have none; the token ids in config.json say enough.
        return GenerationConfig.from_model_config(load_config(name))
    numbers = {key: found[key] for key in _GENERATION if isinstance(found.get(key), int | float)}
    return GenerationConfig(**numbers)
