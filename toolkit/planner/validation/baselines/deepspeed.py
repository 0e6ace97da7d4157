"""Estimators that count model states only: DeepSpeed's three and accelerate's.

They say nothing of activations, logits or buffers; scored as peak memory they show what a user gets who takes them so.
"""

from toolkit.planner.setup import Setup


def made_for_zero(setup: Setup) -> bool:
    """Full fine-tuning, ZeRO-2 or 3, the model whole on each rank while it computes."""
    return _whole(setup) and setup.zero_stage >= 2


def estimate_zero(setup: Setup) -> float | None:
    """estimate_zero2 and estimate_zero3_model_states_mem_needs, the device's part.

    ZeRO-2: 2 P + 18 P / n, with the optimizer offloaded 2 P. ZeRO-3: 4 x the largest layer + 18 P / n, with the
    optimizer offloaded 2 P / n instead, with everything offloaded nothing. "Layer" is a module with weights of its own.
    """
    params, ranks, shape = setup.shape.num_params, setup.world_size, setup.shape
    if setup.zero_stage == 2:
        return 2.0 * params + (0.0 if setup.offload != "none" else 18.0 * params / ranks)
    if setup.zero_stage != 3:
        return None
    largest = 4.0 * max(shape.embedding_params, shape.largest_linear)
    match setup.offload:
        case "all":
            return largest
        case "optimizer":
            return largest + 2.0 * params / ranks
        case _:
            return largest + 18.0 * params / ranks


def made_for_autotuner(setup: Setup) -> bool:
    """Full fine-tuning under DeepSpeed or PyTorch's FSDP, nothing offloaded."""
    return _whole(setup) and setup.offload == "none" and setup.zero_stage > 0


def autotuner(setup: Setup) -> float | None:
    """get_instantiation_memory_required_per_gpu: 2 P + 2 P + 16 P bytes of 16-bit training, each divided by its stage.

    The autotuner then measures activations on the machine; this is its static part.
    """
    if setup.offload != "none":
        return None
    params, ranks, stage = float(setup.shape.num_params), setup.world_size, setup.zero_stage
    weights = 2 * params / (ranks if stage >= 3 else 1)
    grads = 2 * params / (ranks if stage >= 2 else 1)
    optimizer = 16 * params / (ranks if stage >= 1 else 1)
    return (weights + grads + optimizer) / (setup.tp * setup.pp)


def made_for_accelerate(setup: Setup) -> bool:
    """Full fine-tuning of a Hugging Face model on one device, one sequence at a time."""
    return setup.method == "full" and setup.world_size == 1 and setup.offload == "none" and setup.micro_batch == 1


def accelerate(setup: Setup) -> float | None:
    """estimate_training_usage: the largest of its entries is the optimizer's step.

    4 x the fp32 weights in fp32, 2 x in 16-bit mixed precision. Any layout of full fine-tuning gets the same number.
    """
    if setup.method != "full":
        return None
    return 4.0 * setup.shape.num_params * (4 if setup.precision == "fp32" else 2)


def _whole(setup: Setup) -> bool:
    return setup.method == "full" and setup.tp == setup.pp == 1 and setup.profile.name.startswith(("hf", "fsdp"))
