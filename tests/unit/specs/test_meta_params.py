"""params.json: read as Meta's code reads it, written so that Meta's code makes the same model."""

import json
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import SpecError
from toolkit.specs.meta_params import MetaParams
from toolkit.specs.model import ModelSpec

# As in the releases; inner_size and max_position_embeddings are those of their config.json files.
RELEASES: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "LLaMA 7B": (
        {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1},
        32_000,
        11_008,
        2048,
    ),
    "Llama 2 70B": (
        {
            "dim": 8192,
            "multiple_of": 4096,
            "ffn_dim_multiplier": 1.3,
            "n_heads": 64,
            "n_kv_heads": 8,
            "n_layers": 80,
            "norm_eps": 1e-05,
            "vocab_size": -1,
        },
        32_000,
        28_672,
        4096,
    ),
    "Llama 3.1 8B": (
        {
            "dim": 4096,
            "ffn_dim_multiplier": 1.3,
            "multiple_of": 1024,
            "n_heads": 32,
            "n_kv_heads": 8,
            "n_layers": 32,
            "norm_eps": 1e-05,
            "rope_theta": 500000.0,
            "use_scaled_rope": True,
            "vocab_size": 128256,
        },
        128_256,
        14_336,
        131_072,
    ),
    "Code Llama 7B": (
        {
            "dim": 4096,
            "n_layers": 32,
            "n_heads": 32,
            "multiple_of": 256,
            "ffn_dim_multiplier": 1.0,
            "norm_eps": 1e-5,
            "rope_theta": 1000000,
        },
        32_016,
        11_008,
        16_384,
    ),
}


def model_of(params: MetaParams, vocab_size: int, *, tied: bool = False) -> ModelSpec:
    config = params.config(vocab_size=vocab_size, tied=tied, dtype="bfloat16", max_seq_len=None)
    return ModelSpec.from_config(config, name="model")


@pytest.mark.parametrize("name", RELEASES)
def test_releases(name: str) -> None:
    content, vocab_size, inner_size, longest = RELEASES[name]
    params = MetaParams.parse(content, source=name)
    spec = model_of(params, vocab_size)
    assert (params.inner_size, spec.intermediate_size) == (inner_size, inner_size)
    assert spec.max_position_embeddings == longest
    assert params.splits_rows == name.startswith("Llama 3")
    assert spec.num_kv_heads == content.get("n_kv_heads", content["n_heads"])
    again = MetaParams.of_model(spec, norm_eps=params.norm_eps)
    assert model_of(again, vocab_size) == spec
    # The same keys too, but for a vocabulary that is known now, another multiple and a factor of 1, which say the same.
    expected = {key: value for key, value in content.items() if (key, value) != ("ffn_dim_multiplier", 1.0)}
    assert again.content() == expected | {"vocab_size": vocab_size, "multiple_of": again.multiple_of}


@pytest.mark.parametrize(("tied", "factor"), [(False, 8.0), (True, 32.0)])
def test_stretched_frequencies(tied: bool, factor: float) -> None:
    params = MetaParams.parse(RELEASES["Llama 3.1 8B"][0], source="params")
    spec = model_of(params, 128_256, tied=tied)
    assert spec.rope_scaling is not None
    assert spec.rope_scaling.factor == params.rope_factor(tied=tied) == factor
    assert MetaParams.of_model(spec, norm_eps=1e-5).use_scaled_rope


def test_special_tokens_and_lengths() -> None:
    params = MetaParams.parse({**RELEASES["LLaMA 7B"][0], "max_seq_len": 77}, source="params")
    config = params.config(vocab_size=32_000, tied=False, dtype="float16", max_seq_len=None)
    assert (config["bos_token_id"], config["eos_token_id"], config["max_position_embeddings"]) == (1, 2, 77)
    config = params.config(vocab_size=128_256, tied=False, dtype="float16", max_seq_len=99)
    assert (config["bos_token_id"], config["eos_token_id"]) == (128_000, 128_001)
    assert config["max_position_embeddings"] == 99
    assert MetaParams.parse({**RELEASES["LLaMA 7B"][0], "rope_theta": 5e5}, source="x")._max_seq_len() == 8192


@pytest.mark.parametrize("inner_size", [1, 172, 1000, 8191, 8192, 13_717, 65_536])
@pytest.mark.parametrize("dim", [64, 96, 4096])
def test_any_width_of_the_mlp_can_be_said(dim: int, inner_size: int) -> None:
    config = {
        "model_type": "llama",
        "vocab_size": 10,
        "hidden_size": dim,
        "intermediate_size": inner_size,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 9,
    }
    spec = ModelSpec.from_config(config, name="model")
    written = json.loads(json.dumps(MetaParams.of_model(spec, norm_eps=1e-6).content()))
    assert MetaParams.parse(written, source="again").inner_size == inner_size


def test_published_configs(shared_data: Path) -> None:
    seen = 0
    for path in sorted((shared_data / "hf_configs").glob("*.json")):
        config = json.loads(path.read_text())
        if not isinstance(config, dict) or config.get("model_type") != "llama":
            continue
        spec = ModelSpec.from_config(config, name=path.stem)
        if spec.rope_scaling is not None and spec.rope_scaling.rope_type != "llama3":
            continue
        params = MetaParams.of_model(spec, norm_eps=config["rms_norm_eps"])
        assert params.inner_size == spec.intermediate_size
        told = params.config(
            vocab_size=spec.vocab_size,
            tied=spec.tied_embeddings,
            dtype=spec.dtype,
            max_seq_len=spec.max_position_embeddings,
        )
        assert ModelSpec.from_config(told, name=path.stem) == spec
        seen += 1
    assert seen > 20


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "mistral"}, "model_type is mistral, needs llama"),
        ({"attention_bias": True, "mlp_bias": True}, "attention_bias is True, needs False; mlp_bias is True"),
        ({"head_dim": 32}, "head_dim is 32, needs 16"),
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0}},
            "rope_type linear, factor 4.0, needs none or rope_type llama3",
        ),
    ],
)
def test_what_the_layout_cannot_say(changes: dict[str, Any], told: str) -> None:
    config = {
        "model_type": "llama",
        "vocab_size": 10,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 9,
    }
    with pytest.raises(SpecError) as failure:
        MetaParams.of_model(ModelSpec.from_config(config | changes, name="model"), norm_eps=1e-6)
    assert told in str(failure.value)
