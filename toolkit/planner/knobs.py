"""Changes of a question that make a plan possible where none is, cheapest first; each is tried before it is named."""

from collections.abc import Iterator
from itertools import combinations, islice

from toolkit.planner.engines import not_released
from toolkit.planner.estimates import MEMORY_TERMS, MemoryEstimate
from toolkit.planner.explain import largest_term
from toolkit.planner.judge import anything_fits
from toolkit.planner.memory import HEADROOM
from toolkit.planner.request import Request
from toolkit.units import GiB, human_bytes

MIN_SEQ_LEN = 256
MAX_NODES_FACTOR = 16
MAX_TOLD = 4
"""Changes that are named."""

Knob = tuple[str, Request]
"""What to change, in words, and the changed question."""


def helpful_changes(request: Request, nearest: MemoryEstimate) -> list[str]:
    """The cheapest change that helps, and the next ones, a line each.

    Cheapest first: taking back a decision costs nothing; then what acts on the term that binds, as a shorter sequence
    on activations; machines cost most.

    Args:
        request: a question that nothing answers.
        nearest: what the strategy closest to fitting needs.
    """
    told = list(islice(_that_help([*_unpinned(request), *_kinds(request, nearest)]), MAX_TOLD))
    if not told and (given := list(request.fixed.given())):
        leave, freed = f"leave {_said(request, given)} to the planner", _free(request, given)
        told = [f"{leave}, and {words}" for words in islice(_that_help(_kinds(freed, nearest)), 1)]
    # Last, as it is planned and not run.
    told = [*told, *_that_help([_adapters(request, "qlora")])][:MAX_TOLD]
    if not told:
        return [f"no single change helps; larger devices than {request.cluster.device.name} are needed"]
    return [f"cheapest change that helps: {told[0]}", *(f"also helps: {words}" for words in told[1:])]


def _that_help(kinds: list[Iterator[Knob]]) -> Iterator[str]:
    """Of each kind of change the smallest that helps."""
    for kind in kinds:
        for words, changed in kind:
            if anything_fits(changed):
                yield words
                break


def _kinds(request: Request, nearest: MemoryEstimate) -> list[Iterator[Knob]]:
    shorter, lora = _shorter(request), _adapters(request, "lora")
    nodes, host = _more_nodes(request), _more_host_memory(request, nearest)
    by_sequence = largest_term(nearest)[0] in (MEMORY_TERMS["activations_bytes"], MEMORY_TERMS["logits_bytes"])
    return [host, shorter, lora, nodes] if by_sequence else [host, lora, nodes, shorter]


def _unpinned(request: Request) -> list[Iterator[Knob]]:
    """Each decision of the user alone, else two together, else all."""
    given = list(request.fixed.given())
    groups = [[name] for name in given] + [list(pair) for pair in combinations(given, 2)]
    groups += [given] if len(given) > 2 else []
    return [iter([(f"leave {_said(request, names)} to the planner", _free(request, names)) for names in groups])]


def _said(request: Request, names: list[str]) -> str:
    return ", ".join(f"{name}={getattr(request.fixed, name)}" for name in names)


def _free(request: Request, names: list[str]) -> Request:
    return request._replace(fixed=request.fixed.model_copy(update=dict.fromkeys(names)))


def _more_host_memory(request: Request, nearest: MemoryEstimate) -> Iterator[Knob]:
    if nearest.host_bytes > request.cluster.host_memory_bytes * (1 - HEADROOM):
        needed = (int(nearest.host_bytes / (1 - HEADROOM)) // GiB + 1) * GiB
        cluster = request.cluster.model_copy(update={"host_memory_bytes": needed})
        words = f"{human_bytes(needed)} of host memory per node"
        yield f"{words} instead of {human_bytes(request.cluster.host_memory_bytes)}", request._replace(cluster=cluster)


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
    workload = request.workload.model_copy(update={"method": method})
    name = {"lora": "LoRA", "qlora": "QLoRA"}[method]
    was = "full fine-tuning" if asked == "full" else "LoRA"
    later = not_released("zero", {}, offload_to="cpu", method=method)
    note = " (planned only: this release cannot run it)" if later else ""
    yield f"{name} of rank {workload.lora_rank} instead of {was}{note}", request._replace(workload=workload)


def _more_nodes(request: Request) -> Iterator[Knob]:
    asked, factor = request.cluster.num_nodes, 2
    while factor <= MAX_NODES_FACTOR:
        cluster = request.cluster.model_copy(update={"num_nodes": asked * factor})
        micro_batch = request.fixed.micro_batch or 1
        if request.workload.global_batch % (cluster.world_size * micro_batch) == 0 or request.beyond_release:
            yield f"{cluster.num_nodes} nodes instead of {asked}", request._replace(cluster=cluster)
        factor *= 2
