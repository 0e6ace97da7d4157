"""From rows to set-ups: framework profiles, sizes that go together, networks."""

import pytest

from toolkit.errors import SpecError
from toolkit.planner.validation.api import judge_runs
from toolkit.planner.validation.frameworks import profile_of
from toolkit.planner.validation.machines import cluster_of
from toolkit.planner.validation.runs import MeasuredRun
from toolkit.planner.validation.setups import case_of, shape_of
from toolkit.specs.catalog_lookup import find_device

ROW = {
    **{"model": "odd-7b", "n_layers": "32", "hidden": "4096", "heads": "32", "ffn": "11008", "vocab": "32000"},
    **{"gpu": "A100-80GB", "n_gpus": "8", "seq_len": "4096", "micro_batch": "1", "framework": "HF + DeepSpeed"},
    **{"zero_stage": "3", "act_ckpt": "full", "peak_mem_gib": "30", "tokens_per_s_per_gpu": "3,000"},
}


def run(**cells: str) -> MeasuredRun:
    return MeasuredRun({**ROW, **cells})


@pytest.mark.parametrize(
    ("framework", "cells", "profile"),
    [
        ("HF Accelerate + TransformerEngine", {}, "hf-trainer"),
        ("Hugging Face Trainer", {"zero_stage": "2"}, "hf-deepspeed"),
        ("Megatron-LM + TransformerEngine", {}, "megatron"),
        ("NeMo", {}, "megatron"),
        ("nemotron trainer", {}, "hf-trainer"),
        ("Megatron-LM", {"group": "kwai_atc24"}, "megatron-unfused"),
        ("Megatron-LM", {"source": "kwai/Megatron-Kwai@b2:README.md"}, "megatron-unfused"),
        ("MyTrainer", {"zero_stage": "3 (FSDP)"}, "hf-fsdp"),
        ("MyTrainer", {"zero_stage": "1"}, "hf-deepspeed"),
        ("MyTrainer", {}, "hf-trainer"),
        ("zeroband", {}, "hf-trainer"),
        ("litgpt", {}, "hf-loop"),
        ("litgpt", {"zero_stage": "3 (FSDP)"}, "hf-fsdp"),
        ("HF (vs unsloth)", {}, "hf-trainer"),
        ("torchtitan", {"source": "pytorch/torchtitan@b5:benchmarks/llama3_h100_202412.md Table 3"}, "torchtitan-2024"),
        ("torchtitan", {"source": "pytorch/torchtitan@a2024f:docs/performance.md"}, "torchtitan"),
    ],
)
def test_profiles(framework: str, cells: dict[str, str], profile: str) -> None:
    assert profile_of(MeasuredRun({"framework": framework, **cells})).name == profile


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"framework": "Megatron-LM", "pp": "8", "n_layers": "4"}, "4 layers cannot be divided over pp x vpp = 8"),
        ({"heads": "30"}, "do not divide a hidden size of 4096"),
        ({"kv_heads": "5"}, "do not divide"),
        ({"vocab": ""}, "vocabulary is not stated"),
        ({"zero_stage": "4"}, "stages 0 to 3"),
        ({"n_gpus": "1e400"}, "not finite"),
        ({"tp": "3"}, "no multiple"),
    ],
)
def test_sizes_that_do_not_go_together(cells: dict[str, str], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        case_of(run(**cells))


def test_stages_without_layers_run_in_nanotron_only() -> None:
    assert case_of(run(framework="nanotron v0.5", pp="8", n_layers="4")).setup.pp == 8


def test_an_unstated_vocabulary() -> None:
    assert shape_of(run(vocab="", model="llama-3.1-8b")).vocab == 128_256
    assert shape_of(run(vocab="", llama_like="0")).vocab == 50_304


def test_denied_features_are_off() -> None:
    said = case_of(run(notes="tiled MLP, liger, fused CE")).setup
    assert (said.tiled_mlp, said.fused_mlp, said.fused_loss) == (True, True, True)
    denied = case_of(run(notes="not tiled MLP; no liger; no fused CE")).setup
    assert (denied.tiled_mlp, denied.fused_mlp, denied.fused_loss) == (False, False, False)


def test_trained_ends_reach_the_setup() -> None:
    assert case_of(run(method="lora (emb)")).setup.trained_ends


@pytest.mark.parametrize(
    ("interconnect", "gigabytes"),
    [
        ("400Gbps InfiniBand", 50),
        ("8x200Gb/s HDR", 200),
        ("4x HDR 200 Gbps per node", 100),
        ("EFA 4x100 Gbps", 50),
        ("25Gb/s x 8", 25),
        ("3.2Tbps", 400),
        ("400 Gbit/s", 50),
        ("200Gb/s PER GPU", 200),
        ("NVLink; 400Gb/s CX-7 per GPU", 400),
        ("NVLink 3600Gbps, 400Gbps IB", 50),
        # The catalog's, for bytes and NVLink are no network.
        ("NVLink 3600Gbps", 200),
        ("600GB/s", 200),
    ],
)
def test_networks(interconnect: str, gigabytes: float) -> None:
    cluster = cluster_of(run(n_gpus="16", interconnect=interconnect))
    assert cluster.inter_node_bandwidth == pytest.approx(gigabytes * 1e9)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A100 40G", "A100-40GB"),
        ("A100 (40G)", "A100-40GB"),
        ("A100 40 GB", "A100-40GB"),
        ("A100 80G", "A100-80GB"),
        ("V100 16G", "V100-16GB"),
        ("A10G", "A10G"),
        ("A10G-24GB", "A10G"),
    ],
)
def test_gpus_by_their_size(text: str, name: str) -> None:
    found = find_device(text)
    assert found is not None
    assert found.name == name


def test_an_odd_cell_costs_its_own_row_and_only_where_it_is_needed() -> None:
    odd_time, odd_size = run(tokens_per_s_per_gpu="3k"), run(seq_len="4k")
    judged = judge_runs([run(), odd_time, odd_size])
    assert (len(judged.memory), len(judged.time)) == (2, 1)
    assert judged.skipped["memory"] == {"seq_len is '4k', which is no number": 1}
    assert judged.skipped["time"] == {
        "tokens_per_s_per_gpu is '3k', which is no number": 1,
        "seq_len is '4k', which is no number": 1,
    }
