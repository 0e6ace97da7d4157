"""Communication buffers, weights gathered from their shards, and dequantised copies."""

from toolkit.planner.memory.stages import stage_layers
from toolkit.planner.memory.states import States
from toolkit.planner.setup import Setup

FLATTENED = 500_000_000.0
"""Gradients that DeepSpeed's ZeRO-0 flattens at a time (MEMORY_OPT_ALLREDUCE_SIZE in runtime/engine.py)."""


def buffer_bytes(setup: Setup, stage: int, states: States) -> float:
    """Bytes beside states and activations while layers run."""
    total = _dequantised(setup) + 2.0 * rounded_weights(setup, stage)
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


def deepspeed_elements(setup: Setup, states: States) -> dict[str, float]:
    """Elements, each as wide as a sent weight, of each buffer that DeepSpeed 0.19.8 has beside states, by what it is.

    Sources: engine.py, runtime/zero/{stage_1_and_2,stage3}.py.
    """
    sizes, trained = setup.buckets, states.trainable
    largest, reduce = min(float(setup.shape.embedding_params), trained), min(sizes.reduce, trained)
    found: dict[str, float] = {}
    match setup.zero_stage:
        case 0 if setup.dp > 1:
            # engine.allreduce_gradients flattens up to 5e8 elements (MEMORY_OPT_ALLREDUCE_SIZE) into a copy.
            found["flattened gradients"] = min(FLATTENED, trained)
        case 0:
            pass
        case 1 | 2:
            # overlap_comm doubles the bucket (setup_buckets); offload adds temp_grad_buffer_for_gpu_offload.
            found["two reduce buckets"] = 2 * reduce
            if setup.offload != "none":
                found["largest gradient on its way to the host"] = largest
        case _:
            # A parameter is gathered whole, and its gradient is whole until it is reduced, whatever the sizes say.
            live = setup.shape.num_params / setup.tp / setup.pp
            found["reduce bucket or largest gradient"] = max(reduce, largest)
            found["prefetch"] = min(sizes.prefetch, live)
            found["gathered weights"] = max(min(sizes.max_live, live), float(setup.shape.embedding_params))
    if setup.sp > 1 and setup.zero_stage >= 1 and setup.precision != "fp32":
        # seq_parallel_communication_data_type: sums over a sequence-parallel group are made in an fp32 copy.
        found["fp32 copy of a bucket"] = 2 * reduce
    return found


def _deepspeed(setup: Setup, states: States) -> float:
    return setup.carried_bytes * sum(deepspeed_elements(setup, states).values())


def rounded_weights(setup: Setup, stage: int) -> float:
    """Weights of linear layers that autocast holds a rounded copy of from the forward pass to the backward pass.

    Under ZeRO-3 DeepSpeed's own linear function rounds them twice instead (runtime/zero/linear.py); counted on two
    ranks in what autograd saves.
    """
    if setup.mixed != "autocast" or setup.zero_stage == 3:
        return 0.0
    shape = setup.shape
    head = shape.vocab * shape.hidden if stage == setup.pp - 1 else 0
    return (stage_layers(setup)[stage] * shape.layer_params + head) / setup.tp


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
