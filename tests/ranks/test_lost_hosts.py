"""Whole runs of which a host is lost with its disk: they end with the numbers of the run that nothing happened to."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from far_servers import s3, sftp  # noqa: F401 (fixtures)

import toolkit
from procs import run_ranks
from ranks.chaos import differences
from ranks.test_faults import write_inputs
from toolkit.checkpoints import disks as disks_of_ranks
from toolkit.exporting import export_checkpoint
from toolkit.finetune import main
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks
STEPS, EVERY = 8, 3


def write(folder: Path, inputs: Path, checkpoint: dict[str, Any]) -> Path:
    """A planned run of two ranks that saves and measures."""
    plan = toolkit.plan(
        inputs / "model", "2xcpu", seq_len=32, global_batch=8, micro_batch=2, precision="fp32", zero_stage=3
    )
    recipe = {
        "model": str(inputs / "model"),
        "workload": plan.workload.model_dump(),
        "data": {"train": str(inputs / "data.jsonl"), "held_out_fraction": 0.1},
        "evaluation": {"every_steps": 2},
        "max_steps": STEPS,
        "trackers": [],
        "checkpoint": {"every_steps": EVERY, **checkpoint},
    }
    return toolkit.emit(plan, folder, toolkit.Recipe.parse(recipe, source="test"))


def finetune(folders: Sequence[Path], environment: dict[str, str], *options: str) -> None:
    """finetune.py on the host of this rank."""
    os.environ.update(environment)  # ranks come from a process that began before a server had its port
    run = RunFolder(folders[int(os.environ["RANK"])])
    words = ["finetune.py", "--recipe", str(run.recipe), "--plan", str(run.plan), *options]
    with mock.patch.object(sys, "argv", words), mock.patch.object(disks_of_ranks, "_PATIENCE_SECONDS", 0.1):
        main()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["copies", "file", "s3", "sftp"])
def test_rank_0_and_its_disk_are_lost(tmp_path: Path, inputs: Path, kind: str, request: pytest.FixtureRequest) -> None:
    checkpoint: dict[str, Any] = {"replicas": 2}
    if kind != "copies":
        checkpoint = {"store": f"file://{tmp_path}/far" if kind == "file" else request.getfixturevalue(kind)}
    planned = write(tmp_path / "planned", inputs, checkpoint)
    hosts = [shutil.copytree(planned, tmp_path / name) for name in ("a", "b")]
    environment = dict(os.environ)
    run_ranks(finetune, 2, hosts, environment, timeout_s=120)
    untouched = toolkit.load_run(shutil.copytree(hosts[0], tmp_path / "untouched"))
    # The last two steps are lost with the host that had everything else; where all lies behind a URL, with both.
    for lost in hosts[:1] if kind == "copies" else hosts:
        shutil.rmtree(lost)
        shutil.copytree(planned, lost)
    run_ranks(finetune, 2, hosts, environment, "--resume", "6", timeout_s=120)
    again = toolkit.load_run(hosts[0])
    assert differences(again, untouched) == []
    evaluations = (again.folder.evaluations, untouched.folder.evaluations)
    assert evaluations[0].read_text() == evaluations[1].read_text()
    if kind != "copies":
        assert export_checkpoint(hosts[1], tmp_path / "exported") == STEPS
        exported = tmp_path / "exported" / "model.safetensors"
        assert exported.read_bytes() == (again.export / "model.safetensors").read_bytes()
