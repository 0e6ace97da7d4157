"""Peak memory of one strategy, term by term: what the rank holds, what a micro-batch adds, what the libraries take.

Sources named in the formulas:

- ZeRO: Rajbhandari et al., arXiv 1910.02054, section 3 and 5 (2 + 2 + 12 bytes per parameter, divided by stage).
- DeepSpeed: deepspeed/runtime/zero/{config,stage_1_and_2,stage3}.py of 0.19.8, where the buffers are allocated.
- Activations: Korthikanti et al., arXiv 2205.05198, section 4, counted anew for Hugging Face's LlamaDecoderLayer.
"""

from typing import NamedTuple

from toolkit.planner.plan import MemoryEstimate, Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import PRECISION_BYTES, Workload
from toolkit.units import GiB

HEADROOM = 0.05
"""Part of the memory left free: the caching allocator reserves a median 2 % and up to 18 % more than is allocated."""

CUDA_CONTEXT_BYTES = 1 * GiB
"""CUDA context and kernels, 0.5 to 2 GiB (stas00/ml-engineering, training/performance)."""
NCCL_BYTES = 1 * GiB
"""Communicator of a run with several ranks, 1 to 2 GiB (same source)."""
CPU_PROCESS_BYTES = GiB // 2
"""Interpreter and libraries of one training process without a GPU (resident size after importing torch, deepspeed)."""

HOST_FACTOR = 1.5
"""Pinned allocations are rounded up and copied while they are built: `additional_buffer_factor` of DeepSpeed's
estimate_zero2_model_states_mem_needs and estimate_zero3_model_states_mem_needs."""


class Buckets(NamedTuple):
    """Sizes in elements that ds_config.json carries and this module charges for: one source for both."""

    reduce: int
    """Gradients reduced at a time (stages 1 to 3)."""
    allgather: int
    """Updated weights gathered at a time (stages 1 and 2)."""
    prefetch: int
    """Weights fetched ahead of use (stage 3)."""
    persistence: int
    """Weights smaller than this stay on every rank (stage 3)."""
    max_live: int
    """Gathered weights held at a time, and how far ahead a reuse keeps them (stage 3)."""
    sub_group: int
    """Weights updated at a time (stage 3)."""


def trainable_params(model: ModelSpec, workload: Workload) -> int:
    """Number of weights that get a gradient."""
    return model.num_trainable_params(workload.method, workload.lora_rank)


def zero_buckets(model: ModelSpec, workload: Workload) -> Buckets:
    """Bucket sizes that follow the model, so that a small one does not pay for DeepSpeed's half-gigabyte defaults.

    Reduce and all-gather take about one layer (12 x hidden_size^2 weights), at most DeepSpeed's default and never more
    than there is to send; prefetch and persistence follow the rule of accelerate and transformers for "auto".
    """
    hidden_sq = model.hidden_size**2
    layer = min(12 * hidden_sq, 500_000_000)
    return Buckets(
        # Even: stage_1_and_2.py asserts that buckets are a multiple of nccl_start_alignment_factor = 2.
        reduce=_even(min(layer, trainable_params(model, workload))),
        allgather=_even(min(layer, trainable_params(model, workload))),
        prefetch=int(0.9 * hidden_sq),
        persistence=10 * model.hidden_size,
        max_live=min(1_000_000_000, model.num_params),
        sub_group=1_000_000_000,
    )


def estimate_memory(
    model: ModelSpec, cluster: ClusterSpec, *, workload: Workload, strategy: Strategy
) -> MemoryEstimate:
    """Peak bytes per device, and host bytes per node, of one strategy.

    The terms are added although they do not all peak together, so that the sum errs on the safe side: gradients are
    complete only when activations are gone, and the logits are freed before the last layer is recomputed.
    """
    states = _states(model, workload, strategy)
    activations = _activations(model, workload, strategy)
    logits = _logits(model, workload, strategy)
    buffers = _buffers(model, workload, strategy)
    # The optimizer step's fp32 gradients reuse what the backward pass has freed: only the excess counts.
    excess = _step_gradients(model, workload, strategy) - activations - logits - buffers
    return MemoryEstimate(
        weights_bytes=states.weights,
        gradients_bytes=states.gradients,
        optimizer_bytes=states.optimizer,
        activations_bytes=activations,
        logits_bytes=logits,
        buffers_bytes=buffers + max(0, excess),
        context_bytes=_context(cluster, strategy),
        host_bytes=_host(model, cluster, workload, strategy),
    )


class _States(NamedTuple):
    weights: int
    gradients: int
    optimizer: int


def _states(model: ModelSpec, workload: Workload, strategy: Strategy) -> _States:
    """Weights, gradients and Adam states on the device (ZeRO, figure 1 and section 5).

    DeepSpeed accumulates gradients in the compute precision unless data_types.grad_accum_dtype says otherwise
    (engine.get_data_types).
    """
    num_bytes = PRECISION_BYTES[workload.precision]
    dp, stage = strategy.layout.dp, strategy.zero_stage
    trainable = trainable_params(model, workload)
    held = model.num_params + (trainable if workload.method == "lora" else 0)
    weights = num_bytes * held // (dp if stage >= 3 else 1)
    gradients = num_bytes * trainable // (dp if stage >= 2 else 1)
    optimizer = _adam_bytes(workload, stage) * trainable // (dp if stage >= 1 else 1)
    if strategy.offload != "none":
        # Stage 1 hands every gradient on at the boundary; stages 2 and 3 move each to the host as it is reduced.
        gradients, optimizer = (gradients if stage == 1 else 0), 0
    return _States(0 if strategy.offload == "all" else weights, gradients, optimizer)


