"""S1: pytorch_model.bin is a pickle, and none of its programs runs."""

import io
import os
import pickle
import random
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from toolkit.errors import CheckpointError
from toolkit.models import pickled
from toolkit.models.pretrained import load_pretrained
from toolkit.models.weights import WeightFiles
from toolkit.specs.model import ModelSpec


class Runs:
    """An object whose pickle calls a function with arguments when it is loaded."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call


def programs(marker: Path) -> dict[str, Runs]:
    """What attackers write, each leaving a file behind when it runs."""
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Runs(os.system, command),
        "eval": Runs(eval, code),
        "exec": Runs(exec, code),
        "open": Runs(open, str(marker), "w"),
        "mkdir": Runs(os.mkdir, str(marker)),
        "copy": Runs(shutil.copy, "/etc/hostname", str(marker)),
        "process": Runs(subprocess.check_call, ["touch", str(marker)]),
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The model's weights, which it has no longer."""
    found = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return found


def load(folder: Path) -> Any:
    return load_pretrained(str(folder), ModelSpec.resolve(folder), precision="fp32").load()


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    return str(caught.value)


def test_a_plain_state_dict_is_read(model: Path) -> None:
    expected = weights(model)
    torch.save(expected, model / "pytorch_model.bin")
    assert all(torch.equal(load(model).state_dict()[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("program", programs(Path()))
@pytest.mark.parametrize("place", ["beside the tensors", "instead of them", "old format", "bare pickle"])
def test_programs_never_run(model: Path, tmp_path: Path, program: str, place: str) -> None:
    marker = tmp_path / "it-ran"
    payload: Any = programs(marker)[program]
    content = payload if place == "instead of them" else weights(model) | {"extra": payload}
    (model / "model.safetensors").unlink(missing_ok=True)
    if place == "bare pickle":
        (model / "pytorch_model.bin").write_bytes(pickle.dumps({"extra": payload}))
    else:
        torch.save(content, model / "pytorch_model.bin", _use_new_zipfile_serialization=place != "old format")
    assert "pytorch_model.bin: weights cannot be loaded (" in refusal(model)
    assert not marker.exists()


def test_a_program_would_have_run(tmp_path: Path) -> None:
    # Else the tests above prove nothing.
    marker = tmp_path / "it-ran"
    pickle.loads(pickle.dumps(programs(marker)["open"])).close()
    assert marker.exists()


def test_the_switch_that_makes_torch_unsafe_changes_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(pickled, "_check_archive", lambda path: None)  # torch's own reader alone
    marker = tmp_path / "it-ran"
    torch.save(weights(model) | {"extra": programs(marker)["os.system"]}, model / "pytorch_model.bin")
    refusal(model)
    assert not marker.exists()


def test_it_is_read_once_and_as_weights_only(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    real = torch.load

    def watched(*arguments: Any, **options: Any) -> Any:
        asked.append(options.get("weights_only"))
        return real(*arguments, **options)

    monkeypatch.setattr(torch, "load", watched)
    monkeypatch.setattr(pickled, "_check_archive", lambda path: None)
    torch.save(weights(model) | {"extra": Runs(os.getcwd)}, model / "pytorch_model.bin")
    refusal(model)
    assert asked == [True], "a refused file is not tried again in another way"


@pytest.mark.parametrize(("version", "safe"), [("2.5.1", False), ("2.9.1+cu128", False), ("2.10.0", True)])
def test_torch_before_its_memory_was_safe(
    model: Path, monkeypatch: pytest.MonkeyPatch, version: str, safe: bool
) -> None:
    torch.save(weights(model), model / "pytorch_model.bin")
    monkeypatch.setattr(pickled.torch, "__version__", version)
    if safe:
        load(model)
    else:
        assert f"torch {version} does not read safely; install torch 2.10 or newer, or give" in refusal(model)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.zeros(2)], "holds a list, needs tensors by name"),
        ({"a": 1}, "'a' is a int, needs tensors by name"),
        ({"a": {"b": torch.zeros(2)}}, "'a' is a dict"),
        ({3: torch.zeros(2)}, "3 is a Tensor"),
        ({"a": torch.zeros(2).to_sparse()}, "which no tensor needs"),
        ({"a": torch.zeros(2, device="meta")}, "which no tensor needs"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "`torch LongStorage`, which no tensor needs"),
        ({"a": torch.zeros(1).expand(1 << 40)}, "a of shape (1099511627776,) needs more bytes than the file has"),
        ({"a": bytearray(8)}, "which no tensor needs"),
    ],
)
def test_nothing_but_plain_tensors(model: Path, content: Any, words: str) -> None:
    weights(model)
    torch.save(content, model / "pytorch_model.bin")
    assert words in refusal(model)


def write_archive(folder: Path, program: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", compression) as file:
        file.writestr("model/data.pkl", program)
        file.writestr("model/version", "3\n")


def test_no_more_memory_than_the_file_has_bytes(model: Path) -> None:
    weights(model)
    # bytearray(10**13), which torch's reader grants; and a program that unpacks to 100 MB.
    write_archive(model, b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85R.")
    assert "asks for `builtins bytearray`" in refusal(model)
    write_archive(model, b"\x80\x02" + b"N0" * 50_000_000 + b"}.", zipfile.ZIP_DEFLATED)
    assert "model/data.pkl in it is packed" in refusal(model)


def outcome(folder: Path) -> str:
    """Read everything; why it was refused, or nothing."""
    try:
        files = WeightFiles(str(folder))
        assert all(files.read(name, torch.float32).shape == shape for name, shape in files.shapes.items())
    except CheckpointError as error:
        return str(error)
    return ""


def damaged(content: bytes, rng: random.Random, places: range) -> bytes:
    broken = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, length = rng.choice(places), rng.randrange(9)
        # Other bytes, more of them, or fewer.
        broken[at : at + rng.choice([0, length, length])] = rng.randbytes(rng.choice([0, length, length]))
    return bytes(broken)


@pytest.mark.parametrize(("where", "trials"), [("archive", 300), ("program", 700)])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:invalid escape sequence")
def test_damaged_files_end_in_one_error(model: Path, where: str, trials: int) -> None:
    written = io.BytesIO()
    torch.save(weights(model), written)
    with zipfile.ZipFile(written) as source:
        members = {name: source.read(name) for name in source.namelist()}
    program = next(name for name in members if name.endswith("data.pkl"))
    rng = random.Random(0)
    refused = 0
    for _ in range(trials):
        if where == "archive":
            size = len(written.getvalue())  # the directory is its last part
            content = damaged(written.getvalue(), rng, range(size - 3000, size))
            (model / "pytorch_model.bin").write_bytes(content)
        else:
            changed = members | {program: damaged(members[program], rng, range(len(members[program])))}
            with zipfile.ZipFile(model / "pytorch_model.bin", "w") as archive:
                for name, member in changed.items():
                    archive.writestr(name, member)
        said = outcome(model)
        assert said == "" or "pytorch_model.bin: weights cannot be loaded (" in said
        refused += bool(said)
    assert refused > trials / 2
