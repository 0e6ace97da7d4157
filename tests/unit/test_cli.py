"""The command line: what it prints, what it writes, and one clear error with exit code 2 for every bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LLAMA = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
}
EMITTED = ["accelerate.yaml", "ds_config.json", "launch.sh", "plan.json", "recipe.yaml"]


def toolkit(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toolkit", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


def plan_words(model: object, *more: object) -> list[object]:
    return ["plan", "--model", model, "--cluster", "2xcpu", "--seq-len", 64, "--global-batch", 8, *more]


def refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def test_plan_writes_a_run_folder_and_says_why(model: Path, tmp_path: Path) -> None:
    result = toolkit(*plan_words(model, "-o", "run"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == EMITTED
    assert "Why" in result.stdout
    assert "toolkit launch run" in result.stdout


def test_plan_without_output_writes_nothing(model: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert toolkit(*plan_words(model), cwd=tmp_path).returncode == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_plan_options_reach_the_recipe(model: Path, tmp_path: Path) -> None:
    words = plan_words(model, "--data", "x.jsonl", "--learning-rate", 0.001, "--max-steps", 7, "-o", "run")
    assert toolkit(*words, "--set", "schedule.kind=linear", cwd=tmp_path).returncode == 0
    from toolkit.specs.recipe import Recipe

    recipe = Recipe.load(tmp_path / "run" / "recipe.yaml")
    assert recipe.require_data().sources[0].source == "x.jsonl"
    assert recipe.optimizer.learning_rate == 0.001
    assert recipe.max_steps == 7
    assert recipe.schedule.kind == "linear"


def test_plan_from_a_recipe_with_one_change(model: Path, tmp_path: Path) -> None:
    assert toolkit(*plan_words(model, "--set", "seed=7", "-o", "one"), cwd=tmp_path).returncode == 0
    again = toolkit(
        "plan", "--recipe", "one/recipe.yaml", "--cluster", "4xcpu", "--seq-len", 32, "-o", "two", cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
    from toolkit.planner.plan import Plan
    from toolkit.specs.recipe import Recipe

    assert Plan.load(tmp_path / "two" / "plan.json").world_size == 4
    recipe = Recipe.load(tmp_path / "two" / "recipe.yaml")
    assert (recipe.workload.seq_len, recipe.seed) == (32, 7)


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--tp", 3], ["tp=3 does not divide 8 attention heads", "use 1 or 2"]),
        (["--global-batch", 7], ["global_batch=7", "use 6 or 8"]),
        (["--seq-len", 4096], ["4096", "128"]),
        (["--set", "optimizer.learnin_rate=1"], ["optimizer.learnin_rate", "did you mean `learning_rate`"]),
        (["--set", "epochs"], ["--set epochs", "KEY=VALUE"]),
        (["--precision", "int8"], ["precision", "int8"]),
        (["--cluster", "8xA100-800GB"], ["A100-80GB"]),
    ],
)
def test_bad_options(model: Path, tmp_path: Path, more: list[object], parts: list[str]) -> None:
    refused(toolkit(*plan_words(model, *more, "-o", "run"), cwd=tmp_path), *parts)
    assert not (tmp_path / "run").exists()


def test_missing_options_are_named_together(tmp_path: Path) -> None:
    refused(toolkit("plan", cwd=tmp_path), "--model, --seq-len, --global-batch missing")


def test_missing_model_folder(tmp_path: Path) -> None:
    refused(toolkit(*plan_words("./nowhere"), cwd=tmp_path), "./nowhere")


def test_not_a_llama(model: Path, tmp_path: Path) -> None:
    (model / "config.json").write_text(json.dumps(LLAMA | {"model_type": "gpt2"}))
    refused(toolkit(*plan_words(model, "-o", "run"), cwd=tmp_path), "gpt2", "llama")
    assert not (tmp_path / "run").exists()


def test_folder_of_another_run(model: Path, tmp_path: Path) -> None:
    assert toolkit(*plan_words(model, "-o", "run"), cwd=tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    refused(toolkit(*plan_words(model, "--zero", 3, "-o", "run"), cwd=tmp_path), "--overwrite")
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert toolkit(*plan_words(model, "--zero", 3, "-o", "run", "--overwrite"), cwd=tmp_path).returncode == 0


def test_launch_of_a_folder_that_is_no_run(tmp_path: Path) -> None:
    refused(toolkit("launch", tmp_path, cwd=tmp_path), "plan.json", "toolkit plan")


@pytest.mark.parametrize(
    ("length", "options", "told"),
    [
        ({"max_steps": 40}, [], "step: 40 steps, 2 of warm-up"),
        ({"max_steps": 40}, ["--steps", "100"], "step: 100 steps, 3 of warm-up"),
        ({"epochs": 2}, [], "step: 1,000 steps (assumed: the epochs decide; --steps says how many), 30 of warm-up"),
    ],
)
def test_a_schedule_is_drawn_before_the_run(
    tmp_path: Path, length: dict[str, float], options: list[str], told: str
) -> None:
    recipe = {"model": "llama-3.2-1b", "workload": {"seq_len": 512, "global_batch": 8}, **length}
    recipe["schedule"] = {"kind": "step", "every": 10}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    done = toolkit("report", "--schedule", "recipe.yaml", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert told in " ".join(done.stdout.split())
    assert (tmp_path / "schedule.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        (
            {"kind": "plateau", "warmup_steps": 10, "min_ratio": 0.1},
            "then the run's held-out loss decides: x 0.5 after 3 evaluations without a better one, never below 2e-06",
        ),
        (
            {"kind": "relative_change", "target": 0.002},
            "then the size of the run's updates decides, every 10 of them: led to 0.002 of the weights",
        ),
    ],
)
def test_a_schedule_that_depends_on_the_run_says_so(tmp_path: Path, schedule: dict[str, object], told: str) -> None:
    recipe = {"model": "llama-3.2-1b", "workload": {"seq_len": 512, "global_batch": 8}, "max_steps": 40}
    recipe |= {"schedule": schedule, "evaluation": {"every_steps": 5}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    done = toolkit("report", "--schedule", "recipe.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert told in " ".join(done.stdout.split())
    assert "last" not in done.stdout
    assert (tmp_path / "schedule.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run", "--schedule", "recipe.yaml"], ["--schedule takes a recipe alone"]),
        (["run", "--steps", "5"], ["--steps needs --schedule"]),
        ([], ["no run folder was given"]),
        (["--schedule", "missing.yaml"], ["missing.yaml"]),
    ],
)
def test_report_refuses(tmp_path: Path, words: list[str], parts: list[str]) -> None:
    refused(toolkit("report", *words, cwd=tmp_path), *parts)


def test_report_before_the_run(model: Path, tmp_path: Path) -> None:
    assert toolkit(*plan_words(model, "-o", "run"), cwd=tmp_path).returncode == 0
    done = toolkit("report", "run", "-o", "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "planned, not trained yet" in done.stdout
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    refused(toolkit("report", "run", "nowhere", cwd=tmp_path), "nowhere: plan.json, recipe.yaml", "missing")


@pytest.mark.parametrize(
    ("file", "old", "new", "parts"),
    [
        ("recipe.yaml", "learning_rate:", "learnig_rate:", ["learnig_rate", "did you mean `learning_rate`"]),
        ("recipe.yaml", "seq_len: 64", "seq_len: 32", ["seq_len is 32, planned 64", "toolkit plan"]),
        ("accelerate.yaml", "num_processes: 2", "num_processes: 4", ["num_processes is 4", "toolkit plan", "4xcpu"]),
        ("plan.json", '"zero_stage"', '"zero_stag"', ["zero_stag", "toolkit plan"]),
    ],
)
def test_launch_of_edited_files(model: Path, tmp_path: Path, file: str, old: str, new: str, parts: list[str]) -> None:
    assert toolkit(*plan_words(model, "-o", "run"), cwd=tmp_path).returncode == 0
    path = tmp_path / "run" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    result = toolkit("launch", "run", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    for part in parts:
        assert part in result.stderr
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == EMITTED


def test_launch_over_a_finished_run(model: Path, tmp_path: Path) -> None:
    assert toolkit(*plan_words(model, "-o", "run"), cwd=tmp_path).returncode == 0
    (tmp_path / "run" / "summary.json").write_text("{}\n")
    refused(toolkit("launch", "run", cwd=tmp_path), "summary.json", "--overwrite")
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--resume", "auto", "--overwrite"], ["--resume and --overwrite are both given"]),
        (["--resume", "last"], ["--resume last: needs auto, or the step of a checkpoint"]),
        (["--resume", "-3"], ["--resume -3"]),
    ],
)
def test_launch_refuses_odd_wishes_to_resume(model: Path, tmp_path: Path, options: list[str], parts: list[str]) -> None:
    assert toolkit(*plan_words(model, "-o", "run"), cwd=tmp_path).returncode == 0
    refused(toolkit("launch", "run", *options, cwd=tmp_path), *parts)


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--gradient-clipping", 0], ["gradient_clipping is 0.0", "above 0"]),
        (["--set", "schedule.kind=["], ["--set schedule.kind=[", "not valid YAML"]),
        (["--set", "seed.x=3"], ["seed"]),
        (["--set", "workload.zero_stage=2"], ["zero_stage"]),
    ],
)
def test_odd_options_are_no_tracebacks(model: Path, tmp_path: Path, more: list[object], parts: list[str]) -> None:
    refused(toolkit(*plan_words(model, *more), cwd=tmp_path), *parts)


@pytest.mark.parametrize("text", ["", "[]\n", "num_processes: [\n"])
def test_launch_with_a_damaged_accelerate_yaml(model: Path, tmp_path: Path, text: str) -> None:
    assert toolkit(*plan_words(model, "-o", "run"), cwd=tmp_path).returncode == 0
    (tmp_path / "run" / "accelerate.yaml").write_text(text)
    refused(toolkit("launch", "run", cwd=tmp_path), "accelerate.yaml")


def test_a_length_given_here_replaces_the_recipes(model: Path, tmp_path: Path) -> None:
    assert toolkit(*plan_words(model, "--max-steps", 7, "-o", "one"), cwd=tmp_path).returncode == 0
    again = toolkit(
        "plan", "--recipe", "one/recipe.yaml", "--cluster", "2xcpu", "--epochs", 2, "-o", "two", cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
    from toolkit.specs.recipe import Recipe

    recipe = Recipe.load(tmp_path / "two" / "recipe.yaml")
    assert (recipe.epochs, recipe.max_steps) == (2, None)


def test_the_line_that_plans_again_keeps_what_was_fixed(model: Path, tmp_path: Path) -> None:
    assert toolkit(*plan_words(model, "--zero", 2, "--micro-batch", 2, "-o", "run"), cwd=tmp_path).returncode == 0
    path = tmp_path / "run" / "accelerate.yaml"
    path.write_text(path.read_text().replace("num_processes: 2", "num_processes: 4"))
    result = toolkit("launch", "run", cwd=tmp_path)
    line = result.stderr.rpartition("plan again: ")[2].split()
    assert line[line.index("--zero") + 1] == "2"
    assert line[line.index("--micro-batch") + 1] == "2"
    assert toolkit(*line[1:], cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--set", "workload=5"], ["workload", "`key: value` lines"]),
        (["--set", "model=5"], ["`model` is 5"]),
        (["--set", "trackers=wandb"], ["trackers", "needs a list"]),
        (["--set", "=3"], ["KEY=VALUE"]),
        (["--set", "seed=99999999999999999999999"], ["seed"]),
    ],
)
def test_values_of_a_wrong_kind(model: Path, tmp_path: Path, more: list[object], parts: list[str]) -> None:
    refused(toolkit(*plan_words(model, *more), cwd=tmp_path), *parts)
