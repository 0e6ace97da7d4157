"""Recipes of other trainers: their own keys are their own affair; the ds_config that they name is checked with them.

Source: LLaMA-Factory's, Axolotl's and ms-swift's examples, trl's `ModelConfig`; transformers 5.23
integrations/deepspeed.py (`fill_match`): a number that TrainingArguments and the ds_config both have must be the same.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.check.context import Context, Values
from toolkit.check.finding import Finding
from toolkit.check.json_reader import NotJson, read
from toolkit.check.value import shown
from toolkit.errors import SpecError
from toolkit.specs.reading import MAX_JSON_BYTES, bounded_text


class Trainer(NamedTuple):
    """How the recipe of a trainer is known, and what of it concerns a ds_config."""

    name: str
    marks: frozenset[str]
    """Keys that every recipe has."""
    any_of: frozenset[str]
    """Of these at least one."""
    lora: tuple[str, tuple[Any, ...]]
    """The key that switches LoRA on, and its values."""
    arguments: bool = True
    """Whether its keys are those of transformers' TrainingArguments."""


_HUGGING_FACE = frozenset({"per_device_train_batch_size", "output_dir", "learning_rate", "num_train_epochs"})
_LORA = ("lora", "qlora", "dora")
TRAINERS = (
    Trainer("Axolotl", frozenset({"base_model"}),
            frozenset({"datasets", "adapter", "sequence_len", "micro_batch_size", "deepspeed"}), ("adapter", _LORA),
            arguments=False),
    Trainer("LLaMA-Factory", frozenset({"model_name_or_path"}),
            frozenset({"finetuning_type", "cutoff_len", "template", "do_train"}), ("finetuning_type", _LORA)),
    Trainer("ms-swift", frozenset({"model"}), frozenset({"train_type", "tuner_type"}), ("train_type", _LORA)),
    Trainer("transformers", frozenset({"model_name_or_path"}), _HUGGING_FACE, ("use_peft", (True,))),
    Trainer("GPT-NeoX", frozenset({"num_layers"}), frozenset({"pipe_parallel_size", "model_parallel_size"}),
            ("", ()), arguments=False),
)  # fmt: skip
_SAME: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("per_device_train_batch_size", ("train_micro_batch_size_per_gpu",)),
    ("gradient_accumulation_steps", ("gradient_accumulation_steps",)),
    ("max_grad_norm", ("gradient_clipping",)),
    ("learning_rate", ("optimizer", "params", "lr")),
    ("learning_rate", ("scheduler", "params", "warmup_max_lr")),
    ("warmup_steps", ("scheduler", "params", "warmup_num_steps")),
    ("weight_decay", ("optimizer", "params", "weight_decay")),
    ("adam_epsilon", ("optimizer", "params", "eps")),
    ("bf16", ("bf16", "enabled")),
    ("fp16", ("fp16", "enabled")),
)
"""Argument -> what transformers wants to be equal in the ds_config, unless that says "auto"."""
_ABOVE = 4
"""Folders above the recipe's in which the ds_config is looked for: such paths start where the program does."""


def trainer_of(content: dict[str, Any]) -> Trainer | None:
    """Whose recipe it is, where it is one."""
    names = {str(name).replace("-", "_") for name in content}
    found = (one for one in TRAINERS if one.marks <= names and one.any_of & names)
    return next(found, None)


def check_foreign(values: Values, context: Context, *, folder: Path) -> Iterator[Finding]:
    """What of the recipe of another trainer and the ds_config that it names do not go together.

    Args:
        values: of the recipe.
        context: the release.
        folder: where the recipe lies.
    """
    trainer = trainer_of(dict(values.content))
    if trainer is None:
        told = "by its keys no ds_config, accelerate file, recipe or plan"
        remedy = "give the right file, or say what it is with --kind"
        yield Finding("warning", "not-checked", (), told, "nothing of it is checked", remedy)
        return
    told = f"a recipe of {trainer.name}: its own keys are not in the tables of this check"
    named = values.get("deepspeed")
    effect = "only what concerns its ds_config is checked" if named else "nothing of it is checked"
    yield Finding("note", "not-checked", (), told, effect, "give its ds_config too" if isinstance(named, str) else "")
    config = _config(named, folder)
    if config is None:
        return
    if trainer.arguments:
        yield from _differing(values, config, str(named))
    key, on = trainer.lora
    tp = config.whole("tensor_parallel", "autotp_size") or 0
    if tp > 1 and values.get(key) in on:
        told = f"is {shown(values.get(key))}, and {named} has tensor_parallel.autotp_size {tp}"
        effect = "AutoTP replaces the layers that carry the adapters: no trainable weight is left, and nothing says so"
        yield Finding("error", "autotp-and-peft", (key,), told, effect, "train in full, or take a ds_config without it")


def _config(named: Any, folder: Path) -> Values | None:
    """The ds_config that a recipe names; None where it is not found, or no JSON."""
    if isinstance(named, dict):
        return Values(named)
    if not isinstance(named, str) or not named.endswith(".json"):
        return None
    for place in (Path(), folder, *list(folder.resolve().parents)[:_ABOVE]):
        if not (place / named).is_file():
            continue
        try:
            content = read(bounded_text(place / named, MAX_JSON_BYTES)).value
        except (NotJson, SpecError):
            return None
        return Values(content) if isinstance(content, dict) else None
    return None


def _differing(values: Values, config: Values, named: str) -> Iterator[Finding]:
    for argument, at in _SAME:
        given, there = values.get(argument), config.get(*at)
        if given is None or there in (None, "auto") or _same(given, there):
            continue
        told = f"is {shown(given)}, and {'.'.join(at)} of {named} {shown(there)}"
        effect = "a ValueError at start: transformers wants both to be the same"
        yield Finding("error", "differs", (argument,), told, effect, 'write "auto" in the ds_config')


def _same(one: Any, other: Any) -> bool:
    """Whether two numbers are one; YAML reads 1e-4, without a point, as text."""
    try:
        return abs(float(one) - float(other)) <= 1e-9 * abs(float(other))
    except (TypeError, ValueError):
        return json.dumps(one) == json.dumps(other)
