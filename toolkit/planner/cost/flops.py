"""FLOPs of one optimizer step over all ranks: the model's, for MFU, and the hardware's, for HFU."""

from toolkit.planner.setup import Setup


def model_flops(setup: Setup) -> float:
    """6 per parameter and token without the input embedding, and 12 L h s for attention, not halved by causality.

    PaLM's convention (2204.02311, appendix B). What is recomputed, skipped by a mask or frozen is not looked at: MFU
    compares set-ups by the tokens they train.
    """
    shape = setup.shape
    params = shape.num_layers * shape.layer_params + shape.vocab * shape.hidden
    attention = 12.0 * shape.num_layers * shape.query * setup.seq_len
    return (6.0 * params + attention) * tokens_per_step(setup)


def hardware_flops(setup: Setup) -> float:
    """FLOPs that are executed: half of the attention where masked blocks are skipped, forward passes run again, no
    gradient of frozen weights."""
    shape = setup.shape
    linear = 2.0 * shape.layer_matmul
    attention = 4.0 * shape.query * setup.seq_len * (0.5 if setup.flash_attention else 1.0)
    head = 2.0 * shape.vocab * shape.hidden
    backward = 2.0 if setup.method == "full" else 1.0
    selective = attention
    if setup.profile.time.selective == "elementwise":
        # The product whose parts tensor-parallel ranks add up (toolkit/models/selective.py).
        selective = 2.0 * shape.hidden * shape.query if setup.tp > 1 else 0.0
    again = {"none": 0.0, "selective": selective, "full": linear + attention}[setup.checkpointing]
    again *= setup.recomputed_layers
    attention_backward = (2.5 if setup.flash_attention else 2.0) * attention
    layer = linear * (1 + backward) + attention + attention_backward + again
    return (shape.num_layers * layer + head * (1 + backward)) * tokens_per_step(setup)


def tokens_per_step(setup: Setup) -> int:
    """Tokens of one optimizer step over all ranks."""
    return setup.micro_batch * setup.grad_accum * setup.dp * setup.seq_len
