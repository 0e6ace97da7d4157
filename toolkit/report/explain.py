"""`--explain`: the arithmetic behind a plan, line by line, each with its source."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from toolkit.planner.plan import Plan
from toolkit.report.explain_lines import Section
from toolkit.report.explain_memory import explain_memory
from toolkit.report.explain_time import explain_time
from toolkit.report.readings import plan_setup
from toolkit.report.tables import new_table


def arithmetic(plan: Plan) -> tuple[Section, ...]:
    """Memory of the fullest device, then time of one step; every sum is computed again from the plan's choices."""
    setup = plan_setup(plan)
    return (*explain_memory(setup, plan.memory), *explain_time(setup))


def explanation(plan: Plan) -> Group:
    """The arithmetic for a console of 80 columns or more; sources are numbered and listed at the end."""
    numbers: dict[str, int] = {}
    parts: list[RenderableType] = []
    for section in arithmetic(plan):
        parts += [_table(section, numbers), Text()]
    parts.append(Text("Sources", style="bold"))
    sources = Table.grid(padding=(0, 1))
    for source, number in numbers.items():
        sources.add_row(f"[{number}]", source)
    return Group(*parts, sources)


def arithmetic_json(plan: Plan) -> list[dict[str, Any]]:
    """The sections with their lines, for `--json --explain`."""
    return [
        {"title": section.title, "lines": [line._asdict() for line in section.lines]} for section in arithmetic(plan)
    ]


def _table(section: Section, numbers: dict[str, int]) -> Group:
    table = new_table("", "", "")
    table.show_header = False
    table.columns[0].min_width, table.columns[1].min_width = 26, 10
    table.columns[1].justify = "right"
    for line in section.lines:
        note = ""
        if line.source:
            note = f" [{numbers.setdefault(line.source, len(numbers) + 1)}]"
        table.add_row(line.what, line.result, f"= {line.how}{note}", style="bold" if line.is_sum else None)
    return Group(Text(section.title, style="bold"), table)
