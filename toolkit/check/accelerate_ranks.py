"""Machines, processes and how they divide the work, in an accelerate config file.

Source: accelerate 1.15.0 commands/launch.py (`_validate_launch_command`), utils/launch.py, utils/dataclasses.py
(`FullyShardedDataParallelPlugin`, `MegatronLMPlugin`), parallelism_config.py.
"""

from collections.abc import Iterator
from typing import Any

from toolkit.check.context import Values
from toolkit.check.finding import Finding
from toolkit.check.value import shown

_REFUSED = "accelerate refuses it at start"
_TRUTHS = ("true", "false", "yes", "no", "y", "n", "t", "f", "on", "off", "1", "0")


def ranks(values: Values) -> Iterator[Finding]:
    """Numbers of processes and machines, and what they are divided into."""
    yield from _processes(values)
    yield from _machines(values)
    yield from _fsdp(values)
    yield from _megatron(values)
    yield from _sections(values)
    yield from _parallelism(values)


def is_true(value: Any) -> bool:
    """Whether accelerate takes it for true."""
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _processes(values: Values) -> Iterator[Finding]:
    number = values.whole("num_processes")
    if number == 0:
        yield Finding(
            "error", "out-of-range", ("num_processes",), "is 0, needs to be above 0", _REFUSED, "write 1 or more"
        )
    if number == -1:
        told = "is -1: accelerate asks for the number at launch"
        yield Finding(
            "note", "ranks", ("num_processes",), told, "a ValueError without --num_processes", "write the number"
        )
    chosen = values.get("gpu_ids")
    alone = isinstance(chosen, str) and chosen != "all" and "," not in chosen
    if alone and values.get("distributed_type") == "MULTI_GPU" and (values.whole("num_machines") or 1) <= 1:
        told = f"names one GPU, {chosen}, and distributed_type is MULTI_GPU"
        yield Finding(
            "error", "ranks", ("gpu_ids",), told, _REFUSED, "name two or more, or write 'NO' as distributed_type"
        )


def _machines(values: Values) -> Iterator[Finding]:
    machines, ranks = values.whole("num_machines") or 1, values.whole("num_processes")
    if machines > 1 and isinstance(values.get("num_processes"), str):
        told = f"is {shown(values.get('num_processes'))}, needs a whole number with several machines"
        yield Finding("error", "wrong-type", ("num_processes",), told, "a TypeError at start", "remove the quotes")
    if ranks is not None and ranks > 0 and ranks % machines:
        told = f"is {ranks}, which {machines} machines do not divide"
        effect = "the rest of the ranks is left out without a word"
        yield Finding("error", "ranks", ("num_processes",), told, effect, "write ranks of all machines together")
    if machines < 2:
        return
    rank = values.whole("machine_rank")
    if rank is not None and rank >= machines:
        told = f"is {rank}, of {machines} machines the last one has {machines - 1}"
        yield Finding("error", "ranks", ("machine_rank",), told, "the ranks never meet", "count from 0")
    for name in ("main_process_ip", "main_process_port"):
        if values.get(name) is None:
            told = f"{machines} machines need `{name}`"
            effect = "an AssertionError at start, unless `accelerate launch` is given it"
            yield Finding(
                "warning", "rendezvous", ("num_machines",), told, effect, f"add `{name}`, or give it at launch"
            )
    if values.get("main_process_port") == 0:
        told = "is 0 with several machines, which each take another free port"
        yield Finding(
            "error", "rendezvous", ("main_process_port",), told, "the ranks never meet", "write a port, as 29500"
        )
    launcher = values.get("deepspeed_config", "deepspeed_multinode_launcher")
    if values.get("distributed_type") == "DEEPSPEED" and launcher in (None, "pdsh"):
        at = ("deepspeed_config", *(("deepspeed_multinode_launcher",) if launcher else ()))
        hosts = values.get("deepspeed_config", "deepspeed_hostfile")
        told = "pdsh, the default, starts the ranks of all machines from one" + (
            "" if hosts else ", and needs a hostfile"
        )
        effect = "without pdsh, a hostfile and ssh without passwords nothing starts"
        yield Finding("note" if hosts else "warning", "launcher", at, told, effect,
                      "write standard, and start the command on every machine")  # fmt: skip


