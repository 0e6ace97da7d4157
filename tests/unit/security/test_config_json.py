"""S3: a model's JSON files describe a model; code that they name is neither run nor fetched nor passed on."""

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from toolkit.checkpoints.export import _write_config, _write_generation
from toolkit.errors import CheckpointError, SpecError, ToolkitError
from toolkit.models.config import load_config
from toolkit.models.pretrained import DTYPES, load_pretrained, load_tokenizer
from toolkit.specs.model import ModelSpec

CODE = "from pathlib import Path\nPath({marker!r}).touch()\nclass Evil:\n    pass\n"
AUTO_MAP = {
    "AutoConfig": "evil.Evil",
    "AutoModelForCausalLM": "someone/else--evil.Evil",
    "AutoTokenizer": ["evil.Evil", "evil.Evil"],
}
HARMLESS: list[dict[str, Any]] = [
    {"auto_map": AUTO_MAP},
    {"auto_map": {"AutoConfig": 3}},
    {"trust_remote_code": True},
    {"_attn_implementation_internal": "someone/kernel"},
    {"_attn_implementation": "someone/kernel"},
    {"attn_implementation": "someone/kernel:function"},
    {"attn_implementation": {"": "someone/kernel"}},
    {"_experts_implementation_internal": "someone/kernel"},
    {"use_kernels": True, "kernel_config": {"RMSNorm": "someone/kernel:RMSNorm"}},
    {"_name_or_path": "someone/else", "name_or_path": "someone/else", "_commit_hash": "0" * 40},
    {"configuration_files": ["config.9.9.9.json", "config.../../../x.json"]},
    {"transformers_weights": "../../x.safetensors"},
    {"rope_scaling": {"rope_type": "evil", "factor": 2.0}},
    {"base_model_tp_plan": {"layers.*": "evil"}, "per_layer_config": {"0": {"auto_map": AUTO_MAP}}},
    {"__class__": "os.system", "__reduce__": ["os.system", "true"], "to_dict": "evil", "from_dict": 3},
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"quantization_config": {"quant_method": "evil", "modules_to_not_convert": ["x"]}}, "holds `quantization_config`"),
    ({"quantization_config": {"quant_method": "gptq", "_class": "os.system"}}, "needs plain weights"),
    ({"model_type": "evil"}, "model_type is 'evil'; supported are llama and mistral"),
    ({"model_type": "evil", "auto_map": AUTO_MAP}, "model_type is 'evil'"),
    ({"model_type": ["llama"]}, "model_type is ['llama']"),
    ({"model_type": "mistral", "layer_types": ["evil"]}, "`layer_types` differ"),
    ({"hidden_act": "xielu"}, "hidden_act is 'xielu', needs one of gelu"),
    ({"hidden_act": ["silu"]}, "hidden_act is ['silu']"),
    ({"rope_parameters": {"rope_type": "evil"}}, "`rope_scaling.rope_type` is 'evil'"),
    ({"dtype": "load"}, "`dtype` is 'load'"),
    ({"num_hidden_layers": 10**9}, "less than or equal to 10000"),
    ({"head_dim": 10**12}, "less than or equal to 10000000"),
    ({"rms_norm_eps": {"evil": 1}}, "`norm_eps` is {'evil': 1}: input should be a valid number"),
    ({"architectures": "evil" * 3, "eos_token_id": {"a": 1}}, "cannot be used ("),
]


def change(path: Path, given: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | given))


@pytest.fixture
def marker(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the model's own code would leave a file; nobody at the terminal who could be asked, either."""
    (model / "evil.py").write_text(CODE.format(marker=str(tmp_path / "it-ran")))
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("somebody would have been asked"))
    return tmp_path / "it-ran"


def load_all(model: Path) -> Any:
    """The public ways to a model's files."""
    spec = ModelSpec.resolve(model)
    tokenizer = load_tokenizer(str(model), spec)
    return tokenizer, load_pretrained(str(model), spec, precision="fp32").load()


@pytest.mark.parametrize("given", HARMLESS, ids=lambda given: next(iter(given)))
def test_what_does_not_describe_a_llama_is_left_out(
    model: Path, marker: Path, no_network: list[object], tmp_path: Path, given: dict[str, Any]
) -> None:
    expected = load_config(str(model)).to_dict()
    change(model / "config.json", given)
    before = set(sys.modules)
    _, loaded = load_all(model)
    assert loaded.config._attn_implementation == "sdpa"
    assert load_config(str(model)).to_dict() == expected
    exported = tmp_path / "exported"
    exported.mkdir()
    _write_config(exported, base=str(model), dtype=DTYPES["fp32"], vocab_size=expected["vocab_size"])
    written = (exported / "config.json").read_text()
    assert not any(word in written for word in ("evil", "someone", "trust", "auto_map"))
    assert not marker.exists()
    assert not [name for name in set(sys.modules) - before if "evil" in name or "transformers_modules" in name]
    assert no_network == []


