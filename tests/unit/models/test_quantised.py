"""4-bit weights: made as they are read, those of transformers, and refused where they cannot train."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import toolkit
from ranks.tiny import write_model
from toolkit.errors import SpecError
from toolkit.models.build import build_model
from toolkit.models.pretrained import load_pretrained
from toolkit.specs.lora import LoraConfig
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe

WORK = {"seq_len": 32, "global_batch": 4, "method": "qlora", "lora_rank": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("qlora") / "llama", hidden_size=64, intermediate_size=128)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_they_are_those_of_transformers(folder: Path, double: bool, precision: str) -> None:
    pytest.importorskip("bitsandbytes")
    from toolkit.models.quantised import quantise_layers

    unloaded = load_pretrained(str(folder), ModelSpec.resolve(folder), precision=precision)  # type: ignore[arg-type]
    quantise_layers(unloaded, double=double)
    ours, dtype = unloaded.load(), {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    kind: Any = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": double, "bnb_4bit_compute_dtype": dtype}
    config = BitsAndBytesConfig(load_in_4bit=True, **kind)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=config, device_map="cpu")
    quantised = 0
    for (name, one), (other_name, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other_name
        assert torch.equal(one, other), name
        quantised += one.dtype == torch.uint8
    assert quantised == 2 * 7
    ids = torch.arange(3, 19).view(2, 8)
    assert torch.equal(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)
    packed = ours.model.layers[0].mlp.up_proj.weight
    whole = unloaded.whole("model.layers.0.mlp.up_proj.weight", packed)
    assert torch.equal(
        whole, AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).model.layers[0].mlp.up_proj.weight
    )


def test_a_cpu_is_refused_when_planned_and_when_run(folder: Path) -> None:
    told = r"method=qlora: bitsandbytes trains on 4-bit weights on GPUs only; use method=lora on a CPU"
    with pytest.raises(SpecError, match=told):
        toolkit.plan(folder, "2xcpu", **WORK)
    made = toolkit.plan(folder, "2xcpu", **{**WORK, "method": "lora"})
    asked = made.workload.model_copy(update={"method": "qlora"})
    with pytest.raises(SpecError, match=told):
        build_model(made.model_copy(update={"workload": asked}), Recipe(model=str(folder), workload=asked))


def test_zero_3_is_refused(folder: Path) -> None:
    with pytest.raises(
        SpecError, match="method=qlora with zero_stage=3: 4-bit weights stay whole on every rank; use zero_stage=2"
    ):
        toolkit.plan(folder, "2xA100-80GB", **WORK, zero_stage=3)
    free = toolkit.plan("llama-3.1-8b", "2xRTX4090-24GB", **WORK)
    assert {one.strategy.zero_stage for one in (free, *free.alternatives)} <= {1, 2}


def test_magnitudes_of_4_bit_weights_are_refused(folder: Path) -> None:
    made = toolkit.plan(folder, "2xA100-80GB", **WORK)
    with pytest.raises(ValueError, match=r"lora\.dora takes the lengths of 16-bit weights"):
        Recipe(model=str(folder), workload=made.workload, lora=LoraConfig(dora=True))


def test_without_bitsandbytes_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "bitsandbytes.py").write_text("raise ImportError('no such library here')")
    script = "import sys; sys.path.insert(0, sys.argv[1]); import toolkit.models.quantised"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (
        "MachineError: method=qlora needs bitsandbytes (no such library here); install it: pip install" in done.stderr
    )
