"""The tables say what DeepSpeed's and accelerate's own sources say; what is mended passes DeepSpeed's own parser."""

import dataclasses
import json
import typing
from pathlib import Path

import pytest

from toolkit.check.accelerate_schema import ACCELERATE, SAGEMAKER, SAGEMAKER_NEEDS
from toolkit.check.api import Question, check_document
from toolkit.check.context import Context
from toolkit.check.document import json_document
from toolkit.check.ds_schema import DS_CONFIG
from toolkit.check.fix import fixed
from toolkit.check.known import Walk, check_keys
from toolkit.check.releases import TESTED_DEEPSPEED, Release
from toolkit.check.schema import Section
from toolkit.check.value import value_faults
from unit.check.ds_cases import BROKEN, Broken, complete
from unit.check.ds_good import GOOD

QUESTION = Question(Release.parse(TESTED_DEEPSPEED))

config = pytest.importorskip("deepspeed.runtime.config", reason="the training half is not installed")


def section(*path: str) -> Section:
    found: Section | None = DS_CONFIG
    for name in path:
        assert found is not None
        found = found.keys[name].section
    assert found is not None
    return found


def models() -> dict[tuple[str, ...], type]:
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.tensor_parallel.config import TPConfig, TPTrainingConfig
    from deepspeed.runtime.zenflow.zenflow_config import ZenFlowConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.leaf_module_config import DeepSpeedZeroLeafModuleConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    return {
        ("zero_optimization",): DeepSpeedZeroConfig,
        ("zero_optimization", "offload_param"): DeepSpeedZeroOffloadParamConfig,
        ("zero_optimization", "offload_optimizer"): DeepSpeedZeroOffloadOptimizerConfig,
        ("zero_optimization", "zenflow"): ZenFlowConfig,
        ("zero_optimization", "leaf_module"): DeepSpeedZeroLeafModuleConfig,
        ("fp16",): DeepSpeedFP16Config,
        ("bf16",): DeepSpeedBF16Config,
        ("tensor_parallel",): TPTrainingConfig,
        ("tensor_parallel", "tensor_parallel"): TPConfig,
        ("compile",): CompileConfig,
        ("comms_logger",): CommsLoggerConfig,
        ("hybrid_engine",): config.HybridEngineConfig,
        ("tensorboard",): TensorBoardConfig,
        ("csv_monitor",): CSVConfig,
        ("wandb",): WandbConfig,
        ("comet",): CometConfig,
        ("timers", "throughput"): DeepSpeedThroughputTimerConfig,
    }


def test_the_sections_have_the_keys_and_defaults_of_their_models() -> None:
    for path, model in models().items():
        table = section(*path)
        fields = model.model_fields  # type: ignore[attr-defined]
        known = {table.aliases.get(name, name) if table.aliases else name for name in fields}
        assert set(table.keys) == known, path
        assert table.unknown == "refused"
        for name, field in fields.items():
            key = table.find(name)
            assert key is not None
            takes_null = type(None) in typing.get_args(field.annotation) or key.kind == "open" or name == "leaf_module"
            null = list(value_faults(None, key, strict=False, at=(name,)))
            assert (null == []) == takes_null, (path, name)
            if key.kind in ("flag", "int", "number", "choice") and key.default is not None and not field.is_required():
                default = getattr(field.default, "value", field.default)
                assert key.default == default, (path, name)


VALUES = (
    True,
    False,
    0,
    1,
    2,
    -1,
    0.5,
    1.5,
    5e8,
    "true",
    "no",
    "1",
    "-1",
    "0.5",
    "1e9",
    "x",
    "cpu",
    [],
    ["a"],
    {},
    None,
)
OF_SEVERAL_KEYS = {
    ("zero_optimization", "compute_grad_norm"),
    ("zero_optimization", "stage"),
    # Refused since 0.19.6 only.
    ("zero_optimization", "reduce_bucket_size"),
    # A validator of its own; precision_rules.py has it.
    *(("fp16", name) for name in ("loss_scale", "loss_scale_window", "min_loss_scale")),
}
# Numbers in quotes stay texts there: str | int.
UNQUOTED = {("zero_optimization", "zenflow", name) for name in ("select_interval", "update_interval")}
STRICTER_HERE = {("fp16", "initial_scale_power"), ("tensor_parallel", "autotp_size")}
STRICTER_HERE |= {("tensor_parallel", "tensor_parallel", "tp_size"), ("compile", "passes")}


