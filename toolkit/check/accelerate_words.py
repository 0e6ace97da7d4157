"""What YAML makes of the words of an accelerate config file, keys outside their section, and SageMaker's files.

Source: accelerate 1.15.0 commands/config/config_args.py (`load_config_from_file`, `process_config`,
`SageMakerConfig`), commands/launch.py (`_validate_launch_command`), utils/launch.py.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.check.accelerate_schema import ACCELERATE, GONE, SAGEMAKER, SAGEMAKER_NEEDS
from toolkit.check.context import Context, Values
from toolkit.check.finding import Edit, Finding, Location
from toolkit.check.known import Walk, check_keys
from toolkit.check.nearest import nearest
from toolkit.check.value import shown

_SECTIONS = {
    "megatron_lm_": "megatron_lm_config",
    "fsdp_": "fsdp_config",
    "fp8_": "fp8_config",
    "dynamo_": "dynamo_config",
    "parallelism_config_": "parallelism_config",
    "deepspeed_": "deepspeed_config",
    "mpirun_": "mpirun_config",
}
_LIKE = 0.78
"""Likeness of two names that begin alike: `megatron_lm_tp_size` and `megatron_lm_tp_degree` have 0.8."""
_TYPE, _PRECISION, _IDS = "distributed_type", "mixed_precision", "gpu_ids"


def told_by_words(values: Values) -> set[Location]:
    """Values that `words` speaks of."""
    found: set[Location] = {(name,) for name in (_TYPE, _PRECISION) if isinstance(values.get(name), bool)}
    return found | ({(_IDS,)} if not isinstance(values.get(_IDS), str | None) else set())


def words(values: Values) -> Iterator[Finding]:
    """Words without quotes that YAML takes for truth values, numbers and lists."""
    if isinstance(values.get(_PRECISION), bool):
        told = "is a YAML truth value; `no` without quotes is false"
        edit = None if values.on(_PRECISION) else Edit("replace", "'no'")
        yield Finding(
            "error", "yaml-no", (_PRECISION,), told, "an AttributeError at start", "write 'no' in quotes", edit
        )
    if values.get(_TYPE) is True:
        yield Finding(
            "error", "wrong-value", (_TYPE,), "is true, needs a word as DEEPSPEED", "it counts as NO", "write it"
        )
    if values.get(_TYPE) is False:
        # Without a number of processes accelerate looks for the word, and finds false.
        sagemaker_file = values.get("compute_environment") == "AMAZON_SAGEMAKER"
        needed = not values.has("num_processes") and not sagemaker_file
        told = "NO without quotes is false in YAML"
        effect = "a ValueError that asks for --num_processes" if needed else "it counts as NO all the same"
        edit = Edit("replace", "'NO'")
        yield Finding("error" if needed else "note", "yaml-no", (_TYPE,), told, effect, "write 'NO' in quotes", edit)
    given = values.get(_IDS)
    if not isinstance(given, str | None):
        numbers = given if isinstance(given, list) else [given]
        plain = all(isinstance(one, int) and not isinstance(one, bool) for one in numbers)
        text = f"'{','.join(map(str, numbers))}'" if plain and numbers else ""
        told = f"is {shown(given)}, needs text: numbers with commas in quotes, or all"
        edit = Edit("replace", text) if text else None
        yield Finding(
            "error", "wrong-type", (_IDS,), told, "an AttributeError at start", f"write {text or 'all'}", edit
        )


def stray(content: Mapping[str, Any]) -> Iterator[Finding]:
    """Keys at the top level whose name says in which section they belong, and those that are gone."""
    for name in map(str, content):
        if (name,) in GONE:
            told, effect = f"accelerate has no such key any more{GONE[(name,)]}", "the file is refused at start"
            yield Finding("error", "removed-key", (name,), told, effect, "remove it", Edit("remove"))
            continue
        home = next((section for prefix, section in _SECTIONS.items() if name.startswith(prefix)), None)
        if home is None or ACCELERATE.find(name) is not None:
            continue
        section = ACCELERATE.keys[home].section
        names = section.names() if section is not None else []
        close = name if name in names else nearest(name, names, cutoff=_LIKE)
        told = f"belongs inside `{home}`" + (f", which has `{close}`" if close and close != name else "")
        remedy = f"move it inside `{home}`" + (f" as `{close}`" if close and close != name else "")
        yield Finding("error", "misplaced-key", (name,), told, "the file is refused at start", remedy)


def sagemaker(values: Values, context: Context) -> Iterator[Finding]:
    """Keys of a file for Amazon SageMaker."""
    yield from check_keys(values.content, SAGEMAKER, Walk(context, frozenset(told_by_words(values)), {}))
    told = "accelerate 1.15.0 cannot launch it: it asks SageMaker's configs for a `parallelism_config`"
    effect, remedy = (
        "`accelerate launch` ends with an AttributeError",
        "use accelerate 1.9 or older, or a later release",
    )
    yield Finding("note", "known-bad", ("compute_environment",), told, effect, remedy)
    for name in SAGEMAKER_NEEDS:
        if not values.has(name):
            told = f"`{name}` is missing, without which SageMaker starts nothing"
            yield Finding("error", "sagemaker", (name,), told, "a TypeError at start", f"add `{name}`")
