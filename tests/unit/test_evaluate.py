"""`toolkit evaluate`: a real run of the harness on a task of this machine, and what is said if something is wrong."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.demo.model import write_demo_model
from toolkit.demo.tasks import demo_rows

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
        (["final", "--tasks", "missing.yaml"], "missing.yaml: no such file"),
        (["rows", "--tasks", "task.yaml"], "rows: no config.json"),
        (["final", "--tasks", "broken.yaml"], "broken.yaml: the harness cannot load it"),
        (["final", "--tasks", "elsewhere.yaml"], "elsewhere.yaml: "),
    ],
)
def test_what_is_wrong_is_one_message(tmp_path: Path, export: Path, words: list[str], told: str) -> None:
    (tmp_path / "broken.yaml").write_text("task: [")
    text = (tmp_path / "task.yaml").read_text().replace("dataset_path: json", "dataset_path: nobody/nothing")
    (tmp_path / "elsewhere.yaml").write_text(text)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert told in last
    assert "Traceback" not in done.stderr
