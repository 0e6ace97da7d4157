"""The top of the page: which runs, how far they came, what they reached, and in what they differ."""

from collections.abc import Sequence

from toolkit.report.differences import Difference, differences
from toolkit.report.page.markup import Child, Markup, element, table, together
from toolkit.report.record import Record
from toolkit.report.results import Measured, Result, results, state_words
from toolkit.units import human_count

_CARDS = (
    ("training loss",),
    ("held-out loss",),
    ("held-out exact match",),
    ("tokens per second",),
    ("MFU",),
    ("seconds per step",),
    ("peak reserved", "growth of memory", "peak memory of rank 0", "peak memory"),
)
"""Results that stand out at the top, where a run has them; of several names the first that it has."""
_MOST_BESIDE = 3
"""Runs whose tables leave room for another one beside them."""
_STATES = {"finished": "good", "stopped early": "good", "not finished": "notable", "not started": "quiet"}


def header(runs: Sequence[Measured]) -> Markup:
    """Names, what was trained on what, and how far it has come."""
    title = runs[0].record.name if len(runs) == 1 else f"{len(runs)} runs"
    return element(
        "header",
        element("p", "toolkit report", class_="brand"),
        element("h1", title),
        [_introduced(run, place, named=len(runs) > 1) for place, run in enumerate(runs)],
    )


def overview(runs: Sequence[Measured]) -> Markup:
    """Results of one run as cards, of several beside each other, with what they were given differently."""
    if len(runs) == 1:
        lines = results(runs[0]).every
        told = {line.name: line for line in lines if line.value or line.planned}
        cards = [_card(told[found[0]]) for names in _CARDS if (found := [name for name in names if name in told])]
        rest = [_result_row(line) for line in lines if line.value or line.planned]
        every = table(["", "before", "measured", "planned"], rest, class_="numbers")
        return section(
            "Results",
            element("div", cards, class_="cards"),
            element("details", element("summary", "All results"), every),
            _notes(runs[0].record),
        )
    beside = section("Results", _results_table(runs), [_notes(run.record) for run in runs])
    return element("div", beside, _differing(runs), class_="beside" if len(runs) <= _MOST_BESIDE else None)


def section(title: str, *children: Child) -> Markup:
    """A part of the page with its heading, which the list at the top leads to."""
    return element("section", element("h2", title), *children, id=section_id(title))


def section_id(title: str) -> str:
    """Where a link to it leads."""
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def run_mark(place: int) -> Markup:
    """The colour of a run."""
    return element("i", class_=f"swatch run-{place % 8}")


def _introduced(run: Measured, place: int, *, named: bool) -> Markup:
    record = run.record
    plan = record.plan
    what = (
        f"{plan.model.name}, {human_count(plan.model.num_params)} parameters, on {plan.world_size:,} x "
        f"{plan.cluster.device.name}: {plan.strategy.words}"
    )
    badge = element("span", state_words(record), class_=f"badge {_STATES[record.state]}")
    name = [run_mark(place), element("b", record.name), " "] if named else []
    return element("p", name, what, " ", badge, class_="introduced")


def _card(line: Result) -> Markup:
    below = f"from {line.before}" if line.before else f"planned {line.planned}" if line.planned else ""
    value = line.value or "-"
    return element(
        "div",
        element("span", line.name, class_="card-name"),
        element("strong", value),
        element("span", below, class_=f"card-note {_judged(line)}"),
        class_="card",
    )


def _judged(line: Result) -> str:
    """Whether a measurement lies where nine of ten should."""
    return {True: "inside", False: "outside", None: ""}[line.inside]


def _result_row(line: Result) -> list[Child]:
    return [line.name, line.before, element("td", line.value, class_=_judged(line) or None), line.planned]


def _results_table(runs: Sequence[Measured]) -> Markup:
    every = [{line.name: line for line in results(run).every} for run in runs]
    rows: list[list[Child]] = [["state", *(state_words(run.record) for run in runs)]]
    for name in dict.fromkeys(name for one in every for name in one):
        lines = [one.get(name, Result(name)) for one in every]
        # What happened to none of them is no news.
        if any(line.value not in ("", "0") or line.planned for line in lines):
            rows.append([name, *_beside_each_other(lines)])
    heads: list[Child] = ["", *([run_mark(place), run.record.name] for place, run in enumerate(runs))]
    return table(heads, rows, class_="numbers")


def _beside_each_other(lines: Sequence[Result]) -> list[Child]:
    """The lowest cost stands out, where not all have the same."""
    costs = [line.cost for line in lines if line.cost is not None]
    best = min(costs) if len(set(costs)) > 1 else None
    cells: list[Child] = []
    for line in lines:
        before = [f"{line.before} → "] if line.before else []
        planned = [element("small", f" planned {line.planned}", class_=_judged(line) or None)] if line.planned else []
        value = element("b" if best is not None and line.cost == best else "span", line.value, class_="value")
        cells.append(element("td", before, value, planned))
    return cells


def _differing(runs: Sequence[Measured]) -> Markup:
    """DeepSpeed's configuration follows from the plan, but where it was edited by hand: it is folded."""
    found = differences([run.record for run in runs])
    if not found:
        words = "Recipes, plans, DeepSpeed's configurations and libraries are the same."
        return section("Differences", element("p", words))
    told, follows = ([one for one in found if (one.file == "ds_config") is folded] for folded in (False, True))
    parts: list[Child] = [_differences_table(told, runs)] if told else []
    if follows:
        summary = element("summary", f"ds_config.json ({len(follows)})")
        parts.append(element("details", summary, _differences_table(follows, runs), open=not told))
    return section("Differences", parts)


def _differences_table(found: Sequence[Difference], runs: Sequence[Measured]) -> Markup:
    heads: list[Child] = ["", "key", *([run_mark(place), run.record.name] for place, run in enumerate(runs))]
    rows: list[list[Child]] = []
    before = None
    for one in found:
        rows.append([one.file if one.file != before else "", element("td", element("code", one.key)), *one.values])
        before = one.file
    return table(heads, rows, class_="numbers")


def _notes(record: Record) -> Markup:
    return together([element("p", note, class_="note") for note in record.notes])
