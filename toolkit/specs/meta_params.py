"""Meta's description of a LLaMA, params.json: read and checked, made from a model's shapes, turned into config.json.

Sources: meta-llama/llama `model.py` and meta-llama/llama-models `models/llama3/args.py`, `models/llama3/model.py` for
the keys, their defaults and the formulas; the releases' own config.json files for what params.json leaves out.
"""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from toolkit.errors import SpecError
from toolkit.specs.base import Spec
from toolkit.specs.model import ModelSpec, RopeScaling
from toolkit.specs.model_source import find_config

_LLAMA3_THETA = 500_000.0
_LLAMA3_VOCABULARY = 128_256
# 256 is the default; larger ones came with the larger models, smaller ones suit small models.
_MULTIPLES = (256, 512, 1024, 2048, 4096, 128, 64, 32, 16, 8, 4, 2, 1)
_MULTIPLIERS = (None, 1.3, 1.2, 1.5, 1.0)


class MetaParams(Spec):
    """The keys of params.json; the tensors beside it say the rest."""

    dim: int = Field(gt=0)
    """Width of the residual stream."""
    n_layers: int = Field(gt=0)
    """Decoder layers."""
    n_heads: int = Field(gt=0)
    """Query heads."""
    n_kv_heads: int | None = Field(default=None, gt=0)
    """Key and value heads; as many as query heads where it is not given."""
    vocab_size: int | None = Field(default=None, gt=0)
    """Rows of the embedding; the releases before Llama 3 write -1, which is read as not given."""
    multiple_of: int = Field(default=256, gt=0)
    """The width inside the MLP is rounded up to a multiple of this."""
    ffn_dim_multiplier: float | None = Field(default=None, gt=0)
    """Widens the MLP."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Added to the variance in each norm."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies."""
    use_scaled_rope: bool = False
    """True where the rotary frequencies are stretched as in Llama 3.1."""
    max_seq_len: int | None = Field(default=None, gt=0)
    """Longest sequence in tokens; the releases do not say it."""
    max_batch_size: int | None = None
    """Of Meta's own generation; not used here."""

    @field_validator("vocab_size", mode="before")
    @classmethod
    def _not_given(cls, value: Any) -> Any:
        return None if value == -1 else value

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % (2 * self.n_heads):
            raise ValueError(f"dim {self.dim} is not a multiple of 2 x {self.n_heads} heads; correct params.json")
        if self.n_heads % self.num_kv_heads:
            raise ValueError(f"{self.n_heads} heads are not a multiple of n_kv_heads {self.num_kv_heads}; correct it")
        return self

    @property
    def num_kv_heads(self) -> int:
        """Key and value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.n_heads

    @property
    def inner_size(self) -> int:
        """Width inside the MLP."""
        return _inner_size(self.dim, self.multiple_of, self.ffn_dim_multiplier)

    @property
    def splits_rows(self) -> bool:
        """True where Meta's code divides the embedding by rows (Llama 3), False where by columns (before it)."""
        return self.rope_theta == _LLAMA3_THETA

    def rope_factor(self, *, tied: bool) -> float | None:
        """How far low rotary frequencies are stretched; None: not.

        Args:
            tied: the head is the embedding; params.json does not tell such models from others.
        """
        return _factor(tied=tied) if self.use_scaled_rope else None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read params.json.

        Raises:
            SpecError: no such file, no JSON, unknown keys (other architectures have them), or wrong values.
        """
        return cls.parse(find_config(path)[0], source=str(path))

    @classmethod
    def of_model(cls, spec: ModelSpec, *, norm_eps: float) -> Self:
        """The keys from which Meta's code makes this model.

        Raises:
            SpecError: Meta's layout cannot say what the model has; all of it at once.
        """
        stretch = _stretching(_factor(tied=spec.tied_embeddings))
        needed = {
            "model_type": (spec.model_type, "llama"),
            "attention_bias": (spec.attention_bias, False),
            "mlp_bias": (spec.mlp_bias, False),
            "head_dim": (spec.head_dim, spec.hidden_size // spec.num_heads),
        }
        faults = [f"{key} is {given}, needs {wanted}" for key, (given, wanted) in needed.items() if given != wanted]
        if spec.rope_scaling not in (None, stretch):
            faults.append(f"rope_scaling is {_told(spec.rope_scaling)}, needs none or {_told(stretch)}")
        if faults:
            raise SpecError(
                f"{spec.name}: {'; '.join(faults)}: Meta's layout knows nothing else, keep the model as it is"
            )
        multiple_of, multiplier = _mlp_keys(spec.hidden_size, spec.intermediate_size)
        given = {
            "dim": spec.hidden_size,
            "n_layers": spec.num_layers,
            "n_heads": spec.num_heads,
            "n_kv_heads": spec.num_kv_heads,
            "vocab_size": spec.vocab_size,
            "multiple_of": multiple_of,
            "ffn_dim_multiplier": multiplier,
            "norm_eps": norm_eps,
            "rope_theta": spec.rope_theta,
            "use_scaled_rope": spec.rope_scaling is not None,
        }
        return cls.parse(given, source=spec.name)

    def content(self) -> dict[str, Any]:
        """What params.json holds: no key that this model does not need, as Meta's older code refuses newer keys."""
        same = {"n_kv_heads"} if self.num_kv_heads == self.n_heads else set()
        written = self.model_dump(exclude_defaults=True, exclude=same)
        return written | {"multiple_of": self.multiple_of, "norm_eps": self.norm_eps}

    def config(self, *, vocab_size: int, tied: bool, dtype: str, max_seq_len: int | None) -> dict[str, Any]:
        """The content of config.json, with the keys that transformers 4 and 5 both read.

        Args:
            vocab_size: rows of the embedding.
            tied: the head is the embedding.
            dtype: of the weights, as `bfloat16`.
            max_seq_len: longest sequence in tokens; None: that of the release with such params.
        """
        begin, end = (128_000, 128_001) if vocab_size == _LLAMA3_VOCABULARY else (1, 2)
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": begin,
            "eos_token_id": end,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.dim,
            "initializer_range": 0.02,
            "intermediate_size": self.inner_size,
            "max_position_embeddings": self._max_seq_len() if max_seq_len is None else max_seq_len,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.n_heads,
            "num_hidden_layers": self.n_layers,
            "num_key_value_heads": self.num_kv_heads,
            "rms_norm_eps": self.norm_eps,
            "rope_scaling": _stretching(_factor(tied=tied)).model_dump() if self.use_scaled_rope else None,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": tied,
            "torch_dtype": dtype,
            "use_cache": True,
            "vocab_size": vocab_size,
        }

    def _max_seq_len(self) -> int:
        if self.max_seq_len is not None:
            return self.max_seq_len
        if self.use_scaled_rope:
            return 131_072  # Llama 3.1 and later
        if self.rope_theta > 10_000:
            return 8192 if self.rope_theta == _LLAMA3_THETA else 16_384  # Llama 3, Code Llama
        return 2048 if self.norm_eps == 1e-6 else 4096  # LLaMA 1, Llama 2


