"""What each engine accepts: the planner's table of rules, and its verdicts on methods, optimizers and recipes."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from site_pages.markdown import code, codes, page, plain, table
from toolkit.errors import ConfigError, SpecError
from toolkit.planner import api
from toolkit.planner.plan import Plan
from toolkit.planner.rules import DEGREES, ENGINES, Rules
from toolkit.specs.clipping import ClippingKind
from toolkit.specs.communication import Compression
from toolkit.specs.optimizer import OPTIMIZERS
from toolkit.specs.recipe import Recipe
from toolkit.specs.workload import AttentionKind, LossKind, Mixed, Workload
from toolkit.specs.zero_plus_plus import ZeroPlusPlus

MODEL, CLUSTER = "llama-3.2-1b", "8xA100-80GB"
WORK = {"seq_len": 2048, "global_batch": 64}

LAYOUTS: dict[str, dict[str, Any]] = {
    "ZeRO-0": {"engine": "zero", "zero_stage": 0},
    "ZeRO-1": {"engine": "zero", "zero_stage": 1},
    "ZeRO-2": {"engine": "zero", "zero_stage": 2},
    "ZeRO-3": {"engine": "zero", "zero_stage": 3},
    "ZeRO-2, tp 2": {"engine": "zero", "zero_stage": 2, "tp": 2},
    "ZeRO-2, sp 2": {"engine": "zero", "zero_stage": 2, "sp": 2},
    "ZeRO-3, offload optimizer": {"engine": "zero", "zero_stage": 3, "offload": "optimizer"},
    "ZeRO-3, offload all": {"engine": "zero", "zero_stage": 3, "offload": "all"},
    "pipeline, pp 2": {"engine": "pipeline", "zero_stage": 1, "pp": 2},
    "pipeline, pp 2, tp 2": {"engine": "pipeline", "zero_stage": 1, "pp": 2, "tp": 2},
    "mcore, tp 2": {"engine": "mcore", "zero_stage": 1, "tp": 2},
    "mcore, pp 2, cp 2": {"engine": "mcore", "zero_stage": 1, "pp": 2, "cp": 2},
}
"""The columns of every table of verdicts: an example of each way to divide a run."""

_INTRODUCTION = (
    "Three engines run a step: `zero` is accelerate and DeepSpeed's ZeRO, `pipeline` DeepSpeed's pipeline, `mcore` "
    "Megatron-core. The first table is the one that the planner itself reads "
    "(`toolkit/planner/rules.py`); the others are its verdicts, asked for when this page was made. What is refused "
    "here is refused by `toolkit plan`, before any process starts."
)
_ASKED = (
    f"Asked about {MODEL} on {CLUSTER} with {WORK['seq_len']:,} tokens and a global batch of {WORK['global_batch']}. "
    "A number in the place of ✓ is that of the reason below the table."
)


def reference() -> str:
    """The page."""
    return page(
        "What each engine accepts",
        _INTRODUCTION,
        "## Engines\n\n" + engine_table(),
        f"## Methods, precision, loss, layers\n\n{_ASKED}\n\n" + _matrix(_work_questions()),
        "## Optimizers\n\nWhat each keeps: [optimizers](../optimizers.md).\n\n" + optimizer_table(),
        _matrix({code(name): {"optimizer": name} for name in OPTIMIZERS}),
        "## Recomputed layers\n\n" + _matrix(_layer_questions(), of_layout=True),
        "## Clipping\n\nWhat each kind does: [optimizers](../optimizers.md#clipping).\n\n"
        + _matrix({code(kind): {"clipping": {"kind": kind}} for kind in get_args(ClippingKind)}, of_recipe=True),
        "## Compression and local steps\n\nWhat each sends: [communication](../communication.md).\n\n"
        + _matrix(_communication_questions(), of_recipe=True),
        "## Adapters and embeddings\n\n" + _matrix(_adapter_questions(), of_recipe=True),
        wide=True,
    )


def engine_table() -> str:
    """The planner's own table, an engine a column."""
    rows: dict[str, Callable[[Rules], str]] = {
        "divides a replica by": lambda rules: ", ".join(f"{code(one)} ({DEGREES[one]})" for one in rules.degrees),
        "ZeRO stages, and what each can offload": lambda rules: "; ".join(
            f"{stage}: {', '.join(offloads)}" for stage, offloads in rules.zero.items()
        ),
        "stages that offload to a disk": lambda rules: _listed(rules.nvme),
        "ZeRO stages with tp": lambda rules: _listed(stage for stage in rules.tp_zero if stage in rules.zero),
        "methods": lambda rules: codes(rules.methods),
        "methods with tp": lambda rules: codes(rules.tp_methods),
        "activation checkpointing": lambda rules: codes(rules.checkpointing),
        "optimizers": lambda rules: "all" if len(rules.optimizers) == len(OPTIMIZERS) else codes(rules.optimizers),
        "beside 16 bits": lambda rules: codes(rules.mixed),
        "layers of each stage may be given": lambda rules: _yes(rules.own_stages),
        "planned unasked on": lambda rules: ", ".join(rules.devices),
        "chosen unasked on GPUs": lambda rules: "yes" if rules.timed else "where nothing else fits",
    }
    cells = [[words, *(cell(rules) or "-" for rules in ENGINES.values())] for words, cell in rows.items()]
    return table(["", *map(code, ENGINES)], cells)


