"""The cheapest change of a question that makes a plan possible where none is."""

from collections.abc import Callable, Iterator

from toolkit.planner.explain import largest_term
from toolkit.planner.memory import HEADROOM
from toolkit.planner.plan import MEMORY_TERMS, MemoryEstimate
from toolkit.planner.request import Request
from toolkit.units import GiB, human_bytes

MIN_SEQ_LEN = 256
MAX_NODES_FACTOR = 16

Knob = tuple[str, Request]
"""What to change, in words, and the changed question."""


def cheapest_knob(request: Request, nearest: MemoryEstimate, *, fits: Callable[[Request], bool]) -> str:
    """One sentence; `nearest` is what the strategy closest to fitting needs, `fits` tries a changed question.

    Cheapest first: taking back a decision costs nothing; then what acts on the term that binds, as a shorter sequence
    on activations; machines cost most.
    """
    for words, changed in [*_unpin(request), *_knobs(request, nearest), *_unpin_and(request, nearest)]:
        if fits(changed):
            return f"cheapest change that helps: {words}"
    return f"no single change helps; larger devices than {request.cluster.device.name} are needed"


def _knobs(request: Request, nearest: MemoryEstimate) -> Iterator[Knob]:
    yield from _more_host_memory(request, nearest)
    by_sequence = largest_term(nearest)[0] in (MEMORY_TERMS["activations_bytes"], MEMORY_TERMS["logits_bytes"])
    in_order = (_shorter, _lora, _more_nodes) if by_sequence else (_lora, _more_nodes, _shorter)
    for knob in in_order:
        yield from knob(request)


def _unpin(request: Request) -> Iterator[Knob]:
    """Each decision of the user alone, then all together."""
    given = list(request.fixed.given())
    for name in given:
        yield f"leave {_said(request, [name])} to the planner", _free(request, [name])
    if len(given) > 1:
        yield f"leave {_said(request, given)} to the planner", _free(request, given)


def _unpin_and(request: Request, nearest: MemoryEstimate) -> Iterator[Knob]:
    """All decisions of the user together with one other change."""
    if given := list(request.fixed.given()):
        for words, changed in _knobs(_free(request, given), nearest):
            yield f"leave {_said(request, given)} to the planner, and {words}", changed


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


def _lora(request: Request) -> Iterator[Knob]:
    if request.workload.method == "full":
        workload = request.workload.model_copy(update={"method": "lora"})
        yield f"LoRA of rank {workload.lora_rank} instead of full fine-tuning", request._replace(workload=workload)


def _more_nodes(request: Request) -> Iterator[Knob]:
    asked, factor = request.cluster.num_nodes, 2
    while factor <= MAX_NODES_FACTOR:
        cluster = request.cluster.model_copy(update={"num_nodes": asked * factor})
        micro_batch = request.fixed.micro_batch or 1
        if request.workload.global_batch % (cluster.world_size * micro_batch) == 0:
            yield f"{cluster.num_nodes} nodes instead of {asked}", request._replace(cluster=cluster)
        factor *= 2
