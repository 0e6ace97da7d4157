"""What tries tell before they end, and what is made of it; the tries themselves, where a broken library ends them."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from toolkit.doctor.capabilities import capabilities
from toolkit.doctor.collectives import examine_collectives, failure_of
from toolkit.doctor.explained import explain
from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.libraries import judge_imports
from toolkit.doctor.machine import Machine
from toolkit.doctor.ops import Memory, examine_ops, state_of
from toolkit.doctor.programs import NOT_STARTED, Ended, Programs, ended
from toolkit.doctor.told import Told, parse_told, read_told

INSTALLED: dict[str, str | None] = {"torch": "2.13.0+cpu", "deepspeed": "0.19.8", "accelerate": None}
SUM = {"sum": 3.0, "wanted": 3.0, "seconds": 0.001, "bytes": 2**20, "ranks": 2}


def told(answers: dict[str, Any], step: str = "", end: str | None = None) -> Told:
    return Told(answers, step, end)


# Telling


def test_what_was_told_before_the_end_is_kept() -> None:
    text = '{"begin": "import torch"}\n{"topic": "torch", "value": {"cuda": null}}\n{"begin": "import deepsp'
    found = parse_told(text, Ended(-11, "", "", 1.0))
    assert found.section("torch") == {"cuda": None}
    assert (found.step, found.end) == ("import torch", "it was ended by SIGSEGV")


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (Ended(0, "", "", 1.0), "exit code 0"),
        (Ended(1, "", "Traceback\nImportError: no\n\n", 1.0), "exit code 1: ImportError: no"),
        (Ended(-9, "", "", 120.2, True), "it had not ended after 120 s"),
        (Ended(-4, "", "", 1.0), "SIGILL: the processor lacks an instruction that the library was built with"),
        (NOT_STARTED, "it was not started"),
    ],
)
def test_why_a_try_did_not_come_to_its_end(how: Ended, why: str) -> None:
    assert parse_told('[1]\n{"begin": "x"}\nnonsense\n', how) == Told({}, "x", why)
    assert parse_told('{"end": true}\n', how).end is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("libcudart.so.12: cannot open shared object file: No such file", "CUDA libraries of its own release"),
        ("/lib/libm.so.6: version `GLIBC_2.38' not found", "newer system"),
        ("libstdc++.so.6: version `GLIBCXX_3.4.32' not found", "libstdc++"),
        ("_ops.so: undefined symbol: _ZN3c104cuda", "another release of torch"),
        ("RuntimeError: operator torchvision::nms does not exist", "torchvision"),
        ("Error 803: system has unsupported display driver / cuda driver combination", "different releases"),
        ("The NVIDIA driver on your system is too old (found version 11040)", "newer CUDA"),
        ("Installed CUDA version 13.0 does not match the version torch was compiled with 12.8", "only with the CUDA"),
        ("SIGKILL", "memory"),
        ("fatal error: Python.h: No such file or directory", "headers"),
    ],
)
def test_errors_that_many_have_met(error: str, words: str) -> None:
    found = explain(error)
    assert found is not None
    assert words in found.meaning
    assert found.remedy or found.command


def test_an_error_that_nobody_has_met_is_not_explained() -> None:
    assert explain("ValueError: seventeen") is None


# Programs


def test_programs_end_in_their_time_and_with_the_block(tmp_path: Path) -> None:
    began = time.monotonic()
    with Programs(dict(os.environ)) as programs:
        quick = programs.start([sys.executable, "-c", "import os, sys; print(os.getcwd()); sys.exit(3)"], seconds=20)
        slow = programs.start(
            [sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(60)"], seconds=0.5
        )
        left = programs.start([sys.executable, "-c", "import time; time.sleep(60)"], seconds=60)
        assert programs.start(["no-such-program-here"], seconds=1) is None
        assert ended(None) == NOT_STARTED
        found = ended(quick)
        assert (found.status, found.timed_out) == (3, False)
        assert found.out.strip() != str(Path.cwd())  # not where the user is
        late = ended(slow)
        assert (late.status, late.timed_out) == (-9, True)
        assert left is not None
        folder = programs.folder
    assert left.running is False
    assert folder is not None
    assert not folder.exists()
    assert time.monotonic() - began < 10


def start_imports(programs: Programs, planted: Path, *names: str) -> Told:
    """The real try, with a folder before all others on the module path."""
    assert programs.folder is not None
    answers = programs.folder / "answers"
    environment = {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{planted}"}
    programs.environment = {**os.environ, **environment}
    program = programs.start_python("toolkit.doctor.tried.libraries", [str(answers), *names], seconds=30)
    return read_told(answers, ended(program))


def test_a_library_that_crashes_the_interpreter_is_named(tmp_path: Path) -> None:
    (tmp_path / "fine_library.py").write_text("__version__ = '1.0'\n")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with Programs(dict(os.environ)) as programs:
        found = start_imports(programs, tmp_path, "fine_library", "torch", "deepspeed")
    assert found.section("import fine_library")["release"] == "1.0"
    (finding,) = judge_imports(found, INSTALLED)
    assert (finding.severity, finding.rule) == ("error", "import-fails")
    assert finding.message.startswith("torch is installed and cannot be imported: it was ended by SIGSEGV")


def test_a_library_that_raises_does_not_keep_the_others_from_being_tried(tmp_path: Path) -> None:
    (tmp_path / "broken_library.py").write_text(
        "raise ImportError('libcudart.so.12: cannot open shared object file')\n"
    )
    (tmp_path / "fine_library.py").write_text("__version__ = '1.0'\n")
    with Programs(dict(os.environ)) as programs:
        found = start_imports(programs, tmp_path, "broken_library", "fine_library")
    assert found.end is None
    assert "libcudart" in found.section("import broken_library")["error"]
    assert found.section("import fine_library")["release"] == "1.0"
    assert {"json", "random"} & set(found.answers["standard_modules"])


def test_imports_are_judged_against_what_pip_knows() -> None:
    fine = {"import torch": {"seconds": 1.0, "release": "2.13.0+cpu"}}
    assert not list(judge_imports(told(fine), INSTALLED))
    (found,) = judge_imports(told({"import torch": {"seconds": 1.0, "release": "2.4.0"}}), INSTALLED)
    assert found.rule == "two-installs"
    (found,) = judge_imports(told({"import torch": {"seconds": 80.0, "release": "2.13.0"}}), INSTALLED)
    assert found.rule == "slow-import"
    (found,) = judge_imports(told({}, step="import deepspeed", end="it had not ended after 120 s"), INSTALLED)
    assert "deepspeed" in found.message
    assert not list(judge_imports(told({}, end="it was not started"), dict.fromkeys(INSTALLED)))


# Collectives


def test_sums_that_did_not_come_about() -> None:
    assert failure_of([SUM, SUM], [0, 0]) is None
    assert failure_of([SUM, {"error": "RuntimeError: Timed out"}], None) == "rank 1: RuntimeError: Timed out"
    assert failure_of([SUM, {}], [0, None]) == "rank 1 hangs"
    assert failure_of([{}, {}], [-7, 0]) == "rank 0 ended with exit code -7"
    assert failure_of([SUM, SUM | {"sum": 2.0}], None) == "rank 1 has 2 where the sum is 3"


def gloo(loopback: dict[str, Any], host: dict[str, Any]) -> Told:
    answers = {
        f"gloo {route} {rank}": one for route, one in (("loopback", loopback), ("host", host)) for rank in (0, 1)
    }
    return told(answers)


def test_only_the_loopback_is_needed_on_one_node() -> None:
    section = examine_collectives(gloo(SUM, SUM), [], {"gloo": True})
    assert not section.findings
    assert section.facts["gloo"]["host"]["seconds"] == 0.001
    failed = {"error": "RuntimeError: Gloo connectFullMesh failed"}
    (found,) = examine_collectives(gloo(SUM, failed), [], {"gloo": True}).findings
    assert (found.severity, found.rule) == ("warning", "gloo-host-fails")
    found = examine_collectives(gloo(failed, failed), [], {"gloo": True}).findings[0]
    assert (found.severity, found.rule) == ("error", "gloo-fails")
    (found,) = examine_collectives(None, [], {"gloo": False}).findings
    assert found.rule == "no-gloo"
    assert not examine_collectives(None, [], {}).findings


def test_nccl_s_rate_and_its_failure() -> None:
    torch = {"gloo": True, "nccl": True, "devices": [1, 2]}
    one = SUM | {"seconds": 0.002, "bytes": 2**26}
    ranks = [told({f"nccl {rank}": one}) for rank in (0, 1)]
    section = examine_collectives(gloo(SUM, SUM), ranks, torch)
    assert not section.findings
    assert section.facts["nccl"]["bus_bandwidth"] == pytest.approx(2**26 / 0.002)  # 2 (n - 1) / n is 1
    ranks[1] = told({}, step="nccl 1", end="it had not ended after 180 s")
    (found,) = examine_collectives(gloo(SUM, SUM), ranks, torch).findings
    assert (found.severity, found.rule) == ("error", "nccl-fails")
    assert "NCCL_P2P_DISABLE" in found.remedy or found.remedy
    (found,) = examine_collectives(gloo(SUM, SUM), [], torch | {"nccl": False}).findings
    assert found.rule == "no-nccl"


# Ops


def test_the_state_of_an_op() -> None:
    able = {"compatible": True}
    assert state_of(able | {"installed": True}, {}, built=False) == "installed"
    assert state_of(able, {}, built=True) == "built"
    assert state_of(able, {"error": "no"}, built=False) == "failed"
    assert state_of(able, {"error": "no"}, built=True) == "built"  # mended since
    assert state_of(able, {}, built=False) == "untried"
    assert state_of({"compatible": False}, {}, built=False) == "incompatible"


def op_section(machine: Machine, tried: dict[str, Any], **kinds: dict[str, Any]) -> Section:
    answers = {
        "import torch": {"release": "2.13.0"},
        "import deepspeed": {"release": "0.19.8"},
        "builds": {"root": str(machine.home / "builds")},
        "deepspeed": {"accelerator": "cpu", "ops": kinds},
    }
    return examine_ops(machine, told(answers), tried, torch={"devices": []}, libaio=True)


def test_ops_are_found_where_runs_keep_them_and_failures_are_told_by_their_weight(nowhere: Machine) -> None:
    folder = nowhere.home / "own" / "cpu_adam"
    folder.mkdir(parents=True)
    (folder / "cpu_adam.so").touch()
    machine = Machine(nowhere.root, {"TORCH_EXTENSIONS_DIR": str(folder.parent)}, nowhere.folder, nowhere.home, "linux")
    section = op_section(
        machine,
        {"ShareMemCommBuilder": {"error": "RuntimeError: Ninja is required to load C++ extensions"}},
        ShareMemCommBuilder={"name": "deepspeed_shm_comm", "compatible": True},
        CPUAdamBuilder={"name": "cpu_adam", "compatible": True},
        FusedAdamBuilder={"name": "fused_adam", "compatible": True},
        AsyncIOBuilder={"name": "async_io", "compatible": False, "error": None},
    )
    states = {name: one["state"] for name, one in section.facts["ops"].items()}
    # FusedAdam is for GPUs.
    assert states == {"ShareMemCommBuilder": "failed", "CPUAdamBuilder": "built", "AsyncIOBuilder": "incompatible"}
    assert [(one.severity, one.rule) for one in section.findings] == [
        ("error", "op-does-not-build"),
        ("note", "op-does-not-build"),
    ]
    assert section.findings[1].command == "sudo apt install libaio-dev"
    assert not op_section(machine, {}).findings


def test_the_folder_of_builds_is_that_of_the_engines(nowhere: Machine) -> None:
    from toolkit.versions import ops_folder_name

    folder = nowhere.home / "builds" / ops_folder_name(torch="2.13.0", deepspeed="0.19.8") / "cpu_adam"
    folder.mkdir(parents=True)
    (folder / "cpu_adam.so").touch()
    section = op_section(nowhere, {}, CPUAdamBuilder={"name": "cpu_adam", "compatible": True})
    assert section.facts["ops"]["CPUAdamBuilder"]["state"] == "built"


def test_what_was_tried_is_remembered_for_the_same_circumstances_only(nowhere: Machine) -> None:
    memory = Memory(nowhere, {"compiler": "12.2.0"})
    assert memory.recall() == {}
    memory.keep({"CPUAdamBuilder": {"seconds": 60.0}})
    memory.keep({"AsyncIOBuilder": {"error": "no"}})
    assert Memory(nowhere, {"compiler": "12.2.0"}).recall().keys() == {"CPUAdamBuilder", "AsyncIOBuilder"}
    assert Memory(nowhere, {"compiler": "13.0.0"}).recall() == {}
    memory.path.write_text('{"cut": ')
    assert memory.recall() == {}
    (nowhere.home / "file").touch()
    elsewhere = Machine(
        nowhere.root, {"XDG_CACHE_HOME": str(nowhere.home / "file")}, nowhere.folder, nowhere.home, "linux"
    )
    Memory(elsewhere, {}).keep({"x": {}})  # a folder that cannot be made is no reason to fail


# What follows


def able(findings: list[Finding], **facts: dict[str, Any]) -> dict[str, str]:
    sections = {name: Section(name, one) for name, one in facts.items()}
    return {one.name: one.can for one in capabilities(sections, findings)}


def test_what_the_machine_can_do_follows_from_facts_and_errors() -> None:
    releases = {"megatron-core": {"state": "tested", "installed": "0.16.1"}, "bitsandbytes": {"state": "tested"}}
    ops = {"ops": {"ShareMemCommBuilder": {"state": "built"}, "CPUAdamBuilder": {"state": "untried"}}}
    collectives = {"gloo": {"loopback": SUM}, "nccl": None}
    found = able([], releases=releases, ops=ops, collectives=collectives, gpus={"gpus": [], "torch_devices": []})
    assert found["train on processors"] == "yes"
    assert found["train on GPUs"] == "no"
    assert found["engine mcore (Megatron-core)"] == "yes"
    assert found["method qlora, AdamW in 8 bits"] == "no"  # without a GPU
    assert found["offload to host memory by CPUAdam"] == "untried"
    device = {"name": "NVIDIA H100 80GB HBM3", "memory": 1, "capability": "9.0"}
    gpus = {"gpus": [device], "torch_devices": [device]}
    found = able([], releases=releases, collectives=collectives | {"nccl": {"bus_bandwidth": 4e11}}, gpus=gpus)
    assert (found["train on GPUs"], found["method qlora, AdamW in 8 bits"]) == ("yes", "yes")


@pytest.mark.parametrize(
    ("capabilities_there", "fp16", "told"),
    [
        ([], True, ("yes", "yes")),
        ([], False, ("yes", "no")),
        (["9.0", "8.0"], None, ("yes", "yes")),
        (["9.0", "7.5"], None, ("no", "yes")),  # the oldest decides
        (["6.1"], None, ("no", "no")),
    ],
)
def test_precisions(capabilities_there: list[str], fp16: bool | None, told: tuple[str, str]) -> None:
    devices = [{"name": "GPU", "memory": 1, "capability": one} for one in capabilities_there]
    gpus = {"gpus": devices, "torch_devices": devices, "torch_fp16_on_processor": fp16}
    found = able([], imports={"torch": {}}, gpus=gpus)
    assert (found["precision bf16"], found["precision fp16"]) == told
    assert "precision bf16" not in able([], imports={}, gpus=gpus)  # nothing is installed


@pytest.mark.parametrize(
    ("rule", "processors", "gpus"),
    [("train-extra", "no", "no"), ("no-compiler", "no", "yes"), ("nccl-fails", "yes", "no"), ("shadow", "no", "no")],
)
def test_an_error_stands_in_the_way_of_what_it_concerns(rule: str, processors: str, gpus: str) -> None:
    device = {"name": "NVIDIA H100 80GB HBM3", "memory": 1, "capability": "9.0"}
    found = able(
        [Finding("error", rule, "told", "effect")],
        collectives={"gloo": {"loopback": SUM}, "nccl": {"bus_bandwidth": None}},
        gpus={"gpus": [device], "torch_devices": [device]},
    )
    assert (found["train on processors"], found["train on GPUs"]) == (processors, gpus)
    assert found["plan, estimate, check, report"] == "yes"
