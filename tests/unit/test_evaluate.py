"""`toolkit evaluate`: a real run of the harness on a task of this machine, and what is said if something is wrong."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.demo.model import write_demo_model
from toolkit.demo.tasks import demo_rows
from toolkit.errors import CheckpointError, SpecError, ToolkitError

TASK = """
task: next_word
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: {choices}
metric_list: [{{metric: {metric}}}]
"""


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "toolkit", "evaluate", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    rows = demo_rows()[0][:200]
    # No numbers: the harness would take them for the place of the answer.
    words = sorted({word for row in rows for word in row["prompt"].split() if word.isalpha()})[:6]
    asked = [{"question": row["prompt"], "answer": words[number % 6]} for number, row in enumerate(rows[:24])]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    choices = json.dumps(words)
    task = TASK.format(data=tmp_path / "rows.jsonl", kind="multiple_choice", metric="acc", choices=choices)
    (tmp_path / "task.yaml").write_text(task)
    write_demo_model(tmp_path / "final", (row[key] for row in rows for key in ("prompt", "completion")))
    return tmp_path / "final"


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="the extra `eval` is installed")
def test_without_the_harness(tmp_path: Path) -> None:
    done = run("final", "--tasks", "task.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: `toolkit evaluate` runs lm-evaluation-harness, which is not installed; pip ")
    assert "[train,eval]" in done.stderr


needs_harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs the extra `eval`")


@needs_harness
def test_a_task_of_this_machine(tmp_path: Path, export: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = run(export, "--tasks", "task.yaml", "--batch-size", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "final.lm_eval.json").read_text())
    told = found["results"]["next_word"]["acc,none"]
    assert f"{told:.4f}" in done.stdout

    model, tokenizer = AutoModelForCausalLM.from_pretrained(export), AutoTokenizer.from_pretrained(export)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    words = sorted({row["answer"] for row in rows})

    @torch.no_grad()
    def likelihood(question: str, word: str) -> float:
        ids = tokenizer(f"{question} {word}", return_tensors="pt").input_ids
        start = len(tokenizer(question).input_ids)
        found = model(ids).logits.log_softmax(-1)[0, start - 1 : -1].gather(1, ids[0, start:, None]).sum()
        return float(found)

    right = sum(max(words, key=lambda word: likelihood(row["question"], word)) == row["answer"] for row in rows)
    assert told == pytest.approx(right / len(rows))
    assert 0 < right < len(rows)


@needs_harness
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["final", "--tasks", "elsewhere.yaml"], "elsewhere.yaml: "),
        (["final", "--tasks", "cut.yaml"], "cut.yaml: the harness cannot load it: its data cannot be read: "),
    ],
)
def test_what_is_wrong_is_one_message(tmp_path: Path, export: Path, words: list[str], told: str) -> None:
    text = (tmp_path / "task.yaml").read_text().replace("dataset_path: json", "dataset_path: nobody/nothing")
    (tmp_path / "elsewhere.yaml").write_text(text)
    (tmp_path / "cut.jsonl").write_text('{"question": "1", "answer": "2"}\n{"question": \n')
    (tmp_path / "cut.yaml").write_text((tmp_path / "task.yaml").read_text().replace("rows.jsonl", "cut.jsonl"))
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert told in last
    assert "Traceback" not in done.stderr


OWN_CODE = """
def asked(row):
    return row["nothing"]

def counted(row, results):
    return {"acc": 1 / 0}

def refused(row):
    raise Exception("no such question")
"""


@needs_harness
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"{{question}}"', '"{{question"', "cannot load it: TemplateSyntaxError: unexpected end of template"),
        ('"{{question}}"', '"{{ nothing.of.it }}"', "cannot load it: UndefinedError: 'nothing' is undefined"),
        ('"{{question}}"', "!function own.asked", r"cannot load it: KeyError: 'nothing' \(own.py:3\)"),
        ('"{{question}}"', "!function own.refused", r"cannot load it: Exception: no such question \(own.py:9\)"),
        ("test_split", "process_results: !function own.counted\ntest_split", r"division by zero \(own.py:6\)"),
        ("metric: acc", "metric: nonsense", "cannot load it: KeyError: "),
    ],
    ids=["jinja", "column", "function", "bare exception", "metric", "no metric"],
)
def test_what_fails_in_a_task_is_one_message(tmp_path: Path, export: Path, old: str, new: str, told: str) -> None:
    from toolkit.harness import evaluate_export

    (tmp_path / "own.py").write_text(OWN_CODE)
    path = tmp_path / "wrong.yaml"
    path.write_text((tmp_path / "task.yaml").read_text().replace(old, new))
    with pytest.raises(SpecError, match=rf"wrong.yaml: the harness .*{told}"):
        evaluate_export(export, [path], batch_size=2, limit=2, chat=False)


@needs_harness
@pytest.mark.parametrize(
    ("folder", "task", "error", "told"),
    [
        ("final", "missing.yaml", SpecError, "missing.yaml: no such file"),
        ("rows", "task.yaml", CheckpointError, "rows: no config.json"),
        ("final", "broken.yaml", SpecError, "broken.yaml: the harness cannot load it: "),
    ],
)
def test_what_is_not_there(
    tmp_path: Path, export: Path, folder: str, task: str, error: type[ToolkitError], told: str
) -> None:
    from toolkit.harness import evaluate_export

    (tmp_path / "broken.yaml").write_text("task: [")
    with pytest.raises(error, match=told):
        evaluate_export(export.with_name(folder), [tmp_path / task], batch_size=2, limit=2, chat=False)


def cut_weights(export: Path) -> None:
    os.truncate(export / "model.safetensors", (export / "model.safetensors").stat().st_size - 1000)


def no_weights(export: Path) -> None:
    (export / "model.safetensors").unlink()


def no_template(export: Path) -> None:
    (export / "chat_template.jinja").unlink()


@needs_harness
@pytest.mark.parametrize(
    ("damage", "error", "told"),
    [
        (cut_weights, CheckpointError, "final: the model cannot be loaded: SafetensorError: "),
        (no_weights, CheckpointError, "final: the model cannot be loaded: OSError: "),
        (no_template, SpecError, "--chat: .+final has no chat template; leave --chat out"),
    ],
)
def test_an_export_that_cannot_be_measured(
    tmp_path: Path, export: Path, damage: Callable[[Path], None], error: type[ToolkitError], told: str
) -> None:
    from toolkit.harness import evaluate_export

    damage(export)
    with pytest.raises(error, match=told):
        evaluate_export(export, [tmp_path / "task.yaml"], batch_size=2, limit=2, chat=True)
