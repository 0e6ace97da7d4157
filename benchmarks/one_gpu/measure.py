"""What runs in a case's own process: random weights, the toolkit's engine, a few steps, the peaks."""

import contextlib
import gc
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from one_gpu.cases import Case, planned
from toolkit.emitters.ds_config import ds_config
from toolkit.planner.buckets import DEEPSPEED_DEFAULTS
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.recipe import Recipe

WARM_UP_STEPS = 2
MIN_STEPS = 5
MAX_STEPS = 10
ENOUGH_SECONDS = 5.0
"""Fast steps are repeated up to this long, or MAX_STEPS."""

PRELOADED = (
    "deepspeed.runtime.zero.muon.muon_optimizer",  # DeepSpeed imports it when ZeRO starts
    "toolkit.engines.zero.engine",
    "toolkit.models.build",
    "transformers.models.llama.modeling_llama",
)
"""Imported once, in the server that the cases are forked from; importing them touches no GPU."""

OPS = ("FusedAdamBuilder", "CPUAdamBuilder")
"""What DeepSpeed compiles on first use."""


def in_child(body: Callable[..., dict[str, Any]], result: Path, *args: object) -> None:
    """Run `body(*args)` with all output in a log beside `result`; leave there what it returned, or why it failed."""
    log = os.open(result.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    try:
        found = body(*args)
    except Exception as error:  # noqa: BLE001 - the parent tells it, and the log has the traceback
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        found = {"status": "failed", "why": f"{type(error).__name__}: {lines[0] if lines else ''}"}
    draft = result.with_suffix(".draft")
    draft.write_text(json.dumps(found), encoding="utf-8")
    draft.rename(result)
    sys.stdout.flush()
    os._exit(0)  # neither CUDA's nor NCCL's farewell is of interest, and both can hang


def probe() -> dict[str, Any]:
    """What this machine is, and whether a process like this one can use its GPU."""
    import torch

    found: dict[str, Any] = {"status": "ok", "cuda": torch.cuda.is_available()}
    if found["cuda"]:
        torch.zeros(1, device="cuda")
        free, total = torch.cuda.mem_get_info()
        found |= {"gpu": torch.cuda.get_device_name(), "driver": _driver(), "idle_device_bytes": total - free}
    versions = {name: version(name) for name in ("torch", "transformers", "deepspeed", "accelerate", "peft")}
    return found | {"versions": versions}


def build_op(name: str) -> dict[str, Any]:
    """Compile one of DeepSpeed's ops, so that no case waits for it."""
    from toolkit.engines.ds.ops import load_op

    started = time.perf_counter()
    load_op(name)
    return {"status": "ok", "seconds": time.perf_counter() - started}


def measure(case: Case, cluster: ClusterSpec) -> dict[str, Any]:
    """Start the engine and step; `status` is `ok`, or `oom` where the device's memory did not suffice."""
    import torch

    torch.manual_seed(0)
    host = HostMemory()
    started = time.perf_counter()
    phase = "start"
    try:
        plan = planned(case, cluster).plan
        engine = _engine(case, plan)
        _forget_peaks()
        start_seconds, phase = time.perf_counter() - started, "steps"
        seconds, loss, device_bytes = _steps(engine, case, plan.model.vocab_size)
    except torch.OutOfMemoryError as error:
        print(error)
        return {"status": "oom", "phase": phase, "why": str(error).strip().splitlines()[0]}
    return {
        "status": "ok",
        "step_seconds": seconds,
        "start_seconds": start_seconds,
        "loss": loss,
        "optimizer": engine.notes[0].removeprefix("optimizer: "),
        "host_bytes": host.stop(),
        "threads": torch.get_num_threads(),
        "device_bytes": device_bytes,
        **_peaks(),
    }


def _engine(case: Case, plan: Plan) -> Any:
    """The toolkit's engine on random weights, as `toolkit.finetune` starts it on loaded ones."""
    from one_gpu.weights import random_model
    from toolkit.engines import engine_for

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    recipe = Recipe.parse({"model": plan.model.name, "workload": plan.workload.model_dump()}, source="benchmark")
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        folder.ds_config.write_text(json.dumps(_ds_config(case, plan)), encoding="utf-8")
        model = random_model(plan, recipe, folder.path)
        return engine_for(plan, recipe, model=model, folder=folder)


def _ds_config(case: Case, plan: Plan) -> dict[str, Any]:
    config = ds_config(plan)
    zero, sizes = config["zero_optimization"], DEEPSPEED_DEFAULTS
    if case.default_buckets and case.zero_stage:
        names = {
            "reduce_bucket_size": sizes.reduce,
            "allgather_bucket_size": sizes.allgather,
            "stage3_prefetch_bucket_size": sizes.prefetch,
            "stage3_param_persistence_threshold": sizes.persistence,
            "stage3_max_live_parameters": sizes.max_live,
            "stage3_max_reuse_distance": sizes.max_live,
        }
        zero |= {name: size for name, size in names.items() if name in zero}
    return config


def _steps(engine: Any, case: Case, vocab_size: int) -> tuple[list[float], float, int]:
    """(seconds of each step after the warm-up, last loss, most bytes that the driver showed as used)."""
    import torch

    on_gpu = engine.device.type == "cuda"
    shape = (case.micro_batch, case.seq_len)
    seconds: list[float] = []
    most = 0
    while len(seconds) < WARM_UP_STEPS + MIN_STEPS or (
        sum(seconds[WARM_UP_STEPS:]) < ENOUGH_SECONDS and len(seconds) < WARM_UP_STEPS + MAX_STEPS
    ):
        batches = [_batch(torch.randint(vocab_size, shape)) for _ in range(case.grad_accum)]
        if on_gpu:
            torch.cuda.synchronize()
        started = time.perf_counter()
        result = engine.train_step(batches, learning_rate=1e-5)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        if on_gpu:
            # The allocator gives nothing back between steps, so that the peak is still there.
            free, total = torch.cuda.mem_get_info()
            most = max(most, total - free)
        print(f"step {len(seconds)}: {seconds[-1]:.4f} s, loss {result.loss:.4f}", flush=True)
    return seconds[WARM_UP_STEPS:], result.loss, most


def _batch(tokens: Any) -> dict[str, Any]:
    return {"input_ids": tokens, "attention_mask": tokens.new_ones(tokens.shape), "labels": tokens}


def _forget_peaks() -> None:
    """What starting took is not what a step takes: weights made on the device would count twice."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peaks() -> dict[str, int]:
    import torch

    if not torch.cuda.is_available():
        return {"rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "retries": int(torch.cuda.memory_stats().get("num_alloc_retries", 0)),
    }


class HostMemory:
    """The most host memory that the machine has given out since this was made; pinned pages are not in a process's RSS.

    Other processes count too: measure on a machine that does nothing else.
    """

    def __init__(self) -> None:
        self._before = self._least = _available_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Bytes."""
        self._over.set()
        self._thread.join()
        return self._before - self._least

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self._least = min(self._least, _available_bytes())


def _available_bytes() -> int:
    with Path("/proc/meminfo").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    return "unknown"
