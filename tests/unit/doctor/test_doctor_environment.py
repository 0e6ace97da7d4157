"""Variables that change a run, and files that hide a library."""

import subprocess
import sys
from pathlib import Path

import pytest

import toolkit
from toolkit.doctor.finding import Finding
from toolkit.doctor.machine import Machine
from toolkit.doctor.shadows import examine_shadows
from toolkit.doctor.variable_table import TABLE, Seen
from toolkit.doctor.variables import examine_variables


def judged(nowhere: Machine, num_gpus: int = 0, **environment: str) -> list[Finding]:
    machine = Machine(nowhere.root, environment, nowhere.folder, nowhere.home, "linux")
    return list(examine_variables(machine, num_gpus=num_gpus).findings)


@pytest.mark.parametrize(
    ("environment", "num_gpus", "told"),
    [
        ({}, 8, []),
        ({"HOME": "/home", "PATH": "", "WANDB_PROJECT": "x", "HF_TOKEN": "x"}, 8, []),
        ({"ACCELERATE_USE_CPU": "true"}, 8, ["warning variable"]),
        ({"ACCELERATE_USE_CPU": "false"}, 8, ["note accelerate-variables"]),
        ({"DS_ACCELERATOR": "cpu"}, 0, []),
        ({"DS_ACCELERATOR": "cpu"}, 8, ["warning ds-accelerator"]),
        ({"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}, 8, ["warning gpus-hidden"]),
        ({"DS_ACCELERATOR": "cuda"}, 0, ["error ds-accelerator"]),
        ({"DS_ACCELERATOR": "gpu"}, 8, ["error ds-accelerator"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 8, ["warning gpus-hidden"]),
        ({"CUDA_VISIBLE_DEVICES": "0,3"}, 8, []),
        ({"CUDA_VISIBLE_DEVICES": "0,0"}, 8, ["error gpus-twice"]),
        ({"CUDA_VISIBLE_DEVICES": "0,8"}, 8, ["warning gpus-hidden"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1f3a"}, 8, []),
        ({"CUDA_LAUNCH_BLOCKING": "1"}, 8, ["warning variable"]),
        ({"CUDA_LAUNCH_BLOCKING": "1"}, 0, []),
        ({"NCCL_P2P_DISABLE": "1"}, 8, ["warning variable"]),
        ({"NCCL_P2P_DISABLE": "1"}, 1, ["note nccl-variables"]),
        ({"NCCL_DEBUG": "info"}, 8, ["note variable"]),
        ({"NCCL_ALGO": "Ring", "NCCL_PROTO": "LL"}, 8, ["note nccl-variables"]),
        ({"GLOO_SOCKET_IFNAME": "nosuch9"}, 0, ["error variable"]),
        ({"GLOO_SOCKET_IFNAME": "lo"}, 0, []),
        ({"NCCL_SOCKET_IFNAME": "^docker"}, 8, ["note nccl-variables"]),
        ({"OMP_NUM_THREADS": "four"}, 0, ["warning variable"]),
        ({"OMP_NUM_THREADS": "4"}, 0, []),
        ({"PYTHONOPTIMIZE": "1"}, 0, ["warning variable"]),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 0, ["warning rank-variables"]),
        ({"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}, 0, []),
        ({"TMPDIR": "/no/such/folder"}, 0, ["warning no-tmpdir"]),
        ({"CUDA_HOME": "/no/such/folder"}, 0, ["warning cuda-home"]),
        ({"ACCELERATE_CONFIG_FILE": "/no/such.yaml"}, 0, ["warning accelerate-config"]),
    ],
)
def test_variables(nowhere: Machine, environment: dict[str, str], num_gpus: int, told: list[str]) -> None:
    found = judged(nowhere, num_gpus, **environment)
    assert [f"{one.severity} {one.rule}" for one in found] == told
    assert all(one.effect and (one.command or one.remedy) for one in found)


def test_values_that_may_be_anything_are_not_shown(nowhere: Machine) -> None:
    secret = "https://somebody:password@somewhere/models"
    for name in ("PYTHONPATH", "DS_ACCELERATOR", "LD_PRELOAD", "NVIDIA_TF32_OVERRIDE"):
        assert secret not in str(judged(nowhere, 8, **{name: secret}))


def test_libraries_of_another_cuda_in_the_library_path(nowhere: Machine) -> None:
    (nowhere.folder / "libcudart.so.12").touch()
    (found,) = judged(nowhere, 8, LD_LIBRARY_PATH=f"{nowhere.folder}:/no/such/folder")
    assert (found.rule, found.command) == ("library-path", "unset LD_LIBRARY_PATH")
    assert "libcudart" in found.message


def test_every_entry_of_the_table_says_nothing_of_an_empty_environment(nowhere: Machine) -> None:
    seen = Seen(nowhere, 8, frozenset({"lo"}))
    assert [one for rule in TABLE for one in rule(seen)] == []


def plant(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def shadows(machine: Machine, loaded: set[str] | None) -> list[str]:
    return [f"{one.severity} {one.message.split()[0]}" for one in examine_shadows(machine, loaded).findings]


def test_files_that_hide_a_library(nowhere: Machine) -> None:
    plant(nowhere.folder, "datasets.py", "deepspeed/__init__.py", "transformers/model.bin", "data.py", "sys.py")
    plant(nowhere.folder, "random.py", "turtle.py", "accelerate.yaml", "torch.txt")
    loaded = {"random", "sys"}
    assert shadows(nowhere, loaded) == ["error datasets.py", "error deepspeed", "error random.py", "note transformers/"]
    assert "warning turtle.py" in shadows(nowhere, None)  # nobody has said what the libraries import


def test_folders_of_pythonpath_are_looked_into_too(nowhere: Machine) -> None:
    plant(nowhere.home, "peft.py")
    plant(nowhere.root / "site-packages", "torch/__init__.py")
    environment = {"PYTHONPATH": f"{nowhere.home}:{nowhere.root / 'site-packages'}:/no/such/folder"}
    machine = Machine(nowhere.root, environment, nowhere.folder, nowhere.home, "linux")
    assert shadows(machine, set()) == [
        "warning peft.py"
    ]  # it may be there on purpose: the imports tell whether it works


def test_another_copy_of_this_toolkit_is_told_and_its_own_checkout_is_not(nowhere: Machine) -> None:
    plant(nowhere.folder, "toolkit/__init__.py")
    assert shadows(nowhere, set()) == ["warning toolkit"]
    own = Machine(nowhere.root, {}, Path(toolkit.__file__).parents[1], nowhere.home, "linux")
    assert shadows(own, set()) == []


def test_what_is_called_hiding_hides_and_what_is_not_does_not(tmp_path: Path) -> None:
    """Python's own answer, for modules and for folders without __init__.py."""
    plant(tmp_path, "random.py", "sys.py", "yaml/data.txt")
    code = "import random, sys, yaml; print(random.__file__); print(hasattr(sys, 'path'), hasattr(yaml, 'safe_load'))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    assert found.stdout.split() == [str(tmp_path / "random.py"), "True", "True"]
