"""Memory of a plan on the console: the fullest device term by term, three readings of it, and all pipeline stages."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from toolkit.planner.estimates import MEMORY_TERMS, MemoryEstimate
from toolkit.planner.plan import Plan
from toolkit.report.readings import Reading, Readings
from toolkit.report.tables import bar, new_table
from toolkit.units import human_bytes

ABOVE_ALLOCATED = ("fragmentation_bytes", "context_bytes")
"""Terms that tensors do not take."""

FIRST_STAGES, LAST_STAGES = 4, 3
"""Rows of a long pipeline that are shown beside the fullest stage."""


def memory_table(plan: Plan, found: Readings) -> Table:
    """Terms as bars against the capacity, then what three tools would read, with their bands."""
    memory, capacity = plan.memory, found.capacity_bytes
    table = new_table("Memory of the fullest device", "", when_and_where(plan))
    table.columns[1].justify = "right"
    for field, name in MEMORY_TERMS.items():
        if size := int(getattr(memory, field)):
            table.add_row(name, human_bytes(size), bar(size / capacity))
    table.add_row("", "", Text("nine of ten runs between", style="dim"))
    table.add_row("allocated", human_bytes(found.allocated.predicted), _band(found.allocated))
    table.add_row("reserved", human_bytes(found.reserved.predicted), _band(found.reserved))
    share = f"{found.total.predicted / capacity:.0%} of {human_bytes(capacity)}"
    table.add_row("device total", human_bytes(found.total.predicted), f"{_band(found.total)}; {share}", style="bold")
    table.add_row("P(out of memory)", probability(found.oom_probability), "")
    if memory.host_bytes:
        host = plan.cluster.host_memory_bytes
        part = f"{memory.host_bytes / host:.0%} of {human_bytes(host)}"
        table.add_row("host, per node", human_bytes(memory.host_bytes), part)
    if memory.disk_bytes:
        disk = plan.cluster.nvme_bytes
        part = f"{memory.disk_bytes / disk:.0%} of {human_bytes(disk)}" if disk else "of a local disk"
        table.add_row("disk, per node", human_bytes(memory.disk_bytes), part)
    return table


def when_and_where(plan: Plan) -> str:
    """'last forward, stage 0 of 4': the instant and, in a pipeline, the stage."""
    where = f", stage {plan.memory.stage} of {plan.strategy.layout.pp}" if plan.strategy.layout.pp > 1 else ""
    return f"{plan.memory.instant}{where}"


def probability(part: float) -> str:
    """'12 %', '0.4 %', 'below 0.1 %'."""
    if part < 0.001:
        return "below 0.1%"
    return f"{part:.1%}" if part < 0.1 else f"{part:.0%}"


def stage_table(plan: Plan) -> Table:
    """One row per pipeline stage; of a long pipeline both ends and the fullest."""
    table = new_table("Stage", "states", "activations", "logits", "other", "total", "of the device")
    for column in table.columns[:-1]:
        column.justify = "right"
    capacity = plan.cluster.device.memory_bytes
    before = -1
    for memory in _shown(plan.stage_memory, plan.memory.stage):
        if memory.stage > before + 1:
            table.add_row("...", *[""] * 6)
        before = memory.stage
        table.add_row(*_stage_row(memory, capacity), style="bold" if memory.stage == plan.memory.stage else None)
    return table


def _shown(stages: tuple[MemoryEstimate, ...], fullest: int) -> Iterator[MemoryEstimate]:
    long = len(stages) > FIRST_STAGES + LAST_STAGES + 1
    for place, memory in enumerate(stages):
        at_an_end = place < FIRST_STAGES or place >= len(stages) - LAST_STAGES
        if not long or at_an_end or memory.stage == fullest:
            yield memory


def _stage_row(memory: MemoryEstimate, capacity: int) -> tuple[str, ...]:
    states = memory.weights_bytes + memory.gradients_bytes + memory.optimizer_bytes
    named = states + memory.activations_bytes + memory.logits_bytes
    sizes = (states, memory.activations_bytes, memory.logits_bytes, memory.total_bytes - named, memory.total_bytes)
    share = memory.total_bytes / capacity
    return str(memory.stage), *(human_bytes(size) if size else "-" for size in sizes), f"{share:4.0%} {bar(share, 10)}"


def _band(reading: Reading) -> str:
    return f"{human_bytes(reading.low)} to {human_bytes(reading.high)}"
