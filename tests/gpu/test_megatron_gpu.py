"""Megatron's engine on CUDA devices: the parity of tests/ranks/test_megatron_parity.py, through the launcher.

Skipped, with the reason, without them; one device runs the layout of one rank.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import toolkit

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core", reason="megatron-core is not installed")
DEVICES = torch.cuda.device_count()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(DEVICES == 0, reason="no CUDA device"),
]
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {}),
    "tp2": (2, {"tp": 2}),
    "pp2": (2, {"pp": 2}),
    "pp2-vpp2": (2, {"pp": 2, "vpp": 2}),
    "cp2": (2, {"cp": 2}),
    "tp2-pp2": (4, {"tp": 2, "pp": 2}),
    "tp2-cp2": (4, {"tp": 2, "cp": 2}),
}


def losses(folder: Path, model: Path, data: Path, *, precision: str, **layout: Any) -> list[float]:
    """Of 20 steps on the demo's rows, on all devices."""
    words: list[object] = ["plan", "--model", model, "--seq-len", 64, "--global-batch", 16, "--precision", precision]
    words += ["--data", data, "--max-steps", 20, "--learning-rate", 1e-3]
    for name, value in layout.items():
        words += [f"--{name.replace('_', '-')}", value]
    for command in ([*words, "-o", folder], ["launch", folder]):
        subprocess.run([sys.executable, "-m", "toolkit", *map(str, command)], env=os.environ, timeout=600, check=True)
    return [step["loss"] for step in toolkit.load_run(folder).steps]


@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-4), ("bf16", 5e-3)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_losses_are_those_of_zero(tmp_path: Path, layout: str, precision: str, within: float) -> None:
    """fp32 products on a GPU differ in their last digits with every kernel: TF32 is off by default in torch."""
    from toolkit.demo.model import write_demo_model
    from toolkit.demo.tasks import demo_rows, write_demo_data

    ranks, choices = LAYOUTS[layout]
    if ranks > DEVICES:
        pytest.skip(f"{ranks} CUDA devices needed, {DEVICES} here")
    train, _ = write_demo_data(tmp_path)
    write_demo_model(tmp_path / "model", (row[key] for row in demo_rows()[0] for key in ("prompt", "completion")))
    ours = losses(tmp_path / "mcore", tmp_path / "model", train, precision=precision, engine="mcore", **choices)
    theirs = losses(tmp_path / "zero", tmp_path / "model", train, precision=precision, engine="zero", zero=1, tp=1)
    assert ours == pytest.approx(theirs, abs=within)
    assert theirs[-1] < theirs[0]
