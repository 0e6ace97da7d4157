"""Answers to changed questions side by side, on the console."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from toolkit.planner.what_if import Answer
from toolkit.report.tables import new_table
from toolkit.units import human_bytes, human_seconds


def answers_table(answers: Mapping[str, Answer]) -> Table:
    """A row for every answer: the strategy and what it takes, or why there is none."""
    table = new_table("", "memory", "host", "step", "tokens/s/GPU", "strategy")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for name, answer in answers.items():
        if answer.plan is None:
            table.add_row(name, "-", "-", "-", "-", Text(answer.refusal.partition("\n")[0], style="red"))
            continue
        plan, memory = answer.plan, answer.plan.memory
        table.add_row(
            name,
            human_bytes(memory.total_bytes),
            human_bytes(memory.host_bytes) if memory.host_bytes else "-",
            human_seconds(plan.time.step_seconds),
            f"{plan.tokens_per_second_per_gpu:,.0f}",
            Text(f"{plan.strategy.words}{'' if answer.fits else ': does not fit'}", style="" if answer.fits else "red"),
        )
    return table
