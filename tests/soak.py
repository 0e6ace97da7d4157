"""The long form of the tests of faults and of changed layouts: `make soak`; its tables are in docs/reliability.md.

python tests/soak.py --faults 200 --seed 1
python tests/soak.py --pairs
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

import toolkit
from ranks.chaos import ON_DISK, differences, live_through
from ranks.reference import reference_run
from ranks.resuming import first_half, second_half
from ranks.runs import in_warm_ranks
from ranks.test_faults import EVERY, write, write_inputs
from ranks.test_resume import LAYOUTS, STOP, run
from ranks.test_resume import write as write_layout
from ranks.tiny import write_model

CHOICES: tuple[dict[str, Any], ...] = (
    {"zero_stage": 1},
    {"zero_stage": 2},
    {"zero_stage": 3},
    {"zero_stage": 1, "tp": 2},
    {"pp": 2},
    {"engine": "mcore", "tp": 2},
)
console = Console()


def soak(folder: Path, *, faults: int, seed: int) -> bool:
    """Runs of several layouts, each with some faults, until there have been enough; whether all ended well."""
    chance, happened, lost, wrong = random.Random(seed), Counter[str](), [], []
    inputs = write_inputs(folder / "inputs")
    expected = []
    for number, choices in enumerate(CHOICES):
        in_warm_ranks(write(folder / f"expected-{number}", inputs, **choices))
        expected.append(toolkit.load_run(folder / f"expected-{number}"))
    for number in range(10 * faults):
        which = number % len(CHOICES)
        choices = {**CHOICES[which], "checkpoint": {"every_steps": EVERY, "asynchronous": number % 2 == 0}}
        one = write(folder / f"run-{number}", inputs, **choices)
        story = live_through(one, chance, faults=6)
        happened += story.faults
        lost += story.lost_steps
        wrong += [f"run {number} ({choices}): {found}" for found in differences(toolkit.load_run(one), expected[which])]
        console.print(f"{sum(happened.values())} faults, {number + 1} runs, {len(wrong)} wrong")
        if sum(happened.values()) >= faults:
            break
    table = Table("fault", "times", title=f"{sum(happened.values())} faults in {number + 1} runs, seed {seed}")
    for kind, times in sorted(happened.items()):
        table.add_row(kind + (" (newest checkpoint)" if kind in ON_DISK else ""), str(times))
    console.print(table)
    console.print(f"steps done again after a fault: {statistics.mean(lost):.1f} on average, {max(lost)} at most")
    for line in wrong:
        console.print(line)
    return not wrong


def pairs(folder: Path) -> bool:
    """Save with each layout and go on with each; the largest difference from one process that was not interrupted."""
    model = write_model(folder / "model", num_hidden_layers=5, num_key_value_heads=4, tied=True)
    one = reference_run(model)
    # Numbers, as twelve names side by side would be cut to nothing on 80 columns.
    numbers = [str(number) for number, _ in enumerate(LAYOUTS, start=1)]
    title = "largest difference of the loss in 10 steps, 1e-7; saved by the row's layout, goes on with the column's"
    table = Table("", *numbers, title=title)
    worst = 0.0
    for number, saved in track(list(zip(numbers, LAYOUTS, strict=True)), console=console):
        run(first_half, write_layout(folder / f"{saved}-run", model, **LAYOUTS[saved]), folder / saved, STOP, False)
        row = []
        for goes_on in LAYOUTS:
            half = run(
                second_half, write_layout(folder / f"{saved}-{goes_on}", model, **LAYOUTS[goes_on]), folder / saved
            )
            by = max(abs(ours.loss - plain.loss) for ours, plain in zip(half.steps, one.steps[STOP:], strict=True))
            worst = max(worst, by)
            row.append(f"{by * 1e7:.0f}")
        table.add_row(f"{number} {saved}", *row)
    console.print(table)
    console.print(f"worst {worst:.1e}, allowed 2e-6")
    return worst <= 2e-6


def main() -> None:
    """Exit code 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pairs", action="store_true", help="all pairs of layouts instead")
    args = parser.parse_args()
    started = time.time()
    with tempfile.TemporaryDirectory() as name:
        fine = pairs(Path(name)) if args.pairs else soak(Path(name), faults=args.faults, seed=args.seed)
    console.print(f"{time.time() - started:.0f} s")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
