""" "auto": who fills it in, and what happens where nobody does.

Sources: transformers 5.23 integrations/deepspeed.py (`trainer_config_process`, `trainer_config_finalize`), accelerate
1.15 utils/dataclasses.py (`DeepSpeedPlugin.__post_init__`); deepspeed 0.19.8 runtime/config_utils.py, where the
pydantic sections drop a key whose value is "auto" without a word.
"""

from collections.abc import Iterator

from toolkit.check.context import Context, Values, autos
from toolkit.check.ds_schema import DS_CONFIG
from toolkit.check.ds_zero_schema import STAGE3_ALIASES
from toolkit.check.finding import Edit, Finding, Location
from toolkit.check.schema import Key, Section

_FILLED: frozenset[Location] = frozenset(
    tuple(path.split("."))
    for path in (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "fp16.enabled",
        "bf16.enabled",
        "optimizer.params.lr",
        "optimizer.params.betas",
        "optimizer.params.eps",
        "optimizer.params.weight_decay",
        "scheduler.params.warmup_min_lr",
        "scheduler.params.warmup_max_lr",
        "scheduler.params.warmup_num_steps",
        "scheduler.params.total_num_steps",
        "zero_optimization.reduce_bucket_size",
        "zero_optimization.stage3_prefetch_bucket_size",
        "zero_optimization.stage3_param_persistence_threshold",
        # These four by accelerate's plugin, which the Trainer goes through.
        "zero_optimization.stage",
        "zero_optimization.stage3_gather_16bit_weights_on_model_save",
        "zero_optimization.offload_optimizer.device",
        "zero_optimization.offload_param.device",
        "zero_optimization.offload_optimizer.nvme_path",
        "zero_optimization.offload_param.nvme_path",
    )
)


def auto_values(values: Values, context: Context) -> Iterator[Finding]:
    """Values that say "auto" with nobody to fill them in."""
    found = [at for at in autos(values.content) if not _own_word(at)]
    if context.read_by in ("toolkit", "deepspeed"):
        yield from (_unfilled(at, _nobody(context)) for at in found)
        return
    for at in found:
        if at not in _FILLED:
            yield _elsewhere(at)
    if filled := [at for at in found if at in _FILLED]:
        number = "one value is" if len(filled) == 1 else f"{len(filled)} values are"
        told = f'{number} "auto": the file is for transformers\' Trainer, which fills them in'
        effect = "given to deepspeed.initialize by another script, they fail, or become DeepSpeed's defaults"
        remedy = "nothing, with the Trainer; else write the numbers"
        yield Finding("note", "auto", filled[0], told, effect, remedy)


def _nobody(context: Context) -> str:
    return "nothing fills it in in a run of this toolkit" if context.read_by == "toolkit" else "DeepSpeed fills in none"


def _unfilled(at: Location, why: str) -> Finding:
    remedy = "write the value itself"
    return Finding("error", "auto", at, f'is "auto", and {why}', _left(at), remedy)


def _elsewhere(at: Location) -> Finding:
    """Where not even the Trainer looks."""
    alias = STAGE3_ALIASES.get(str(at[-1])) if at[:1] == ("zero_optimization",) else None
    if alias is not None and ("zero_optimization", alias) in _FILLED:
        # Axolotl's templates have these: harmless, though not what they look like.
        told = f'is "auto", which the Trainer fills in under the name `{alias}` only'
        return Finding("warning", "auto", at, told, _left(at), f"write `{alias}`", Edit("rename", alias))
    return _unfilled(at, "neither the Trainer nor accelerate fills in this key")


def _left(at: Location) -> str:
    """What DeepSpeed does with the word."""
    section, key = _known(at)
    if key is None or section is None:
        return "the word itself is taken for the value"
    if section.strict:
        return "the word itself is taken for the value: the run fails where it counts with it"
    default = "DeepSpeed's own choice" if key.default is None else str(key.default).lower()
    return f"DeepSpeed takes its default ({default}) without a word"


def _known(at: Location) -> tuple[Section | None, Key | None]:
    section: Section | None = DS_CONFIG
    key: Key | None = None
    holder: Section | None = None
    for part in at:
        holder, key = section, None if section is None else section.find(str(part))
        section = None if key is None else key.section
    return holder, key


def _own_word(at: Location) -> bool:
    """Whether "auto" is a word of DeepSpeed's own there."""
    _, key = _known(at)
    opens = ("autotuning", "expert_parallel", "weight_quantization", "datastates_ckpt", "msamp")
    if at[0] in opens or str(at[0]).startswith("_"):
        return True
    if key is not None and (key.default == "auto" or "auto" in key.choices):
        return True
    return at == ("pipeline", "stages")
