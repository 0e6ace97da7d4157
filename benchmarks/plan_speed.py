"""How long the planner takes by number of GPUs: the search in this process, and the whole command.

    python benchmarks/plan_speed.py [--model llama-3.1-405b] [--repeats 3]

Prints one line per cluster size as a Markdown table: strategies judged, those that fit, seconds of the search alone and
wall seconds of `toolkit plan` with the start of Python, the best of the repeats.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time

SIZES = (8, 32, 128, 512, 2048, 8192, 16384)
NODE = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="llama-3.1-405b")
    parser.add_argument("--seq-len", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, children too
    print("| GPUs | judged | fit | search, s | command, s |\n|---|---|---|---|---|")
    for size in SIZES:
        judged, fit, search = measure_search(args.model, size, args.seq_len, repeats=args.repeats)
        command = measure_command(args.model, size, args.seq_len, repeats=args.repeats)
        print(f"| {size:,} | {judged:,} | {fit:,} | {search:.2f} | {command:.2f} |", flush=True)


def measure_search(model: str, size: int, seq_len: int, *, repeats: int) -> tuple[int, int, float]:
    """(strategies judged, those that fit, seconds); a question that nothing answers is measured as well."""
    from toolkit.errors import NoFeasiblePlan
    from toolkit.planner.judge import judge
    from toolkit.planner.request import Fixed, Request
    from toolkit.planner.search import make_plan
    from toolkit.specs.cluster import ClusterSpec
    from toolkit.specs.model import ModelSpec
    from toolkit.specs.workload import Workload

    spec, machines = ModelSpec.resolve(model), ClusterSpec.resolve(cluster_of(size))
    workload = Workload(seq_len=seq_len, global_batch=size)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        with contextlib.suppress(NoFeasiblePlan):
            make_plan(spec, machines, workload, fixed=Fixed())
        best = min(best, time.perf_counter() - start)
    verdict = judge(Request(spec, machines, workload, Fixed()))
    return verdict.judged, len(verdict.fits), best


def measure_command(model: str, size: int, seq_len: int, *, repeats: int) -> float:
    """Wall seconds of the command line, with the start of Python."""
    words = [sys.executable, "-m", "toolkit", "plan", "--model", model, "--cluster", cluster_of(size)]
    words += ["--seq-len", str(seq_len), "--global-batch", str(size)]
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        # Exit code 2 says that nothing fits, which is an answer too.
        status = subprocess.run(words, capture_output=True, check=False).returncode
        best = min(best, time.perf_counter() - start)
        if status not in (0, 2):
            raise SystemExit(f"{' '.join(words)} ended with exit code {status}")
    return best


def cluster_of(size: int) -> str:
    """Nodes of eight."""
    return f"{size // NODE}x{NODE}xH100-80GB"


if __name__ == "__main__":
    main()
