"""The demo's model folder: ordinary Hugging Face files that load without the hub."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from toolkit.demo.model import write_demo_model
from toolkit.demo.settings import SEQ_LEN
from toolkit.demo.tasks import Row, demo_rows


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    train, held_out = demo_rows()
    return train + held_out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_demo_model(path, texts(rows))
    return path


def texts(rows: list[Row]) -> list[str]:
    return [text for row in rows for text in (row["prompt"], row["completion"])]


def conversation(row: Row) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]


def test_a_few_million_parameters_and_grouped_query_attention(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert config.model_type == "llama"
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.max_position_embeddings >= 128
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert 2_000_000 <= sum(weight.numel() for weight in model.parameters()) <= 5_000_000
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not model.generation_config.do_sample


def test_same_seed_gives_the_same_weights_and_tokenizer(tmp_path: Path, folder: Path, rows: list[Row]) -> None:
    random_state = torch.get_rng_state()
    write_demo_model(tmp_path, texts(rows))
    assert torch.equal(torch.get_rng_state(), random_state)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_text_survives_the_tokenizer(folder: Path, rows: list[Row]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    foreign = ["Grüße, 北京!", "a\tb\n  c", "x_1 = {'k': [3.5, None]}"]
    for text in [*texts(rows)[::50], *foreign]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_every_digit_is_a_token(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("2024") == ["2", "0", "2", "4"]
    assert tokenizer("7")["input_ids"][0] == tokenizer.bos_token_id


def test_generation_prompt_is_a_prefix_of_the_answered_conversation(folder: Path, rows: list[Row]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row in rows[::50]:
        messages = conversation(row)
        prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        full = tokenizer.apply_chat_template(messages, tokenize=False)
        assert full.startswith(prompt)
        assert full.endswith(row["completion"] + tokenizer.eos_token)
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        full_ids = tokenizer(full, add_special_tokens=False)["input_ids"]
        assert full_ids[: len(prompt_ids)] == prompt_ids
        assert full_ids[-1] == tokenizer.eos_token_id


def test_rows_fit_the_sequence_length(folder: Path, rows: list[Row]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rendered = [tokenizer.apply_chat_template(conversation(row), tokenize=False) for row in rows[::6]]
    assert max(len(ids) for ids in tokenizer(rendered, add_special_tokens=False)["input_ids"]) <= SEQ_LEN


def test_folder_names_no_path_of_this_machine(folder: Path) -> None:
    for path in folder.glob("*.json"):
        assert str(folder.parent) not in json.dumps(json.loads(path.read_text(encoding="utf-8")))
