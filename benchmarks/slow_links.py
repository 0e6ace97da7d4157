"""Predicted against measured on two hosts and five links: layouts, compressed gradients, local steps.

    python benchmarks/slow_links.py [--only zero0 powersgd ...] [--links 100mbit 20ms ...] [--machine DIR] [--json]

Needs Linux and root: the hosts are namespaces of this machine with one rank each (tests/hosts/), so they share its
processors. For every link the hosts are calibrated (`toolkit calibrate --hosts`), unless --machine has the files of an
earlier time. Every strategy trains the same LLaMA with random weights once over all links of a rate, which is changed
while it runs, and once over each link with a delay. A link's step time is the median of its steps after the first ones,
of local steps the mean of a round. Ends with exit status 1 where a step is off by more than 20 %, where the planner's
first choice among the layouts is more than 10 % slower than the fastest, or where what is sent less gains too little.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cpu_layouts import write_inputs
from hosts.cluster import Cluster, cluster_of, lacking

BOUND, CHOICE_BOUND = 0.20, 0.10
GAINS = {"fp16": 1.7, "powersgd": 4.0, "local8": 4.0}
"""Least speed-up over ZeRO-0 on the slowest link."""
SLOWEST = "100mbit"
SKIPPED, COUNTED = 3, 8
"""Steps of each link."""
ROOT = Path(__file__).parents[1]


class Link(NamedTuple):
    """Between each host and the switch."""

    rate: str | None
    delay_ms: float


LINKS = {
    "10gbit": Link("10gbit", 0),
    "1gbit": Link("1gbit", 0),
    "300mbit": Link("300mbit", 0),
    "100mbit": Link("100mbit", 0),
    "20ms": Link("1gbit", 20),
}


class Case(NamedTuple):
    """A strategy, and what the recipe says of its communication."""

    layout: dict[str, Any]
    communication: dict[str, Any]


LAYOUTS = {
    "zero0": Case({"zero_stage": 0}, {}),
    "zero2": Case({"zero_stage": 2}, {}),
    "zero3": Case({"zero_stage": 3}, {}),
    "pp2": Case({"pp": 2}, {}),
    "tp2": Case({"tp": 2, "zero_stage": 1}, {}),
}
SENT_LESS = {
    "fp16": Case({"zero_stage": 0}, {"compression": "fp16"}),
    "powersgd": Case({"zero_stage": 0}, {"compression": "powersgd"}),
    "local8": Case({"zero_stage": 0}, {"local_steps": COUNTED}),
}
CASES = LAYOUTS | SENT_LESS


class Outcome(NamedTuple):
    """A strategy on a link."""

    case: str
    link: str
    seconds: float
    predicted: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.seconds


def main() -> None:
    """Calibrate, train, compare."""
    args = parse_args()
    # Else the hosts would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if reason := lacking():
        raise SystemExit(reason)
    from toolkit.emitters.command import CPU_ENVIRONMENT

    os.environ |= CPU_ENVIRONMENT
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = argparse.Namespace(**vars(args), seq_len=args.row_len - 10)  # rows of one length, none cut
        write_inputs(sizes, folder)
        machines = args.machine or folder
        outcomes = list(measured(args, folder, machines))
    faults = list(faults_of(outcomes))
    if args.json:
        rows = [{**one._asdict(), "ratio": one.ratio} for one in outcomes]
        print(json.dumps({"runs": rows, "faults": faults}, indent=2))
    else:
        print(table(outcomes), *faults or ["all within the bounds"], sep="\n")
    sys.exit(1 if faults else 0)


def parse_args() -> argparse.Namespace:
    """Sizes of the model and of the step, and how long to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"hidden": 256, "layers": 4, "heads": 4, "kv-heads": 4, "ffn": 1024, "vocab": 2048}
    for name, value in {**sizes, "row-len": 64, "global-batch": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--links", nargs="+", choices=LINKS, default=list(LINKS))
    parser.add_argument("--budget", type=float, default=30.0, help="seconds of each calibration")
    parser.add_argument("--machine", type=Path, help="folder with LINK.yaml of earlier calibrations")
    parser.add_argument("--keep", type=Path, help="folder for model, calibrations and runs; else they are removed")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measured(args: argparse.Namespace, folder: Path, machines: Path) -> Iterator[Outcome]:
    """Every strategy on every link: those without a delay in one run, which the links change under."""
    plain = [name for name in args.links if not LINKS[name].delay_ms]
    for links in (plain, *([name] for name in args.links if LINKS[name].delay_ms)):
        if not links:
            continue
        first = LINKS[links[0]]
        place = folder / f"hosts-{links[0]}-{time.time_ns()}"
        place.mkdir()
        with cluster_of(2, place, rate=first.rate, delay_ms=first.delay_ms) as cluster:
            hostfile = cluster.hostfile(place / "hosts.txt", slots=1)
            for name in links:
                if not (machines / f"{name}.yaml").exists():
                    shape(cluster, name)
                    words = ["calibrate", "--hosts", hostfile, "-o", machines / f"{name}.yaml"]
                    run_toolkit(cluster, *words, "--budget", args.budget)
            for case in args.only:
                run = folder / f"{case}-{links[0]}"
                # And one at which local steps end in a mean, whichever step of a round it is.
                last = len(links) * (SKIPPED + COUNTED) + 1
                predictions = [
                    planned(args, folder, machines / f"{name}.yaml", case, run, max_steps=last) for name in links
                ]
                steps = trained(cluster, hostfile, run, links)
                for place_of, (name, predicted) in enumerate(zip(links, predictions, strict=True)):
                    own = steps[place_of * (SKIPPED + COUNTED) :][SKIPPED : SKIPPED + COUNTED]
                    seconds = mean(own) if case.startswith("local") else median(own)
                    one = Outcome(case, name, seconds, predicted)
                    print(f"{case} {name}: {seconds:.3f} s, predicted {predicted:.3f}", file=sys.stderr, flush=True)
                    yield one


def planned(args: argparse.Namespace, folder: Path, machine: Path, case: str, run: Path, *, max_steps: int) -> float:
    """Write the run folder, and give the predicted step time; the last call's folder is run."""
    import toolkit
    from toolkit.planner.api import estimate

    asked = CASES[case]
    work = {"seq_len": args.row_len, "global_batch": args.global_batch, "precision": "fp32"}
    micro = args.global_batch // (1 if {"pp", "tp"} & asked.layout.keys() else 2)
    plan = estimate(folder / "model", machine, work=work, strategy={"micro_batch": micro, **asked.layout})
    recipe = toolkit.Recipe.parse(
        {
            "model": str(folder / "model"),
            "workload": plan.workload.model_dump(),
            "data": {"train": str(folder / "rows.jsonl")},
            "max_steps": max_steps,
            "communication": asked.communication,
            "trackers": [],
        },
        source="benchmark",
    )
    toolkit.emit(plan, run, recipe, overwrite=True)
    return toolkit.Plan.load(run / "plan.json").time.step_seconds


def trained(cluster: Cluster, hostfile: Path, run: Path, links: Sequence[str]) -> list[float]:
    """Seconds of each step; the link changes when the steps of one are over."""
    shape(cluster, links[0])
    words = [sys.executable, "-m", "toolkit", "launch", run, "--hosts", hostfile, "--overwrite", "--preflight", "off"]
    launched = cluster.hosts[0].start(list(map(str, words)), log=f"{run.name}", env=os.environ, cwd=ROOT)
    telemetry, steps, now = run / "telemetry.jsonl", list[float](), 0
    while True:
        ended = launched.poll()
        steps = step_seconds(telemetry)
        due = min(len(steps) // (SKIPPED + COUNTED), len(links) - 1)
        if due > now:
            now = due
            shape(cluster, links[now])
        if ended is not None:
            break
        time.sleep(0.02)
    if ended != 0:
        raise SystemExit(f"{run}: {cluster.hosts[0].log(run.name).read_text(encoding='utf-8')[-3000:]}")
    return steps


def step_seconds(telemetry: Path) -> list[float]:
    """Of all steps that are written by now."""
    if not telemetry.exists():
        return []
    lines = telemetry.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["step_seconds"] for line in lines if line.endswith("}")]


def shape(cluster: Cluster, link: str) -> None:
    """Give all hosts' cables the rate of a link."""
    for host in cluster.hosts:
        host.shape(LINKS[link].rate)


def run_toolkit(cluster: Cluster, *words: object) -> None:
    """A command on the first host, shown only where it fails."""
    command = [sys.executable, "-m", "toolkit", *map(str, words)]
    done = cluster.hosts[0].run(command, env=os.environ, cwd=ROOT, seconds=600)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def faults_of(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What is outside of the bounds, one sentence each."""
    for one in outcomes:
        if abs(one.ratio - 1) > BOUND:
            yield f"{one.case} on {one.link}: predicted {one.ratio:.2f} times as measured"
    for link in dict.fromkeys(one.link for one in outcomes):
        layouts = [one for one in outcomes if one.link == link and one.case in LAYOUTS]
        chosen = min(layouts, key=lambda one: one.predicted, default=None)
        if chosen and chosen.seconds > (1 + CHOICE_BOUND) * min(one.seconds for one in layouts):
            best = min(layouts, key=lambda one: one.seconds)
            yield f"{link}: {chosen.case} would be chosen, {best.case} is {chosen.seconds / best.seconds:.2f}x as fast"
    known = {one.case: one.seconds for one in outcomes if one.link == SLOWEST}
    for case, least in GAINS.items():
        if {case, "zero0"} <= known.keys() and (gain := known["zero0"] / known[case]) < least:
            yield f"{case} on {SLOWEST}: {gain:.2f}x faster than zero0, needs {least}x"


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: a row per strategy, measured, predicted and their ratio on each link."""
    links = list(dict.fromkeys(one.link for one in outcomes))
    lines = [f"| strategy | {' | '.join(links)} |", "|---" * (len(links) + 1) + "|"]
    for case in dict.fromkeys(one.case for one in outcomes):
        found = {one.link: one for one in outcomes if one.case == case}
        cells = [f"{found[link].seconds:.3f}, {found[link].predicted:.3f} ({found[link].ratio:.2f})" for link in found]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
