"""What each way to divide or shrink a run costs, as the planner predicts it: layouts that differ in one thing."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from site_pages.markdown import table
from toolkit.planner import api
from toolkit.planner.memory import HEADROOM
from toolkit.planner.plan import Plan
from toolkit.units import GiB, human_seconds

MODEL, CLUSTER, WORK = "llama-3.1-8b", "8xA100-80GB", {"seq_len": 4096, "global_batch": 64}
_LONG = {"seq_len": 32_768, "global_batch": 8}
_FULL = {"activation_checkpointing": "full"}


class Comparison(NamedTuple):
    """Layouts of one model and cluster that differ in one thing."""

    said: str
    """What is compared, in words."""
    layouts: Mapping[str, Mapping[str, Any]]
    """Name of the row -> the values that `toolkit estimate` is given; `work` holds those of the workload."""
    work: Mapping[str, Any] = WORK
    cluster: str = CLUSTER


def _layouts(name: str, values: tuple[Any, ...], **fixed: Any) -> dict[str, dict[str, Any]]:
    words = {"zero_stage": "ZeRO-{}", "activation_checkpointing": "{}"}.get(name, name + " {}")
    return {words.format(value): {**fixed, name: value} for value in values}


COMPARISONS: dict[str, Comparison] = {
    "zero": Comparison(
        "the four ZeRO stages, all layers checkpointed", _layouts("zero_stage", (0, 1, 2, 3), **_FULL)
    ),
    "offload": Comparison(
        "ZeRO-3 with states on the device, with optimizer states and with all states in host memory",
        {
            "nothing": {"zero_stage": 3, **_FULL},
            "optimizer": {"zero_stage": 3, "offload": "optimizer", **_FULL},
            "all": {"zero_stage": 3, "offload": "all", **_FULL},
        },
    ),
    "tensor": Comparison("tensor-parallel sizes, ZeRO-1", _layouts("tp", (1, 2, 4, 8), zero_stage=1)),
    "sequence": Comparison(
        "sequence-parallel sizes (Ulysses), ZeRO-3, rows of 32,768 tokens",
        _layouts("sp", (1, 2, 4, 8), zero_stage=3, **_FULL),
        work=_LONG,
    ),
    "context": Comparison(
        "context-parallel sizes (ring attention, Megatron-core), rows of 32,768 tokens",
        {
            f"cp {size}, tp {8 // size}": {"engine": "mcore", "cp": size, "tp": 8 // size, **_FULL}
            for size in (1, 2, 4, 8)
        },
        work=_LONG,
    ),
    "pipeline": Comparison(
        "stages of DeepSpeed's pipeline, beside ZeRO-1 without one",
        {
            "no stages": {"zero_stage": 1, **_FULL},
            **{
                f"pp {size}": {"engine": "pipeline", "zero_stage": 1, "pp": size, **_FULL} for size in (2, 4, 8)
            },
        },
    ),
    "bubble": Comparison(
        "4 stages with more and more micro-batches per step",
        {
            f"{8 * count // 4} micro-batches": {
                "engine": "pipeline", "zero_stage": 1, "pp": 4, **_FULL, "work": {"global_batch": 4 * count},
            }
            for count in (2, 4, 8, 32)
        },
    ),
    "checkpointing": Comparison(
        "what the backward pass computes again, ZeRO-3",
        {
            "nothing": {"zero_stage": 3},
            "selective": {"zero_stage": 3, "activation_checkpointing": "selective"},
            "every 2nd layer": {"zero_stage": 3, "checkpointing_every": 2, **_FULL},
            "all layers": {"zero_stage": 3, **_FULL},
        },
    ),
    "micro_batch": Comparison(
        "samples per forward pass, ZeRO-3", _layouts("micro_batch", (1, 2, 4, 8), zero_stage=3, **_FULL)
    ),
    "loss": Comparison(
        "all logits at once, and a block at a time; ZeRO-3, micro-batch 4",
        {
            one: {"zero_stage": 3, "micro_batch": 4, **_FULL, "work": {"loss": one}} for one in ("full", "chunked")
        },
    ),
    "adapters": Comparison(
        "all weights, adapters of rank 16 beside them, and the same on 4-bit weights; ZeRO-2",
        {
            one: {"zero_stage": 2, **_FULL, "work": {"method": one}} for one in ("full", "lora", "qlora")
        },
    ),
    "nodes": Comparison(
        "the same ranks on one node and on several, ZeRO-3; 64 samples per 8 ranks",
        {
            f"{nodes} node{'s' if nodes > 1 else ''}": {
                "zero_stage": 3, **_FULL, "cluster": f"{nodes}x8xA100-80GB", "work": {"global_batch": 64 * nodes},
            }
            for nodes in (1, 2, 4, 8)
        },
    ),
}  # fmt: skip


def plans(name: str) -> dict[str, Plan]:
    """The layouts of a comparison, judged."""
    asked = COMPARISONS[name]
    return {
        words: _judged(
            str(given.get("cluster", asked.cluster)),
            tuple(sorted({**asked.work, **given.get("work", {})}.items())),
            tuple(sorted((key, value) for key, value in given.items() if key not in ("work", "cluster"))),
        )
        for words, given in asked.layouts.items()
    }


@functools.cache
def _judged(cluster: str, work: tuple[tuple[str, Any], ...], strategy: tuple[tuple[str, Any], ...]) -> Plan:
    return api.estimate(MODEL, cluster, work=dict(work), strategy=dict(strategy))


def fits(made: Plan) -> bool:
    """The planner's own verdict."""
    return made.reasons[0].startswith("It fits")


