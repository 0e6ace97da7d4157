"""Whole runs through the launchers: both documented forms, and what a user sees when the ranks cannot train."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import toolkit
from ranks.inputs import write_inputs
from ranks.runs import in_warm_ranks
from toolkit.checkpoints.store import Store
from toolkit.errors import Preempted

pytestmark = pytest.mark.ranks
ROOT = Path(__file__).parents[2]
STEPS = 4


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model/` and `data.jsonl`."""
    return write_inputs(tmp_path_factory.mktemp("inputs"), rows=200)


def make_run(folder: Path, model: Path, data: Path, *, steps: int = STEPS, **layout: Any) -> Path:
    plan = toolkit.plan(model, "2xcpu", seq_len=64, global_batch=8, **(layout or {"zero_stage": 2}))
    recipe = {
        "model": str(model),
        "workload": plan.workload.model_dump(),
        "data": {"train": str(data), "held_out_fraction": 0.1},
        "max_steps": steps,
        "evaluation": {"exact_match_samples": 8, "max_new_tokens": 4},
    }
    return toolkit.emit(plan, folder, toolkit.Recipe.parse(recipe, source="test"))


def losses(folder: Path) -> list[float]:
    return [step["loss"] for step in toolkit.load_run(folder).steps]


def command_line(*words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return subprocess.run(
        [*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=150, check=False
    )


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_both_launch_forms_give_the_same_losses(inputs: Path, tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", inputs / "model", inputs / "data.jsonl")
    two = make_run(tmp_path / "two", inputs / "model", inputs / "data.jsonl")

    result = command_line(sys.executable, "-m", "toolkit", "launch", one)
    assert result.returncode == 0, result.stderr
    script = ["accelerate", "launch", "--config_file", two / "accelerate.yaml", "toolkit/finetune.py"]
    result = command_line(*script, "--recipe", two / "recipe.yaml", "--plan", two / "plan.json")
    assert result.returncode == 0, result.stderr

    assert losses(one) == losses(two)
    summary = toolkit.load_run(one).summary
    assert summary["steps"] == STEPS
    assert summary["world_size"] == 2
    assert summary["loss_first"] == losses(one)[0]
    assert (one / summary["export"] / "model.safetensors").is_file()
    assert (one / "plots" / "loss.png").is_file()
    assert any((one / "curves").rglob("events.out.tfevents*"))


@pytest.mark.soak
def test_world_size_that_was_not_planned(inputs: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", inputs / "model", inputs / "data.jsonl")
    result = command_line(
        *("accelerate", "launch", "--config_file", run / "accelerate.yaml", "--num_processes", 1),
        *("-m", "toolkit.finetune", "--recipe", run / "recipe.yaml", "--plan", run / "plan.json"),
    )
    assert result.returncode != 0
    assert "1 process(es) were started, the plan has 2" in result.stderr
    assert "toolkit plan" in result.stderr
    assert "1xcpu" in result.stderr


@pytest.mark.timeout(300)
@pytest.mark.soak
def test_stopped_from_outside_and_started_again(inputs: Path, tmp_path: Path) -> None:
    """SIGTERM to the launcher lets the ranks save and leave; a new run that cannot start leaves the results alone."""
    run = make_run(tmp_path / "run", inputs / "model", inputs / "data.jsonl", steps=10_000)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "toolkit", "launch", str(run)]
    process = subprocess.Popen(command, env=os.environ | {"PATH": path}, stdout=subprocess.DEVNULL)
    wait_for_steps(run)
    second = command_line(*command, "--overwrite")
    assert second.returncode == 2
    assert "another process trains here" in second.stderr

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == Preempted.exit_code
    assert ranks_of(run) == {}
    assert Store(run / "checkpoints").steps() == [len(losses(run))]

    before = losses(run)
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("data.jsonl", "dota.jsonl"))
    third = command_line(*command, "--overwrite")
    assert third.returncode == 2
    assert "dota.jsonl" in third.stderr
    assert losses(run) == before


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_rank_that_a_library_aborts_says_where(inputs: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", inputs / "model", inputs / "data.jsonl", steps=10_000)
    command = [sys.executable, "-m", "toolkit", "launch", str(run), "--max-restarts", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_for_steps(run)
        rank = next(pid for pid, words in ranks_of(run).items() if "accelerate" not in words)
        os.kill(rank, signal.SIGABRT)
        _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Fatal Python error: Aborted" in told
    assert "in train" in told
    assert ranks_of(run) == {}


def wait_for_steps(run: Path) -> None:
    deadline = time.monotonic() + 120
    while not ((run / "telemetry.jsonl").exists() and losses(run)) and time.monotonic() < deadline:
        time.sleep(0.2)


def ranks_of(run: Path) -> dict[int, str]:
    """Process id -> command line of the living processes that train this run, launcher and ranks."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode()
    return {pid: words for pid, words in found.items() if "toolkit.finetune" in words and str(run) in words}


def broken_line(inputs: Path) -> None:
    with (inputs / "data.jsonl").open("a") as file:
        file.write('{"prompt": "cut off\n')


def nan_weights(inputs: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = inputs / "model" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "words",
    [
        ["toolkit", "launch", "RUN"],
        pytest.param(
            ["accelerate", "launch", "--config_file", "RUN/accelerate.yaml", "-m", "toolkit.finetune"],
            marks=pytest.mark.soak,
        ),
        pytest.param(
            ["accelerate", "launch", "--multi_gpu", "--num_processes", 2, "-m", "toolkit.finetune"],
            marks=pytest.mark.soak,
        ),
        pytest.param(["torchrun", "--nproc-per-node", 2, "-m", "toolkit.finetune"], marks=pytest.mark.soak),
    ],
    ids=["toolkit", "accelerate-megatron", "accelerate-plain", "torchrun"],
)
def test_megatron_through_every_launcher(inputs: Path, tmp_path: Path, words: list[Any]) -> None:
    run = make_run(tmp_path / "run", inputs / "model", inputs / "data.jsonl", engine="mcore", tp=2, micro_batch=4)
    plain = make_run(tmp_path / "plain", inputs / "model", inputs / "data.jsonl", zero_stage=2, micro_batch=2)
    given = [str(word).replace("RUN", str(run)) for word in words]
    given += [] if words[0] == "toolkit" else ["--recipe", run / "recipe.yaml", "--plan", run / "plan.json"]
    result = command_line(*given)
    assert result.returncode == 0, result.stderr[-3000:]
    in_warm_ranks(plain)
    assert losses(run) == pytest.approx(losses(plain), abs=3e-6)
    assert (run / "final" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        pytest.param(broken_line, ["data.jsonl:201"], marks=pytest.mark.soak),
        pytest.param(nan_weights, ["first loss: nan before any update", "weights"], marks=pytest.mark.soak),
    ],
)
def test_bad_inputs_end_with_one_line_and_exit_code_2(inputs: Path, tmp_path: Path, damage, parts: list[str]) -> None:
    mine = Path(shutil.copytree(inputs, tmp_path / "inputs"))
    damage(mine)
    data = next(mine.glob("data.jsonl*"))
    run = make_run(tmp_path / "run", mine / "model", data)
    result = command_line(sys.executable, "-m", "toolkit", "launch", run)
    assert result.returncode == 2, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for part in parts:
        assert part in last
    assert "Traceback" not in result.stderr
    assert not (run / "summary.json").exists()
    assert not (run / "final").exists()
