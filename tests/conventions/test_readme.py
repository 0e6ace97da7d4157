"""Every command of the README and of the quick start runs: in order, with a model and samples that every machine has.

Only what cannot be had everywhere is replaced: the hub model by a small one made on the spot, Meta's files by what the
line before converted, the GPUs by two CPU processes, the samples by a few rows, the demos' 700 and 60 steps by 20 and
15. Commands that would run this very suite are looked at with `make --dry-run`. The quick start goes on from the
README's demo.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shell_blocks import Command, commands

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
REPLACED = {
    "meta-llama/Llama-3.1-8B": "model",
    "8xA100-80GB": "2xcpu",
    "4xA100-80GB": "2xcpu",
    "~/.llama/checkpoints/Llama3.1-8B": "run/meta",
    "--seq-len 4096": "--seq-len 64",
    "--global-batch 64": "--global-batch 8 --max-steps 3",
}
INSTALLS = ("git clone", "cd ", "pip install", "python3 -m venv", ". .venv", "source .venv")
RUNS_THIS_SUITE = ("make test", "make check")
OWN_DEMO = "MODEL="
"""The demo once more, with the reader's model: it has a test of its own, as it takes as long as the first."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would type: with a model, samples and the toolkit's own folder."""
    from toolkit.demo.model import write_demo_model
    from toolkit.demo.tasks import demo_rows

    folder = tmp_path_factory.mktemp("readme")
    rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in demo_rows()[0][:64]]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_demo_model(folder / "model", (text for row in rows for text in row.values()))
    (folder / "toolkit").symlink_to(ROOT / "toolkit")
    return folder


def run(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def in_this_environment(command: str) -> str:
    """A `make` command that uses the environment under test, instead of making one."""
    return f"{command} VENV={VENV} --old-file={VENV}/.train --old-file={VENV}/.dev"


def test_the_readme_names_the_two_commands_and_what_tests_cannot_run() -> None:
    found = [command.words for command in commands(ROOT / "README.md")]
    assert "make demo" in found
    assert "make test" in found
    for command in found:
        if command.startswith(RUNS_THIS_SUITE):
            dry = run(f"make --dry-run {command.removeprefix('make ')} VENV={VENV}", ROOT)
            assert dry.returncode == 0, dry.stderr
            assert "pytest" in dry.stdout


def commands_in_order() -> list[tuple[Command, bool]]:
    """Those of the README, and behind its demo those of the quick start; whether each is of the quick start."""
    readme, quick_start = commands(ROOT / "README.md"), commands(ROOT / "docs" / "quick-start.md")
    behind = [one.words for one in readme].index("make demo") + 1
    further = [one for one in quick_start if one not in readme]
    return [
        *((one, False) for one in readme[:behind]),
        *((one, True) for one in further),
        *((one, False) for one in readme[behind:]),
    ]


@pytest.mark.ranks
@pytest.mark.timeout(900)
def test_every_other_command_runs(desk: Path) -> None:
    ran = {True: 0, False: 0}
    for (command, exit_code), of_quick_start in commands_in_order():
        if command.startswith((*INSTALLS, *RUNS_THIS_SUITE)) or OWN_DEMO in command:
            continue
        at = ROOT if of_quick_start or command.startswith("make") else desk
        for given, stand_in in REPLACED.items():
            command = command.replace(given, stand_in)
        if command == "make demo":
            command += " DEMO_ARGS='--max-steps 20'"
        if command.startswith("make"):
            command = in_this_environment(command)
        result = run(command, at)
        assert result.returncode == exit_code, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
        if of_quick_start and command.startswith("toolkit launch"):
            assert "gradient_clipping is 0.5, planned 1.0" in result.stdout + result.stderr
        ran[of_quick_start] += 1
    assert ran[False] >= 8
    assert ran[True] >= 6


@pytest.mark.soak
@pytest.mark.ranks
@pytest.mark.timeout(600)
def test_the_demo_with_a_model_and_samples_of_ones_own(desk: Path) -> None:
    (command,) = (one.words for one in commands(ROOT / "README.md") if OWN_DEMO in one.words)
    command = command.replace("MODEL=", f"MODEL={desk}/").replace("DATA=", f"DATA={desk}/")
    lines = run(f"{in_this_environment(command)} --dry-run", ROOT).stdout.splitlines()
    # As long as it takes to go through: 15 of its 60 steps.
    result = run(next(line for line in lines if " demo " in line) + " --max-steps 15", ROOT)
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
