"""The model: its shapes, and how many parameters follow from them."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from toolkit.errors import SpecError
from toolkit.specs.base import Spec
from toolkit.specs.model_source import find_config

ModelType = Literal["llama", "mistral"]
CheckpointDtype = Literal["float32", "bfloat16", "float16"]

ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR_LAYERS = (*ATTENTION_LAYERS, "gate_proj", "up_proj", "down_proj")
"""The linear layers of one decoder layer, by their names in transformers."""

# Far beyond any model; with 10^9 layers in a config.json a plan would take for ever.
_MAX_SIZE = 10_000_000
_MAX_LAYERS = 10_000
_SHAPES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "max_position_embeddings": "max_position_embeddings",
}


class RopeScaling(Spec):
    """How rotary embeddings are stretched beyond the pretrained length; the keys of transformers' `rope_scaling`."""

    rope_type: Literal["linear", "dynamic", "yarn", "longrope", "llama3"]
    """Kind of stretching."""
    factor: float | None = None
    """How many times longer than pretrained."""
    original_max_position_embeddings: int | None = None
    """Pretrained length in tokens."""
    low_freq_factor: float | None = None
    """llama3: where the fully stretched frequencies begin."""
    high_freq_factor: float | None = None
    """llama3: where the untouched frequencies begin."""


