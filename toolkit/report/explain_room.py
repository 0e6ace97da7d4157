"""Buffers on the device and offloaded states on the host, worked out on paper."""

from collections.abc import Iterator

from toolkit.planner.estimates import MemoryEstimate
from toolkit.planner.memory.activations import element_factor
from toolkit.planner.memory.buffers import deepspeed_elements, rounded_weights
from toolkit.planner.memory.host import HOST_FACTOR, NVME_STAGING, activations_on_host, weights_on_host
from toolkit.planner.memory.states import states_of
from toolkit.planner.setup import Setup
from toolkit.report.explain_lines import Line
from toolkit.units import human_bytes, human_count

ENGINE = "deepspeed 0.19.8: runtime/engine.py, runtime/zero/stage_1_and_2.py, stage3.py; sizes in ds_config.json"
HOST = "DeepSpeed's estimate_zero2_model_states_mem_needs and estimate_zero3_model_states_mem_needs"


def explain_buffers(setup: Setup, stage: int) -> Iterator[Line]:
    """Dequantised copies, communication buckets, gathered weights."""
    lines = [*_dequantised(setup), *_rounded(setup, stage), *_extra(setup, stage), *_deepspeed(setup, stage)]
    yield from lines
    if len(lines) > 1:
        yield Line("buffers", sum(line.value for line in lines), "bytes", "sum", is_sum=True)


def explain_host(setup: Setup, memory: MemoryEstimate) -> Iterator[Line]:
    """Master weights, moments and gradients in fp32; with `all` also weights; inputs of checkpointed layers."""
    waiting = int(activations_on_host(setup))
    if waiting:
        each = human_bytes(2.0 * setup.shape.hidden * setup.tokens * element_factor(setup))
        how = f"{HOST_FACTOR:g} x {each} x checkpointed layers x micro-batches in flight x ranks of a node"
        yield Line("inputs of checkpointed layers", waiting, "bytes", how, "torch.autograd.graph.save_on_cpu")
    if setup.offload == "none":
        yield Line("host memory", memory.host_bytes, "bytes", "inputs of checkpointed layers", is_sum=True)
        return
    nodes = setup.cluster.num_nodes
    how, more = f"16 B x {human_count(setup.num_trained)}", " + inputs of checkpointed layers" if waiting else ""
    if setup.offload == "all":
        how = f"({how} + {human_bytes(weights_on_host(setup))} of weights)"
    how += f" / {nodes} nodes" if nodes > 1 else ""
    if setup.offload_to == "nvme":
        yield Line("disk", memory.disk_bytes, "bytes", how, HOST)
        staging = f"{NVME_STAGING:.0%} of it x {HOST_FACTOR:g} in pinned buffers on the way"
        yield Line("host memory", memory.host_bytes, "bytes", staging + more, HOST)
    else:
        yield Line("host memory", memory.host_bytes, "bytes", f"{HOST_FACTOR:g} x {how}{more}", HOST)


def _dequantised(setup: Setup) -> Iterator[Line]:
    if setup.states.frozen < 2:
        size = 2.0 * setup.shape.largest_linear / setup.tp
        how = f"2 B x {human_count(setup.shape.largest_linear / setup.tp)}, the largest linear layer"
        yield Line("dequantised copy", size, "bytes", how, "QLoRA: arXiv 2305.14314, section 3")


def _rounded(setup: Setup, stage: int) -> Iterator[Line]:
    if count := rounded_weights(setup, stage):
        how = f"2 B x {human_count(count)}, the linear layers and the head"
        yield Line("rounded weights", 2.0 * count, "bytes", how, "torch.autocast: autograd saves them")


def _extra(setup: Setup, stage: int) -> Iterator[Line]:
    law, states = setup.profile.memory, states_of(setup, stage)
    source = f"{setup.profile.name} in toolkit/specs/catalog/frameworks.yaml"
    trained = human_count(states.trainable)
    if size := law.extra_state_bytes * states.trainable:
        yield Line("copies of states", size, "bytes", f"{law.extra_state_bytes:g} B x {trained}", source)
    if setup.zero_stage == 0 and setup.dp > 1 and (size := law.extra_dp_bytes * states.trainable):
        yield Line("whole gradients", size, "bytes", f"{law.extra_dp_bytes:g} B x {trained}", source)


def _deepspeed(setup: Setup, stage: int) -> Iterator[Line]:
    """DeepSpeed's buffers by ZeRO stage; of the engines only Megatron has none."""
    if setup.profile.memory.gathers != "deepspeed":
        return
    num_bytes = setup.carried_bytes
    parts = deepspeed_elements(setup, states_of(setup, stage))
    elements = sum(parts.values())
    how = " + ".join(f"{human_count(size)} {what}" for what, size in parts.items())
    if elements:
        yield Line("communication", num_bytes * elements, "bytes", f"{num_bytes} B x ({how})", ENGINE)
