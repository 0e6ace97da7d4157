"""ZeRO-3 that gathers 8-bit weights learns as ZeRO-3 does; skipped, with the reason, without two CUDA devices."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import toolkit

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices"),
]


def losses(folder: Path, model: Path, data: tuple[Path, Path], **communication: Any) -> list[float]:
    """Of 50 steps on the demo's rows."""
    train, held_out = data
    batch = 32 * torch.cuda.device_count()
    words = ["plan", "--model", model, "--seq-len", 64, "--global-batch", batch, "--zero", 3, "--tp", 1, "--sp", 1]
    words += ["--data", train, "--set", f"data.held_out={held_out}", "--max-steps", 50, "--learning-rate", 1e-3]
    for name, value in communication.items():
        words += ["--set", f"communication.{name}={str(value).lower()}"]
    for command in ([*words, "-o", folder], ["launch", folder]):
        subprocess.run([sys.executable, "-m", "toolkit", *map(str, command)], env=os.environ, timeout=600, check=True)
    return [step["loss"] for step in toolkit.load_run(folder).steps]


@pytest.mark.parametrize(
    ("communication", "tolerance"),
    [
        # hpZ sends the same numbers another way; 8 bits round a weight by up to 1/254 of the largest in its group.
        ({"hpz_partition_size": 2}, 0.02),
        ({"quantized_weights": True}, 0.1),
    ],
)
def test_the_losses_are_those_of_zero_3(tmp_path: Path, communication: dict[str, Any], tolerance: float) -> None:
    from toolkit.demo.model import write_demo_model
    from toolkit.demo.tasks import demo_rows, write_demo_data

    data = write_demo_data(tmp_path)
    texts = (row[key] for row in demo_rows()[0] for key in ("prompt", "completion"))
    write_demo_model(tmp_path / "model", texts)
    plain = losses(tmp_path / "plain", tmp_path / "model", data)
    asked = losses(tmp_path / "asked", tmp_path / "model", data, **communication)
    assert len(asked) == len(plain) == 50
    assert plain[-1] < 0.7 * plain[0]
    assert all(abs(ours - theirs) <= tolerance * theirs for ours, theirs in zip(asked, plain, strict=True))
