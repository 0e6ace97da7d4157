"""Measured cases as rows of the corpus: the columns of toolkit/planner/corpus/runs.csv and oom_and_bounds.csv."""

import csv
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from one_gpu.cases import LORA_RANK, Case
from toolkit.planner.buckets import DEEPSPEED_DEFAULTS, zero_buckets
from toolkit.planner.validation.runs import CORPUS
from toolkit.specs.cluster import ClusterSpec
from toolkit.units import GiB

GROUP = "toolkit_one_gpu"
SOURCE = "benchmarks/one_gpu_runs.py"
OFFLOAD_WORDS = {"none": "none", "optimizer": "cpu(optim)", "all": "cpu(optim+params)"}


class Table:
    """A CSV file that grows by a row at a time and knows what it holds."""

    def __init__(self, path: Path, like: str) -> None:
        """`like` names the file of the corpus whose columns this one has."""
        with (CORPUS / like).open(encoding="utf-8", newline="") as file:
            self.columns = next(csv.reader(file))
        self._path = path
        if not path.exists():
            self._append(self.columns)

    @property
    def ids(self) -> set[str]:
        """Of all rows."""
        with self._path.open(encoding="utf-8", newline="") as file:
            return {row["id"] for row in csv.DictReader(file)}

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row; columns that it does not name stay empty."""
        if unknown := row.keys() - set(self.columns):
            raise KeyError(f"{self._path.name} has no columns {sorted(unknown)}")
        self._append([row.get(column, "") for column in self.columns])

    def _append(self, cells: list[Any]) -> None:
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(cells)


class Failures:
    """Cases that neither ran nor met the device's limit, one JSON line each; remove a line to try its case again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def ids(self) -> set[str]:
        """Of all lines."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        return {json.loads(line)["id"] for line in lines}

    def add(self, case: Case, found: Mapping[str, Any]) -> None:
        """Append a line with the reason and the end of the log."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"id": case.key, "why": found["why"], "log": found.get("log", "")}) + "\n")


def run_row(
    case: Case, cluster: ClusterSpec, *, found: Mapping[str, Any], machine: Mapping[str, Any]
) -> dict[str, object]:
    """A row of runs.csv.

    Args:
        case: what ran.
        cluster: where.
        found: what `measure` returned.
        machine: what `probe` returned.
    """
    spec, step = case.spec, statistics.median(found["step_seconds"])
    peak, kind, quality = _peak(found)
    return {
        **_shared_cells(case, cluster),
        "group": GROUP,
        "params_b": round(spec.num_params / 1e9, 4),
        "n_layers": spec.num_layers,
        "hidden": spec.hidden_size,
        "heads": spec.num_heads,
        "kv_heads": spec.num_kv_heads,
        "ffn": spec.intermediate_size,
        "vocab": spec.vocab_size,
        "gpu_mem_gb": round(cluster.device.memory_bytes / GiB, 2),
        "gpus_per_node": 1,
        "framework": _framework(machine),
        "precision": _precision(cluster),
        "ulysses_sp": 1,
        "act_ckpt": "full" if case.checkpointing else "none",
        "optimizer": f"AdamW ({found['optimizer']}), fp32 master",
        "peak_mem_gib": _gib(peak),
        "mem_kind": kind,
        "host_mem_gib": _gib(found["host_bytes"]),
        "tokens_per_s_per_gpu": round(case.tokens / step, 1),
        "step_time_s": f"{step:.4f}",
        "llama_like": 1,
        "mem_quality": quality,
        "curated": 1,
        "notes": "; ".join([*_readings(found), *_layout_words(case, cluster), *_run_words(found), *_versions(machine)]),
    }


def oom_row(
    case: Case, cluster: ClusterSpec, *, found: Mapping[str, Any], machine: Mapping[str, Any]
) -> dict[str, object]:
    """A row of oom_and_bounds.csv; arguments as of `run_row`."""
    words = [f"ckpt={'full' if case.checkpointing else 'none'}", *_layout_words(case, cluster)]
    words += [f"out of memory in the {found['phase']}", *_versions(machine)]
    return {**_shared_cells(case, cluster), "status": "oom", "notes": f"{_framework(machine)}: {'; '.join(words)}"}


def _shared_cells(case: Case, cluster: ClusterSpec) -> dict[str, object]:
    return {
        "id": case.key,
        "source": SOURCE,
        "model": case.model,
        "gpu": cluster.device.name,
        "n_gpus": 1,
        "seq_len": case.seq_len,
        "micro_batch": case.micro_batch,
        "grad_accum": case.grad_accum,
        "global_batch": case.micro_batch * case.grad_accum,
        "dp": 1,
        "tp": 1,
        "pp": 1,
        "cp": 1,
        "zero_stage": case.zero_stage,
        "offload": OFFLOAD_WORDS[case.offload],
        "method": case.method,
    }


def _peak(found: Mapping[str, Any]) -> tuple[int, str, str]:
    """(bytes, mem_kind, mem_quality)."""
    if "reserved_bytes" not in found:
        return found["rss_bytes"], "peak RSS GiB", "B"
    if found["retries"]:
        # The allocator met the device's limit and gave its cache back: what it held is the limit, not the need.
        return found["allocated_bytes"], "max_memory_allocated GiB", "B"
    return found["reserved_bytes"], "max_memory_reserved GiB", "A"


def _readings(found: Mapping[str, Any]) -> list[str]:
    readings = {name: found.get(f"{name}_bytes") for name in ("allocated", "reserved", "device", "host")}
    words = [f"{name}={_gib(num_bytes)}" for name, num_bytes in readings.items() if num_bytes]
    return [*words, f"alloc_retries={found['retries']}"] if found.get("retries") else words


def _layout_words(case: Case, cluster: ClusterSpec) -> list[str]:
    """What has no column, in the words that `toolkit validate` reads."""
    words = [f"LoRA rank={LORA_RANK} all linear"] if case.method == "lora" else []
    words += ["chunked loss (blocks of the vocabulary, head computed again)"] if case.chunked_loss else []
    if case.zero_stage:
        sizes = DEEPSPEED_DEFAULTS if case.default_buckets else zero_buckets(case.spec, case.workload)
        named = f"buckets={'default' if case.default_buckets else 'toolkit'} reduce_bucket={sizes.reduce}"
        words.append(f"{named} prefetch={sizes.prefetch} max_live={sizes.max_live}" if case.zero_stage == 3 else named)
    return [*words, "sdpa", "random weights", "full sequences without padding"]


def _run_words(found: Mapping[str, Any]) -> list[str]:
    seconds = found["step_seconds"]
    spread = f"step min {min(seconds):.4f} max {max(seconds):.4f} of {len(seconds)} after 2"
    return [spread, f"{found['threads']} host threads", "peaks of the steps, without the start"]


def _versions(machine: Mapping[str, Any]) -> list[str]:
    words = [f"{name} {number}" for name, number in machine["versions"].items()]
    if not machine["cuda"]:
        return words
    return [*words, f"driver {machine['driver']}", f"device with an empty context={_gib(machine['idle_device_bytes'])}"]


def _framework(machine: Mapping[str, Any]) -> str:
    versions = machine["versions"]
    return f"HF transformers {versions['transformers']} + DeepSpeed {versions['deepspeed']} (toolkit zero engine)"


def _precision(cluster: ClusterSpec) -> str:
    return "fp32" if cluster.device.kind == "cpu" else "bf16"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GiB:.3f}"
