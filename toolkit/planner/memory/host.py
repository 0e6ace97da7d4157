"""Host memory and local disk taken by offloaded states, per node."""

from toolkit.planner.memory.activations import element_factor, in_flight
from toolkit.planner.memory.stages import bounds
from toolkit.planner.memory.states import end_bytes
from toolkit.planner.setup import Setup, num_checkpointed

HOST_FACTOR = 1.5
"""Pinned allocations are rounded up and copied while they are built: `additional_buffer_factor` of DeepSpeed's
estimate_zero2_model_states_mem_needs and estimate_zero3_model_states_mem_needs."""

NVME_STAGING = 0.1
"""Part of the states on disk that passes through pinned host buffers at a time (aio buffer_count x largest tensors)."""


def weights_on_host(setup: Setup) -> float:
    """Bytes of all weights, as `offload: all` keeps them."""
    shape = setup.shape
    if setup.method == "full":
        return setup.states.weight * shape.num_params
    layers = shape.num_layers * shape.layer_params
    return setup.states.frozen * layers + end_bytes(setup) * (shape.num_params - layers)


def offloaded_bytes(setup: Setup) -> tuple[int, int]:
    """(host bytes, disk bytes) per node.

    Master weights, two moments and gradients in fp32 are 16 bytes per trained parameter over the nodes; with `all` also
    every weight: DeepSpeed's estimate_zero3_model_states_mem_needs.
    """
    waiting = int(activations_on_host(setup))
    if setup.offload == "none":
        return waiting, 0
    num_bytes = 16.0 * setup.num_trained
    if setup.offload == "all":
        num_bytes += weights_on_host(setup)
    per_node = HOST_FACTOR * num_bytes / setup.cluster.num_nodes
    if setup.offload_to == "nvme":
        return int(NVME_STAGING * per_node) + waiting, int(per_node / HOST_FACTOR)
    return int(per_node) + waiting, 0


def activations_on_host(setup: Setup) -> float:
    """Bytes per node of the inputs of checkpointed layers that wait there, as if every stage were the fullest."""
    if setup.offload_activations == "none" or not setup.offloaded_activations:
        return 0.0
    each = 2.0 * setup.shape.hidden * setup.tokens * element_factor(setup)
    layers = max(
        in_flight(setup, stage) * num_checkpointed(*bounds(setup, stage), every=setup.checkpointing_every)
        for stage in range(setup.pp)
    )
    return HOST_FACTOR * each * layers * min(setup.cluster.gpus_per_node, setup.world_size)
