"""`toolkit doctor` as it is called: here, on a desk without the training half, on systems that it does not know."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolkit import __main__ as command_line

ROOT = Path(__file__).parents[3]
TRAINING = (
    "accelerate", "bitsandbytes", "datasets", "deepspeed", "functorch", "lm_eval", "megatron", "peft", "pyarrow",
    "pytorch_optimizer", "safetensors", "tensorboard", "tokenizers", "torch", "transformers",
)  # fmt: skip
SECRETS = ("ada-lovelace", "hf_abcdefghijklmnop", "wandbwandbwandb", "analytical-engine", "swordfish")


def run(words: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(words, cwd=cwd, env=given, capture_output=True, text=True, timeout=120, check=False)


class Run:
    """One call: what it printed and wrote."""

    def __init__(self, result: subprocess.CompletedProcess[str], report: Path) -> None:
        self.code, self.printed, self.report = result.returncode, result.stdout, report.read_text(encoding="utf-8")
        self.data: dict[str, Any] = json.loads(result.stdout)

    def severities(self) -> dict[str, str]:
        """Of the findings, by rule."""
        return {one["rule"]: one["severity"] for one in self.data["findings"]}

    def able(self) -> dict[str, str]:
        """What can be done."""
        return {one["name"]: one["can"] for one in self.data["capabilities"]}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """On this machine, as a user with a name and secrets, in a folder that hides two libraries."""
    pytest.importorskip("torch")
    home = tmp_path_factory.mktemp("ada-lovelace")
    folder = home / "analytical-engine"
    folder.mkdir()
    (folder / "random.py").write_text("raise SystemExit('the wrong random')\n")
    (folder / "deepspeed").mkdir()
    (folder / "deepspeed" / "__init__.py").write_text("raise SystemExit('the wrong deepspeed')\n")
    environment = {
        "HOME": str(home),
        "USER": "ada-lovelace",
        "HF_TOKEN": "hf_abcdefghijklmnop",
        "WANDB_API_KEY": "wandbwandbwandb",
        "NCCL_PASSPHRASE": "swordfish",
        "CUDA_VISIBLE_DEVICES": "",
    }
    # The console script: `python -m` would take the folder's modules itself.
    command = [str(Path(sys.executable).parent / "toolkit"), "doctor", "--json", "--report", "report.md"]
    result = run(command, folder, **environment)
    assert result.stdout, result.stderr
    return Run(result, folder / "report.md")


def test_what_hides_a_library_blocks_training_and_is_not_run(here: Run) -> None:
    assert here.code == 1
    assert here.data["blocks_training"] is True
    errors = [one["message"] for one in here.data["findings"] if one["rule"] == "shadow"]
    assert len(errors) == 2
    assert here.severities()["shadow"] == "error"
    assert errors[0].startswith("deepspeed in the current folder is found before the library")
    assert errors[1].startswith("random.py in the current folder is found before Python's own module")
    # The libraries themselves were imported, not what lies in the folder.
    assert set(here.data["facts"]["imports"]) == {"torch", "deepspeed", "accelerate", "transformers"}
    assert all("error" not in one for one in here.data["facts"]["imports"].values())


def test_gloo_was_really_tried(here: Run) -> None:
    routes = here.data["facts"]["collectives"]["gloo"]
    assert routes["loopback"]["sum"] == routes["loopback"]["wanted"] == 3.0
    assert routes["loopback"]["seconds"] > 0


def test_the_json_has_its_schema(here: Run) -> None:
    assert here.data["schema"] == 1
    assert here.data.keys() == {
        "schema", "toolkit", "blocks_training", "counts", "seconds", "capabilities", "findings", "facts",
    }  # fmt: skip
    kinds = {"severity", "rule", "section", "message", "effect", "remedy", "command"}
    assert all(one.keys() == kinds for one in here.data["findings"])
    assert all(one["can"] in ("yes", "no", "untried") for one in here.data["capabilities"])
    assert here.data["facts"].keys() == {
        "system", "releases", "memory", "storage", "network", "planner", "imports", "gpus", "topology", "kernel log",
        "toolchain", "limits", "environment", "shadows", "collectives", "ops",
    }  # fmt: skip
    assert sum(here.data["counts"].values()) == len({json.dumps(one) for one in here.data["findings"]})
    assert here.data["facts"]["ops"]["ops"]["ShareMemCommBuilder"]["state"] in ("untried", "built", "installed")


def test_every_finding_says_what_happens_and_what_to_do(here: Run) -> None:
    for one in here.data["findings"]:
        assert one["effect"], one
        assert one["remedy"] or one["command"], one
        assert one["rule"] != "probe-failed", one


def test_nothing_secret_leaves(here: Run) -> None:
    name = os.uname().nodename
    for text in (here.printed, here.report):
        assert not [secret for secret in SECRETS if secret in text]
        assert "/ada" not in text
        assert len(name) < 3 or name in ("localhost", "vm") or name not in text
    assert "NCCL_PASSPHRASE" in here.report  # that it is set is told
    assert here.report.startswith("# toolkit doctor\n")
    assert "| yes | plan, estimate, check, report |" in here.report


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that is installed here but the training half, to be used with `python -S`."""
    folder = tmp_path_factory.mktemp("desk") / "site-packages"
    folder.mkdir()
    import pydantic

    for path in Path(pydantic.__file__).parents[1].iterdir():
        if not path.name.lower().replace("-", "_").startswith(TRAINING) and not path.name.startswith("__"):
            (folder / path.name).symlink_to(path)
    return folder