def _fsdp(values: Values) -> Iterator[Finding]:
    if values.get("distributed_type") != "FSDP":
        return
    section = "fsdp_config"
    version = values.get(section, "fsdp_version")
    if version is not None and str(version) not in ("1", "2"):
        told = f"is {version}; there are FSDP 1 and 2"
        yield Finding("error", "fsdp", (section, "fsdp_version"), told, "neither of the two is set up", "write 2")
    again = values.get(section, "fsdp_reshard_after_forward")
    if str(version) == "2" and again is not None and str(again).lower() not in _TRUTHS:
        told, at = f"is {again}; FSDP 2 wants true or false", (section, "fsdp_reshard_after_forward")
        yield Finding("error", "fsdp", at, told, _REFUSED, "write true for FULL_SHARD, false for SHARD_GRAD_OP")
    offloads = values.get(section, "fsdp_activation_checkpointing_offload")
    if is_true(offloads) and not (
        str(version) == "2" and is_true(values.get(section, "fsdp_activation_checkpointing"))
    ):
        told, at = (
            "needs fsdp_version 2 and `fsdp_activation_checkpointing`",
            (section, "fsdp_activation_checkpointing_offload"),
        )
        yield Finding("error", "fsdp", at, told, _REFUSED, "set both, or remove it")
    loads = values.get(section, "fsdp_cpu_ram_efficient_loading")
    if is_true(loads) and values.get(section, "fsdp_sync_module_states") in (False, "false"):
        told = "true needs `fsdp_sync_module_states: true`"
        yield Finding("error", "fsdp", (section, "fsdp_cpu_ram_efficient_loading"), told,
                      "ranks above 0 train random weights, or accelerate refuses it", "set both to true")  # fmt: skip


def _megatron(values: Values) -> Iterator[Finding]:
    if values.get("distributed_type") != "MEGATRON_LM":
        return
    section = ("megatron_lm_config",)
    if not values.has(*section, "megatron_lm_context_parallel_size"):
        told = "`megatron_lm_context_parallel_size` is missing, and accelerate's default is 2"
        effect = "half of the ranks divide sequences that the script does not divide"
        yield Finding("error", "context-parallel-default", section, told, effect, "write 1")
        return
    names = [f"megatron_lm_{one}" for one in ("tp_degree", "pp_degree", "context_parallel_size")]
    replica, number = 1, values.whole("num_processes")
    for name in names:
        replica *= values.whole(*section, name) or 1
    if number is not None and number > 0 and number % replica:
        told = f"a replica has {replica} ranks (tp x pp x cp), which do not divide {number}"
        yield Finding("error", "degree", section, told, "Megatron refuses it at start", "make their product a divisor")


def _sections(values: Values) -> Iterator[Finding]:
    for engine, section in (("FSDP", "fsdp_config"), ("MEGATRON_LM", "megatron_lm_config")):
        if values.get(section) and values.get("distributed_type") not in (None, engine):
            told = f"is for distributed_type {engine}, which is {values.get('distributed_type')}"
            yield Finding("warning", "unused-section", (section,), told, "it is not read", "remove it")


def _parallelism(values: Values) -> Iterator[Finding]:
    names = ("dp_replicate", "dp_shard", "tp", "cp", "sp")
    size = {one: values.whole("parallelism_config", f"parallelism_config_{one}_size") or 1 for one in names}
    number = values.whole("num_processes")
    if size["cp"] > 1 and size["sp"] > 1:
        told = f"cp_size is {size['cp']} and sp_size {size['sp']}: they exclude each other"
        at = ("parallelism_config", "parallelism_config_sp_size")
        yield Finding("error", "degree", at, told, _REFUSED, "set one of them to 1")
        return
    if number is None or number <= 0:
        return
    if size["sp"] > 1:
        # DeepSpeed groups the ranks by itself: the rest of them are replicas.
        if number % size["sp"]:
            told = f"is {size['sp']}, which does not divide {number} processes"
            at = ("parallelism_config", "parallelism_config_sp_size")
            yield Finding("error", "degree", at, told, _REFUSED, "write a divisor of the number of processes")
        return
    product = 1
    for one in names:
        product *= size[one]
    if product not in (1, number):
        told = f"its sizes multiply to {product}, num_processes is {number}"
        yield Finding("error", "degree", ("parallelism_config",), told, _REFUSED, "make them equal")
