"""The command `toolkit validate`: JSON alone on stdout, tables otherwise, one error and exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

from toolkit.planner.validation.runs import NEEDED


def toolkit(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toolkit", "validate", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_json_has_the_promised_keys_and_nothing_else_is_printed() -> None:
    done = toolkit("--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for part in ("memory", "time"):
        assert {"overall", "by_framework", "by_method"} <= said[part].keys()
        assert said[part]["overall"].keys() == {"rows", "mape", "bias", "p90", "within_10"}
    assert {"tables", "kendall_tau", "median_regret"} <= said["ranking"].keys()
    assert {"rows", "missed", "false"} <= said["oom"].keys()
    assert {"baselines", "fitted_constants", "skipped"} <= said.keys()


def test_the_tables_say_what_was_skipped(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(f"{','.join(NEEDED)}\nR1,llama-2-7b,A100-80GB,8,4096,1,HF + DeepSpeed\n", encoding="utf-8")
    done = toolkit(path)
    assert done.returncode == 0, done.stderr
    assert "peak memory is not stated" in done.stdout
    assert "no table with three layouts" in done.stdout


def test_bad_input_is_one_error(tmp_path: Path) -> None:
    for words, part in (([tmp_path / "none.csv"], "cannot be read"), (["--by", "size"], "--by size")):
        done = toolkit(*words)
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.strip().splitlines()) == 1
        assert part in done.stderr
