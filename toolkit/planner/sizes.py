"""Parts of a cluster: for the objectives that may leave devices unused."""

from collections.abc import Iterator

from toolkit.planner.judge import anything_fits
from toolkit.planner.memory.host import HOST_FACTOR
from toolkit.planner.multiples import divisors
from toolkit.planner.request import Request
from toolkit.planner.resolve import base_setup, state_bytes
from toolkit.specs.cluster import ClusterSpec


def part(cluster: ClusterSpec, *, num_nodes: int, gpus_per_node: int) -> ClusterSpec:
    """So many of a cluster's nodes and of each node's devices; the nodes' memory and network stay whole."""
    if (num_nodes, gpus_per_node) == (cluster.num_nodes, cluster.gpus_per_node):
        return cluster
    whole = gpus_per_node == cluster.gpus_per_node
    nodes = f"{num_nodes}x" if num_nodes > 1 else ""
    return cluster.model_copy(
        update={
            "name": f"{nodes}{gpus_per_node}x{cluster.device.name}",
            "num_nodes": num_nodes,
            "gpus_per_node": gpus_per_node,
            "fast_domain": cluster.fast_domain if whole else gpus_per_node,
        }
    )


def smaller(cluster: ClusterSpec) -> Iterator[ClusterSpec]:
    """Divisors of one node, then whole nodes, fewest devices first; the cluster itself last."""
    for gpus in divisors(cluster.gpus_per_node):
        yield part(cluster, num_nodes=1, gpus_per_node=gpus)
    for nodes in range(2, cluster.num_nodes + 1):
        yield part(cluster, num_nodes=nodes, gpus_per_node=cluster.gpus_per_node)


def halvings(cluster: ClusterSpec) -> Iterator[ClusterSpec]:
    """The cluster, then half of its nodes and half of that, then the divisors of one node, most devices first."""
    nodes = cluster.num_nodes
    while nodes > 1:
        yield part(cluster, num_nodes=nodes, gpus_per_node=cluster.gpus_per_node)
        nodes //= 2
    for gpus in reversed(divisors(cluster.gpus_per_node)):
        yield part(cluster, num_nodes=1, gpus_per_node=gpus)


def fewest_gpus(request: Request) -> Request | None:
    """The question for the smallest part of its cluster on which something fits; None where nothing does."""
    for cluster in smaller(request.cluster):
        question = request._replace(cluster=cluster)
        if _may_fit(question) and anything_fits(question):
            return question
    return None


def _may_fit(request: Request) -> bool:
    """A bound that costs nothing: model states divided over all devices, or on the hosts."""
    if request.workload.method != "full":
        return True
    base = base_setup(request.model, request.cluster, workload=request.workload, engine="zero")
    states, trained = state_bytes(base, 3), base.num_trained
    share = (states.weight * request.model.num_params + states.optimizer * trained) / request.cluster.world_size
    hosts = HOST_FACTOR * 12.0 * trained / request.cluster.num_nodes
    may_offload = request.fixed.offload != "none"
    return share < request.cluster.device.memory_bytes or (may_offload and hosts < request.cluster.host_memory_bytes)