class ModelSpec(Spec):
    """Shapes of a LLaMA-family decoder; everything the planner knows of a model."""

    name: str
    """Folder, file, hub id or catalog name, as it was given."""
    model_type: ModelType
    """Architecture: llama or mistral (the same layers, but for the sliding window)."""
    vocab_size: int = Field(gt=0, le=_MAX_SIZE)
    """Rows of the embedding and of the head."""
    hidden_size: int = Field(gt=0, le=_MAX_SIZE)
    """Width of the residual stream."""
    intermediate_size: int = Field(gt=0, le=_MAX_SIZE)
    """Width inside the MLP."""
    num_layers: int = Field(gt=0, le=_MAX_LAYERS)
    """Decoder layers."""
    num_heads: int = Field(gt=0, le=_MAX_SIZE)
    """Query heads."""
    num_kv_heads: int = Field(gt=0, le=_MAX_SIZE)
    """Key and value heads; each serves num_heads / num_kv_heads query heads."""
    head_dim: int = Field(gt=0, le=_MAX_SIZE)
    """Width of one head; not always hidden_size / num_heads (Mistral-Nemo)."""
    tied_embeddings: bool = False
    """True where the head is the embedding's own matrix."""
    attention_bias: bool = False
    """True where q, k, v and o have biases."""
    mlp_bias: bool = False
    """True where gate, up and down have biases."""
    max_position_embeddings: int = Field(gt=0)
    """Longest sequence in tokens that the model was made for."""
    norm_eps: float | None = Field(default=None, gt=0)
    """Added to the mean square in each norm; None where it is not known. It changes no count."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Stretching of the rotary frequencies, where there is one."""
    sliding_window: int | None = Field(default=None, gt=0)
    """Tokens that a token attends to, itself among them; all before it where None. It changes no count."""
    dtype: CheckpointDtype = "float32"
    """Type of the weights in the checkpoint."""
    added_rows: int = Field(default=0, ge=0)
    """Rows of `vocab_size`, the last ones, that the checkpoint lacks: for new tokens."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.num_heads} attention heads are not a multiple of {self.num_kv_heads} key-value heads; "
                "correct num_key_value_heads"
            )
        return self

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear layer of one decoder layer."""
        hidden, inner = self.hidden_size, self.intermediate_size
        query, key_value = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (hidden, query),
            "k_proj": (hidden, key_value),
            "v_proj": (hidden, key_value),
            "o_proj": (query, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    @property
    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of one decoder layer, by its name inside the layer in transformers."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (inputs, outputs) in self.linear_shapes.items():
            block, bias = ("self_attn", self.attention_bias) if layer in ATTENTION_LAYERS else ("mlp", self.mlp_bias)
            shapes[f"{block}.{layer}.weight"] = (outputs, inputs)
            if bias:
                shapes[f"{block}.{layer}.bias"] = (outputs,)
        norms = ("input_layernorm.weight", "post_attention_layernorm.weight")
        return shapes | dict.fromkeys(norms, (self.hidden_size,))

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of the whole model, by its name in a checkpoint; a tied head has none of its own."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, self.hidden_size)}
        for layer in range(self.num_layers):
            shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in self.layer_shapes.items()}
        shapes["model.norm.weight"] = (self.hidden_size,)
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, self.hidden_size)
        return shapes

    @property
    def layer_params(self) -> int:
        """Parameters of one decoder layer with its two norms."""
        return sum(math.prod(shape) for shape in self.layer_shapes.values())

    @property
    def embedding_params(self) -> int:
        """Parameters of the token embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def head_params(self) -> int:
        """Parameters that the head adds: 0 where it is tied to the embedding."""
        return 0 if self.tied_embeddings else self.vocab_size * self.hidden_size

    @property
    def num_params(self) -> int:
        """All parameters, the tied head counted once: what transformers' causal-LM class has."""
        final_norm = self.hidden_size
        return self.embedding_params + self.num_layers * self.layer_params + final_norm + self.head_params

    def num_trainable_params(
        self, method: Literal["full", "lora"], lora_rank: int, *, targets: Collection[str] = LINEAR_LAYERS
    ) -> int:
        """Parameters that receive gradients: all of them, or rank x (inputs + outputs) per adapted linear layer.

        Args:
            method: as in `Workload.method`.
            lora_rank: as in `Workload.lora_rank`; counts with `lora` only.
            targets: linear layers that get an adapter.

        Source: LoRA (arXiv 2106.09685) section 4.1: W + BA with B: outputs x rank, A: rank x inputs.
        """
        if method == "full":
            return self.num_params
        adapted = (shape for layer, shape in self.linear_shapes.items() if layer in targets)
        return self.num_layers * sum(lora_rank * (inputs + outputs) for inputs, outputs in adapted)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, name: str, source: str | None = None) -> Self:
        """Read the keys of a config.json, as transformers 4 or 5 or the first LLaMA ports wrote them.

        Args:
            config: the file's content.
            name: becomes `ModelSpec.name`.
            source: opens an error's message; the name where it is not given.

        Raises:
            SpecError: another architecture, missing keys, or shapes that do not fit together.
        """
        where = source or name
        model_type = _model_type(config, where)
        if "max_position_embeddings" not in config and "max_sequence_length" in config:
            config = {**config, "max_position_embeddings": config["max_sequence_length"]}
        if missing := [key for key in _SHAPES if config.get(key) is None]:
            raise SpecError(f"{where}: lacks {', '.join(missing)}; give the model's complete config.json")
        shapes = {
            key: config[key] for key in (*_SHAPES, "num_key_value_heads", "head_dim") if config.get(key) is not None
        }
        if wrong := [f"{key} {value!r}" for key, value in shapes.items() if type(value) is not int or value < 1]:
            raise SpecError(f"{where}: {', '.join(wrong)}; needed are whole numbers above 0, correct config.json")
        hidden, heads = shapes["hidden_size"], shapes["num_attention_heads"]
        if "head_dim" not in shapes and hidden % heads:
            raise SpecError(
                f"{where}: hidden_size {hidden} is not a multiple of {heads} heads; add head_dim or correct it"
            )
        # transformers' MistralConfig has 8 key-value heads where the key is missing (but not where it is null).
        grouped = model_type == "mistral" and "num_key_value_heads" not in config
        given = {
            **{field: shapes[key] for key, field in _SHAPES.items()},
            **_rope(config),
            "name": name,
            "model_type": model_type,
            "num_kv_heads": shapes.get("num_key_value_heads", 8 if grouped else heads),
            "head_dim": shapes.get("head_dim", hidden // heads),
            "tied_embeddings": config.get("tie_word_embeddings") or False,
            "attention_bias": model_type == "llama" and (config.get("attention_bias") or False),
            "mlp_bias": model_type == "llama" and (config.get("mlp_bias") or False),
            "norm_eps": config.get("rms_norm_eps"),
            # transformers' MistralConfig has a window of 4096 where the key is missing (but not where it is null).
            "sliding_window": config.get("sliding_window", 4096) if model_type == "mistral" else None,
            "dtype": str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch."),
        }
        return cls.parse(given, source=where)

    @classmethod
    def resolve(cls, name: str | Path) -> Self:
        """Find a model by folder, config.json file, catalog name or hub id, in this order.

        A hub id that the catalog does not know is looked up in the local Hugging Face cache and then downloaded.

        Raises:
            SpecError: nothing of that name, or its config.json cannot be used.
        """
        config, source = find_config(name)
        return cls.from_config(config, name=str(name), source=source)


def _model_type(config: Mapping[str, Any], where: str) -> str:
    given = config.get("model_type")
    architectures = config.get("architectures")
    if given is None and isinstance(architectures, list) and architectures:
        # The first LLaMA ports wrote architectures ["LLaMAForCausalLM"] and sometimes no model_type.
        given = str(architectures[0]).lower().removesuffix("forcausallm")
    if given not in ("llama", "mistral"):
        raise SpecError(f"{where}: model_type is {given!r}; supported are llama and mistral, give one of that family")
    return str(given)


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` from transformers 5's `rope_parameters` or the two keys of transformers 4."""
    given = (config.get("rope_scaling"), config.get("rope_parameters"))
    rope = {key: value for part in given if isinstance(part, Mapping) for key, value in part.items()}
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
    kind = rope.get("rope_type") or rope.get("type") or "default"
    known = {key: rope[key] for key in RopeScaling.model_fields if key in rope}
    return {"rope_theta": theta, "rope_scaling": None if kind == "default" else {**known, "rope_type": kind}}
