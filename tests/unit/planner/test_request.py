"""Faults of a question: the whole text of each, and all of them at once."""

import re
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import SpecError
from toolkit.planner.multiples import divisors
from toolkit.planner.request import Fixed
from toolkit.planner.search import make_plan
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

CP_LENGTH = "cp=2 needs a seq_len that 2 x cp = 4 divides, not 4095; use seq_len=4092 or 4096"
TP_ZERO_0 = "zero_stage=0 with tp=2: use zero_stage=1, 2 or 3, or tp=1"
KV_8 = "does not divide 8 key/value heads"
ZERO_PP = "pp=2: engine zero has no pipeline parallelism; use pp=1"
PP_7 = "pp=7 does not divide 32 layers into equal stages; use 1 or 2, or stages=5,5,5,5,4,4,4"
PIPELINE_ZERO = "zero_stage=0: engine pipeline runs zero_stage=1 only; use zero_stage=1"


def refusal(model: str = "llama-3.1-8b", cluster: str = "8xA100-80GB", **rest: Any) -> str:
    work = {"seq_len": 4096, "global_batch": 64, **rest.pop("work", {})}
    with pytest.raises(SpecError) as failure:
        make_plan(
            ModelSpec.resolve(model), ClusterSpec.resolve(cluster), Workload.model_validate(work), fixed=Fixed(**rest)
        )
    return str(failure.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tp": 6}, "tp=6 does not divide 32 attention heads; use 1, 2, 4 or 8"),
        ({"tp": 16}, "tp=16 does not divide 8 key/value heads; use 1, 2, 4 or 8"),
        ({"tp": 16, "engine": "zero"}, "tp=16 does not divide 8 key/value heads; use 1, 2, 4 or 8"),
        ({"tp": 4, "pp": 4}, "tp=4 x pp=4 does not divide 8 ranks; use tp=1 or 2, or pp=1 or 2"),
        ({"pp": 64}, "pp=64 exceeds the model's 32 layers; use 1 to 32"),
        ({"pp": 2, "engine": "zero"}, "pp=2: engine zero has no pipeline parallelism; use pp=1"),
        ({"pp": 1, "engine": "pipeline"}, "pp=1: engine pipeline needs two stages or more; use pp=2 or engine=zero"),
        ({"sp": 3}, "sp=3 does not divide 32 attention heads; use 1, 2, 4 or 8"),
        ({"sp": 4, "tp": 4, "cluster": "16xA100-80GB"}, f"tp=4 x sp=4 {KV_8}; use tp=1 or 2, or sp=1 or 2"),
        ({"sp": 8, "tp": 2, "cluster": "16xA100-80GB"}, f"tp=2 x sp=8 {KV_8}; use tp=1, or sp=1, 2 or 4"),
        ({"sp": 2, "pp": 2}, f"no engine has all that is given; the closest: {ZERO_PP}"),
        ({"pp": 7, "engine": "mcore", "cluster": "14xA100-80GB", "work": {"global_batch": 56}}, PP_7),
        ({"cp": 2, "work": {"seq_len": 4095}}, CP_LENGTH),
        ({"vpp": 2, "pp": 1}, "vpp=2 interleaves the chunks of several stages, pp is 1; use vpp=1 or pp=2 and more"),
        ({"vpp": 3, "pp": 2}, "pp=2 x vpp=3 does not divide 32 layers; use vpp=1, 2, 4, 8 or 16"),
        ({"engine": "mcore", "zero_stage": 3}, "zero_stage=3: engine mcore runs zero_stage=1 only; use zero_stage=1"),
        ({"engine": "pipeline", "zero_stage": 0}, PIPELINE_ZERO),
        ({"pp": 2, "zero_stage": 2}, "zero_stage=2: engine pipeline runs zero_stage=1 only; use zero_stage=1"),
        ({"tp": 2, "zero_stage": 0, "engine": "zero"}, TP_ZERO_0),
        ({"tp": 2, "zero_stage": 0}, TP_ZERO_0),
        (
            {"engine": "pipeline", "work": {"method": "qlora"}},
            "method=qlora: engine pipeline has full or lora; use engine=zero",
        ),
        (
            {"engine": "pipeline", "tp": 2, "work": {"method": "lora"}},
            "tp=2: engine pipeline divides full layers only; use tp=1 with method=lora, or engine=mcore",
        ),
        (
            {"tp": 2, "work": {"method": "qlora"}},
            "tp=2: engine zero loses the adapters where it divides layers; use tp=1 with method=qlora",
        ),
        (
            {"engine": "mcore", "work": {"method": "qlora"}},
            "method=qlora: engine mcore has full or lora; use engine=zero",
        ),
        (
            {"engine": "mcore", "work": {"optimizer": "lion"}},
            "optimizer=lion: engine mcore has adamw; use one of them, or engine=zero",
        ),
        (
            {"engine": "zero", "zero_stage": 3, "work": {"optimizer": "muon"}},
            "optimizer=muon needs whole matrices, zero_stage=3 divides every one; use zero_stage=0, 1 or 2",
        ),
        (
            {"engine": "zero", "tp": 2, "work": {"optimizer": "soap"}},
            "optimizer=soap needs whole matrices, tp=2 divides them; use tp=1, or optimizer=adamw",
        ),
        (
            {"engine": "zero", "zero_stage": 2, "offload": "optimizer", "work": {"optimizer": "adafactor"}},
            "optimizer=adafactor keeps its states on the device; use offload=none, or optimizer=adamw, lion or sgd",
        ),
        (
            {"zero_stage": 3, "offload": "optimizer", "offload_to": "nvme", "work": {"optimizer": "lion"}},
            "optimizer=lion: states on a disk are AdamW's; use offload_to=cpu, or optimizer=adamw",
        ),
        (
            {"cluster": "2xcpu", "work": {"optimizer": "paged_adamw", "precision": "fp32"}},
            "optimizer=paged_adamw pages its states out of GPU memory, there is no GPU; use optimizer=adamw",
        ),
        (
            {"offload": "optimizer", "offload_to": "nvme", "zero_stage": 2},
            "offload_to=nvme: engine zero cannot with zero_stage=2; use zero_stage=3 or offload_to=cpu",
        ),
        (
            {"offload": "all", "zero_stage": 2},
            "offload=all needs ZeRO-3, the stage that shards weights, not zero_stage=2; use zero_stage=3",
        ),
        (
            {"offload": "optimizer", "zero_stage": 0},
            "offload=optimizer needs sharded optimizer states, not zero_stage=0; use zero_stage=1, 2 or 3",
        ),
        ({"work": {"global_batch": 30}}, "global_batch=30 is not a multiple of 8 ranks; use 24 or 32"),
        ({"work": {"global_batch": 5}}, "global_batch=5 is not a multiple of 8 ranks; use 8"),
        (
            {"micro_batch": 64},
            "global_batch=64 is not a multiple of 8 ranks x micro_batch=64; "
            "use micro_batch=1, 2, 4 or 8, or global_batch=512",
        ),
        (
            {"micro_batch": 3, "pp": 2, "tp": 4},
            "global_batch=64 is not a multiple of 1 replica x micro_batch=3; "
            "use micro_batch=1, 2, 4 or 8, or global_batch=63 or 66",
        ),
        (
            {"offload": "none", "offload_to": "nvme"},
            "offload_to=nvme with offload=none: nothing is offloaded; use offload=optimizer or all, or no offload_to",
        ),
        (
            {"work": {"method": "lora", "lora_rank": 4097}},
            "lora_rank=4097 exceeds the width 4096 of llama-3.1-8b's layers: such adapters are larger than what they "
            "adapt; use 4096 or less, 8 to 64 are customary",
        ),
        (
            {"work": {"seq_len": 200_000}},
            "seq_len=200000 exceeds llama-3.1-8b's max_position_embeddings 131072; use 131072 or less",
        ),
        ({"cluster": "8xV100-32GB"}, "precision=bf16: V100-32GB has no bf16; use fp16"),
    ],
)
def test_each_fault_says_what_to_do(given: dict[str, Any], message: str) -> None:
    assert refusal(**given) == message


