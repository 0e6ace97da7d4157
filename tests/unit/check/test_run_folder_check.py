"""Run folders of `toolkit plan`: clean as they are written, and every hand edit that does not fit is told."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import toolkit
from toolkit.check.api import Question, check
from toolkit.check.context import Asked
from toolkit.check.releases import Release
from toolkit.errors import ConfigError

QUESTION = Question(Release.parse("0.19.8"))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = toolkit.plan(
        "llama-3.1-8b", "8xA100-80GB", seq_len=4096, global_batch=64, zero_stage=2, micro_batch=2, sp=1, tp=1
    )
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = toolkit.Recipe(model="llama-3.1-8b", workload=plan.workload, data={"train": "samples.jsonl"})
    return toolkit.emit(plan, folder, recipe)


@pytest.fixture
def run(planned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(planned, tmp_path / "run"))


def told(path: Path, question: Question = QUESTION) -> list[tuple[str, str, str, str]]:
    found = [one for one in check([path], question) if one.finding.severity != "note"]
    return [(Path(one.file).name, one.finding.severity, one.finding.path, one.finding.message) for one in found]


def edit_json(file: Path, change: Callable[[dict[str, object]], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content, indent=2))


def test_what_is_planned_is_clean(planned: Path) -> None:
    assert told(planned) == []
    for name in ("plan.json", "recipe.yaml", "ds_config.json", "accelerate.yaml"):
        assert told(planned / name) == []


@pytest.mark.parametrize(
    ("values", "path", "words"),
    [
        ({"gradient_accumulation_steps": 8}, "gradient_accumulation_steps", "is 8, the plan has 4"),
        ({"train_micro_batch_size_per_gpu": "auto"}, "train_micro_batch_size_per_gpu", "run of this toolkit"),
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor_parallel.autotp_size", "the plan has tp=1"),
        ({"train_batch_size": 32}, "train_batch_size", "global batch of 64"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler", "not read in a run"),
        ({"gradient_cliping": 0.5}, "gradient_cliping", "did you mean"),
    ],
)
def test_a_ds_config_that_does_not_fit_its_plan(run: Path, values: dict[str, object], path: str, words: str) -> None:
    edit_json(run / "ds_config.json", lambda content: content.update(values))
    found = told(run)
    assert ("ds_config.json", "error", path) in [one[:3] for one in found]
    assert any(words in one[3] for one in found if one[2] == path)
    assert told(run / "ds_config.json") == found


def test_what_may_be_edited_is_only_noted(run: Path) -> None:
    edit_json(run / "ds_config.json", lambda content: content.update(gradient_clipping=0.5))
    assert told(run) == []
    notes = [one.finding.message for one in check([run], QUESTION) if one.finding.path == "gradient_clipping"]
    assert notes == ["is 0.5, planned 1"]


def test_a_recipe_of_another_workload(run: Path) -> None:
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("seq_len: 4096", "seq_len: 8192"))
    assert told(run) == [("recipe.yaml", "error", "workload.seq_len", "is 8192, the plan is of 4096")]
    (found,) = [one for one in check([run], QUESTION) if one.finding.severity == "error"]
    assert "seq_len: 8192" in recipe.read_text().splitlines()[found.line - 1]


def test_a_recipe_of_another_model(run: Path, tmp_path: Path) -> None:
    recipe = run / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("model: llama-3.1-8b", "model: llama-3.1-70b"))
    ((_, severity, path, words),) = told(run)
    assert (severity, path) == ("error", "model")
    assert "hidden_size 8192, planned 4096" in words
    # A name that is neither a folder nor known here is looked up by the run, not by a check.
    recipe.write_text(text.replace("model: llama-3.1-8b", "model: my-org/my-llama"))
    assert told(run) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plan: plan["strategy"].update(grad_accum=7), "= 112, the workload has a global batch of 64"),
        (lambda plan: plan["strategy"]["layout"].update(dp=4), "the layout has 4 ranks, the cluster 8"),
    ],
)
def test_a_plan_whose_numbers_do_not_multiply(run: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    edit_json(run / "plan.json", change)
    assert any(one[:2] == ("plan.json", "error") and words in one[3] for one in told(run))


def test_misspelt_keys_of_recipe_and_plan(run: Path) -> None:
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("global_batch:", "globl_batch:"))
    edit_json(run / "plan.json", lambda content: content.update(stratgy={}))
    found = {one.finding.message: one for one in check([run], QUESTION) if one.finding.severity == "error"}
    (misspelt,) = [message for message in found if "globl_batch" in message]
    assert "did you mean `global_batch`?" in misspelt
    assert "globl_batch" in recipe.read_text().splitlines()[found[misspelt].line - 1]
    (unknown,) = [message for message in found if "stratgy" in message]
    lines = (run / "plan.json").read_text().splitlines()
    assert "stratgy" in lines[found[unknown].line - 1]


@pytest.mark.parametrize(
    ("line", "path", "words"),
    [
        ("num_processes: 4", "num_processes", "the plan has 8 ranks"),
        ("num_machines: 2", "num_machines", "the plan has 1 node"),
        ("use_cpu: true", "use_cpu", "beside distributed_type DEEPSPEED"),
    ],
)
def test_an_accelerate_file_of_another_run(run: Path, line: str, path: str, words: str) -> None:
    file = run / "accelerate.yaml"
    file.write_text(re.sub(rf"^{line.split(':')[0]}: .*$", line, file.read_text(), flags=re.MULTILINE))
    found = [one for one in told(run) if one[1:3] == ("error", path)]
    assert len(found) == 1
    assert words in found[0][3]


def test_files_that_are_missing(run: Path, tmp_path: Path) -> None:
    (run / "ds_config.json").unlink()
    assert ("run", "error", "", "ds_config.json is missing in the run folder") in told(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds none of"):
        check([tmp_path / "empty"], QUESTION)


def test_the_lora_of_a_plan_and_autotp(run: Path) -> None:
    edit_json(run / "plan.json", lambda content: content["workload"].update(method="lora"))  # type: ignore[attr-defined]
    edit_json(run / "ds_config.json", lambda content: content.update(tensor_parallel={"autotp_size": 2}))
    assert any(one[1] == "error" and "LoRA adapters" in one[3] for one in told(run / "ds_config.json"))


def test_the_memory_verdict(planned: Path, tmp_path: Path) -> None:
    config = tmp_path / "ds.json"
    shutil.copy(planned / "ds_config.json", config)
    fits = Question(QUESTION.deepspeed, memory=Asked("llama-3.1-8b", "8xA100-80GB", 4096))
    (verdict,) = [one.finding for one in check([config], fits) if one.finding.rule == "memory"]
    assert (verdict.severity, verdict.message[:7]) == ("note", "It fits")
    lacks = Question(QUESTION.deepspeed, memory=Asked("llama-3.1-70b", "8xA100-80GB", 4096))
    (verdict,) = [one.finding for one in check([config], lacks) if one.finding.rule == "memory"]
    assert verdict.severity == "error"
    assert "does not fit" in verdict.message


def test_the_shipped_ds_configs_raise_no_alarm() -> None:
    shipped = sorted((Path(__file__).parents[3] / "ds_configs").glob("*.json"))
    assert len(shipped) >= 10
    assert [one for one in check(shipped, QUESTION) if one.finding.severity != "note"] == []


def test_every_emitted_accelerate_key_is_known(planned: Path) -> None:
    content = yaml.safe_load((planned / "accelerate.yaml").read_text())
    assert content["deepspeed_config"]
    assert [one for one in check([planned / "accelerate.yaml"], QUESTION) if one.finding.rule == "unknown-key"] == []
