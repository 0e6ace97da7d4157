"""Every way to name a model: folders, files, the catalog, the hub and its cache, and what is said where none fits."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toolkit.errors import SpecError
from toolkit.specs.model import ModelSpec
from toolkit.specs.model_source import weights_source

TINY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def refusal(name: str | Path) -> str:
    with pytest.raises(SpecError) as caught:
        ModelSpec.resolve(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    return tmp_path


def test_folder_and_file_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ModelSpec.from_config(TINY, name="tiny")
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


class GatedError(OSError):
    pass


class NotFoundError(OSError):
    pass


class BadIdError(ValueError):
    pass


def fake_hub(monkeypatch: pytest.MonkeyPatch, *, cached: Path | None = None, error: Exception | None = None) -> None:
    def download(repo_id: str, file: str) -> str:
        raise error or AssertionError("the cache holds the file")

    hub = SimpleNamespace(
        errors=SimpleNamespace(
            GatedRepoError=GatedError, RepositoryNotFoundError=NotFoundError, HFValidationError=BadIdError
        ),
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
        (GatedError(), "accept it on its page"),
        (NotFoundError(), "not on the hub"),
        (BadIdError(), "organisation/name"),
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


def test_weights_come_from_the_folder_or_the_hub_id_of_a_catalog_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert weights_source(str(tmp_path)) == str(tmp_path)
    assert weights_source(str(tmp_path / "config.json")) == str(tmp_path)
    assert weights_source("Llama-3.1-8b") == "meta-llama/Llama-3.1-8B"
    assert weights_source("someone/else") == "someone/else"