def test_all_faults_come_at_once() -> None:
    message = refusal(cluster="8xV100-32GB", tp=6, pp=99, micro_batch=3, offload="all", zero_stage=1)
    assert [line.split("=")[0].split(":")[0] for line in message.splitlines()] == [
        "precision",
        "tp",
        "pp",
        "offload",
        "global_batch",
    ]
    both = refusal(tp=16, sp=3, micro_batch=3)
    assert [line.split("=")[0] for line in both.splitlines()] == ["tp", "sp", "global_batch"]


@pytest.mark.parametrize(
    "given",
    [{"tp": 6}, {"tp": 16}, {"sp": 3}, {"sp": 16}, {"pp": 3}, {"cp": 16}, {"tp": 16, "pp": 2}, {"tp": 8, "sp": 2}],
)
def test_values_that_are_said_to_work_do(given: dict[str, int]) -> None:
    use = refusal(**given).partition("; use ")[2]
    name = use.partition("=")[0] if "=" in use else next(iter(given))
    values = [int(value) for value in re.findall(r"[0-9]+", use.partition(", or ")[0])]
    assert values
    for value in values:
        fixed = Fixed(**{**given, name: value})
        plan = make_plan(
            ModelSpec.resolve("llama-3.1-8b"),
            ClusterSpec.resolve("8xA100-80GB"),
            Workload(seq_len=4096, global_batch=64),
            fixed=fixed,
        )
        assert getattr(plan.strategy.layout, name) == value


def test_one_is_no_parallelism() -> None:
    fixed = Fixed(tp=1, pp=1, sp=1, cp=1, vpp=1)
    machines, work = ClusterSpec.resolve("8xA100-80GB"), Workload(seq_len=512, global_batch=8)
    assert make_plan(ModelSpec.resolve("llama-3.2-1b"), machines, work, fixed=fixed).strategy.layout.tp == 1


def test_unknown_devices_name_the_nearest() -> None:
    with pytest.raises(SpecError, match="A100-80GB"):
        ClusterSpec.resolve("8xA100-81GB")


def test_a_cluster_file_without_bandwidth_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "slow.yaml"
    file.write_text("device: A100-80GB\ngpus_per_node: 8\ninter_node_bandwidth: 0\n")
    with pytest.raises(SpecError, match=r"inter_node_bandwidth.* is 0.*greater than 0"):
        ClusterSpec.resolve(str(file))


def test_options_are_words_of_the_command_line() -> None:
    fixed = Fixed(engine="mcore", tp=2, zero_stage=1, micro_batch=4, offload_to="cpu", activation_checkpointing="full")
    words = "--engine mcore --tp 2 --zero 1 --micro-batch 4 --offload-to cpu --checkpointing full"
    assert fixed.options() == words.split()


def test_divisors() -> None:
    assert divisors(1) == [1]
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]
