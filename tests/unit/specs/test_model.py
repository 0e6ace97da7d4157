"""ModelSpec: parameter counts against transformers, every way to name a model, and the words of its errors."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from toolkit.errors import SpecError
from toolkit.specs import model_source
from toolkit.specs.model import LINEAR_LAYERS, ModelSpec, RopeScaling

CATALOG = yaml.safe_load(Path(model_source.__file__).with_name("catalog").joinpath("models.yaml").read_text())["models"]

TINY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def tiny(**changes: Any) -> dict[str, Any]:
    return {**TINY, **changes}


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in TINY.items() if key not in keys}


def read(config: dict[str, Any]) -> ModelSpec:
    return ModelSpec.from_config(config, name="tiny")


def message(config: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        read(config)
    return str(caught.value)


def refusal(name: str | Path) -> str:
    with pytest.raises(SpecError) as caught:
        ModelSpec.resolve(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def transformers_model(config: dict[str, Any]) -> Any:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    keys = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(config.get("model_type", "llama"), **keys)
        )


def counted(config: dict[str, Any]) -> int:
    return sum(parameter.numel() for parameter in transformers_model(config).parameters())


# --- counts ---------------------------------------------------------------------------------------------------------


def test_published_configs_count_as_transformers_counts_them(shared_data: Path) -> None:
    files = [path for path in sorted((shared_data / "hf_configs").glob("*.json")) if path.name != "SOURCES.json"]
    assert len(files) == 36
    ours = {path.name: ModelSpec.resolve(path).num_params for path in files}
    theirs = {path.name: counted(json.loads(path.read_text())) for path in files}
    assert ours == theirs


@pytest.mark.parametrize(
    "config",
    [
        tiny(attention_bias=True),
        tiny(mlp_bias=True),
        tiny(attention_bias=True, mlp_bias=True, num_key_value_heads=2),
        tiny(tie_word_embeddings=True),
        tiny(head_dim=20),
        tiny(head_dim=20, num_key_value_heads=1, attention_bias=True),
        tiny(num_key_value_heads=None, head_dim=None),
        tiny(model_type="mistral", num_key_value_heads=2, sliding_window=8),
        tiny(model_type="mistral", num_key_value_heads=None),
        tiny(model_type="mistral", num_key_value_heads=4, attention_bias=True, mlp_bias=True),
        tiny(model_type="mistral", num_attention_heads=8, head_dim=6),
        tiny(model_type="mistral", num_attention_heads=8, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True),
    ],
)
def test_odd_shapes_count_as_transformers_counts_them(config: dict[str, Any]) -> None:
    assert read(config).num_params == counted(config)


def test_parts_sum_to_the_total() -> None:
    spec = read(tiny(num_key_value_heads=2, attention_bias=True))
    model = transformers_model(tiny(num_key_value_heads=2, attention_bias=True))
    assert spec.layer_params == sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    assert spec.embedding_params == model.model.embed_tokens.weight.numel()
    assert spec.head_params == model.lm_head.weight.numel()
    assert read(tiny(tie_word_embeddings=True)).head_params == 0


@pytest.mark.parametrize("entry", CATALOG, ids=[entry["name"] for entry in CATALOG])
def test_catalog_holds_the_published_count(entry: dict[str, Any]) -> None:
    assert ModelSpec.resolve(entry["name"]).num_params == entry["num_params"]
    assert entry["source"]


def test_catalog_equals_the_published_configs(shared_data: Path) -> None:
    files = {path.stem.lower(): path for path in (shared_data / "hf_configs").glob("*.json")}
    compared = 0
    for entry in CATALOG:
        for hub_id in entry["hub_ids"]:
            if path := files.get(hub_id.split("/")[1].lower()):
                # Files of LLaMA 2's first days lack rope_theta; its value is the default of the class.
                ours, theirs = ModelSpec.resolve(hub_id), ModelSpec.resolve(path)
                assert ours.model_copy(update={"name": ""}) == theirs.model_copy(update={"name": ""}), hub_id
                compared += 1
    assert compared > 20


# --- LoRA -----------------------------------------------------------------------------------------------------------


def test_lora_trains_what_peft_trains() -> None:
    peft = pytest.importorskip("peft")
    config = tiny(num_key_value_heads=2, head_dim=20)
    for targets in (LINEAR_LAYERS, ("q_proj", "v_proj"), ("down_proj",)):
        model = peft.get_peft_model(transformers_model(config), peft.LoraConfig(r=5, target_modules=list(targets)))
        theirs = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert read(config).num_trainable_params("lora", 5, targets=targets) == theirs


def test_full_fine_tuning_trains_everything() -> None:
    assert read(TINY).num_trainable_params("full", 16) == read(TINY).num_params


def test_lora_count_published_for_llama_2_7b() -> None:
    # peft prints 39,976,960 for rank 16 on all linear layers of Llama-2-7b.
    assert ModelSpec.resolve("llama-2-7b").num_trainable_params("lora", 16) == 39_976_960


# --- keys of config.json --------------------------------------------------------------------------------------------


def test_transformers_4_and_5_spellings_read_the_same() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    old = tiny(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **scaling}, torch_dtype="bfloat16")
    new = tiny(rope_parameters={"rope_theta": 5e5, "rope_type": "llama3", **scaling}, dtype="bfloat16")
    assert read(old) == read(new)
    assert read(old).rope_theta == 5e5
    assert read(old).rope_scaling == RopeScaling(rope_type="llama3", **scaling)


def test_a_config_saved_by_the_installed_transformers_is_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    keys = {key: value for key, value in TINY.items() if key != "model_type"}
    transformers.LlamaConfig(
        **keys, rope_theta=12345.0, rope_scaling={"rope_type": "linear", "factor": 2.0}, dtype="float16"
    ).save_pretrained(tmp_path)
    spec = ModelSpec.resolve(tmp_path)
    assert (spec.rope_theta, spec.rope_scaling, spec.dtype) == (
        12345.0,
        RopeScaling(rope_type="linear", factor=2.0),
        "float16",
    )


def test_plain_rope_has_no_scaling() -> None:
    assert read(tiny(rope_parameters={"rope_theta": 1e4, "rope_type": "default"})).rope_scaling is None
    assert read(tiny(rope_scaling={"type": "linear", "factor": 2.0})).rope_scaling == RopeScaling(
        rope_type="linear", factor=2.0
    )


def test_defaults_of_old_files() -> None:
    spec = read({**without("model_type", "max_position_embeddings"), "architectures": ["LLaMAForCausalLM"]} | {
        "max_sequence_length": 77
    })
    assert (spec.model_type, spec.max_position_embeddings, spec.num_kv_heads, spec.head_dim) == ("llama", 77, 4, 12)
    assert (spec.dtype, spec.rope_theta, spec.tied_embeddings) == ("float32", 10_000.0, False)


def test_plan_files_keep_a_spec() -> None:
    spec = ModelSpec.resolve("llama-3.1-8b")
    assert ModelSpec.parse(json.loads(spec.model_dump_json()), source="plan.json") == spec


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (tiny(model_type="gpt2"), ["'gpt2'", "llama and mistral"]),
        (tiny(model_type="qwen2"), ["'qwen2'", "llama and mistral"]),
        (tiny(model_type="mixtral"), ["'mixtral'", "llama and mistral"]),
        (without("model_type"), ["None", "llama and mistral"]),
        (tiny(model_type=["llama"]), ["['llama']", "llama and mistral"]),
        ({**without("model_type"), "architectures": ["GPT2LMHeadModel"]}, ["gpt2lmheadmodel"]),
        (without("hidden_size", "vocab_size", "num_hidden_layers"), ["hidden_size, num_hidden_layers"]),
        (tiny(vocab_size=None), ["lacks vocab_size"]),
        (tiny(vocab_size=-1, hidden_size="48"), ["vocab_size -1", "hidden_size '48'", "above 0"]),
        (tiny(num_attention_heads=True), ["num_attention_heads True"]),
        (tiny(num_key_value_heads=3), ["4 attention heads", "3 key-value heads"]),
        (tiny(hidden_size=50), ["hidden_size 50", "4 heads", "head_dim"]),
        (tiny(dtype="float64"), ["dtype", "'float64'", "bfloat16"]),
        (tiny(rope_theta="far"), ["rope_theta", "'far'"]),
        (tiny(tie_word_embeddings="perhaps"), ["tied_embeddings", "'perhaps'"]),
    ],
)
def test_errors_name_what_was_given_and_what_is_needed(config: dict[str, Any], words: list[str]) -> None:
    text = message(config)
    assert text.startswith("tiny: ")
    assert "\n" not in text
    for word in words:
        assert word in text


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    return tmp_path


def test_folder_and_file_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(TINY)
    for name in (folder, str(folder), f"{folder}/", folder / "config.json", str(folder / "config.json")):
        assert ModelSpec.resolve(name) == expected.model_copy(update={"name": str(name)})
    monkeypatch.chdir(folder.parent)
    assert ModelSpec.resolve(folder.name).num_layers == 3
    monkeypatch.chdir(folder)
    assert ModelSpec.resolve("config.json").num_layers == ModelSpec.resolve(".").num_layers == 3


def test_home_is_expanded_but_not_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert ModelSpec.resolve(f"~/{folder.name}").name == f"~/{folder.name}"


@pytest.mark.parametrize(
    "name",
    ["llama-3.1-8b", "LLaMA-3.1-8B", "llama3.1-8b", "meta-llama/Llama-3.1-8B", "META-LLAMA/llama-3.1-8b-instruct"],
)
def test_catalog_names_ignore_case(name: str) -> None:
    spec = ModelSpec.resolve(name)
    assert (spec.name, spec.num_params, spec.num_kv_heads) == (name, 8_030_261_248, 8)


def test_a_run_folder_does_not_hide_a_catalog_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("llama-3.1-8b").mkdir()
    assert ModelSpec.resolve("llama-3.1-8b").num_layers == 32
    Path("llama-3.1-8b/config.json").write_text(json.dumps(TINY), encoding="utf-8")
    assert ModelSpec.resolve("llama-3.1-8b").num_layers == 3


def test_unknown_name_shows_the_nearest() -> None:
    text = refusal("lama-3.1-8b")
    assert "lama-3.1-8b: neither a folder nor in the catalog" in text
    assert "llama-3.1-8b" in text.split("nearest", 1)[1]


@pytest.mark.parametrize(
    "name", ["./missing", "../missing/model", "/missing", "~/missing", "a/b/c", "missing.json", "m/x.json", Path("a/b")]
)
def test_missing_paths_are_called_missing(name: str | Path) -> None:
    assert "no such file or folder" in refusal(name)


@pytest.mark.parametrize("name", ["", "x" * 5000, "nul\0", "~nobody-of-that-name"])
def test_impossible_names_are_refused(name: str) -> None:
    refusal(name)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("other.txt", "", "holds no config.json"),
        ("params.json", "{}", "toolkit convert"),
        ("adapter_config.json", "{}", "base model"),
        ("config.json", '{\n"model_type": "llama",\n}', "config.json:3: not valid JSON"),
        ("config.json", "", "not valid JSON"),
        ("config.json", "[]", "holds a list"),
        ("config.json", "{}", "model_type is None"),
    ],
)
def test_unusable_folders(tmp_path: Path, file: str, content: str, words: str) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    assert words in refusal(tmp_path)


def test_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 64)
    assert "not a config.json" in refusal(tmp_path / "model.safetensors")


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY), encoding="utf-8-sig")
    assert ModelSpec.resolve(tmp_path).num_layers == 3


# --- the hub --------------------------------------------------------------------------------------------------------


class Gated(OSError):
    pass


class NotFound(OSError):
    pass


class BadId(ValueError):
    pass


def fake_hub(monkeypatch: pytest.MonkeyPatch, *, cached: Path | None = None, error: Exception | None = None) -> None:
    def download(repo_id: str, file: str) -> str:
        raise error or AssertionError("the cache holds the file")

    hub = SimpleNamespace(
        errors=SimpleNamespace(GatedRepoError=Gated, RepositoryNotFoundError=NotFound, HFValidationError=BadId),
        constants=SimpleNamespace(ENDPOINT="https://localhost"),
        try_to_load_from_cache=lambda repo_id, file: str(cached) if cached else None,
        hf_hub_download=download,
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)


def test_hub_id_is_read_from_the_local_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, cached=folder / "config.json")
    assert ModelSpec.resolve("someone/tiny").num_layers == 3
    assert ModelSpec.resolve("someone/tiny").name == "someone/tiny"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Gated(), "accept it on its page"),
        (NotFound(), "not on the hub"),
        (BadId(), "organisation/name"),
        (OSError(), "cannot be downloaded; copy its config.json"),
    ],
)
def test_hub_failures_say_what_to_do(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, error=error)
    assert words in refusal("someone/tiny")


def test_hub_id_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "install huggingface_hub" in refusal("someone/tiny")


def test_hub_id_offline_with_the_real_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert "copy its config.json" in refusal("someone/tiny")