def _inner_size(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Source: `FeedForward.__init__` of Meta's model.py."""
    inner = int(2 * 4 * dim / 3)
    if multiplier is not None:
        inner = int(multiplier * inner)
    return multiple_of * ((inner + multiple_of - 1) // multiple_of)


def _mlp_keys(dim: int, inner_size: int) -> tuple[int, float | None]:
    """`multiple_of` and `ffn_dim_multiplier` that give this width: those of the releases where they do."""
    for multiplier in _MULTIPLIERS:
        for multiple_of in _MULTIPLES:
            if _inner_size(dim, multiple_of, multiplier) == inner_size:
                return multiple_of, multiplier
    # The half keeps a product that comes out a little below a whole number from losing 1 in rounding down.
    return 1, (inner_size + 0.5) / int(2 * 4 * dim / 3)


def _factor(*, tied: bool) -> float:
    """8 in Meta's code and in the config.json of 3.1 and 3.3; 32 in those of the models with a tied head (3.2)."""
    return 32.0 if tied else 8.0


def _stretching(factor: float) -> RopeScaling:
    return RopeScaling(
        rope_type="llama3",
        factor=factor,
        original_max_position_embeddings=8192,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
    )


def _told(scaling: RopeScaling | None) -> str:
    return "none" if scaling is None else ", ".join(f"{key} {value}" for key, value in scaling if value is not None)
