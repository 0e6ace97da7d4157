"""Keys and optimizers that DeepSpeed has taken away, release by release, and what there is instead.

Sources: runtime/config.py of 0.19.8 (`_REMOVED_TOP_LEVEL_CONFIG_KEYS`, `_REMOVED_ZERO_CONFIG_KEYS`), which refuses the
keys even where they say `"enabled": false`; DeepSpeed #8489 and the pull requests it lists.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from toolkit.check.context import Context, Values
from toolkit.check.finding import Edit, Finding, Location


class Removed(NamedTuple):
    """One key that is gone."""

    since: str
    """The first release without it."""
    instead: str
    """What to write."""


_TOP: dict[str, Removed] = {
    "nebula": Removed("0.19.7", "remove it; `checkpoint.writer` and `datastates_ckpt` save in the background"),
    "compression_training": Removed("0.19.7", "remove it; quantize the trained model with another tool"),
    "quantize_training": Removed("0.19.7", "remove it; nothing takes its place"),
    "sparse_attention": Removed("0.19.7", "remove it; choose the attention in the model's own config"),
    "amp": Removed("0.19.8", "remove it; use `torch_autocast`, `bf16` or `fp16`"),
    "elasticity": Removed("0.19.8", "remove it and give the batch sizes; a universal checkpoint changes the ranks"),
    "sparse_gradients": Removed("0.19.8", "remove it; gradients of sparse embeddings are sent sparse without it"),
    "eigenvalue": Removed("0.19.8", "remove it; it served quantize_training"),
    "graph_harvesting": Removed("0.19.8", "remove it; `compile` has what is left of it"),
    "curriculum_learning": Removed("0.19.8", "use `data_efficiency.data_sampling.curriculum_learning`"),
    "progressive_layer_drop": Removed("0.19.8", "remove it; nothing takes its place"),
}
_ZERO: dict[str, Removed] = {
    "mics_shard_size": Removed("0.19.7", "remove it; `zero_hpz_partition_size` keeps a copy of the weights per node"),
    "mics_hierarchical_params_gather": Removed("0.19.7", "remove it; see `zero_hpz_partition_size`"),
    "zeropp_loco_param": Removed("0.19.8", "remove it; `zero_quantized_gradients` works without it"),
}
_LOSS_SCALE = ("auto_cast", "loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis", "min_loss_scale")
_NEVER: dict[Location, Removed] = {
    **{
        ("bf16", name): Removed("0.17.1", "is a key of fp16; bf16 scales no loss")
        for name in (*_LOSS_SCALE, "consecutive_hysteresis")
    },
    **{
        ("compile", name): Removed("0.16.6", "is no key of `compile` any more: `engine.compile()` starts torch.compile")
        for name in ("disable", "enabled", "backend", "kwargs")
    },
}
"""Keys that old templates carry in sections that refuse them -> since when, and why; older releases ignore them."""
_THREADS_SINCE = "0.16.4"
_REPLACED: dict[str, str] = {
    "cpu_offload": '"offload_optimizer": {"device": "cpu"}',
    "cpu_offload_param": '"offload_param": {"device": "cpu"}',
    "cpu_offload_use_pin_memory": "`pin_memory` inside `offload_optimizer` and `offload_param`",
    "stage3_gather_fp16_weights_on_model_save": "`stage3_gather_16bit_weights_on_model_save`",
}
"""Keys of `zero_optimization` that are still read, with a warning in the log -> their successors."""
ONE_BIT = {"onebitadam", "zerooneadam", "onebitlamb"}
"""Optimizers (lower case) that 0.19.7 took away."""

REMOVED: dict[str, Removed] = {**_TOP, **{f"zero_optimization.{name}": gone for name, gone in _ZERO.items()}}
"""What a release took away, by its path in the file."""

LOCATIONS: frozenset[Location] = frozenset(
    {*((name,) for name in _TOP), *(("zero_optimization", name) for name in _ZERO), *_NEVER, ("aio", "thread_count")}
)
"""Where they stand; no other rule speaks of them."""


def removed_keys(values: Values, context: Context) -> Iterator[Finding]:
    """Keys that the release refuses, or the next ones will."""
    for name in values.content:
        if name in _TOP:
            yield _finding((name,), _TOP[name], context)
    for location, (since, why) in _NEVER.items():
        if values.has(*map(str, location)):
            refused = context.since(since)
            effect = "the file is refused at start" if refused else f"it is ignored, and refused from {since} on"
            edit = Edit("remove") if refused else None
            yield Finding("error" if refused else "warning", "removed-key", location, why, effect, "remove it", edit)
    if values.has("aio", "thread_count") and context.since(_THREADS_SINCE):
        told, effect = "is called `intra_op_parallelism` now", "it is ignored without a word: one thread a rank"
        edit, remedy = Edit("rename", "intra_op_parallelism"), "write `intra_op_parallelism`"
        yield Finding("warning", "removed-key", ("aio", "thread_count"), told, effect, remedy, edit)
    zero = values.get("zero_optimization")
    for name in zero if isinstance(zero, dict) else ():
        here = ("zero_optimization", str(name))
        if name in _ZERO:
            yield _finding(here, _ZERO[name], context)
        elif name in _REPLACED:
            told = f"is deprecated; its successor is {_REPLACED[name]}"
            effect = "DeepSpeed still reads it and says so in the log"
            remedy = f"write {_REPLACED[name]}"
            yield Finding("warning", "deprecated-key", here, told, effect, remedy, _successor(str(name), zero))


def _successor(name: str, zero: Any) -> Edit | None:
    if name == "stage3_gather_fp16_weights_on_model_save":
        return Edit("rename", "stage3_gather_16bit_weights_on_model_save")
    successor = {"cpu_offload": "offload_optimizer", "cpu_offload_param": "offload_param"}.get(name)
    if successor is None or successor in zero or not isinstance(zero[name], bool):
        return None
    return Edit("replace", '{"device": "cpu"}', successor) if zero[name] else Edit("remove")


def _finding(here: Location, gone: Removed, context: Context) -> Finding:
    if not context.since(gone.since):
        told = f"was removed in DeepSpeed {gone.since}; this file is checked for {context.deepspeed}"
        return Finding("warning", "removed-key", here, told, "the file is refused after an upgrade", gone.instead)
    told = f"was removed in DeepSpeed {gone.since}"
    effect = 'the file is refused at start, also with `"enabled": false`'
    return Finding("error", "removed-key", here, told, effect, gone.instead, Edit("remove"))
