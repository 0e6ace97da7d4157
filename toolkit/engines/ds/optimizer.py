"""AdamW in the fastest implementation that this machine can build, and which one it became."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from torch.optim import AdamW, Optimizer

from toolkit.engines.ds.ops import BUILD_FAILURES, load_op
from toolkit.specs.optimizer import OptimizerConfig


def build_adamw(
    groups: list[dict[str, Any]], config: OptimizerConfig, *, device: torch.device, offload: bool
) -> tuple[Optimizer, str]:
    """An AdamW over the trainable parameters, and one sentence that says which and why.

    The learning rate starts at 0 and is set before every step: with bf16 or fp16 and ZeRO-0 DeepSpeed takes a step of
    its own while it starts, which must not move (or decay) the weights.

    Args:
        groups: of `parameter_groups`; the parameters are partitioned already under ZeRO-3.
        config: betas and eps; the rest is in the groups.
        device: where the step runs unless `offload`.
        offload: the states live in host memory, so the step runs on the CPU.
    """
    betas, eps = (config.beta1, config.beta2), config.eps
    if offload and (failure := _build_failure("CPUAdamBuilder", device)) is None:
        cpu_adam = DeepSpeedCPUAdam(groups, lr=0.0, betas=betas, eps=eps, adamw_mode=True)
        return cpu_adam, "optimizer: DeepSpeedCPUAdam (states in host memory)"
    if offload:
        adamw = AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
        return adamw, f"optimizer: torch fused AdamW on the CPU (DeepSpeedCPUAdam does not build here: {failure})"
    if device.type == "cuda" and (failure := _build_failure("FusedAdamBuilder", device)) is None:
        fused = FusedAdam(groups, lr=0.0, betas=betas, eps=eps, adam_w_mode=True)
        return fused, "optimizer: DeepSpeed FusedAdam"
    adamw = AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
    if device.type == "cuda":
        return adamw, f"optimizer: torch fused AdamW (FusedAdam does not build here: {failure})"
    return adamw, "optimizer: torch fused AdamW"


def forget_dummy_step(optimizer: Optimizer) -> None:
    """Set Adam's step counters back to 0 after the engine has started.

    DeepSpeed's bf16/fp16 optimizer of ZeRO-0 steps once on zero gradients when it is made, so that Adam's bias
    correction would be one step ahead: loss off by 6e-3 after 20 steps, 4e-4 (bf16's rounding) with this.
    """
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"].zero_()
        elif "step" in state:
            state["step"] = 0
    for group in optimizer.param_groups:
        if "step" in group:
            group["step"] = 0


def begin_states(optimizer: Optimizer, tensors: Iterable[torch.Tensor], num_updates: int) -> None:
    """Moments for tensors that an optimizer is about to continue with, as if it had stepped that often.

    Args:
        optimizer: one that `build_adamw` made.
        tensors: what it updates: the parameters, or the flat buffers that DeepSpeed gives it in their place.
        num_updates: steps taken.
    """
    for tensor in tensors:
        # torch counts in a tensor on the same device, DeepSpeed in a number.
        step = torch.tensor(float(num_updates), device=tensor.device) if isinstance(optimizer, AdamW) else num_updates
        state = optimizer.state[tensor]
        state["step"] = step
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment not in state:  # of a run that goes back, DeepSpeed holds views of the ones that are there
                state[moment] = torch.zeros_like(tensor.data, requires_grad=False)
    if isinstance(optimizer, DeepSpeedCPUAdam):
        _replay(optimizer, num_updates)


def _replay(optimizer: DeepSpeedCPUAdam, num_updates: int) -> None:
    """Let the C++ side count up: it multiplies beta ** step together, which a jump would compute with other roundings.

    Without it a resumed run departs by 1e-7 in every weight.
    """
    group = optimizer.param_groups[0]
    number, gradient, first, second = (torch.zeros(1) for _ in range(4))
    for step in range(1, num_updates + 1):
        optimizer.ds_opt_adam.adam_update(
            optimizer.opt_id, step, 0.0, *group["betas"], group["eps"], 0.0, True, number, gradient, first, second
        )


def _build_failure(builder_name: str, device: torch.device) -> str | None:
    """None if DeepSpeed's op builds on every rank, else the first line of the reason."""
    failure = None
    try:
        load_op(builder_name)
    except BUILD_FAILURES as error:
        failure = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # All ranks must run the same implementation, so one rank's failure is everybody's.
    failed = torch.tensor([int(failure is not None)], device=device)
    dist.all_reduce(failed, op=dist.ReduceOp.MAX)
    return failure or ("it failed on another rank" if failed.item() else None)