def test_on_a_desk_without_the_training_half_it_says_what_to_install(desk: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(desk)])
    code = "from toolkit.__main__ import main; main()"
    words = [sys.executable, "-S", "-c", code, "doctor", "--json", "--report", "report.md"]
    result = run(words, desk.parent, PYTHONPATH=path)
    found = Run(result, desk.parent / "report.md")
    assert found.code == 1
    errors = {rule for rule, severity in found.severities().items() if severity == "error"}
    assert errors - {"little-disk", "small-shm"} == {"train-extra"}  # the machine's own may be beside it
    assert "probe-failed" not in found.severities()
    assert found.able()["plan, estimate, check, report"] == "yes"
    assert found.able()["train on processors"] == "no"
    assert found.data["facts"]["imports"] == {}
    assert found.data["seconds"] < 10


UNKNOWN = """
import sys
from pathlib import Path
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None  # as on Windows
from toolkit.doctor.api import examine
from toolkit.doctor.machine import Machine
from toolkit.doctor.redact import Identity
from toolkit.doctor.render import as_json, as_text
machine = Machine(Path("empty"), {}, Path("empty"), Path("empty"), SYSTEM)
found = examine(machine)
as_text(found, facts=True, paint=lambda word, kind: word)
print(as_json(found, Identity.of(machine), version="0"))
"""


@pytest.mark.parametrize(("system", "severity"), [("win32", "error"), ("darwin", "warning"), ("freebsd14", "warning")])
def test_a_system_without_proc_or_unix_modules_is_looked_at_without_a_failing_probe(
    desk: Path, tmp_path: Path, system: str, severity: str
) -> None:
    (tmp_path / "empty").mkdir()
    path = os.pathsep.join([str(ROOT), str(desk)])
    code = UNKNOWN.replace("SYSTEM", repr(system))
    result = run([sys.executable, "-S", "-c", code], tmp_path, PYTHONPATH=path)
    assert result.returncode == 0, result.stderr
    findings = {one["rule"]: one["severity"] for one in json.loads(result.stdout)["findings"]}
    assert findings["not-linux"] == severity
    assert "probe-failed" not in findings


def test_reports_are_not_written_over_or_into_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.md").write_text("mine")
    for words in (["there.md"], ["no/such/folder.md"], ["."]):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["toolkit", "doctor", "--report", *words])
        with pytest.raises(SystemExit) as left:
            command_line.main()
        assert left.value.code == 2
        assert capsys.readouterr().err.startswith(f"error: --report {words[0]}: ")
    assert (tmp_path / "there.md").read_text() == "mine"
