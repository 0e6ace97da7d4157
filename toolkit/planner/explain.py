"""The planner's words: a strategy, why it does not run, why it was chosen, and what would help where nothing runs."""

from toolkit.planner.memory import HEADROOM
from toolkit.planner.plan import MEMORY_TERMS, Candidate, MemoryEstimate
from toolkit.planner.request import Request
from toolkit.specs.cluster import ClusterSpec
from toolkit.units import human_bytes, human_seconds

SILENT_ZERO_0 = "DeepSpeed counts an empty first step in Adam's bias correction"
"""ZeRO-0 in bf16 and fp16; measured: losses depart by 6e-3, gradient norms by 0.13 to 0.17 from one process."""

TIGHT = 0.9
"""Part of the usable memory above which a strategy is tight: estimates of peak memory are off by 10 % and more."""


def largest_term(memory: MemoryEstimate) -> tuple[str, int]:
    """Name and bytes of the largest device term."""
    name = max(MEMORY_TERMS, key=lambda term: int(getattr(memory, term)))
    return MEMORY_TERMS[name], int(getattr(memory, name))


def overshoot(memory: MemoryEstimate, cluster: ClusterSpec) -> float:
    """Need over what may be used, of the device or of the host, whichever is worse; up to 1 the strategy fits."""
    device = memory.total_bytes / (cluster.device.memory_bytes * (1 - HEADROOM))
    host = memory.host_bytes / (cluster.host_memory_bytes * (1 - HEADROOM))
    return max(device, host)


def is_tight(memory: MemoryEstimate, cluster: ClusterSpec) -> bool:
    """True where an estimate that is a little low would run out of memory."""
    return overshoot(memory, cluster) > TIGHT


def binding_constraint(memory: MemoryEstimate, cluster: ClusterSpec) -> str:
    """Why a strategy does not fit, as in 'needs 91.0 GiB of 76.0 GiB usable: activations 52.1 GiB', the largest."""
    if memory.total_bytes <= cluster.device.memory_bytes * (1 - HEADROOM):
        need, usable = human_bytes(memory.host_bytes), human_bytes(cluster.host_memory_bytes * (1 - HEADROOM))
        return f"needs {need} of {usable} usable host memory per node"
    term, size = largest_term(memory)
    usable = human_bytes(cluster.device.memory_bytes * (1 - HEADROOM))
    return f"needs {human_bytes(memory.total_bytes)} of {usable} usable: {term} {human_bytes(size)}"


def usable_words(cluster: ClusterSpec) -> str:
    """What "usable" means on this cluster, as in '76.0 GiB usable (80.0 GiB less 5% headroom)'."""
    capacity = cluster.device.memory_bytes
    return f"{human_bytes(capacity * (1 - HEADROOM))} usable ({human_bytes(capacity)} less {HEADROOM:.0%} headroom)"


def reasons(request: Request, chosen: Candidate, others: list[Candidate]) -> tuple[str, ...]:
    """Why `chosen` won over `others`, which all fit: one sentence each."""
    cluster, memory, precision = request.cluster, chosen.memory, request.workload.precision
    term, size = largest_term(memory)
    need = f"{human_bytes(memory.total_bytes)} of {usable_words(cluster)}"
    told = [f"It fits: {need} per {cluster.device.name}; the largest term is {term}, {human_bytes(size)}."]
    if memory.host_bytes:
        host = human_bytes(cluster.host_memory_bytes)
        told.append(f"Offloaded states take {human_bytes(memory.host_bytes)} of {host} host memory per node.")
    told.append(_speed(cluster, chosen, others))
    if pins := ", ".join(f"{name}={value}" for name, value in request.fixed.given().items()):
        told.append(f"Given, not chosen: {pins}.")
    if chosen.strategy.zero_stage == 0 and precision != "fp32":
        told.append(f"ZeRO-0 was given with {precision}, where {SILENT_ZERO_0}: the engine sets its counter back.")
    if is_tight(memory, cluster):
        told.append(
            "Memory is tight: if the run ends with out of memory, give a smaller micro_batch or a higher stage."
        )
    return tuple(told)


def _speed(cluster: ClusterSpec, chosen: Candidate, others: list[Candidate]) -> str:
    step = human_seconds(chosen.time.step_seconds)
    if not others:
        return f"It is the only strategy that fits: {step} per optimizer step."
    quickest = min(others, key=lambda other: other.time.step_seconds)
    slower = 1 - quickest.time.step_seconds / chosen.time.step_seconds
    if slower <= 0:
        return f"It is the fastest of {len(others) + 1} strategies that fit: {step} per optimizer step."
    roomier = is_tight(quickest.memory, cluster) and not is_tight(chosen.memory, cluster)
    merit = "more memory to spare" if roomier else "fewer moving parts"
    return f"{step} per optimizer step, {slower:.1%} more than {quickest.strategy.words}, but {merit}."
