"""What a run says before its first step: model, batch arithmetic, data, decisions, and one sample as it is learnt."""

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from toolkit.data.loader import GlobalBatches
from toolkit.data.prepare import PreparedData
from toolkit.data.preview import decoded_example
from toolkit.data.statistics import Statistics
from toolkit.engines.base import Engine
from toolkit.planner.plan import Plan
from toolkit.units import human_count

_STEPS_LOOKED_AT = 100


def introduction(
    plan: Plan, data: PreparedData, engine: Engine, *, batches: GlobalBatches, trainable: int, total: int
) -> Group:
    """What is about to be trained, on what, and one sample with its supervised part marked."""
    strategy, rows = plan.strategy, data.statistics
    tokenizer = data.encoder.template.tokenizer
    lines = [
        f"model: {human_count(trainable)} of {human_count(total)} parameters are trained, "
        f"{plan.workload.precision_words}, {strategy.words} on {plan.cluster.name}",
        f"batch: {plan.workload.global_batch} samples = {_replicas(plan)} x {strategy.micro_batch} "
        f"x {strategy.grad_accum} accumulation",
        f"data: {rows.rows:,} samples, {rows.tokens:,} tokens, {rows.supervised_tokens / rows.tokens:.1%} supervised",
        *_work(plan, batches),
        *engine.notes,
        *data.notes,
    ]
    example = Panel(decoded_example(data.train[0], tokenizer), title="first sample, ⟦supervised⟧", title_align="left")
    return Group(*lines, *source_table(rows), example)


def source_table(statistics: Statistics) -> list[Table]:
    """What each source gives to an epoch and what of it is left out; nothing to say of a single one."""
    if len(statistics.sources) == 1:
        return []
    table = Table(title="an epoch, source by source", title_justify="left", box=None)
    table.add_column("source", overflow="fold")
    for heading in ("read", "left out", "held out", "samples", "weight", "rows", "tokens", "supervised", "share"):
        table.add_column(heading, justify="right")
    for each in statistics.sources:
        left_out = each.without_answer + each.prompt_too_long + each.duplicates + each.held_out_copies
        counts = (f"{count:,}" for count in (each.read, left_out, each.held_out, each.samples))
        supervised = f"{each.supervised_tokens / each.tokens:.1%}"
        rest = (f"{each.weight:g}", f"{each.rows:,}", f"{each.tokens:,}", supervised, f"{each.share:.1%}")
        table.add_row(Text(each.name), *counts, *rest)
    return [table]


def _work(plan: Plan, batches: GlobalBatches) -> list[str]:
    """How far the replicas' tokens differ; what one has more, the others wait for."""
    if plan.strategy.layout.dp == 1:
        return []
    ours, in_order = batches.imbalance(_STEPS_LOOKED_AT)
    return [
        f"work: the fullest replica has {ours:.1%} more tokens per step than the mean; with the rows as they come it "
        f"would have {in_order:.1%} more"
    ]


def _replicas(plan: Plan) -> str:
    """'4 ranks', or '2 replicas of 2 ranks'."""
    dp = plan.strategy.layout.dp
    each = plan.world_size // dp
    return f"{dp} ranks" if each == 1 else f"{dp} replica{'s' if dp > 1 else ''} of {each} ranks"