def test_every_value_is_refused_by_both_or_by_neither() -> None:
    walk = Walk(Context(QUESTION.deepspeed), frozenset(), {})
    differing = []
    for path, model in models().items():
        table = section(*path)
        for name, key in table.keys.items():
            if key.section is not None or (*path, name) in OF_SEVERAL_KEYS | STRICTER_HERE:
                continue
            for value in VALUES if (*path, name) not in UNQUOTED else [one for one in VALUES if one not in ("1", "-1")]:
                found = list(check_keys({name: value}, table, walk))
                try:
                    model(**{name: value})
                except (ValueError, TypeError, AssertionError):
                    refused = True
                else:
                    refused = False
                if refused != bool(found):
                    differing.append((*path, name, value, refused))
    assert not differing, "\n".join(map(str, differing))


def test_the_removed_keys_are_deepspeeds() -> None:
    from toolkit.check import removed

    gone = {(name,) for name in config._REMOVED_TOP_LEVEL_CONFIG_KEYS}
    gone |= {("zero_optimization", name) for name in config._REMOVED_ZERO_CONFIG_KEYS}
    assert gone <= removed.LOCATIONS


def test_the_top_level_keys_of_accelerate_are_its_own() -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    fields = {field.name for field in dataclasses.fields(ClusterConfig)}
    assert fields == set(ACCELERATE.keys) - {"fp16", "dynamo_backend"}


def test_sagemakers_keys_are_accelerates() -> None:
    from accelerate.commands.config.config_args import SageMakerConfig

    fields = dataclasses.fields(SageMakerConfig)
    assert {field.name for field in fields} == set(SAGEMAKER.keys) - {"fp16", "dynamo_backend"}
    # What a base class asks for is filled in while the file is read.
    needed = {field.name for field in fields if field.default is dataclasses.MISSING}
    assert set(SAGEMAKER_NEEDS) == needed - {
        "compute_environment",
        "distributed_type",
        "mixed_precision",
        "use_cpu",
        "debug",
    }


def test_the_sections_of_accelerate_are_options_of_launch() -> None:
    from accelerate.commands.launch import launch_command_parser

    options = {action.dest for action in launch_command_parser()._actions}
    # Read from the file alone: the launcher takes it with getattr, the questionnaire writes it.
    beside = {"fsdp_ignored_modules", "mpirun_ccl"}
    for name, key in ACCELERATE.keys.items():
        if key.section is not None:
            assert set(key.section.keys) - options <= beside, name
    listed = {one for key in ACCELERATE.keys.values() if key.section is not None for one in key.section.keys}
    families = ("fsdp_", "megatron_lm_", "parallelism_config_", "zero", "offload_", "deepspeed_")
    assert {one for one in options if one.startswith(families)} <= listed


def parse(text: str) -> None:
    content = json.loads(text)
    content.setdefault("train_micro_batch_size_per_gpu", 1)
    config.DeepSpeedConfig(content)


OF_THIS_RELEASE = [one for one in GOOD if '"auto"' not in one.members and "deepspeed" not in one.options]


@pytest.mark.parametrize("case", OF_THIS_RELEASE, ids=lambda case: case.name)
def test_deepspeed_takes_what_is_good(case: object) -> None:
    text = complete(case.members, case.without)  # type: ignore[attr-defined]
    content = {key: value for key, value in json.loads(text).items() if key != "train_batch_size"}
    parse(json.dumps(content))


@pytest.mark.parametrize("case", [one for one in BROKEN if not one.options], ids=lambda case: case.name)
def test_what_is_mended_and_without_errors_passes_deepspeeds_parser(case: Broken) -> None:
    document = json_document(Path("a.json"), complete(case.members, case.without).replace("^", ""))
    text = fixed(document, [one.finding for one in check_document(document, QUESTION)])
    left = [one.finding for one in check_document(json_document(Path("a.json"), text), QUESTION)]
    if not any(finding.severity == "error" for finding in left) and '"auto"' not in text:
        parse(text)


@pytest.mark.parametrize("case", [one for one in BROKEN if one.options.get("deepspeed") is None], ids=lambda c: c.name)
def test_what_deepspeed_refuses_is_an_error_here(case: Broken) -> None:
    text = complete(case.members, case.without).replace("^", "")
    try:
        parse(text)
    except Exception:  # noqa: BLE001 - whatever its parser raises
        if "batch" not in case.name:  # of one rank, which is not the case's number
            document = json_document(Path("a.json"), text)
            found = check_document(document, Question(QUESTION.deepspeed, read_by=case.options.get("read_by")))
            assert any(one.finding.severity == "error" for one in found)
