"""Fit the constants of one framework profile anew to measured runs, and show what that would change.

    python benchmarks/fit_laws.py PROFILE [--runs RUNS.csv] [--rounds 20]

Only the constants that the profile names in `fitted` move (toolkit/specs/catalog/frameworks.yaml), and only rows of the
half that `toolkit validate --split` calls fitted on are looked at; the errors on the held-out half stand beside them.
Coordinate descent: each constant in turn is tried a step larger and a step smaller, then each pair one against the
other, and the steps halve once none of this helps. What is made small is the mean of |predicted / measured - 1|, which
a few odd rows cannot pull as they pull squares. The same input gives the same numbers, from the catalog's constants
as starting point. Nothing is written. With few rows to fit on, as the first line says, the numbers mean little.

The constants that hold for every framework (toolkit/planner/cost/constants.py) stay as they are.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from toolkit.errors import SpecError, ToolkitError
from toolkit.planner.cost.estimate import estimate_time
from toolkit.planner.profile import Profile, profiles
from toolkit.planner.validation.api import judge_runs, predicted_peak
from toolkit.planner.validation.runs import CORPUS, read_runs
from toolkit.planner.validation.score import Judged
from toolkit.planner.validation.setups import Case
from toolkit.planner.validation.split import in_fit_half

FIRST_STEP, LAST_STEP = 0.25, 0.002
"""Largest and smallest step, as parts of a constant."""

Constants = dict[str, float]
"""Name in the law, as full.hidden -> value."""


class Fit(NamedTuple):
    """What a fit found for one law."""

    rows: dict[str, int]
    """fit, held out -> rows."""
    old: Constants
    new: Constants
    old_errors: dict[str, float | None]
    """fit, held out -> mean |error| of the old constants; None without rows."""
    new_errors: dict[str, float | None]
    """The same of the new ones."""


def main() -> int:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", choices=sorted(profiles()))
    parser.add_argument("--runs", type=Path, default=CORPUS / "runs.csv", help="measured runs as CSV")
    parser.add_argument("--rounds", type=int, default=20, help="most rounds over all constants")
    args = parser.parse_args()
    try:
        judged, profile = judge_runs(read_runs(args.runs)), profiles()[args.profile]
    except ToolkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for law, rows in (("memory", judged.memory), ("time", judged.time)):
        print(told(law, fit(profile, law, rows, rounds=args.rounds)))
    print("Nothing was written; change toolkit/specs/catalog/frameworks.yaml by hand.")
    return 0


def fit(profile: Profile, law: str, judged: list[Judged], *, rounds: int) -> Fit:
    """The constants of `memory` or `time` that predict the fit half of the profile's rows best."""
    rows = [one for one in judged if one.case.setup.profile.name == profile.name]
    halves = {
        "fit": [one for one in rows if in_fit_half(one.case.run)],
        "held out": [one for one in rows if not in_fit_half(one.case.run)],
    }

    def errors(constants: Constants) -> dict[str, float | None]:
        changed = with_constants(profile, law, constants)
        return {name: mean_error(changed, law, part) for name, part in halves.items()}

    def error(constants: Constants) -> float:
        found = mean_error(with_constants(profile, law, constants), law, halves["fit"])
        return float("inf") if found is None else found

    old = {name: constant(profile, law, name) for name in getattr(profile, law).fitted}
    new = descend(error, old, rounds=rounds) if old and halves["fit"] else old
    return Fit({name: len(part) for name, part in halves.items()}, old, new, errors(old), errors(new))


def descend(error: Callable[[Constants], float], start: Constants, *, rounds: int) -> Constants:
    """Coordinate descent from `start`: at most `rounds` rounds over all constants and pairs of them."""
    best, least, step = dict(start), error(start), FIRST_STEP
    for _ in range(rounds):
        before = least
        for moves in _moves(list(start)):
            trial = {name: _moved(value, step * moves.get(name, 0)) for name, value in best.items()}
            # Values that the law does not allow are no candidates.
            try:
                found = error(trial)
            except (SpecError, ValidationError):
                continue
            if found < least:
                best, least = trial, found
        if least == before:
            step /= 2
            if step < LAST_STEP:
                break
    return best


def _moves(names: list[str]) -> Iterator[dict[str, int]]:
    """One constant up or down; then two against each other, as absolute errors have valleys along no axis."""
    for name in names:
        yield from ({name: 1}, {name: -1})
    for one, other in permutations(names, 2):
        yield {one: 1, other: -1}


def _moved(value: float, step: float) -> float:
    """A constant by a part of itself up or down; from 0 by the step."""
    if value == 0:
        return max(0.0, step)
    return value * (1 + step) if step >= 0 else value / (1 - step)


def mean_error(profile: Profile, law: str, rows: list[Judged]) -> float | None:
    """Mean of |predicted / measured - 1| under another profile; None without rows."""
    if not rows:
        return None
    predict = predicted_peak if law == "memory" else predicted_seconds
    changed = (one.case._replace(setup=one.case.setup._replace(profile=profile)) for one in rows)
    errors = [abs(predict(case) / one.measured - 1) for case, one in zip(changed, rows, strict=True)]
    return sum(errors) / len(errors)


def predicted_seconds(case: Case) -> float:
    """Seconds of one step."""
    return estimate_time(case.setup).step_seconds


def constant(profile: Profile, law: str, name: str) -> float:
    """A constant of a profile's law by its dotted name."""
    found: Any = getattr(profile, law)
    for part in name.split("."):
        found = getattr(found, part)
    return float(found)


def with_constants(profile: Profile, law: str, constants: Constants) -> Profile:
    """The profile with other constants, checked against the bounds of its law."""
    cells = profile.model_dump()
    for name, value in constants.items():
        *path, last = (law, *name.split("."))
        place = cells
        for part in path:
            place = place[part]
        place[last] = value
    return Profile.model_validate(cells)


def told(law: str, found: Fit) -> str:
    """What a person reads of a fit."""
    if not found.old:
        return f"{law}: no fitted constants"
    lines = [f"{law}: {found.rows['fit']} rows to fit on, {found.rows['held out']} held out"]
    lines += [f"  {name:26s} {found.old[name]:.6g} -> {new:.6g}" for name, new in found.new.items()]
    for half in found.rows:
        lines.append(
            f"  mean |error|, {half:12s} {_percent(found.old_errors[half])} -> {_percent(found.new_errors[half])}"
        )
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
