"""A finished run as people read it: what it reached, how fast, and one answer before and after."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from toolkit.report.runs import Run
from toolkit.report.tables import new_grid, new_table
from toolkit.units import human_bytes, human_seconds


def run_report(run: Run) -> Group:
    """Results against the plan's predictions, for a console of 80 columns or more.

    Raises:
        ConfigError: the run has not ended.
    """
    summary = run.summary
    parts: list[RenderableType] = [_results(summary), Text(), _speed(run, summary)]
    parts += [Text(note) for note in _notes(summary)]
    if summary["example"]:
        parts += [Text(), _example(summary["example"])]
    parts += [Text(), Text(f"exported: {run.export}")]
    # A run of an earlier release has none.
    if run.adapter is not None and run.adapter.is_dir():
        parts.append(Text(f"adapters: {run.adapter}"))
    return Group(*parts)


def _results(summary: dict[str, Any]) -> Table:
    table = _numbers("Result", "before", "after")
    table.add_row("training loss", f"{summary['loss_first']:.4f}", f"{summary['loss_last']:.4f}")
    for name, key, form in (
        ("held-out loss", "held_out_loss", "{:.4f}"),
        ("held-out exact match", "exact_match", "{:.1%}"),
        ("prompts answered right", "prompts_match", "{:.1%}"),
    ):
        # A run of an earlier release does not know all of them.
        before, after = summary.get(f"{key}_before"), summary.get(f"{key}_after")
        if before is not None and after is not None:
            table.add_row(name, form.format(before), form.format(after), style="bold" if key == "exact_match" else None)
    return table


def _notes(summary: dict[str, Any]) -> list[str]:
    """What is not as in every run."""
    notes = [stopped] if (stopped := summary.get("stopped_early")) else []
    if (step := summary.get("exported_step")) is not None:
        notes.append(f"exported: the weights of step {step}, which had the lowest held-out loss")
    return notes


def _speed(run: Run, summary: dict[str, Any]) -> Table:
    steps, plan = run.steps, run.plan
    seconds = sorted(step["step_seconds"] for step in steps)[len(steps) // 2]
    table = _numbers("Speed and memory", "measured", "planned")
    table.add_row("seconds per step", human_seconds(seconds), human_seconds(plan.time.step_seconds))
    table.add_row("tokens per second", f"{summary['tokens_per_second']:,.0f}", "")
    peak = steps[-1].get("peak_allocated_bytes") or steps[-1]["peak_rss_bytes"]
    table.add_row("peak memory of rank 0", human_bytes(peak), human_bytes(plan.memory.total_bytes))
    if plan.strategy.offload_to == "nvme":
        read, written = (
            sum(rank[name] for rank in summary["memory_by_rank"]) for name in ("disk_read_bytes", "disk_written_bytes")
        )
        table.add_row("swapped from and to disk", f"{human_bytes(read)}, {human_bytes(written)}", "")
    skipped = f", {summary['skipped_steps']} of them skipped" if summary["skipped_steps"] else ""
    table.add_row("optimizer steps", f"{summary['steps']}{skipped}", "")
    table.add_row("whole run", human_seconds(summary["wall_seconds"]), "")
    return table


def _example(example: dict[str, str]) -> Table:
    grid = new_grid()
    for name in ("prompt", "expected", "before", "after"):
        # An untrained model may answer with anything, at length.
        text = example[name].strip()
        grid.add_row(name, Text(text if len(text) <= 400 else f"{text[:400]}…"))
    return grid


def _numbers(*headings: str) -> Table:
    table = new_table(*headings)
    for column in table.columns[1:]:
        column.justify = "right"
    return table
