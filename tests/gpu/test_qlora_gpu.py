"""Training on 4-bit weights, which a CPU is refused; skipped, with the reason, where there is no CUDA device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import toolkit

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_a_run_on_4_bit_weights(tmp_path: Path, zero_stage: int) -> None:
    from safetensors.torch import load_file

    from toolkit.demo.model import write_demo_model
    from toolkit.demo.tasks import demo_rows, write_demo_data

    train, held_out = write_demo_data(tmp_path)
    texts = (row[key] for row in demo_rows()[0] for key in ("prompt", "completion"))
    write_demo_model(tmp_path / "model", texts)
    words = ["plan", "--model", tmp_path / "model", "--seq-len", 64, "--global-batch", 32 * torch.cuda.device_count()]
    words += ["--method", "qlora", "--zero", zero_stage, "--data", train, "--set", f"data.held_out={held_out}"]
    words += ["--set", "workload.modules_to_save=[embed_tokens]", "--max-steps", 50, "--learning-rate", 1e-3]
    for command in ([*words, "-o", tmp_path / "run"], ["launch", tmp_path / "run"]):
        subprocess.run([sys.executable, "-m", "toolkit", *map(str, command)], env=os.environ, timeout=600, check=True)

    run = toolkit.load_run(tmp_path / "run")
    assert run.summary["loss_last"] < run.summary["loss_first"]
    base, merged = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", run.export))
    # Norms stay: what was exported is the given model with adapters merged, not what 4 bits left of it.
    norm = "model.layers.0.input_layernorm.weight"
    assert torch.equal(merged[norm], base[norm].to(merged[norm].dtype))
    layer = "model.layers.0.mlp.up_proj.weight"
    change = (merged[layer].float() - base[layer].float()).abs().max()
    assert 0 < change < base[layer].abs().max()
