"""Changes of a question that make a plan possible where none is, cheapest first; each is tried before it is named."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, islice

from toolkit.planner.estimates import MEMORY_TERMS, MemoryEstimate
from toolkit.planner.judge import Judged, choosable, judge, timed
from toolkit.planner.memory import HEADROOM
from toolkit.planner.rank import ranked
from toolkit.planner.request import Request, batch_faults
from toolkit.planner.rules import DEGREES
from toolkit.planner.strategy import Strategy, stages_words
from toolkit.units import GiB, TiB, human_bytes, human_seconds

MIN_SEQ_LEN = 256
MAX_NODES_FACTOR = 16
MAX_HOST_BYTES = 4 * TiB
"""Host memory of a node that is still proposed: about the most that a node type of the catalog has."""
MAX_TOLD = 4
"""Changes that are named."""

_STATES = (
    *("zero_stage", "micro_batch", "offload", "offload_to"),
    *("activation_checkpointing", "checkpointing_every", "offload_activations"),
)

Knob = tuple[str, Request]
"""What to change, in words, and the changed question."""


def helpful_changes(request: Request, misses: Sequence[MemoryEstimate]) -> list[str]:
    """The cheapest change that helps, and the next ones, a line each with what the planner then chooses.

    Cheapest first: taking back a decision costs nothing; then what acts on the term that binds, as a shorter sequence
    on activations; machines cost most.

    Args:
        request: a question that nothing answers.
        misses: what the strategies need that come closest to fitting, nearest first.
    """
    told = list(islice(_that_help([*_unpinned(request), *_kinds(request, misses)]), MAX_TOLD))
    if not told and (given := list(request.fixed.given())):
        leave, freed = f"leave {_said(request, given)} to the planner", _free(request, given)
        told = [f"{leave}, and {words}" for words in islice(_that_help(_kinds(freed, misses)), 1)]
    return _lines(request, [*told, *_quantised(request)])


def helpful_options(request: Request, memory: MemoryEstimate) -> list[str]:
    """The same for a layout that is given whole and does not fit: options that, put in the place of those given, fit.

    Args:
        request: the question with every value of the layout fixed.
        memory: what the layout needs.
    """
    states, degrees = _free(request, _STATES), _free(request, [*_STATES, *DEGREES, "stages"])
    verdict = judge(states)
    told = list(islice(_option_changes(request, choosable(verdict.fits)), MAX_TOLD))
    told = told or list(islice(_option_changes(request, choosable(judge(degrees).fits)), MAX_TOLD))
    told += islice(_that_help(_kinds(request, [memory])), MAX_TOLD - len(told))
    if not told:
        misses = [memory, *(one.memory for one in verdict.nearest.values())]
        told = list(islice(_that_help_with_options(request, _kinds(states, misses)), 1))
    return _lines(request, [*told, *_quantised(request)])


def _lines(request: Request, told: Sequence[str]) -> list[str]:
    if not told:
        return [f"no single change helps; larger devices than {request.cluster.device.name} are needed"]
    return [f"cheapest change that helps: {told[0]}", *(f"also helps: {words}" for words in told[1:MAX_TOLD])]


def _quantised(request: Request) -> Iterator[str]:
    """4-bit weights; last, as they are other weights than those that were asked about."""
    return _that_help([_adapters(request, "qlora")])


def _that_help(kinds: Iterable[Iterator[Knob]]) -> Iterator[str]:
    """Of each kind of change the smallest that helps, and what the planner makes of it."""
    for kind in kinds:
        for words, changed in kind:
            fits = [timed(one) for one in choosable(judge(changed).fits)]
            if (best := next(ranked(fits, "fastest"), None)) is not None:
                yield f"{words}: {best.judged.strategy.words}, {human_seconds(best.step_seconds)} per step"
                break


def _that_help_with_options(request: Request, kinds: Iterable[Iterator[Knob]]) -> Iterator[str]:
    """Changes that help together with other options than those of the layout."""
    for kind in kinds:
        for words, changed in kind:
            if (options := next(_option_changes(request, choosable(judge(changed).fits)), None)) is not None:
                yield f"{words}, and {options}"
                break


def _option_changes(request: Request, fits: Iterable[Judged]) -> Iterator[str]:
    """Values that fit in the place of given ones, fewest first, then fastest; none that add to others told."""
    tried = [(_changed_options(request, one.strategy), timed(one)) for one in fits]
    told: list[set[str]] = []
    for changed, one in sorted(tried, key=lambda pair: (len(pair[0]), pair[1].step_seconds)):
        if any(known <= changed.keys() for known in told):
            continue
        told.append(set(changed))
        words = {**changed, **_engine_option(request, one.judged.strategy)}
        options = " ".join(f"--{option} {value}" for option, value in words.items())
        yield f"{options}: {human_seconds(one.step_seconds)} per step"


def _engine_option(request: Request, strategy: Strategy) -> dict[str, str]:
    """The engine, where the sizes alone would lead to another."""
    recompute = {"activation_checkpointing": strategy.activation_checkpointing}
    states = {**recompute, "engine": None, "zero_stage": strategy.zero_stage}
    fixed = request.fixed.model_copy(update=strategy.degrees | states)
    return {} if request._replace(fixed=fixed).able[:1] == [strategy.engine] else {"engine": strategy.engine}


def _changed_options(request: Request, strategy: Strategy) -> dict[str, str]:
    """Options of `toolkit estimate` whose values differ from those of the layout in question."""
    fixed = request.fixed
    pairs: dict[str, tuple[object, object]] = {
        "zero": (fixed.zero_stage, strategy.zero_stage),
        "micro-batch": (fixed.micro_batch, strategy.micro_batch),
        "checkpointing": (fixed.activation_checkpointing, strategy.activation_checkpointing),
        "checkpointing-every": (fixed.recompute.every, strategy.checkpointing_every),
        "offload-activations": (fixed.recompute.offload, strategy.offload_activations),
        "offload": (fixed.offload, strategy.offload),
        "offload-to": (fixed.offload_to or "cpu", strategy.offload_to),
        **{name: (getattr(fixed, name) or 1, size) for name, size in strategy.degrees.items()},
    }
    if fixed.stages:
        pairs["stages"] = (stages_words(fixed.stages), stages_words(strategy.stages))
    return {option: str(new) for option, (was, new) in pairs.items() if was != new}


def _kinds(request: Request, misses: Sequence[MemoryEstimate]) -> list[Iterator[Knob]]:
    shorter, lora = _shorter(request), _adapters(request, "lora")
    nodes, host = _more_nodes(request), _more_host_memory(request, misses)
    chunked = _chunked_loss(request)
    by_sequence = misses[0].largest_terms()[0][0] in (MEMORY_TERMS["activations_bytes"], MEMORY_TERMS["logits_bytes"])
    return [chunked, host, *([shorter, lora, nodes] if by_sequence else [lora, nodes, shorter])]


def _unpinned(request: Request) -> list[Iterator[Knob]]:
    """Each decision of the user alone, else two together, else all."""
    given = list(request.fixed.given())
    groups = [[name] for name in given] + [list(pair) for pair in combinations(given, 2)]
    groups += [given] if len(given) > 2 else []
    return [iter([(f"leave {_said(request, names)} to the planner", _free(request, names)) for names in groups])]


def _said(request: Request, names: list[str]) -> str:
    given = request.fixed.given()
    return ", ".join(f"{name}={given[name]}" for name in names)


def _free(request: Request, names: Iterable[str]) -> Request:
    return request._replace(fixed=request.fixed.model_copy(update=dict.fromkeys(names)))


def _more_host_memory(request: Request, misses: Sequence[MemoryEstimate]) -> Iterator[Knob]:
    """What each near miss would take, smallest first."""
    has = request.cluster.host_memory_bytes
    needs = {(int(one.host_bytes / (1 - HEADROOM)) // GiB + 1) * GiB for one in misses}
    for needed in sorted(one for one in needs if has < one <= MAX_HOST_BYTES):
        cluster = request.cluster.model_copy(update={"host_memory_bytes": needed})
        words = f"{human_bytes(needed)} of host memory per node instead of {human_bytes(has)}"
        yield words, request._replace(cluster=cluster)


def _chunked_loss(request: Request) -> Iterator[Knob]:
    """Costs a little time and changes no number."""
    if request.workload.loss == "full":
        workload = request.workload.model_copy(update={"loss": "chunked"})
        yield "loss chunked instead of full", request._replace(workload=workload)


def _shorter(request: Request) -> Iterator[Knob]:
    asked = seq_len = request.workload.seq_len
    while seq_len // 2 >= MIN_SEQ_LEN:
        seq_len //= 2
        workload = request.workload.model_copy(update={"seq_len": seq_len})
        yield f"seq_len {seq_len} instead of {asked}", request._replace(workload=workload)


def _adapters(request: Request, method: str) -> Iterator[Knob]:
    asked = request.workload.method
    if asked == method or asked == "qlora":
        return
    # What new tokens need beside adapters, and nothing of what is for full fine-tuning.
    ends = ("embed_tokens", "lm_head") if request.workload.new_tokens else request.workload.modules_to_save
    other = {"method": method, "freeze": (), "train_only": (), "modules_to_save": ends}
    workload = request.workload.model_copy(update=other)
    name = {"lora": "LoRA", "qlora": "QLoRA"}[method]
    was = "full fine-tuning" if asked == "full" else "LoRA"
    yield f"{name} of rank {workload.lora_rank} instead of {was}", request._replace(workload=workload)


def _more_nodes(request: Request) -> Iterator[Knob]:
    asked, factor = request.cluster.num_nodes, 2
    while factor <= MAX_NODES_FACTOR:
        larger = request._replace(cluster=request.cluster.model_copy(update={"num_nodes": asked * factor}))
        if not any(batch_faults(larger)):
            yield f"{larger.cluster.num_nodes} nodes instead of {asked}", larger
        factor *= 2
