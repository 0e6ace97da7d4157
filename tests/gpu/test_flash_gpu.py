"""Packed rows under FlashAttention's own kernels; skipped, with the reason, without a CUDA device or the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import toolkit

torch = pytest.importorskip("torch")
pytest.importorskip("flash_attn", reason="flash-attn is not installed")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("zero_stage", [1, 3])
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_packed_rows_train(tmp_path: Path, zero_stage: int, micro_batch: int) -> None:
    """A run that let documents see each other would end before its first step."""
    from toolkit.demo.model import write_demo_model
    from toolkit.demo.tasks import demo_rows, write_demo_data

    train, held_out = write_demo_data(tmp_path)
    texts = (row[key] for row in demo_rows()[0] for key in ("prompt", "completion"))
    write_demo_model(tmp_path / "model", texts)
    words = ["plan", "--model", tmp_path / "model", "--seq-len", 128, "--global-batch", 8 * torch.cuda.device_count()]
    words += ["--zero", zero_stage, "--micro-batch", micro_batch, "--data", train, "--set", f"data.held_out={held_out}"]
    words += ["--set", "data.packing=true", "--max-steps", 50, "--learning-rate", 1e-3]
    losses = {}
    for attention in ("flash_attention_2", "sdpa"):
        folder = tmp_path / attention
        for command in ([*words, "--set", f"workload.attention={attention}", "-o", folder], ["launch", folder]):
            subprocess.run(
                [sys.executable, "-m", "toolkit", *map(str, command)], env=os.environ, timeout=400, check=True
            )
        losses[attention] = [step["loss"] for step in toolkit.load_run(folder).steps]
    # Before any update the two differ by what bf16 rounds.
    assert losses["flash_attention_2"][0] == pytest.approx(losses["sdpa"][0], rel=0.01)
    assert losses["flash_attention_2"][-1] < 0.7 * losses["flash_attention_2"][0]
