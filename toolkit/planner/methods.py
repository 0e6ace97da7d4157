"""What no engine can do with a method, whatever its table says."""

from collections.abc import Iterator

from toolkit.planner.memory.stages import stage_trained
from toolkit.planner.setup import Setup
from toolkit.planner.strategy import stages_words


def idle_stages(setup: Setup) -> Iterator[str]:
    """A stage that trains nothing: it would have no gradient to send, and no part in the optimizer's sums."""
    if setup.trained is None or len(setup.stages) != setup.pp or sum(setup.stages) != setup.shape.num_layers:
        return
    if setup.method != "full":  # every stage has adapters, or is refused for having no layer
        return
    idle = [stage for stage in range(setup.pp) if not sum(stage_trained(setup, stage))]
    if idle:
        given = stages_words(setup.stages)
        yield f"stages={given}: freeze and train_only leave stage {idle[0]} nothing to train; freeze less, or use pp=1"


def mixed_faults(setup: Setup) -> Iterator[str]:
    """Where other numbers than the optimizer's cannot be fp32, or none at all."""
    given = f"mixed={setup.mixed}"
    if setup.mixed == "master":
        return
    if setup.method == "qlora":
        yield f"method=qlora with {given}: 4-bit layers round what goes through them to 16 bits; use mixed=master"
    if setup.mixed == "none" and setup.optimizer != "adamw":
        yield f"optimizer={setup.optimizer} with {given}: states in bf16 are AdamW's; use mixed=master"
    if setup.mixed == "autocast" and setup.chunked_loss:
        yield f"loss=chunked with {given}: its backward pass is outside of autocast; use loss=full, or mixed=master"
    if setup.mixed == "none" and setup.zero_stage == 0:
        # DeepSpeedConfig._do_error_check; its optimizer of stage 0 always has fp32 copies.
        yield f"zero_stage=0 with {given}: DeepSpeed has states in bf16 from stage 1 on; use zero_stage=1, 2 or 3"
    if setup.mixed == "none" and setup.offload != "none":
        # ZeROOptimizer._configure_master_weights takes DeepSpeedCPUAdam alone, and there is not one on every machine.
        yield f"offload={setup.offload} with {given}: states in bf16 stay on the device; use offload=none"


def quantised_faults(setup: Setup) -> Iterator[str]:
    """Where 4-bit weights cannot be."""
    if setup.method != "qlora":
        return
    if setup.zero_stage == 3:
        # Quantised tensors are left out of zero.Init (DeepSpeed #5660, peft #1844, #2016): a whole copy per rank.
        yield "method=qlora with zero_stage=3: 4-bit weights stay whole on every rank; use zero_stage=2"
    if setup.cluster.device.kind == "cpu":
        yield "method=qlora: bitsandbytes trains on 4-bit weights on GPUs only; use method=lora on a CPU"