def _adam_bytes(workload: Workload, stage: int) -> int:
    """Bytes per parameter of Adam: two fp32 moments, and fp32 master weights where the weights are not fp32.

    In fp32 stages 1 and 2 keep a second copy all the same (stage_1_and_2.py clones every partition); stages 0 and 3
    update the weights in place.
    """
    return 8 if workload.precision == "fp32" and stage in (0, 3) else 12


def _layer_bytes(model: ModelSpec, workload: Workload) -> int:
    """What one decoder layer keeps for its backward pass per token, with flash or memory-efficient attention.

    Counted over LlamaDecoderLayer of transformers 5 (c = bytes of the compute precision, h hidden, k = KV heads x head
    size, q = heads x head size, f intermediate): two RMS norms 2 x (4h in fp32 + c h), their outputs as inputs of the
    projections 2 x c h; attention c (q + 2k) for q, k, v and 2 c q for its output and the contiguous copy; the MLP
    4 c f for gate, up, their activation and product. For LLaMA-2-7B this is 47.5 bytes x h; measured framework-wide:
    28 values of 2 bytes = 56 x h for LLaMA-3.1-8B (stas00/ml-engineering), where this formula gives 51 x h.
    """
    num_bytes = PRECISION_BYTES[workload.precision]
    query, key_value = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    norms = 2 * (4 + 2 * num_bytes) * model.hidden_size
    attention = num_bytes * (3 * query + 2 * key_value)
    return norms + attention + 4 * num_bytes * model.intermediate_size


def _activations(model: ModelSpec, workload: Workload, strategy: Strategy) -> int:
    """All layers, or with checkpointing every layer's input and one layer in full (2 s b h per layer, 2205.05198 5)."""
    tokens = strategy.micro_batch * workload.seq_len // strategy.layout.sp
    layer = tokens * _layer_bytes(model, workload)
    if not strategy.activation_checkpointing:
        return model.num_layers * layer
    inputs = tokens * model.hidden_size * PRECISION_BYTES[workload.precision] * model.num_layers
    return inputs + layer


def _logits(model: ModelSpec, workload: Workload, strategy: Strategy) -> int:
    """Logits in compute precision, their fp32 log-softmax and its fp32 gradient: 10 bytes per logit in bf16.

    Between the 6 that stas00/ml-engineering counts and the 14 to 16 fitted to nanotron runs.
    """
    tokens = strategy.micro_batch * workload.seq_len // strategy.layout.sp
    return tokens * model.vocab_size * (PRECISION_BYTES[workload.precision] + 4 + 4)


def _buffers(model: ModelSpec, workload: Workload, strategy: Strategy) -> int:
    """Communication buffers and gathered weights, where DeepSpeed allocates them."""
    num_bytes = PRECISION_BYTES[workload.precision]
    sizes = zero_buckets(model, workload)
    largest = min(model.embedding_params, trainable_params(model, workload))
    match strategy.zero_stage:
        case 0:
            # engine.allreduce_gradients flattens up to 5e8 elements (MEMORY_OPT_ALLREDUCE_SIZE) into a copy.
            elements = min(500_000_000, trainable_params(model, workload)) if strategy.layout.dp > 1 else 0
        case 1 | 2:
            # overlap_comm doubles the bucket (stage_1_and_2.py, setup_buckets); offload adds a buffer of the largest
            # parameter (temp_grad_buffer_for_gpu_offload).
            elements = 2 * sizes.reduce + (largest if strategy.offload != "none" else 0)
        case _:
            elements = sizes.reduce + sizes.prefetch + sizes.max_live
    return num_bytes * elements


def _step_gradients(model: ModelSpec, workload: Workload, strategy: Strategy) -> int:
    """fp32 copy of the gradients that the optimizer step makes on the device."""
    if strategy.offload != "none" or workload.precision == "fp32":
        return 0
    shard = trainable_params(model, workload) // (strategy.layout.dp if strategy.zero_stage else 1)
    return 4 * (min(shard, zero_buckets(model, workload).sub_group) if strategy.zero_stage == 3 else shard)


def _context(cluster: ClusterSpec, strategy: Strategy) -> int:
    if cluster.device.kind == "cpu":
        return CPU_PROCESS_BYTES
    return CUDA_CONTEXT_BYTES + (NCCL_BYTES if strategy.layout.world_size > 1 else 0)


def _host(model: ModelSpec, cluster: ClusterSpec, workload: Workload, strategy: Strategy) -> int:
    """Host bytes per node: master weights, two moments and gradients in fp32, with `all` also the weights.

    16 and 18 bytes per parameter over the nodes, times 1.5: DeepSpeed's estimate_zero3_model_states_mem_needs.
    """
    if strategy.offload == "none":
        return 0
    host = 16 * trainable_params(model, workload)
    if strategy.offload == "all":
        host += PRECISION_BYTES[workload.precision] * model.num_params
    return int(HOST_FACTOR * host / cluster.num_nodes)


def _even(count: int) -> int:
    return count + count % 2
