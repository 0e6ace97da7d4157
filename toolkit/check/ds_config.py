"""All rules of a ds_config.json, ours or anybody's."""

from collections.abc import Callable, Iterator

from toolkit.check.auto_values import auto_values
from toolkit.check.batch_rules import batch, clipping
from toolkit.check.context import Context, Values
from toolkit.check.data_rules import data_efficiency
from toolkit.check.ds_schema import DS_CONFIG, IGNORED
from toolkit.check.engine_rules import engine
from toolkit.check.finding import Finding
from toolkit.check.known import Walk, check_keys, homes, nearest
from toolkit.check.known_bad import known_bad
from toolkit.check.optimizers import optimizer, scheduler
from toolkit.check.parallel_rules import parallelism
from toolkit.check.plan_rules import against_plan
from toolkit.check.precision_rules import precision
from toolkit.check.releases import TESTED_DEEPSPEED, Release
from toolkit.check.removed import LOCATIONS, removed_keys
from toolkit.check.zero_rules import zero

RULES: tuple[Callable[[Values, Context], Iterator[Finding]], ...] = (
    removed_keys,
    auto_values,
    batch,
    clipping,
    precision,
    zero,
    parallelism,
    optimizer,
    scheduler,
    data_efficiency,
    engine,
    known_bad,
    against_plan,
)
"""To add one: a function of the file's values and the context, in the module of its subject, and its name here."""

_HOMES = homes(DS_CONFIG)


def check_ds_config(values: Values, context: Context) -> Iterator[Finding]:
    """Every fault of the file."""
    content = values.content
    if content and not any(_recognized(str(name)) for name in content):
        told = f"none of its {len(content)} keys is one of DeepSpeed's"
        yield Finding("warning", "no-ds-config", (), told, "DeepSpeed reads nothing of it", "give the right file")
        return
    if context.deepspeed > Release.parse(TESTED_DEEPSPEED):
        told = f"DeepSpeed {context.deepspeed} is newer than the tables of this check, which are of {TESTED_DEEPSPEED}"
        yield Finding("note", "newer-release", (), told, "what it added or removed is not known", "")
    ignored = {(name,) for name in IGNORED}
    yield from check_keys(content, DS_CONFIG, Walk(context, LOCATIONS | ignored, _HOMES))
    for name in content:
        if name in IGNORED:
            severity, instead = IGNORED[name]
            told = "is no section or key of DeepSpeed"
            yield Finding(severity, "ignored-key", (name,), told, "it is ignored without a word", instead)
    for rule in RULES:
        yield from rule(values, context)


def _recognized(name: str) -> bool:
    """Whether a key is, was, or is meant to be one of DeepSpeed's."""
    return (name,) in LOCATIONS or name in _HOMES or nearest(name, DS_CONFIG.names()) is not None
