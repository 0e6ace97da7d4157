"""Time of one optimizer step: arithmetic over what the device reaches, collectives over the slowest link, host traffic.

Good enough to rank strategies of one model on one cluster, which is what the search needs; the constants below are
typical values, not measurements of the cluster at hand.
"""

from typing import NamedTuple

from toolkit.planner.memory import trainable_params
from toolkit.planner.plan import Strategy, TimeEstimate
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import PRECISION_BYTES, Workload

EFFICIENCY = 0.55
"""Part of the peak that large matrix multiplications reach: torchtitan reports 51 to 58 % for LLaMA on A100."""
HALF_SPEED_TOKENS = 256
"""Tokens per micro-batch at which a device reaches half of `EFFICIENCY`: small products leave it idle (assumption)."""
LINK_EFFICIENCY = 0.8
"""Part of a link's peak that large transfers reach: 88 % of PCIe 5.0, 80 to 97 % of NVLink in all-reduces of one node
(measured, stas00/ml-engineering and the HF ultra-scale playbook)."""
OVERLAP = 0.7
"""Part of the compute time behind which collectives hide with overlap_comm (assumption; nothing hides on a CPU)."""
EXPOSED = 0.1
"""Part of the collectives that is seen whatever the compute time: the first and last bucket (assumption)."""
HOST_MEMORY_BYTES_PER_SECOND = 150e9
"""Memory bandwidth that Adam on the host reaches per node; it is bound by it (ZeRO-Offload, 2101.06840)."""


def estimate_time(model: ModelSpec, cluster: ClusterSpec, *, workload: Workload, strategy: Strategy) -> TimeEstimate:
    """Seconds of one optimizer step of one strategy by cause."""
    compute = _compute(model, cluster, workload, strategy)
    adam = _adam(model, cluster, workload, strategy)
    return TimeEstimate(
        compute_seconds=compute + (adam if strategy.offload == "none" else 0.0),
        communication_seconds=_communication(model, cluster, workload, strategy, compute=compute),
        offload_seconds=_offload(model, cluster, workload, strategy) + (adam if strategy.offload != "none" else 0.0),
    )


def step_flops(model: ModelSpec, workload: Workload, *, activation_checkpointing: bool) -> float:
    """FLOPs of one optimizer step over all ranks.

    Forward: 2 per weight that multiplies and token (arXiv 2001.08361, 2.1; the input embedding only looks up), and
    2 s q per token and layer for causal attention: half of the full 4 s q, as flash attention skips what is masked.
    Backward: twice that; with LoRA frozen weights need no gradient of their own, which saves their half. Checkpointing
    runs the forward pass again.
    """
    tokens = workload.global_batch * workload.seq_len
    multiplied = model.num_params - (0 if model.tied_embeddings else model.embedding_params)
    weights = 2.0 * multiplied * tokens
    attention = 2.0 * workload.seq_len * model.num_heads * model.head_dim * model.num_layers * tokens
    backward = weights * (2 if workload.method == "full" else 1) + 2 * attention
    forwards = 2 if activation_checkpointing else 1
    return forwards * (weights + attention) + backward


def _compute(model: ModelSpec, cluster: ClusterSpec, workload: Workload, strategy: Strategy) -> float:
    """Matrix multiplications; small micro-batches reach less of the peak."""
    flops = step_flops(model, workload, activation_checkpointing=strategy.activation_checkpointing)
    tokens = strategy.micro_batch * workload.seq_len
    reached = EFFICIENCY * tokens / (tokens + HALF_SPEED_TOKENS)
    return flops / (strategy.layout.world_size * cluster.device.peak_flops(workload.precision) * reached)


def _adam(model: ModelSpec, cluster: ClusterSpec, workload: Workload, strategy: Strategy) -> float:
    """The optimizer step, bound by memory: reads weight, moments, gradient, writes weight, moments, 28 bytes each."""
    sharding = strategy.layout.dp if strategy.zero_stage else 1
    moved = 28.0 * trainable_params(model, workload) / sharding
    if strategy.offload == "none":
        return moved / cluster.device.memory_bandwidth
    return moved * cluster.gpus_per_node / HOST_MEMORY_BYTES_PER_SECOND


class _Traffic(NamedTuple):
    """Seconds of collectives per optimizer step: those that run beside compute, and those that nothing hides."""

    beside: float
    after: float


def _communication(
    model: ModelSpec, cluster: ClusterSpec, workload: Workload, strategy: Strategy, *, compute: float
) -> float:
    """Collectives that no computation hides."""
    traffic = _traffic(model, cluster, workload, strategy)
    if cluster.device.kind == "cpu":
        return traffic.beside + traffic.after
    return max(traffic.beside - OVERLAP * compute, EXPOSED * traffic.beside) + traffic.after


def _traffic(model: ModelSpec, cluster: ClusterSpec, workload: Workload, strategy: Strategy) -> _Traffic:
    """Volumes by stage (ZeRO, section 7): 2 psi for stages 0 to 2, 3 psi for stage 3, and when each is sent."""
    dp, accum = strategy.layout.dp, strategy.grad_accum
    num_bytes = PRECISION_BYTES[workload.precision]
    gradients = num_bytes * trainable_params(model, workload)
    weights = num_bytes * model.num_params
    # One direction of a ring over dp ranks: all-gather and reduce-scatter move (n-1)/n of the tensor, all-reduce twice.
    ring = (dp - 1) / dp / (LINK_EFFICIENCY * _slowest_link(cluster))
    match strategy.zero_stage:
        case 0:
            return _Traffic(beside=0.0, after=2 * gradients * ring)
        case 1:
            return _Traffic(beside=gradients * ring, after=gradients * ring)
        case 2:
            # Gradients are scattered after every micro-batch: there is no full copy to add them up in.
            return _Traffic(beside=accum * gradients * ring, after=gradients * ring)
        case _:
            return _Traffic(beside=accum * (2 * weights + gradients) * ring, after=0.0)


def _slowest_link(cluster: ClusterSpec) -> float:
    """Bytes per second and direction of the ring's narrowest place."""
    if cluster.num_nodes == 1:
        return cluster.device.intra_node_bandwidth
    return min(cluster.device.intra_node_bandwidth, cluster.inter_node_bandwidth)


def _offload(model: ModelSpec, cluster: ClusterSpec, workload: Workload, strategy: Strategy) -> float:
    """Transfers over the host link per rank: gradients down, updated weights up (2101.06840, section 4.1).

    With `all` every micro-batch also reads the rank's share of the weights twice, forward and backward.
    """
    if strategy.offload == "none":
        return 0.0
    num_bytes, dp = PRECISION_BYTES[workload.precision], strategy.layout.dp
    gradients = num_bytes * trainable_params(model, workload) / dp
    moved = gradients * strategy.grad_accum + gradients
    if strategy.offload == "all":
        moved += 2 * strategy.grad_accum * num_bytes * model.num_params / dp
    return moved / (LINK_EFFICIENCY * cluster.device.host_bandwidth)
