"""What is trained, how wide its numbers are, where gradients are clipped: read off the engine, not off its files."""

from toolkit.preflight.outcome import Outcome, judged
from toolkit.preflight.setting import Setting
from toolkit.specs.reading import read_json
from toolkit.units import human_count


def check_trained(setting: Setting) -> Outcome:
    """As many parameters as the model had and the plan counted."""
    found: dict[str, int] = {}
    for of_rank in setting.engine.gather(dict(setting.engine.prepared.trained)):
        found |= of_rank
    count, planned = sum(found.values()), setting.plan.trainable_params
    fault = None
    if count != setting.trainable or not count:
        fault = f"the engine trains {count:,} parameters, the model has {setting.trainable:,} to train"
        fault += "; adapters were lost" if setting.plan.workload.method != "full" else ""
    elif count != planned and not setting.recipe.lora.dora:  # whose magnitudes are not planned for
        fault = f"{count:,} parameters are trained, the plan counts {planned:,}"
    said = f"{human_count(count)} parameters in {len(found)} tensors, as planned"
    return judged("trained", said, fault=fault, remedy="plan again with another engine or --tp 1")


def check_widths(setting: Setting) -> Outcome:
    """fp32 beside 16 bits, unless the plan says otherwise."""
    work, here = setting.plan.workload, setting.engine.prepared
    masters = sorted({one for one in setting.engine.gather(here.masters) if one})
    wanted = "bf16" if work.mixed == "none" else "fp32"
    fault = None
    if masters != [wanted]:
        fault = f"the optimizer updates weights in {' and '.join(masters) or 'no type at all'}, planned is {wanted}"
        fault += " beside 16-bit weights: small updates would be rounded away" if wanted == "fp32" else ""
    remedy = "take what changes it out of ds_config.json, or plan again with --precision and --mixed"
    said = here.note.removeprefix("numbers: ")
    if fault is None and work.weights not in here.weights:
        return Outcome("numbers", "told", f"{said}; the plan has {work.weights}")  # an edit by hand
    return judged("numbers", said, fault=fault, remedy=remedy)


def check_clipping(setting: Setting) -> Outcome:
    """The norm that the library clips at is the one that the run's file says."""
    asked, plan = setting.recipe.clipping, setting.plan
    clips = setting.engine.prepared.max_norm
    written = plan.gradient_clipping
    if plan.strategy.on_deepspeed:
        written = float(read_json(setting.folder.ds_config, remedy="plan again")["gradient_clipping"])
    wanted = written if asked.kind == "norm" else 0.0
    fault = None if clips == wanted else f"gradients are clipped at {clips:g}, asked for is {wanted:g}"
    said = f"global norm {clips:g}" if asked.kind == "norm" else f"by {asked.kind}, and by nothing else"
    if not clips and asked.kind == "norm":
        said = "none: `gradient_clipping` is 0"
    if fault is None and asked.kind == "norm" and written != plan.gradient_clipping:
        return Outcome("clipping", "told", f"{said}, as ds_config.json has it; planned was {plan.gradient_clipping:g}")
    remedy = "set `gradient_clipping` in ds_config.json"
    return judged("clipping", said, fault=fault, remedy=remedy)
