"""Communication buffers, weights gathered from their shards, and dequantised copies."""

from toolkit.planner.memory.states import States
from toolkit.planner.setup import Setup


def buffer_bytes(setup: Setup, stage: int, states: States) -> float:
    """Bytes beside states and activations while layers run."""
    total = _dequantised(setup)
    match setup.profile.memory.gathers:
        case "deepspeed":
            total += _deepspeed(setup, states)
        case "fsdp" if setup.zero_stage >= 2:
            total += _fsdp(setup, stage)
        case _:
            pass
    law = setup.profile.memory
    total += law.extra_state_bytes * states.trainable
    if setup.zero_stage == 0 and setup.dp > 1:
        total += law.extra_dp_bytes * states.trainable
    return total


def _deepspeed(setup: Setup, states: States) -> float:
    """Where DeepSpeed 0.19.8 allocates: engine.py, runtime/zero/{stage_1_and_2,stage3}.py."""
    sizes, num_bytes = setup.buckets, 4.0 if setup.precision == "fp32" else 2.0
    num_params = states.trainable
    reduce = min(sizes.reduce, num_params)
    match setup.zero_stage:
        case 0:
            # engine.allreduce_gradients flattens up to 5e8 elements (MEMORY_OPT_ALLREDUCE_SIZE) into a copy.
            elements = min(500_000_000.0, num_params) if setup.dp > 1 else 0.0
        case 1 | 2:
            # overlap_comm doubles the bucket (setup_buckets); offload adds a buffer of the largest parameter
            # (temp_grad_buffer_for_gpu_offload).
            elements = 2 * reduce
            if setup.offload != "none":
                elements += min(setup.shape.embedding_params, num_params)
        case _:
            live = setup.shape.num_params / setup.tp / setup.pp
            elements = reduce + min(sizes.prefetch, live) + min(sizes.max_live, live)
    return num_bytes * elements


def _fsdp(setup: Setup, stage: int) -> float:
    """Two layers gathered (the one at work and the one fetched ahead) and one layer's whole gradients.

    Embedding and head are a unit of their own, gathered at both ends of the model (torch/distributed/fsdp).
    """
    shape, tp = setup.shape, setup.tp
    layer = shape.layer_params / tp
    ends = (shape.embedding_params if stage == 0 else 0) + (shape.head_params if stage == setup.pp - 1 else 0)
    if setup.method == "full":
        return 2.0 * (2 * layer + ends / tp) + 4.0 * layer
    return setup.states.frozen * 2 * layer + 2.0 * ends / tp


def _dequantised(setup: Setup) -> float:
    """QLoRA multiplies by a 16-bit copy of one linear layer at a time (2305.14314, section 3)."""
    return 2.0 * setup.shape.largest_linear / setup.tp if setup.states.frozen < 2 else 0.0
