"""All rules of a ds_config.json, ours or anybody's."""

from collections.abc import Callable, Iterator

from toolkit.check.auto_values import auto_values
from toolkit.check.batch_rules import batch, clipping
from toolkit.check.context import Context, Values
from toolkit.check.data_rules import data_efficiency
from toolkit.check.ds_schema import DS_CONFIG, IGNORED
from toolkit.check.engine_rules import engine
from toolkit.check.finding import Finding
from toolkit.check.known import Walk, check_keys, homes
from toolkit.check.known_bad import known_bad
from toolkit.check.meant import MEANT
from toolkit.check.nearest import nearest
from toolkit.check.optimizers import optimizer
from toolkit.check.parallel_rules import parallelism
from toolkit.check.plan_rules import against_plan
from toolkit.check.precision_rules import precision
from toolkit.check.releases import TESTED_DEEPSPEED, Release
from toolkit.check.removed import LOCATIONS, removed_keys
from toolkit.check.schedules import scheduler
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

_OWN_AFFAIRS = {
    "autotuning", "checkpoint", "comet", "comms_logger", "csv_monitor", "data_efficiency", "hybrid_engine",
    "tensorboard", "timers", "wandb",
}  # fmt: skip
"""Sections whose keys have names that mean something else elsewhere, as `num_epochs` and `project`."""
_HOMES = {name: at for name, at in homes(DS_CONFIG).items() if not at or at[0] not in _OWN_AFFAIRS}
_SURE = {"zero_optimization", "train_micro_batch_size_per_gpu"}
_MAX_KEYS = 1000
_RECOGNIZED_OF = 3
"""Of how many keys one must be DeepSpeed's, for a file to be a ds_config."""


def check_ds_config(values: Values, context: Context) -> Iterator[Finding]:
    """Every fault of the file."""
    content = values.content
    if len(content) > _MAX_KEYS:
        told, effect = f"has {len(content)} keys at the top level, which no ds_config has", "nothing else is checked"
        yield Finding("warning", "no-ds-config", (), told, effect, "give the right file")
        return
    ours = [name for name in content if _recognized(str(name))]
    inside = [name for name, value in content.items() if isinstance(value, dict) and value.keys() & _SURE]
    if inside and not ours:
        told = f"the config stands inside `{inside[0]}`, and DeepSpeed reads the top level"
        effect, remedy = "nothing of it counts", "move what is inside to the top level"
        yield Finding("error", "misplaced-key", (inside[0],), told, effect, remedy)
        return
    if content and len(ours) * _RECOGNIZED_OF < len(content):
        told = f"{len(ours) or 'none'} of its {len(content)} keys is one of DeepSpeed's"
        effect = "it is no ds_config, or one of which DeepSpeed reads nothing; nothing else is checked"
        yield Finding("warning", "no-ds-config", (), told, effect, "give the right file")
        return
    if context.deepspeed > Release.parse(TESTED_DEEPSPEED):
        told = f"DeepSpeed {context.deepspeed} is newer than the tables of this check, which are of {TESTED_DEEPSPEED}"
        yield Finding("note", "newer-release", (), told, "what it added or removed is not known", "")
    elsewhere = LOCATIONS | {(name,) for name in IGNORED}
    if isinstance(content.get("zero_optimization"), bool):
        elsewhere |= {("zero_optimization",)}
    yield from check_keys(content, DS_CONFIG, Walk(context, elsewhere, _HOMES, MEANT))
    for name in content:
        if name in IGNORED:
            severity, instead = IGNORED[name]
            told = "is no section or key of DeepSpeed"
            yield Finding(severity, "ignored-key", (name,), told, "it is ignored without a word", instead)
    for rule in RULES:
        yield from rule(values, context)


def _recognized(name: str) -> bool:
    """Whether a key is, was, or is meant to be one of DeepSpeed's."""
    return (
        (name,) in LOCATIONS
        or name in _HOMES
        or (name,) in MEANT
        or name in IGNORED
        or nearest(name, DS_CONFIG.names()) is not None
    )
