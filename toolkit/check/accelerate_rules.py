"""All rules of an accelerate config file.

Source: accelerate 1.15.0 commands/launch.py (`_validate_launch_command`, `launch_command`), utils/launch.py,
utils/dataclasses.py (`DeepSpeedPlugin`, `MegatronLMPlugin`), parallelism_config.py. That `use_cpu` trains copies beside
each other was measured.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.check.accelerate_ranks import is_true, ranks
from toolkit.check.accelerate_schema import ACCELERATE, PREFIXES
from toolkit.check.accelerate_words import sagemaker, stray, told_by_words, words
from toolkit.check.context import Context, Values
from toolkit.check.finding import Edit, Finding
from toolkit.check.known import Walk, check_keys, homes

_REFUSED = "accelerate refuses it at start"
_IN_DS_CONFIG = (
    "gradient_accumulation_steps", "gradient_clipping", "zero_stage", "offload_optimizer_device",
    "offload_param_device", "offload_param_nvme_path", "offload_optimizer_nvme_path", "zero3_save_16bit_model",
)  # fmt: skip
_HOMES = homes(ACCELERATE)


def check_accelerate(values: Values, context: Context, *, folder: Path) -> Iterator[Finding]:
    """Every fault of the file.

    Args:
        values: its values.
        context: the plan beside it.
        folder: where it lies.
    """
    content = values.content
    yield from words(values)
    if values.get("compute_environment") == "AMAZON_SAGEMAKER":
        yield from sagemaker(values, context)
        return
    astray = list(stray(content))
    yield from astray
    told_of = frozenset({one.location for one in astray} | told_by_words(values))
    yield from check_keys(_with_prefixes(content), ACCELERATE, Walk(context, told_of, _HOMES))
    if "distributed_type" not in content:
        told = "`distributed_type` is missing"
        yield Finding(
            "error",
            "distributed-type",
            ("distributed_type",),
            told,
            _REFUSED,
            "add it, as `distributed_type: DEEPSPEED`",
        )
    yield from _cpu(values)
    yield from _deepspeed(values, folder)
    yield from ranks(values)
    yield from _against_plan(values, context)


def _with_prefixes(content: dict[str, Any] | Any) -> dict[str, Any]:
    """The content without keys that stand in their section without its prefix, which accelerate adds."""
    found = {}
    for name, section in content.items():
        prefix = PREFIXES.get(str(name))
        if prefix and isinstance(section, dict):
            known = ACCELERATE.keys[str(name)].section
            names = known.keys if known else {}
            section = {key: value for key, value in section.items() if f"{prefix}{key}" not in names}
        found[name] = section
    return found


def _cpu(values: Values) -> Iterator[Finding]:
    engine = values.get("distributed_type")
    if values.on("use_cpu") and engine in ("DEEPSPEED", "FSDP", "MEGATRON_LM"):
        told = f"true beside distributed_type {engine}"
        effect = f"{engine} is dropped without a word: ranks train by plain DDP, or each a copy of its own"
        yield Finding("error", "use-cpu", ("use_cpu",), told, effect, "write false; ranks on CPU work with it too")


def _deepspeed(values: Values, folder: Path) -> Iterator[Finding]:
    section = ("deepspeed_config",)
    if values.get("distributed_type") != "DEEPSPEED":
        # In another letter case it is meant, and told already.
        if values.get("deepspeed_config") and str(values.get("distributed_type")).upper() != "DEEPSPEED":
            told = f"distributed_type is {values.get('distributed_type')}"
            yield Finding("warning", "unused-section", section, told, "the section is not read", "write DEEPSPEED")
        return
    named = values.get("deepspeed_config", "deepspeed_config_file")
    if isinstance(named, str):
        for name in _IN_DS_CONFIG:
            if values.has("deepspeed_config", name):
                told = "stands beside `deepspeed_config_file`, in which it belongs"
                yield Finding(
                    "error", "beside-ds-config", (*section, name), told, _REFUSED, "remove it here", Edit("remove")
                )
        if values.get("mixed_precision") is not None:
            told = "stands beside `deepspeed_config_file`, in which fp16 and bf16 belong"
            yield Finding(
                "error", "beside-ds-config", ("mixed_precision",), told, _REFUSED, "remove it here", Edit("remove")
            )
        if not any(place.is_file() for place in (Path(named), folder / named, folder / Path(named).name)):
            told = f"{named} is neither here nor beside this file"
            at = (*section, "deepspeed_config_file")
            yield Finding("warning", "no-file", at, told, "accelerate takes the name for the config's text and fails",
                          "give a path from where the run is started")  # fmt: skip
        return
    given = values.get("deepspeed_config", "zero_stage")
    stage = (
        int(given) if isinstance(given, str) and given.isdecimal() else values.whole("deepspeed_config", "zero_stage")
    )
    stage = 2 if stage is None else stage
    if not values.has("deepspeed_config", "gradient_clipping"):
        told = "`gradient_clipping` is missing: accelerate fills in 1.0, the Trainer its max_grad_norm"
        effect = "`clip_grad_norm_(max_norm)` of the script does not count under DeepSpeed"
        yield Finding("note", "clipping-default", section, told, effect, "write the norm")
    if stage < 3 and str(values.get("deepspeed_config", "offload_param_device")).lower() in ("cpu", "nvme"):
        at = (*section, "offload_param_device")
        told = f"weights are offloaded by ZeRO-3 alone, the stage is {stage}"
        yield Finding("error", "offload-stage", at, told, "they stay on the GPU", "set `zero_stage` to 3")
    for part in ("optimizer", "param"):
        device, path = f"offload_{part}_device", f"offload_{part}_nvme_path"
        if values.get("deepspeed_config", device) == "nvme" and not values.get("deepspeed_config", path):
            told = f"is nvme and `{path}` is missing"
            yield Finding("error", "nvme-path", (*section, device), told, "the run fails at its first write",
                          "name a folder on a local disk")  # fmt: skip
    if stage > 3:
        told = f"is {stage}, needs to be 0, 1, 2 or 3"
        yield Finding("error", "out-of-range", (*section, "zero_stage"), told, "it is refused at start", "write one")
    if stage != 3 and is_true(values.get("deepspeed_config", "zero3_init_flag")):
        told = f"is for ZeRO-3, the stage is {stage}"
        yield Finding("note", "zero3-init", (*section, "zero3_init_flag"), told, "accelerate sets it to false", "")


def _against_plan(values: Values, context: Context) -> Iterator[Finding]:
    plan = context.plan
    if plan is None or context.read_by != "toolkit":
        return
    ranks, planned = values.whole("num_processes"), plan.world_size
    if ranks is not None and planned is not None and ranks != planned:
        told, effect = f"is {ranks}, the plan has {planned} ranks", "the run is refused by its first lines"
        yield Finding("error", "plan", ("num_processes",), told, effect, f"write {planned}, or plan again")
    nodes = plan.whole("cluster", "num_nodes")
    if nodes is not None and values.whole("num_machines") not in (None, nodes):
        told = f"is {values.whole('num_machines')}, the plan has {nodes} node(s)"
        yield Finding("error", "plan", ("num_machines",), told, "ranks wait for machines that never come",
                      f"write {nodes}, or plan again")  # fmt: skip
    wanted = "MEGATRON_LM" if plan.engine == "mcore" else "DEEPSPEED"
    if values.get("distributed_type") not in (None, wanted):
        told = f"is {values.get('distributed_type')}, engine {plan.engine} of the plan needs {wanted}"
        yield Finding(
            "error", "plan", ("distributed_type",), told, "the engine finds no process group", f"write {wanted}"
        )
    if is_true(values.get("deepspeed_config", "zero3_init_flag")):
        told = "true divides every model that is made in the process, also those that only export"
        at = ("deepspeed_config", "zero3_init_flag")
        yield Finding("warning", "zero3-init", at, told, "exports and checks see empty weights", "write false")
