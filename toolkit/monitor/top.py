"""A run on a terminal: its ranks, what they are busy with, who waits for whom, and what has happened."""

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from toolkit.monitor.state import RankState, RunState, Watched
from toolkit.report.texts import shown
from toolkit.units import human_bytes, human_seconds

_PARTS = (
    ("data", "data", "magenta"),
    ("forward", "forward", "green"),
    ("backward", "backward", "cyan"),
    ("passes", "passes", "cyan"),
    ("optimizer", "optimizer", "yellow"),
    ("other", "other", "white"),
    ("waiting", "waiting", "bright_black"),
)
"""Of a bar, in the order of a step; colours that differ on dark and on light terminals."""
_LIFE = {"training": "green", "busy": "green", "finished": "blue", "silent": "red"}
_BAR, _LEAST_RANKS, _EVENTS = 24, 4, 6
_AROUND = 12
"""Lines of a screen that are not ranks."""


def show_top(watched: Watched, console: Console, *, every_seconds: float, once: bool) -> None:
    """Show the run again and again until Ctrl-C; once, where that is asked for or nobody looks at a terminal.

    Args:
        watched: the run.
        console: where.
        every_seconds: between two looks.
        once: print it, and end.
    """
    if once or not console.is_terminal:
        console.print(screen(watched.look(), most_ranks=None))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                most = max(console.height - _AROUND, _LEAST_RANKS)
                live.update(screen(watched.look(), most_ranks=most), refresh=True)
                time.sleep(every_seconds)
        except KeyboardInterrupt:
            return


def screen(state: RunState, *, most_ranks: int | None) -> RenderableType:
    """All of it.

    Args:
        state: of the run.
        most_ranks: that are shown, the busiest of them; None shows all.
    """
    parts: list[RenderableType] = [_head(state), _ranks(state, most_ranks), _legend(state)]
    if state.events:
        parts.append(_events(state.events))
    return Panel(Group(*parts), title=Text(f"toolkit top · {shown(state.name)}"), title_align="left", padding=(0, 1))


def _head(state: RunState) -> RenderableType:
    last, total = state.last, state.num_steps
    words = Text()
    words.append(state.life, style=_LIFE.get(state.life, "yellow"))
    words.append(f"   step {state.steps:,}" + (f" of {total:,}" if total else ""))
    for name, form in (("loss", "loss {:.4f}"), ("tokens_per_second", "{:,.0f} tokens/s")):
        if name in last:
            words.append(f"   {form.format(last[name])}")
    if "step_seconds" in last:
        words.append(f"   {human_seconds(last['step_seconds'])} per step")
    if "sent_bytes" in last:
        words.append(f"   {human_bytes(last['sent_bytes'])} sent per step")
    if state.checkpoint is not None:
        words.append(f"   checkpoint {state.checkpoint:,}")
    if restarts := state.counts.get("restarted", 0):
        words.append(f"   restarts {restarts}", style="yellow")
    if not total:
        return words
    # With a pulse rich would draw by the clock, and a screen would differ from the same one a moment later.
    lines = Table.grid(expand=True)
    lines.add_row(words)
    lines.add_row(ProgressBar(total=total, completed=min(state.steps, total), pulse=False))
    return lines


def _ranks(state: RunState, most: int | None) -> RenderableType:
    if not state.ranks:
        return Text("no rank has told anything yet", style="dim")
    ranks = list(state.ranks)
    left_out = 0 if most is None else len(ranks) - most
    if left_out > 0:
        ranks = sorted(sorted(ranks, key=lambda rank: (not rank.slow, -rank.busy))[:most], key=lambda rank: rank.rank)
    staged = any(rank.stage for rank in state.ranks)
    shared = any(rank.micro_batches for rank in state.ranks)
    linked = any(rank.link_bytes for rank in state.ranks)
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("rank", justify="right")
    table.add_column("host", overflow="ellipsis", no_wrap=True)
    if staged:
        table.add_column("stage", justify="right")
    table.add_column("phase", overflow="ellipsis", no_wrap=True)
    if shared:
        table.add_column("micro-batches", justify="right", no_wrap=True)
    for name in ("at step", "step", "busy", "data"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("of a step", width=_BAR, no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    if linked:
        table.add_column("link", justify="right", no_wrap=True)
    table.add_column("seen", justify="right", no_wrap=True)
    for rank in ranks:
        row: list[RenderableType] = [str(rank.rank), Text(shown(rank.host))]
        row += [str(rank.stage)] if staged else []
        row += [_phase(rank), *([str(rank.micro_batches)] if shared else []), f"{rank.step:,}"]
        row += [*_times(rank), _bar(rank), _size(rank.memory_bytes)]
        row += [_rate(rank)] if linked else []
        table.add_row(*row, "" if rank.age is None else human_seconds(max(rank.age, 1.0)))
    if left_out > 0:
        return Group(table, Text(f"… and {left_out} ranks that are less busy", style="dim"))
    return table


def _phase(rank: RankState) -> Text:
    if rank.slow:
        return Text(f"SLOW: {shown(rank.slow)}", style="bold red")
    return Text(shown(rank.phase) or "-")


def _times(rank: RankState) -> list[str]:
    if not rank.seconds.get("step"):
        return ["-"] * 3
    return [human_seconds(one) for one in (rank.seconds["step"], rank.busy, rank.seconds["data"])]


def _bar(rank: RankState) -> Text:
    """A step from left to right; each part as long as its time."""
    whole, bar, end = rank.seconds.get("step", 0.0), Text(), 0.0
    for name, _, colour in _PARTS if whole else ():
        seconds = rank.waiting if name == "waiting" else rank.seconds.get(name, 0.0)
        begin, end = end, min(end + seconds / whole, 1.0)
        length = round(end * _BAR) - round(begin * _BAR)
        bar.append(("░" if name == "waiting" else "█") * length, style=colour)
    return bar


def _size(num_bytes: float) -> str:
    return human_bytes(num_bytes) if num_bytes else "-"


def _rate(rank: RankState) -> str:
    step = rank.seconds.get("step", 0.0)
    return f"{human_bytes(rank.link_bytes / step)}/s" if step else "-"


def _legend(state: RunState) -> Text:
    words = Text()
    for name, word, colour in _PARTS:
        if name == "waiting" or any(rank.seconds.get(name) for rank in state.ranks):
            words.append("░ " if name == "waiting" else "█ ", style=colour).append(f"{word}   ", style="dim")
    return words


def _events(events: Iterable[Mapping[str, Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for event in list(events)[-_EVENTS:]:
        name, at = str(event.get("event", "")), event.get("time")
        clock = datetime.fromtimestamp(at).strftime("%H:%M:%S") if isinstance(at, int | float) else ""
        style = "bold red" if name in ("straggler", "checkpoint failed", "bad step") else ""
        table.add_row(Text(clock, style="dim"), f"step {event.get('step', '')}", Text(_told(event), style=style))
    return table


def _told(event: Mapping[str, Any]) -> str:
    if event.get("event") == "straggler":
        share = event.get("share")
        part = f", {share:.0%} of a step" if isinstance(share, float) else ""
        return shown(f"slow: rank {event.get('rank')} on {event.get('host')}, {event.get('section')}{part}")
    facts = [
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in event.items()
        if key not in ("event", "time", "step") and isinstance(value, str | int | float)
    ]
    return shown(" ".join([str(event.get("event", "")), *facts]))[:120]
