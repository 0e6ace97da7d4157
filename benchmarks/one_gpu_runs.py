"""Measures Hugging Face + DeepSpeed on one GPU, case by case, and writes the results as rows of the planner's corpus.

Random weights of LLaMA shapes of 1B, 3B and 8B, trained by the toolkit's own engine; peaks of memory and the median
step. It ends in time with what it has, and goes on where it stopped when it is called again with the same --out.
"""

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from one_gpu.cases import CASES, REHEARSAL, Case, planned
from one_gpu.measure import OPS, PRELOADED, build_op, in_child, measure, probe
from one_gpu.rows import Failures, Table, oom_row, run_row
from toolkit.planner.plan import Plan
from toolkit.specs.base import Spec
from toolkit.specs.catalog_lookup import find_device
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.machine import cpu_limits
from toolkit.units import GiB

CASE_SECONDS = 150
"""A case that takes longer is given up: 58 GB of pinned host memory take most of a minute."""
LEAST_SECONDS = 30
"""With less of the budget left no case is started."""
BUILD_SECONDS = 300
MOST_FAILURES = 3
"""So many in a row are the machine's fault, not the cases'."""
LOG_CHARACTERS = 3000
"""How much of the log of a case that failed is kept."""


def main() -> int:
    """The command line; returns the exit status."""
    args = parse_args()
    cases = [case for case in (REHEARSAL if args.rehearse else CASES) if args.only in case.key]
    if args.list:
        print("\n".join(case.key for case in cases))
        return 0
    deadline = time.monotonic() + args.budget
    # The driver's own count of GPUs: CUDA's would leave a context in the server that cases are forked from.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if args.rehearse:
        os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    else:
        os.environ["DS_ACCELERATOR"] = "cuda"  # else DeepSpeed looks for one while it is imported
    args.out.mkdir(parents=True, exist_ok=True)
    children = Children()
    machine = children.machine(needs_gpu=not args.rehearse)
    if machine["status"] != "ok" or not (args.rehearse or machine["cuda"]):
        why = machine.get("why", "torch sees no CUDA device")
        print(f"no GPU to measure on: {why}; run it on a machine with one, or try the way with --rehearse")
        return 2
    device = find_device("cpu" if args.rehearse else machine["gpu"])
    if device is None:
        print(f"the catalog has no device {machine['gpu']!r}; add it to toolkit/specs/catalog/devices.yaml")
        return 2
    cluster = ClusterSpec.resolve(f"1x{device.name}").model_copy(update={"host_memory_bytes": cpu_limits()[1]})
    if not args.rehearse:
        print(f"{machine['gpu']}: {machine['idle_device_bytes'] / GiB:.2f} GiB used by an empty context", flush=True)
        children.build_ops()
    Session(args.out, cluster, machine).run(cases, children, deadline)
    return 0


def parse_args() -> argparse.Namespace:
    """How long, where to, which cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/one_gpu"), help="folder of runs.csv and oom.csv")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds until it must have ended (540)")
    parser.add_argument("--only", default="", help="only cases whose name holds this, as 8b or z3 or offload")
    parser.add_argument("--list", action="store_true", help="print the cases and end")
    parser.add_argument("--rehearse", action="store_true", help="the same way on CPU with a tiny model")
    return parser.parse_args()


class Children:
    """Starts each piece of work in a process of its own, forked from a server that has imported everything."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="one_gpu-")
        self._start(fork=True)

    def machine(self, *, needs_gpu: bool) -> dict[str, Any]:
        """What `probe` finds; where forked processes cannot use the GPU, all later ones start from nothing."""
        found = self.run("probe", probe, seconds=120)
        if needs_gpu and not found.get("cuda"):
            self._start(fork=False)
            found = self.run("probe", probe, seconds=120)
            if found.get("cuda"):
                print("forked processes cannot use the GPU: every case imports everything itself", flush=True)
        return found

    def build_ops(self) -> None:
        """Compile what DeepSpeed compiles on first use, all at once; without it the toolkit uses torch's optimizers."""
        started = time.monotonic()
        print(f"building {' and '.join(OPS)} ...", flush=True)
        running = [(name, *self._spawn(name, build_op, name)) for name in OPS]
        for name, process, result in running:
            found = self._wait(process, result, seconds=BUILD_SECONDS)
            print(f"  {name}: {found['status']} {found.get('why', '')}".rstrip())
        print(f"ops took {time.monotonic() - started:.0f} s, once per machine", flush=True)

    def run(self, name: str, body: Callable[..., dict[str, Any]], *args: object, seconds: float) -> dict[str, Any]:
        """What `body(*args)` returned; `status` is `failed` where it raised, died, or took longer."""
        return self._wait(*self._spawn(name, body, *args), seconds=seconds)

    def _start(self, *, fork: bool) -> None:
        self._context: Any = multiprocessing.get_context("forkserver" if fork else "spawn")
        if fork:
            self._context.set_forkserver_preload(list(PRELOADED))

    def _spawn(self, name: str, body: Callable[..., dict[str, Any]], *args: object) -> tuple[Any, Path]:
        result = Path(self._folder.name) / f"{name}.json"
        result.unlink(missing_ok=True)
        process = self._context.Process(target=in_child, args=(body, result, *args))
        process.start()
        return process, result

    def _wait(self, process: Any, result: Path, *, seconds: float) -> dict[str, Any]:
        process.join(max(seconds, 1.0))
        late = process.is_alive()
        process.kill()
        process.join()
        if result.exists():
            found = dict(json.loads(result.read_text(encoding="utf-8")))
        elif late:
            found = {"status": "late", "why": f"not done after {seconds:.0f} s"}
        else:
            killed = ", which is what happens where host memory runs out" if process.exitcode == -signal.SIGKILL else ""
            found = {"status": "failed", "why": f"died with exit code {process.exitcode}{killed}"}
        if found["status"] != "ok":
            log = result.with_suffix(".log")
            found["log"] = log.read_text(encoding="utf-8", errors="replace")[-LOG_CHARACTERS:] if log.exists() else ""
        return found