@pytest.mark.parametrize(("given", "words"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_changes_the_weights_meaning_is_refused(
    model: Path, marker: Path, no_network: list[object], given: dict[str, Any], words: str
) -> None:
    change(model / "config.json", given)
    with pytest.raises(SpecError) as caught:
        load_all(model)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(SpecError):
        load_config(str(model))
    assert not marker.exists()
    assert no_network == []


@pytest.mark.parametrize(
    "given",
    [
        {"auto_map": AUTO_MAP},
        {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"},
        {"auto_map": {"AutoTokenizer": [None, "someone/else--evil.Evil"]}, "tokenizer_class": "Evil"},
        {"auto_map": ["evil.Evil", "evil.Evil"], "tokenizer_class": "Evil"},
        {"auto_map": ["evil.Evil"]},
        {"auto_map": 3},
        {"tokenizer_class": "Evil"},
        {"tokenizer_class": "os.system"},
        {"tokenizer_class": 3},
        {"trust_remote_code": True, "tokenizer_type": "evil"},
        {"tokenizer_file": "/etc/passwd", "name_or_path": "someone/else"},
        {"chat_template": {"a": "b"}},
    ],
    ids=str,
)
def test_a_tokenizers_code_is_left_alone(
    model: Path, marker: Path, no_network: list[object], given: dict[str, Any]
) -> None:
    change(model / "tokenizer_config.json", given)
    try:
        said = type(load_all(model)[0]).__module__
    except CheckpointError as error:
        said = str(error)
    assert said.startswith("transformers.") or "no usable tokenizer (" in said
    assert not marker.exists()
    assert no_network == []


def test_transformers_would_have_asked(model: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Else the tests above prove nothing: left to itself it asks on the terminal, and on "y" runs the code.
    change(model / "tokenizer_config.json", {"auto_map": ["evil.Evil", "evil.Evil"], "tokenizer_class": "Evil"})
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    with pytest.raises(AttributeError, match="Evil"):
        AutoTokenizer.from_pretrained(model)
    assert marker.exists()


@pytest.mark.parametrize(
    "rope", [{"rope_type": "yarn"}, {"rope_type": "llama3", "factor": 0.0}, {"rope_type": "longrope"}]
)
def test_what_makes_no_model_ends_in_one_error(model: Path, rope: dict[str, Any]) -> None:
    change(model / "config.json", {"rope_parameters": {"rope_theta": 10000.0, **rope}})
    with pytest.raises(ToolkitError):
        load_all(model)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' * 50_000, '{"hidden_size": ' + "9" * 5000 + "}", "[]", "null", '{"a": 1, "a": 2}']
)
def test_broken_json_ends_in_one_error(model: Path, text: str) -> None:
    for name in ("config.json", "generation_config.json"):
        (model / name).write_text(text)
    with pytest.raises(ToolkitError):
        load_all(model)
    (model / "config.json").write_text('{"pad": "' + "x" * 17_000_000 + '"}')
    with pytest.raises(SpecError, match="more than 16,777,216 bytes"):
        load_config(str(model))


@pytest.mark.parametrize(
    "text",
    [
        '{"auto_map": {"a": "evil"}, "custom_generate": "someone/evil", "trust_remote_code": true, "top_p": 0.5}',
        '{"compile_config": {"backend": "evil"}, "cache_implementation": "evil"}',
        '{"temperature": "evil", "max_new_tokens": {"evil": 1}, "num_beams": []}',
        '{"watermarking_config": {"evil": 1}}',
        "[" * 100_000,
        "[]",
        "{",
    ],
)
def test_how_to_generate_is_numbers_only(model: Path, tmp_path: Path, text: str) -> None:
    (model / "generation_config.json").write_text(text)
    # After hours of training: never an error.
    _write_generation(tmp_path, base=str(model), stop_token_ids=[2], pad=0)
    written = (tmp_path / "generation_config.json").read_text()
    assert not any(word in written for word in ("evil", "someone", "trust", "auto_map"))
    assert ("top_p" in written) == ("top_p" in text)