def optimizer_table() -> str:
    """What each optimizer keeps and needs."""
    header = (
        "Optimizer",
        "Implementation",
        "Bytes per trained number, beside weight and gradient",
        "Looks at",
        "Needs",
    )
    rows = []
    for name, kind in OPTIMIZERS.items():
        needs = ["whole matrices"] if kind.whole else []
        needs += ["a GPU"] if kind.gpu_only else []
        size = f"{kind.state_bytes:.3g}" if kind.state_bytes else "host memory" if kind.gpu_only else "rows and columns"
        rows.append((code(name), kind.library, size, codes(kind.options), ", ".join(needs) or "-"))
    return table(header, rows)


def _work_questions() -> dict[str, dict[str, Any]]:
    asked: dict[str, dict[str, Any]] = {
        f"`method: {one}`": {"method": one} for one in get_args(Workload.model_fields["method"].annotation)
    }
    asked |= {f"`precision: {one}`": {"precision": one} for one in ("fp32", "fp16")}
    asked |= {f"`mixed: {one}`": {"mixed": one} for one in get_args(Mixed)}
    asked |= {f"`loss: {one}`": {"loss": one} for one in get_args(LossKind)}
    asked |= {f"`attention: {one}`": {"attention": one} for one in get_args(AttentionKind)}
    return asked | {"`compile: true`": {"compile": True}}


def _layer_questions() -> dict[str, dict[str, Any]]:
    modes = ("none", "selective", "full")
    asked: dict[str, dict[str, Any]] = {f"`--checkpointing {one}`": {"activation_checkpointing": one} for one in modes}
    asked["`--checkpointing-every 4`"] = {"checkpointing_every": 4}
    return asked | {"`--offload-activations cpu`": {"offload_activations": "cpu"}}


def _communication_questions() -> dict[str, dict[str, Any]]:
    kinds: list[tuple[str, Any]] = [("compression", one) for one in get_args(Compression)]
    kinds += [("local_steps", 8), ("quantized_weights", True), ("hpz_partition_size", 4)]
    return {code(f"{name}: {str(value).lower()}"): {"communication": {name: value}} for name, value in kinds}


def _adapter_questions() -> dict[str, dict[str, Any]]:
    lora = {"method": "lora"}
    return {
        "`method: lora`": {"workload": lora},
        "`lora.rslora: true`": {"workload": lora, "lora": {"rslora": True}},
        "`lora.dora: true`": {"workload": lora, "lora": {"dora": True}},
        "`lora.dropout: 0.1`": {"workload": lora, "lora": {"dropout": 0.1}},
        "`modules_to_save: [embed_tokens]`": {"workload": {**lora, "modules_to_save": ["embed_tokens"]}},
        "`new_tokens`": {"workload": {"new_tokens": ["<|new|>"]}},
        "`neftune_alpha: 5`": {"neftune_alpha": 5.0},
    }


def _matrix(questions: Mapping[str, Mapping[str, Any]], *, of_layout: bool = False, of_recipe: bool = False) -> str:
    """A question a row and a layout a column, and below them the reasons of all that is refused."""
    reasons: dict[str, int] = {}
    rows = []
    for words, asked in questions.items():
        cells = [words]
        for layout in LAYOUTS.values():
            try:
                _judge(asked, layout, of_layout=of_layout, of_recipe=of_recipe)
                cells.append("✓")
            except (SpecError, ConfigError) as error:
                reason = str(error).splitlines()[0]
                cells.append(f"({reasons.setdefault(reason, len(reasons) + 1)})")
        rows.append(cells)
    told = "".join(f"{number}. {plain(reason)}\n" for reason, number in reasons.items())
    return table(["", *LAYOUTS], rows) + ("\n" + told if told else "")


def _judge(asked: Mapping[str, Any], layout: Mapping[str, Any], *, of_layout: bool, of_recipe: bool) -> None:
    """As `toolkit plan -o` does it.

    Raises:
        SpecError: no such plan.
        ConfigError: no such run of the plan.
    """
    if of_layout:
        _plan({}, {**layout, **asked})
    elif of_recipe:
        made = _plan(asked.get("workload", {}), layout)
        rest = {name: value for name, value in asked.items() if name != "workload"}
        recipe = Recipe.parse({"model": MODEL, "workload": made.workload.model_dump(), **rest}, source="recipe")
        stage = made.strategy.zero_stage
        others = made.sending_faults(ZeroPlusPlus.of(recipe.communication), zero_stage=stage)
        made.check_communication(recipe.communication, zero_stage=stage, others=others)
        made.check_recipe(recipe, zero_stage=stage)
    else:
        _plan(asked, layout)


def _plan(work: Mapping[str, Any], layout: Mapping[str, Any]) -> Plan:
    return _made(tuple(sorted((name, _frozen(value)) for name, value in work.items())), tuple(sorted(layout.items())))


@functools.cache
def _made(work: tuple[tuple[str, Any], ...], layout: tuple[tuple[str, Any], ...]) -> Plan:
    return api.estimate(MODEL, CLUSTER, work={**WORK, **dict(work)}, strategy=dict(layout))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _yes(value: bool) -> str:
    return "yes" if value else "no"