_GIB: dict[str, Callable[[Plan], float]] = {
    "weights": lambda made: made.memory.weights_bytes,
    "gradients": lambda made: made.memory.gradients_bytes,
    "optimizer": lambda made: made.memory.optimizer_bytes,
    "activations": lambda made: made.memory.activations_bytes,
    "logits": lambda made: made.memory.logits_bytes,
    "the rest": lambda made: made.memory.buffers_bytes + made.memory.fragmentation_bytes + made.memory.context_bytes,
}
_SECONDS: dict[str, Callable[[Plan], float]] = {
    "compute, optimizer": lambda made: made.time.compute_seconds + made.time.optimizer_seconds,
    "recompute": lambda made: made.time.recompute_seconds,
    "exchanges": lambda made: made.time.tp_seconds + made.time.cp_seconds + made.time.pp_seconds + made.time.dp_seconds,
    "offload": lambda made: made.time.offload_seconds,
    "bubble": lambda made: made.time.bubble_seconds,
    "overhead": lambda made: made.time.overhead_seconds,
}


def memory_table(name: str) -> str:
    """Device memory by term, in GiB."""
    judged = plans(name)
    used = {words: read for words, read in _GIB.items() if any(read(made) for made in judged.values())}
    host = any(made.memory.host_bytes for made in judged.values())
    header = ["GiB per device", *used, "**total**", "fits", *(["host memory per node"] if host else [])]
    rows = []
    for words, made in judged.items():
        cells = [_gib(read(made)) for read in used.values()]
        total = f"**{made.memory.total_bytes / GiB:.1f}**"
        extra = [_gib(made.memory.host_bytes)] if host else []
        rows.append([words, *cells, total, "yes" if fits(made) else "no", *extra])
    return table(header, rows)


def time_table(name: str) -> str:
    """Seconds of a step by cause."""
    judged = plans(name)
    used = {words: read for words, read in _SECONDS.items() if any(read(made) >= 0.005 for made in judged.values())}
    header = ["seconds per step", *used, "**step**", "tokens/s per device"]
    rows = []
    for words, made in judged.items():
        cells = [f"{read(made):.2f}" if read(made) >= 0.005 else "-" for read in used.values()]
        rate = f"{made.tokens_per_second_per_gpu:,.0f}"
        rows.append([words, *cells, f"**{made.time.step_seconds:.2f}**", rate])
    return table(header, rows)