class Session:
    """One call: the cases that have no row yet, until the time is over."""

    def __init__(self, out: Path, cluster: ClusterSpec, machine: dict[str, Any]) -> None:
        self._cluster, self._machine = cluster, machine
        self._runs = Table(out / "runs.csv", like="runs.csv")
        self._ooms = Table(out / "oom.csv", like="oom_and_bounds.csv")
        self._failures = Failures(out / "failed.jsonl")

    def run(self, cases: list[Case], children: Children, deadline: float) -> None:
        """Measure and tell, case by case."""
        done = self._runs.ids | self._ooms.ids | self._failures.ids
        left = [case for case in cases if case.key not in done]
        print(f"{len(cases)} cases, {len(cases) - len(left)} done before; {self._cluster.device.name}", flush=True)
        failures = 0
        while left and failures < MOST_FAILURES and (remaining := deadline - time.monotonic()) > LEAST_SECONDS:
            case, started = left[0], time.monotonic()
            limit = min(CASE_SECONDS, remaining - 2)
            found = children.run(case.key, measure, case, self._cluster, seconds=limit)
            if found["status"] == "late" and limit < CASE_SECONDS:
                break  # our time was too short, not the case too long
            left.pop(0)
            failures = 0 if found["status"] in ("ok", "oom") else failures + 1
            took = time.monotonic() - started
            print(
                f"[{len(cases) - len(left)}/{len(cases)}] {case.key}  ({took:.0f} s)\n{self._keep(case, found)}",
                flush=True,
            )
        if left and failures == MOST_FAILURES:
            print(f"{failures} failures in a row: see failed.jsonl, mend the cause, remove the file and call it again")
        elif left:
            print(f"time is over, {len(left)} cases are left: call it again with the same --out")

    def _keep(self, case: Case, found: dict[str, Any]) -> str:
        """Write the case's row; words for people."""
        plan = planned(case, self._cluster).plan
        match found["status"]:
            case "ok":
                self._runs.add(run_row(case, self._cluster, found=found, machine=self._machine))
                return compared(plan, found)
            case "oom":
                self._ooms.add(oom_row(case, self._cluster, found=found, machine=self._machine))
                memory, capacity = plan.memory, plan.cluster.device.memory_bytes
                words = f"predicted {memory.total_bytes / GiB:.1f} GiB, P(OOM) {memory.oom_probability(capacity):.0%}"
                return f"  out of memory ({found['phase']}); {words}"
            case _:
                self._failures.add(case, found)
                return f"  FAILED: {found['why']}"


def compared(plan: Plan, found: dict[str, Any]) -> str:
    """Measured and predicted, reading by reading."""
    memory = plan.memory
    readings = [
        ("allocated", memory.allocated_bytes, found.get("allocated_bytes")),
        ("reserved", memory.reserved_bytes, found.get("reserved_bytes")),
        ("device", memory.total_bytes, found.get("device_bytes") or found.get("rss_bytes")),
        ("host", memory.host_bytes, found["host_bytes"] if memory.host_bytes else None),
    ]
    lines = [_line(name, GiB, "GiB", predicted, measured) for name, predicted, measured in readings if measured]
    step = statistics.median(found["step_seconds"])
    causes = _terms(plan.time, "_seconds", 1.0)
    lines.append(f"{_line('step', 1.0, 's', plan.time.step_seconds, step)}   ({causes})")
    lines.append(f"  predicted at {memory.instant!r}: {_terms(memory, '_bytes', GiB)}")
    lines.append(f"  {found['optimizer']}; start took {found['start_seconds']:.0f} s, last loss {found['loss']:.2f}")
    return "\n".join(lines)


def _terms(estimate: Spec, suffix: str, unit: float) -> str:
    """Every term that is not 0."""
    terms = ((name.removesuffix(suffix), value) for name, value in estimate if name.endswith(suffix))
    return ", ".join(f"{name} {value / unit:.3g}" for name, value in terms if value)


def _line(name: str, unit: float, word: str, predicted: float, measured: float) -> str:
    off = predicted / measured - 1
    return f"  {name:<10}{measured / unit:9.3f} {word:<4} predicted {predicted / unit:9.3f}  {off:+7.1%}"


if __name__ == "__main__":
    sys.exit(main())
