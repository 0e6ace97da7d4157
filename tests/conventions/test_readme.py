"""Every command of the README runs: in order, in one folder, with a model and samples that every machine has.

Only what cannot be had everywhere is replaced: the hub model by a small one made on the spot, Meta's files by what the
line before converted, the GPUs by two CPU processes, the samples by a few rows, the demo's 700 steps by 30. Commands
that would run this very suite are looked at with `make --dry-run`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def commands() -> list[str]:
    """Lines of all ```bash blocks, continuation lines joined, comments left out."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip() and not line.startswith("#")]


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


def test_the_readme_names_the_two_commands_and_what_tests_cannot_run() -> None:
    found = commands()
    assert "make demo" in found
    assert "make test" in found
    for command in found:
        if command.startswith(RUNS_THIS_SUITE):
            dry = run(f"make --dry-run {command.removeprefix('make ')} VENV={VENV}", ROOT)
            assert dry.returncode == 0, dry.stderr
            assert "pytest" in dry.stdout


@pytest.mark.ranks
@pytest.mark.timeout(900)
def test_every_other_command_runs(desk: Path) -> None:
    ran = 0
    for command in commands():
        if command.startswith((*INSTALLS, *RUNS_THIS_SUITE)):
            continue
        at = ROOT if command.startswith("make") else desk
        for given, stand_in in REPLACED.items():
            command = command.replace(given, stand_in)
        if command == "make demo":
            command += " DEMO_ARGS='--max-steps 30'"
        if command.startswith("make"):
            # The environment under test, instead of one made anew.
            command += f" VENV={VENV} --old-file={VENV}/.train --old-file={VENV}/.dev"
            command = command.replace("MODEL=", f"MODEL={desk}/").replace("DATA=", f"DATA={desk}/")
        result = run(command, at)
        assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
        ran += 1
    assert ran >= 8