def packing_table() -> str:
    """What padding costs: the rate of tokens that are learnt, by how full the rows are."""
    made = plans("zero")["ZeRO-3"]
    rate = made.tokens_per_second_per_gpu * made.world_size
    rows = [
        (f"{int(WORK['seq_len'] * share):,} of {WORK['seq_len']:,}", f"{share:.0%}", f"{rate * share:,.0f}",
         human_seconds(1e9 / (rate * share)))
        for share in (0.1, 0.25, 0.5, 0.75, 0.97)
    ]  # fmt: skip
    return table(("tokens in a row, on average", "fill", "tokens/s of samples", "10^9 tokens of samples take"), rows)


def glance_table() -> str:
    """Each thing by itself: memory and time against the row it is compared with."""
    steps = (
        ("ZeRO-1 instead of 0", "zero", "ZeRO-0", "ZeRO-1"),
        ("ZeRO-2 instead of 1", "zero", "ZeRO-1", "ZeRO-2"),
        ("ZeRO-3 instead of 2", "zero", "ZeRO-2", "ZeRO-3"),
        ("optimizer states in host memory", "offload", "nothing", "optimizer"),
        ("all states in host memory", "offload", "nothing", "all"),
        ("tensor parallel 2", "tensor", "tp 1", "tp 2"),
        ("tensor parallel 8", "tensor", "tp 1", "tp 8"),
        ("sequence parallel 8 (long rows)", "sequence", "sp 1", "sp 8"),
        ("2 pipeline stages", "pipeline", "no stages", "pp 2"),
        ("selective checkpointing", "checkpointing", "nothing", "selective"),
        ("full checkpointing", "checkpointing", "nothing", "all layers"),
        ("chunked loss (micro-batch 4)", "loss", "full", "chunked"),
        ("LoRA instead of all weights", "adapters", "full", "lora"),
        ("QLoRA instead of all weights", "adapters", "full", "qlora"),
    )
    rows = []
    for words, name, before, after in steps:
        old, new = plans(name)[before], plans(name)[after]
        rows.append((
            f"[{words}](#{ANCHORS[name]})",
            _change(old.memory.total_bytes, new.memory.total_bytes),
            _change(old.time.step_seconds, new.time.step_seconds),
        ))  # fmt: skip
    return table(("", "memory of a device", "time of a step"), rows)


ANCHORS = {
    "zero": "zero-what-is-divided-over-the-replicas",
    "offload": "offload-states-in-host-memory",
    "tensor": "tensor-parallelism",
    "sequence": "sequence-parallelism-ulysses",
    "pipeline": "pipeline-parallelism",
    "checkpointing": "activation-checkpointing",
    "loss": "chunked-loss",
    "adapters": "adapters",
}
"""Headings of docs/costs.md."""


def setting() -> str:
    """What all comparisons are about, in a sentence."""
    made = plans("zero")["ZeRO-3"]
    device = made.cluster.device
    return (
        f"{MODEL} ({made.model.num_params / 1e9:.2f}B parameters) on {CLUSTER}, {WORK['seq_len']:,} tokens per sample, "
        f"{WORK['global_batch']} samples per step, bf16 with fp32 copies, AdamW, one sample per forward pass unless a "
        f"row says otherwise. A device has {device.memory_bytes / GiB:.1f} GiB, of which the planner uses "
        f"{1 - HEADROOM:.0%}."
    )


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GiB:.1f}" if num_bytes >= 0.05 * GiB else "-"


def _change(before: float, after: float) -> str:
    share = after / before - 1
    return "no change" if abs(share) < 0.005 else f"{share:+.0%}"
