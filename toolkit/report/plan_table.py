"""A Plan as people read it: the choice, where memory and time go, why, what came next and what does not run."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from toolkit.planner.plan import MEMORY_TERMS, Candidate, Plan
from toolkit.report.tables import new_grid, new_table
from toolkit.units import human_bytes, human_count, human_seconds

BAR_WIDTH = 32

TIME_ROWS = (
    ("compute", "compute_seconds"),
    ("communication", "communication_seconds"),
    ("offload", "offload_seconds"),
)


def plan_report(plan: Plan) -> Group:
    """Everything a plan says, for a console of 80 columns or more."""
    parts: list[RenderableType] = [_head(plan), Text(), _memory(plan), Text(), _time(plan), Text(), _why(plan)]
    if plan.alternatives:
        parts += [Text(), _alternatives(plan)]
    if plan.rejected:
        parts += [Text(), _rejected(plan)]
    return Group(*parts)


def batch_arithmetic(plan: Plan) -> str:
    """How the global batch comes about, as in 'global 64 = 8 ranks x 4 micro x 2 accumulation'."""
    strategy, dp = plan.strategy, plan.strategy.layout.dp
    product = f"{dp} rank{'s' if dp > 1 else ''} x {strategy.micro_batch} micro x {strategy.grad_accum} accumulation"
    return f"global {plan.workload.global_batch} = {product}"


def _head(plan: Plan) -> Table:
    workload, cluster = plan.workload, plan.cluster
    method = "full fine-tuning" if workload.method == "full" else f"LoRA of rank {workload.lora_rank}"
    nodes = f"{cluster.num_nodes} node{'s' if cluster.num_nodes > 1 else ''}"
    grid = new_grid()
    grid.add_row("model", f"{plan.model.name}, {human_count(plan.model.num_params)} parameters")
    grid.add_row("cluster", f"{plan.world_size} x {cluster.device.name} on {nodes}")
    grid.add_row("workload", f"{method} in {workload.precision}, seq_len {workload.seq_len}")
    grid.add_row("strategy", Text(plan.strategy.words, style="bold green"))
    grid.add_row("batch", batch_arithmetic(plan))
    return grid


def _memory(plan: Plan) -> Table:
    capacity, memory = plan.cluster.device.memory_bytes, plan.memory
    table = new_table("Memory per device", "", f"of {human_bytes(capacity)}")
    table.columns[1].justify = "right"
    for field, name in MEMORY_TERMS.items():
        size = int(getattr(memory, field))
        table.add_row(name, human_bytes(size), _bar(size / capacity))
    total = memory.total_bytes
    table.add_section()
    table.add_row("total", human_bytes(total), f"{total / capacity:.0%}", style="bold")
    if memory.host_bytes:
        host = plan.cluster.host_memory_bytes
        table.add_row(
            "host, per node", human_bytes(memory.host_bytes), f"{memory.host_bytes / host:.0%} of {human_bytes(host)}"
        )
    return table


def _time(plan: Plan) -> Table:
    step = plan.time.step_seconds
    table = new_table("Time per step", "", "of the step")
    table.columns[1].justify = "right"
    for name, field in TIME_ROWS:
        seconds = float(getattr(plan.time, field))
        table.add_row(name, human_seconds(seconds), _bar(seconds / step if step else 0.0))
    table.add_section()
    speed = f"{plan.tokens_per_step / step:,.0f} tokens/s" if step else ""
    table.add_row("total", human_seconds(step), speed, style="bold")
    return table


def _why(plan: Plan) -> Group:
    grid = new_grid()
    for reason in plan.reasons:
        grid.add_row("-", reason)
    return Group(Text("Why", style="bold"), grid)


def _alternatives(plan: Plan) -> Table:
    table = new_table("Next best", "step", "memory", "host")
    table.columns[0].no_wrap = False
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for candidate in plan.alternatives:
        table.add_row(*_candidate_row(candidate))
    return table


def _candidate_row(candidate: Candidate) -> tuple[str, str, str, str]:
    memory = candidate.memory
    host = human_bytes(memory.host_bytes) if memory.host_bytes else "-"
    step = human_seconds(candidate.time.step_seconds)
    return candidate.strategy.words, step, human_bytes(memory.total_bytes), host


def _rejected(plan: Plan) -> Table:
    table = new_table("Does not run", "because")
    for rejection in plan.rejected:
        table.add_row(rejection.strategy, rejection.reason)
    return table


def _bar(part: float) -> str:
    """A bar of eighths of a cell: nothing at 0, `BAR_WIDTH` cells at 1 and beyond."""
    eighths = min(BAR_WIDTH * 8, round(part * BAR_WIDTH * 8))
    full, rest = divmod(eighths, 8)
    return "█" * full + ("▏▎▍▌▋▊▉"[rest - 1] if rest else "")
