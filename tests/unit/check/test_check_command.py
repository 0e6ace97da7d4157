"""`toolkit check` as it is called: exit codes, formats, --fix, and what it does not import."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from toolkit import __main__ as command_line
from toolkit.check.api import Question, check
from toolkit.check.releases import Release

ROOT = Path(__file__).parents[3]
BROKEN = (
    '{\n  "train_micro_batch_size_per_gpu": 1,\n  "gradient_cliping": 1.0,\n  "zero_optimization": {"stage": 1}\n}\n'
)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "ds_config.json"
    path.write_text(BROKEN)
    return path


def run(*words: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["toolkit", "check", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        command_line.main()
    return int(left.value.code or 0)


def test_errors_exit_with_1_and_warnings_only_when_strict(
    broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(broken, monkeypatch=monkeypatch) == 1
    assert f"{broken}:3:3: error: gradient_cliping: unknown key" in capsys.readouterr().out
    broken.write_text(BROKEN.replace('"gradient_cliping"', '"quantum"'))
    assert run(broken, monkeypatch=monkeypatch) == 0
    assert run(broken, "--strict", monkeypatch=monkeypatch) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["nowhere.json"],
        ["--format", "xml", "{broken}"],
        ["--kind", "yaml", "{broken}"],
        ["--read-by", "me", "{broken}"],
        ["--method", "dora", "{broken}"],
        ["--deepspeed", "new", "{broken}"],
        ["--model", "llama-3.1-8b", "{broken}"],
        ["--output", "x.json", "{broken}"],
        ["--fix", "--output", "x.yaml", "{broken}"],
        ["--model", "no such model", "--cluster", "8xA100", "{broken}"],
    ],
)
def test_bad_usage_exits_with_2_and_one_line(
    broken: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*[word.format(broken=broken) for word in words], monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_fix_writes_a_copy_that_passes_and_shows_what_it_changed(
    broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(broken, "--fix", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr()
    assert '+  "gradient_clipping": 1.0' in told.err
    assert broken.read_text() == BROKEN
    copy = broken.with_name("ds_config.fixed.json")
    assert json.loads(copy.read_text())["gradient_clipping"] == 1.0
    assert run(copy, monkeypatch=monkeypatch) == 0
    named = broken.with_name("other.json")
    assert run(broken, "--fix", "-o", named, monkeypatch=monkeypatch) == 0
    assert named.read_text() == copy.read_text()


def test_fix_overwrites_nothing(
    broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken.write_bytes(BROKEN.replace("\n", "\r\n").encode())
    copy = broken.with_name("ds_config.fixed.json")
    assert run(broken, "--fix", monkeypatch=monkeypatch) == 0
    assert copy.read_bytes() == BROKEN.replace("\n", "\r\n").replace("cliping", "clipping").encode()
    assert run(broken, "--fix", monkeypatch=monkeypatch) == 0  # The same once more.
    copy.write_text("mine")
    assert run(broken, "--fix", monkeypatch=monkeypatch) == 2
    assert run(broken, "--fix", "-o", broken, monkeypatch=monkeypatch) == 2
    assert "is there already" in capsys.readouterr().err
    assert copy.read_text() == "mine"
    assert b"cliping" in broken.read_bytes()


def test_formats_of_programs_are_alone_on_stdout(
    broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(broken, "--format", "json", "--fix", monkeypatch=monkeypatch)
    assert json.loads(capsys.readouterr().out)["counts"]["error"] == 0
    run(broken, "--format", "sarif", monkeypatch=monkeypatch)
    assert json.loads(capsys.readouterr().out)["runs"][0]["results"]
    run(broken, "--format", "github", monkeypatch=monkeypatch)
    assert "::error file=" in capsys.readouterr().out


def test_a_ds_config_is_checked_without_the_planner(broken: Path) -> None:
    code = (
        "import sys\nfrom toolkit.__main__ import main\n"
        f"sys.argv = ['toolkit', 'check', {str(broken)!r}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith(('toolkit.planner', 'toolkit.report', 'torch'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_hundred_files_take_less_than_a_second(tmp_path: Path) -> None:
    shipped = [path.read_text() for path in sorted((ROOT / "ds_configs").glob("*.json"))]
    files = [tmp_path / f"ds_{number}.json" for number in range(100)]
    for number, path in enumerate(files):
        path.write_text(shipped[number % len(shipped)])
    question = Question(Release.parse("0.19.8"))
    # Of this process: others may keep the machine busy.
    before = time.process_time()
    check(files, question)
    assert time.process_time() - before < 1


def test_the_hook_takes_the_names_of_the_well_known_templates() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"] == "toolkit check"
    taken = re.compile(hook["files"])
    for name in ("ds_config.json", "examples/ds_z3_config.json", "deepspeed_configs/zero2.json", "a/zero3_bf16.json",
                 "accelerate.yaml", "cfg/my_accelerate_config.yml", "ds_configs/any.json"):  # fmt: skip
        assert taken.search(name), name
    for name in ("package.json", "tsconfig.json", "docs/records.json", "ci.yaml"):
        assert not taken.search(name), name


def test_help_names_every_option(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(os.environ, "COLUMNS", "200")
    assert run("--help", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    for option in ("--format", "--fix", "--deepspeed", "--world-size", "--read-by", "--strict", "--model", "--cluster"):
        assert option in told
