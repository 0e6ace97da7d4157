"""The EleutherAI cookbook's calculator of training memory."""

from toolkit.planner.setup import Setup

ALLGATHER_BUCKET = 5e8
"""--zero-allgather-bucket-size, elements."""
MAX_LIVE_PARAMS = 1e9
"""--zero3-max-live-params, elements."""


def made_for(setup: Setup) -> bool:
    """Full training of any layout it has options for."""
    return setup.method == "full" and setup.offload == "none" and setup.cp == setup.sp == 1


def calc(setup: Setup) -> float | None:
    """calc_mem with the model's own --ffn-expansion-factor, --num-mlp-linears and --kv-size-ratio, else its defaults.

    It has no option for attention without stored scores. Gradients count 4 bytes (--bytes-per-grad-ele) and are, as
    in the code, divided neither by tp nor by pp. --partition-activations is on with tensor parallelism.
    """
    if setup.method != "full":
        return None
    shape, ranks, stage = setup.shape, setup.world_size, setup.zero_stage
    params = 2 * shape.vocab * shape.hidden + shape.hidden * setup.seq_len
    params += 8 * shape.hidden * shape.num_layers + 2 * shape.hidden
    params += shape.num_layers * shape.layer_matmul
    weights = 2.0 * params / (setup.tp * setup.pp) / (ranks if stage == 3 else 1)
    grads = 4.0 * params / (ranks if stage >= 2 else 1)
    optimizer = 12.0 * params / (ranks if stage >= 1 else 1)
    buffers = 0.0
    if ranks > 1 and stage >= 1:
        buffers += ALLGATHER_BUCKET * 2
    if ranks > 1 and stage == 3:
        buffers += MAX_LIVE_PARAMS * 2
    return weights + grads + optimizer + buffers + _activations(setup)


def _activations(setup: Setup) -> float:
    """Rajbhandari et al. (1910.02054), as generalised there: 34 s b h per layer, and 5 a s / h of it for the scores."""
    shape = setup.shape
    per_value = 34.0
    if setup.checkpointing == "none":
        per_value += 5.0 * shape.num_heads * setup.seq_len / shape.hidden
    kept = float(setup.seq_len) * setup.micro_batch * shape.hidden * shape.num_layers * per_value
    return kept / setup.tp
