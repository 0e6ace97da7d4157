"""What only a CUDA device can show; skipped, with the reason, elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import toolkit

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("choices", [("--zero", 2), ("--zero", 3), ("--zero", 2, "--offload", "optimizer")])
def test_a_bf16_run_on_this_machines_gpus(tmp_path: Path, choices: tuple[object, ...]) -> None:
    from toolkit.demo.model import write_demo_model
    from toolkit.demo.tasks import demo_rows, write_demo_data

    train, held_out = write_demo_data(tmp_path)
    texts = (row[key] for row in demo_rows()[0] for key in ("prompt", "completion"))
    write_demo_model(tmp_path / "model", texts)
    batch = 32 * torch.cuda.device_count()
    words = ["plan", "--model", tmp_path / "model", "--seq-len", 64, "--global-batch", batch, *choices]
    words += ["--data", train, "--set", f"data.held_out={held_out}", "--max-steps", 50, "--learning-rate", 1e-3]
    for command in ([*words, "-o", tmp_path / "run"], ["launch", tmp_path / "run"]):
        subprocess.run([sys.executable, "-m", "toolkit", *map(str, command)], env=os.environ, timeout=600, check=True)

    run = toolkit.load_run(tmp_path / "run")
    assert run.plan.workload.precision == "bf16"
    assert run.summary["loss_last"] < 0.7 * run.summary["loss_first"]
    assert run.steps[-1]["peak_allocated_bytes"] > 0
    assert (run.export / "model.safetensors").is_file()
