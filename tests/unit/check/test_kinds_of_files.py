"""What a file is told to be, and recipes of other trainers with the ds_config that they name."""

import json
from pathlib import Path

import pytest

from toolkit.check.api import Question, check, kind_of
from toolkit.check.document import json_document, yaml_document
from toolkit.check.finding import Placed
from toolkit.check.releases import Release

QUESTION = Question(Release.parse("0.19.8"))
AXOLOTL = "base_model: m\nadapter: lora\ndatasets: []\nsequence_len: 64\ndeepspeed: ds/z1.json\n"
LLAMA_FACTORY = "model_name_or_path: m\nstage: sft\nfinetuning_type: lora\ndeepspeed: ds/z1.json\nlearning_rate: 1e-4\n"
TRAINER = (
    "model_name_or_path: m\noutput_dir: o\nlearning_rate: 1e-4\nmax_grad_norm: 0.3\nbf16: true\ndeepspeed: ds/z1.json\n"
)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.json", '{"zero_optimization": {}, "mine": 1, "yours": 2}', "ds_config"),
        ("a.yaml", "zero_optimization: {stage: 2}\n", "ds_config"),
        ("a.json", '{"gradient_cliping": 1}', "ds_config"),
        ("a.yaml", "distributed_type: DEEPSPEED\n", "accelerate"),
        ("accelerate.yaml", "typ: DEEPSPEED\n", "accelerate"),
        ("a.yaml", "model: m\nworkload: {}\n", "recipe"),
        ("a.yaml", "modl: m\nworkload: {}\nschedul: {}\n", "recipe"),
        ("recipe.yaml", "a: 1\n", "recipe"),
        ("a.json", '{"strategy": {}, "workload": {}, "cluster": {}}', "plan"),
        ("a.yaml", AXOLOTL, "foreign"),
        ("a.yaml", LLAMA_FACTORY, "foreign"),
        ("a.yml", "num-layers: 2\npipe-parallel-size: 1\nzero_optimization: {stage: 1}\n", "foreign"),
        ("a.yaml", "data: {}\ntrainer: {}\nactor: {}\n", "foreign"),
        ("a.yml", "model: {model_path: m}\ntrain: {}\nmethod: {}\n", "foreign"),
        ("a.yaml", "model: m\ndata: {train: f}\n", "recipe"),
        ("a.json", '{"training": {}, "data": {}, "student": {}, "deepspeed_config": "a.json"}', "ds_config"),
    ],
)
def test_the_kind_is_told_from_keys_and_name(name: str, text: str, kind: str) -> None:
    read = json_document if name.endswith(".json") else yaml_document
    assert kind_of(read(Path(name), text)) == kind


def written(folder: Path, recipe: str, **config: object) -> list[Placed]:
    (folder / "ds").mkdir()
    (folder / "ds" / "z1.json").write_text(json.dumps(config))
    (folder / "sub").mkdir()
    path = folder / "sub" / "recipe_of_others.yaml"
    path.write_text(recipe)
    return check([path], QUESTION)


@pytest.mark.parametrize("recipe", [AXOLOTL, LLAMA_FACTORY])
def test_lora_beside_autotp_is_an_error_in_the_recipe_that_has_both(tmp_path: Path, recipe: str) -> None:
    found = written(tmp_path, recipe, tensor_parallel={"autotp_size": 2})
    (error,) = [one for one in found if one.finding.severity == "error"]
    assert error.finding.rule == "autotp-and-peft"
    assert "lora" in recipe.splitlines()[error.line - 1]


def test_full_fine_tuning_with_autotp_is_none(tmp_path: Path) -> None:
    found = written(tmp_path, AXOLOTL.replace("adapter: lora\n", ""), tensor_parallel={"autotp_size": 2})
    assert {one.finding.severity for one in found} == {"note"}


def test_numbers_that_the_trainer_and_the_ds_config_have_must_be_the_same(tmp_path: Path) -> None:
    optimizer = {"type": "AdamW", "params": {"lr": 1e-4, "weight_decay": "auto"}}
    found = written(tmp_path, TRAINER, optimizer=optimizer, gradient_clipping=1.0, bf16={"enabled": False})
    errors = {one.finding.path: one.line for one in found if one.finding.severity == "error"}
    assert errors == {"max_grad_norm": 4, "bf16": 5}


def test_a_recipe_whose_ds_config_is_nowhere_is_only_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(LLAMA_FACTORY)
    assert [one.finding.severity for one in check([path], QUESTION)] == ["note"]


def test_a_file_of_no_known_kind_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("data: {}\ntrainer: {}\nactor: {}\n")
    (found,) = check([path], QUESTION)
    assert (found.finding.severity, found.finding.rule) == ("warning", "not-checked")
