"""A hand-edited ds_config.json is used and told, or refused by its key; so are ranks that do not fit together."""

from pathlib import Path
from typing import Any

import pytest

from procs import run_ranks
from ranks.equality import assert_equal, trained
from ranks.reference import reference_run
from ranks.runs import edited_ds_config, open_with_another_release, tell, train, write_run
from toolkit.engines.ds.config import load_ds_config
from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks

TENSOR = {"tp": 2, "zero_stage": 1}


@pytest.fixture
def run(tmp_path: Path, calm: Path) -> Path:
    """ZeRO-1 in fp32, clipped at 0.5."""
    return write_run(tmp_path / "run", calm, zero_stage=1)


def refusal(run: Path) -> list[str]:
    folder = RunFolder(run)
    with pytest.raises(ConfigError) as caught:
        load_ds_config(folder, Plan.load(folder.plan))
    return str(caught.value).splitlines()


def test_another_stage_is_used_and_told(run: Path) -> None:
    with edited_ds_config(run) as config:
        config["zero_optimization"]["stage"] = 3
    for stage, notes in run_ranks(tell, 2, run, timeout_s=120):
        assert stage == 3
        assert "ds_config.json: zero_optimization.stage is 3, planned 1" in notes


@pytest.mark.parametrize("clip", [0.125, 0.0])
def test_another_clipping_is_used(run: Path, calm: Path, clip: float) -> None:
    with edited_ds_config(run) as config:
        config["gradient_clipping"] = clip
    # 0 turns clipping off.
    assert_equal(trained(run).steps, reference_run(calm, clip=clip or 1e9).steps, loss=1e-5, norm=1e-4)


def test_another_precision_is_used(run: Path, calm: Path) -> None:
    with edited_ds_config(run) as config:
        config["bf16"]["enabled"] = True
    assert_equal(trained(run).steps, reference_run(calm, precision="bf16").steps, loss=1e-3, norm=1e-2)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("gradient_accumulation_steps", "auto", '`gradient_accumulation_steps` is "auto"'),
        ("train_micro_batch_size_per_gpu", 1, "`train_micro_batch_size_per_gpu` is 1, the plan has 2"),
        ("gradient_accumulation_steps", 4, "`gradient_accumulation_steps` is 4, the plan has 2"),
        ("train_batch_size", 16, "`train_batch_size` is 16, needs 8"),
        ("zero_optimization", {"stage": 4}, "`zero_optimization.stage` is 4"),
        ("optimizer", {"type": "SGD"}, "`optimizer` is not read here"),
        ("gradient_clipping", -1.0, "`gradient_clipping` is -1.0"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(run: Path, key: str, value: Any, told: str) -> None:
    with edited_ds_config(run) as config:
        config[key] = value
    (line,) = refusal(run)
    assert told in line


@pytest.mark.parametrize(
    ("choices", "section", "key", "value", "told"),
    [
        (TENSOR, "tensor_parallel", "autotp_size", 1, "`tensor_parallel.autotp_size` is 1, the plan has tp=2"),
        (TENSOR, "tensor_parallel", "vocab_parallel_lm_head", None, "`tensor_parallel.vocab_parallel_lm_head` is None"),
        (TENSOR, "zero_optimization", "stage", 0, "is 0, tensor parallelism runs with 1, 2 and 3"),
        ({"pp": 2}, "zero_optimization", "stage", 2, "is 2, pipelines run with 1 only"),
        ({"pp": 2, "tp": 2, "cluster": "4xcpu"}, "pipeline", "pipe_partitioned", True, "must be false"),
        ({"pp": 2}, "pipeline", "activation_checkpoint_interval", 1, "plan again with --checkpointing"),
        ({"pp": 2}, "tensor_parallel", "autotp_size", 2, "`tensor_parallel` is not read with engine=pipeline"),
    ],
)
def test_what_a_divided_replica_needs_is_kept(
    tmp_path: Path, calm: Path, choices: dict[str, Any], section: str, key: str, value: Any, told: str
) -> None:
    run = write_run(tmp_path / "run", calm, **choices)
    with edited_ds_config(run) as config:
        config.setdefault(section, {})[key] = value
    (line,) = refusal(run)
    assert told in line


@pytest.mark.parametrize(
    ("key", "value"),
    [("zero_quantized_weights", True), ("zero_hpz_partition_size", 2), ("zero_quantized_nontrainable_weights", True)],
)
def test_zero_plus_plus_is_refused_on_a_cpu(tmp_path: Path, calm: Path, key: str, value: Any) -> None:
    run = write_run(tmp_path / "run", calm, zero_stage=3, precision="bf16")
    with edited_ds_config(run) as config:
        config["zero_optimization"][key] = value
    (line,) = refusal(run)
    assert key in line
    assert "zero_optimization" in line


@pytest.mark.parametrize("choices", [TENSOR, {"sp": 2, "zero_stage": 1}], ids=str)
def test_deepspeeds_own_batch_size_is_refused_where_ranks_share_a_replica(
    tmp_path: Path, calm: Path, choices: dict[str, Any]
) -> None:
    run = write_run(tmp_path / "run", calm, **choices)
    with edited_ds_config(run) as config:
        config["train_batch_size"] = 8
    (line,) = refusal(run)
    assert "`train_batch_size` counts the ranks of one replica as replicas" in line


def test_a_head_may_stay_whole(tmp_path: Path, calm: Path) -> None:
    run = write_run(tmp_path / "run", calm, **TENSOR)
    with edited_ds_config(run) as config:
        config["tensor_parallel"]["vocab_parallel_lm_head"] = False
    assert_equal(trained(run).steps, reference_run(calm).steps, loss=3e-6, norm=1e-5)


def test_an_auto_further_down_is_named_in_full(run: Path) -> None:
    with edited_ds_config(run) as config:
        config["zero_optimization"]["reduce_bucket_size"] = "auto"
    (line,) = refusal(run)
    assert '`zero_optimization.reduce_bucket_size` is "auto"' in line


def test_missing_clipping_is_refused(run: Path) -> None:
    with edited_ds_config(run) as config:
        del config["gradient_clipping"]
    (line,) = refusal(run)
    assert "`gradient_clipping` is missing" in line


def test_broken_json_is_refused_with_its_line(run: Path) -> None:
    path = RunFolder(run).ds_config
    lines = path.read_text().splitlines()
    lines[2] = lines[2].removesuffix(",")
    path.write_text("\n".join(lines))
    (line,) = refusal(run)
    assert line.startswith(f"{path}:4: not valid JSON")


@pytest.mark.parametrize("ranks", [1, 3])
def test_another_number_of_ranks_is_refused(run: Path, ranks: int) -> None:
    with pytest.raises(AssertionError, match=rf"EngineError: accelerate sees {ranks} process\(es\), the plan has 2"):
        run_ranks(train, ranks, run, timeout_s=120)


@pytest.mark.parametrize("choices", [{"zero_stage": 2}, {"pp": 2}])
def test_ranks_with_other_releases_are_told(choices: dict[str, Any], tmp_path: Path, calm: Path) -> None:
    about = tmp_path / "elsewhere" / "peft-0.1.0.dist-info" / "METADATA"
    about.parent.mkdir(parents=True)
    about.write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1.0\n")
    folder = write_run(tmp_path / "run", calm, **choices)
    told = r"EngineError: the ranks run different releases: peft \S+ on rank 0 and 0\.1\.0 on rank 1;"
    with pytest.raises(AssertionError, match=told):
        run_ranks(open_with_another_release, 2, folder, tmp_path / "elsewhere", timeout_s=60)
