"""Whether the processes are one group, and which rows each of them gets."""

from collections import Counter
from typing import NamedTuple

import torch

from toolkit.data.encode import IGNORED
from toolkit.preflight.documents import digest, documents
from toolkit.preflight.outcome import Outcome, judged
from toolkit.preflight.setting import Setting

_ALONE = (
    "start the run with `toolkit launch`; a script of one's own on CPUs needs gloo asked for by "
    "`InitProcessGroupKwargs(backend='gloo')`, or accelerate gives every process a copy of its own"
)


def check_group(setting: Setting) -> Outcome:
    """Every rank of the plan answers, once."""
    engine, planned = setting.engine, setting.plan.world_size
    answered = engine.gather((engine.rank, engine.world_size))
    whole = answered == [(rank, planned) for rank in range(planned)]
    alone = f"{len(answered)} of {planned} ranks answered: the others train separate copies of the model"
    return judged("ranks", f"{planned} in one group", fault=None if whole else alone, remedy=_ALONE)


class _Seen(NamedTuple):
    """One rank's part of the first step."""

    data_rank: int
    rows: list[str]
    """Digest of each document."""
    tokens: int
    supervised: int


def check_rows(setting: Setting) -> list[Outcome]:
    """The first step's rows: each once, on one replica, as many as planned, and something in them to learn."""
    seen = _seen(setting)
    by_replica = {one.data_rank: one for one in seen}
    split = [one for one in seen if one.rows != by_replica[one.data_rank].rows]
    found = Counter(row for one in by_replica.values() for row in one.rows)
    numbers = setting.batches.row_numbers(0)
    wanted = Counter(digest(torch.tensor(row)) for row in setting.data.train.select(numbers)["input_ids"])
    outcomes = [_same_rows(setting, found, wanted, by_replica, torn=bool(split))]
    tokens, supervised = (sum(getattr(one, name) for one in by_replica.values()) for name in ("tokens", "supervised"))
    outcomes.append(_arithmetic(setting, rows=sum(found.values()), tokens=tokens))
    outcomes.append(_labels(setting, tokens=tokens, supervised=supervised))
    return outcomes


def _seen(setting: Setting) -> list[_Seen]:
    batches = setting.first_step
    rows = [digest(batch["input_ids"][row, start:stop]) for batch in batches for row, start, stop in documents(batch)]
    tokens = sum(stop - start for batch in batches for _, start, stop in documents(batch))
    supervised = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
    found: list[_Seen] = setting.engine.gather(_Seen(setting.engine.data_rank, rows, tokens, supervised))
    return found


def _same_rows(
    setting: Setting, found: Counter[str], wanted: Counter[str], by_replica: dict[int, _Seen], *, torn: bool
) -> Outcome:
    dp = setting.plan.strategy.layout.dp
    said = f"{found.total()} samples in the first step, each on one of {dp} replica{'s' if dp > 1 else ''}"
    fault = None
    copies = {tuple(one.rows) for one in by_replica.values()}
    if torn:
        fault = "ranks of one replica have different samples"
    elif len(by_replica) != dp:
        fault = f"the ranks are {len(by_replica)} replicas, planned are {dp}"
    elif found != wanted:
        twice = (
            "all replicas train on the same samples" if dp > 1 and len(copies) == 1 else "samples are lost or doubled"
        )
        fault = f"{twice}: the first step has {len(found)} different ones, its global batch {len(wanted)}"
    return judged("data", said, fault=fault, remedy="start all ranks from one recipe, seed and data set")


def _arithmetic(setting: Setting, *, rows: int, tokens: int) -> Outcome:
    """The global batch as it is here, and as DeepSpeed and the Trainer would count it."""
    plan = setting.plan
    strategy, planned = plan.strategy, plan.workload.global_batch
    product = strategy.layout.dp * strategy.micro_batch * strategy.grad_accum
    theirs = plan.world_size * strategy.micro_batch * strategy.grad_accum
    packed = setting.data.packs is not None
    said = (
        f"{planned} {'packed rows' if packed else 'samples'} = dp {strategy.layout.dp} x micro-batch "
        f"{strategy.micro_batch} x accumulation {strategy.grad_accum}; the first step has {rows} samples, "
        f"{tokens:,} tokens"
    )
    if theirs != product:
        said += f"; world size x micro-batch x accumulation would be {theirs}: ranks of one replica share its rows"
    fault = None
    if product != planned:
        fault = f"dp x micro-batch x accumulation is {product}, the recipe's global batch {planned}"
    elif not packed and rows > planned:
        fault = f"the first step has {rows} samples, the global batch is {planned}"
    return judged("batch", said, fault=fault, remedy="plan again with this global batch")


def _labels(setting: Setting, *, tokens: int, supervised: int) -> Outcome:
    rows = setting.data.statistics
    said = (
        f"{supervised:,} of the first step's {tokens:,} tokens are supervised, "
        f"{rows.supervised_tokens / max(rows.tokens, 1):.1%} of all"
    )
    fault = None if supervised else f"no label in the first step's {tokens:,} tokens: it would train on nothing"
    remedy = "look at the data's format and chat template, and at `data.train_on`"
    return judged("labels", said, fault=fault, remedy=remedy)
